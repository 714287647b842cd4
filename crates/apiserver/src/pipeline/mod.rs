//! The stages every request passes, in this order:
//! request info → authenticate → in-flight limit → impersonate → authorize → route; around them audit id, panic guard,
//! time-out and metrics.

mod authentication;
mod route;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue, Request, Response};
use kybern_apimachinery::{ApiError, Reason};
use kybern_component_base::uuid;
use kybern_schema::duration;

use crate::negotiate::of_refusal;
use crate::options::Query;
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::{Body, authorization, body, respond};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

impl Server {
    /// Serves one request: the single entry for connections and in-process callers. In-process callers put their
    /// [`UserInfo`](crate::access::UserInfo) into the request's extensions; connections put [`crate::access::Peer`] there.
    pub async fn handle(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        run(self, request).await
    }
}

/// Serves a request through all stages.
async fn run(server: &Arc<Server>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let audit_id = request.headers().get(AUDIT_ID).filter(|id| id.len() <= 64).cloned();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let form = of_refusal(request.headers());
    let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
    let long_running = info.is_long_running();
    let stages = AssertUnwindSafe(stages(server, &info, query, request)).catch_unwind();
    let outcome = if long_running {
        stages.await
    } else {
        match tokio::time::timeout(server.request_timeout, stages).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let text = "Timeout: request did not complete within the allotted timeout";
                Ok(Err(ApiError::new(Reason::Timeout, text)))
            }
        }
    };
    let mut response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => respond::refusal(&error, form),
        Err(_panic) => {
            tracing::error!(path = info.path, verb = info.verb, "a request handler panicked");
            body::error(&ApiError::internal("the request handler failed unexpectedly; the server's log says more"))
        }
    };
    let headers = response.headers_mut();
    if let Some(id) = audit_id.or_else(|| HeaderValue::from_str(&uuid::v4()).ok()) {
        headers.insert(AUDIT_ID, id);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    server.metrics.request(&server.served.load().table, &info, response.status(), started.elapsed());
    response
}

async fn stages(
    server: &Arc<Server>,
    info: &RequestInfo,
    query: Query,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let timeout = query.get("timeout");
    if !timeout.is_empty() && !info.is_long_running() && duration::parse(timeout).is_none() {
        let text = format!("invalid timeout specified in the request URL - time: invalid duration {timeout:?}");
        return Err(ApiError::bad_request(text));
    }
    let user = authentication::authenticate(server, &mut request).await?;
    let _permit = if info.is_long_running() || user.in_group("system:masters") {
        None
    } else {
        let permit = server.in_flight.try_acquire();
        Some(permit.map_err(|_| ApiError::too_many_requests("Too many requests, please try again later.", 1))?)
    };
    let user = authentication::impersonate(server, user, request.headers_mut()).await?;
    authorization::check(server, info, &user).await?;
    route::dispatch(server, info.clone(), query, user, request).await
}
