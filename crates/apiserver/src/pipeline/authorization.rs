//! May the user do this?

use super::{Context, Next, Outcome};
use crate::{BoxFuture, authorization};

pub(super) fn stage(mut context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let audit = context.server.audit.is_some().then_some(&*context.audit);
        let user = std::mem::take(&mut context.user);
        context.user = authorization::check(&context.server, &context.info, user, audit).await?;
        next.run(context).await
    })
}
