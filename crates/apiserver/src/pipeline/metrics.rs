//! Counts and times requests.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use super::{Context, Next, Outcome};
use crate::BoxFuture;
use crate::request_info::RequestInfo;
use crate::server::Server;

/// Counts the request when the last of it ends.
struct Timer {
    server: Arc<Server>,
    info: Arc<RequestInfo>,
    is_dry: bool,
    received: Instant,
    code: StatusCode,
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Self { server, info, is_dry, received, code } = self;
        server.metrics.request(&server.served.load().table, info, *is_dry, *code, received.elapsed());
    }
}

pub(super) fn stage(context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    let Context { server, info, received, held, .. } = &*context;
    let (server, info, received, held) = (server.clone(), info.clone(), *received, held.clone());
    let is_dry = context.query.has("dryRun");
    if info.is_long_running() {
        held.keep(server.metrics.long_running(&server.served.load().table, &info));
    }
    Box::pin(async move {
        let outcome = next.run(context).await;
        let code = outcome.as_ref().map_or(StatusCode::INTERNAL_SERVER_ERROR, |response| response.status());
        held.keep(Timer { server, info, is_dry, received, code });
        outcome
    })
}
