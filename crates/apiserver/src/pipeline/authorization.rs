//! May the user do this?

use super::{Context, Next, Outcome};
use crate::{BoxFuture, authorization};

pub(super) fn stage(context: Context, next: Next) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        authorization::check(&context.server, &context.info, &context.user, Some(&context.audit)).await?;
        next.run(context).await
    })
}
