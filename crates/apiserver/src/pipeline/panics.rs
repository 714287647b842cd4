//! A handler that panics ends its request, and nothing else.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use http::StatusCode;

use super::{Context, Next, Outcome};
use crate::{BoxFuture, body};

const TEXT: &str = "This request caused apiserver to panic. Look in the logs for details.\n";

pub(super) fn stage(context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    let info = context.info.clone();
    Box::pin(async move {
        AssertUnwindSafe(next.run(context)).catch_unwind().await.unwrap_or_else(|_| {
            // What it said, the panic hook has told.
            tracing::error!(path = info.path, verb = info.verb, "a request handler panicked");
            Ok(body::text(StatusCode::INTERNAL_SERVER_ERROR, TEXT))
        })
    })
}
