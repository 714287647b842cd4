//! From a request to its handler.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use kybern_apimachinery::{ApiError, Gvr};

use super::RequestInfo;
use crate::access::UserInfo;
use crate::handlers::{self, Exchange};
use crate::options::Query;
use crate::server::Server;
use crate::{Body, body, discovery, health, openapi};

pub(super) async fn dispatch(
    server: &Arc<Server>,
    info: RequestInfo,
    query: Query,
    user: UserInfo,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if !info.resource_request {
        return plain(server, &info, &query, request).await;
    }
    let served = server.served.load_full();
    let gvr = Gvr::new(&info.group, &info.version, &info.resource);
    let Some(resource) = served.table.get(&gvr).cloned() else {
        return Ok(no_such_path(&info));
    };
    // A namespaced resource is only served below a namespace, except to read all of it.
    let all_namespaces = info.namespace.is_empty() && !matches!(info.verb, "list" | "watch");
    if resource.namespaced && all_namespaces && resource.unstored.is_none() {
        let created = info.verb == "create" && info.subresource.is_empty();
        if !created && info.verb != "deletecollection" {
            return Ok(no_such_path(&info));
        }
        let resource = gvr.group_resource();
        return Err(ApiError::method_not_supported(&resource, info.verb));
    }
    if !resource.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Ok(no_such_path(&info));
    }
    let (parts, body) = request.into_parts();
    let (server, now, warnings) = (server.clone(), server.clock.now(), Default::default());
    let exchange = Exchange { server, resource, query, user, now, info, parts, warnings };
    handlers::serve(exchange, body).await
}

fn no_such_path(info: &RequestInfo) -> Response<Body> {
    if info.resource_request { body::error(&ApiError::no_such_path()) } else { not_found() }
}

fn not_found() -> Response<Body> {
    body::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Paths that are no resources.
async fn plain(
    server: &Arc<Server>,
    info: &RequestInfo,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if let Some((_, route)) = server.routes.iter().find(|(path, _)| *path == info.path) {
        return Ok(route.serve(request).await);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(body::text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n"));
    }
    let parts: Vec<&str> = info.path.trim_matches('/').split('/').collect();
    Ok(match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => health::serve(server, &parts, query),
        ["version"] => body::json(StatusCode::OK, &server.version),
        ["metrics"] => server.metrics.serve(server).await,
        ["openapi", rest @ ..] => openapi::serve(server, rest, query, request.headers())?.unwrap_or_else(not_found),
        ["api" | "apis", ..] | [""] => discovery::serve(server, &parts, request.headers())?
            .unwrap_or_else(|| if parts[0].is_empty() { not_found() } else { body::error(&ApiError::no_such_path()) }),
        _ => not_found(),
    })
}
