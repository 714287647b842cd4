//! No more requests at once than the server is to take.

use kybern_apimachinery::ApiError;

use super::{Context, Next, Outcome};
use crate::BoxFuture;

pub(super) fn stage(context: Context, next: Next) -> BoxFuture<'static, Outcome> {
    if context.info.is_long_running() {
        return next.run(context);
    }
    match context.server.in_flight.enter(context.info.writes()) {
        Some(seat) => context.held.keep(seat),
        // An administrator always gets an answer.
        None if context.user.in_group("system:masters") => {}
        None => {
            let error = ApiError::too_many_requests("Too many requests, please try again later.", 1);
            return Box::pin(async move { Err(error) });
        }
    }
    next.run(context)
}
