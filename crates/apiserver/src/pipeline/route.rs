//! From a request to its handler.

use http::{HeaderValue, Method, Request, Response, StatusCode};
use kybern_apimachinery::ApiError;
use kybern_apimachinery::object::str_at;

use super::audit_id::AUDIT_ID;
use super::{Context, Outcome};
use crate::exchange::Exchange;
use crate::options::Query;
use crate::registrations::Remote;
use crate::request_info::RequestInfo;
use crate::routes::PrefixRequest;
use crate::server::Server;
use crate::{Body, body, discovery, forward, handlers, health, openapi};

pub(super) async fn dispatch(context: Box<Context>) -> Outcome {
    let Context { server, info, query, user, warnings, audit, held, mut request, .. } = *context;
    let other = server.prefixes.find(&info.path).or_else(|| Some(remote_document(&server, &info.path)?.route));
    if let Some(route) = other {
        forward::prepare(request.headers_mut(), &server.credential_headers);
        // What both servers record of it has one name.
        if let Some(id) = HeaderValue::from_str(&audit.id()).ok().filter(|id| !id.is_empty()) {
            request.headers_mut().insert(AUDIT_ID, id);
        }
        return route.serve(PrefixRequest { user, warnings, held, request }).await;
    }
    if !info.resource_request {
        return plain(&server, &info, &query, request).await;
    }
    let served = server.served.load();
    let Some(resource) = served.table.get(&info.group, &info.version, &info.resource).cloned() else {
        return Ok(no_such_path(&info));
    };
    // A namespaced resource is only served below a namespace, except to read all of it.
    let all_namespaces = info.namespace.is_empty() && !matches!(info.verb, "list" | "watch");
    if resource.namespaced && all_namespaces && resource.unstored.is_none() {
        let created = info.verb == "create" && info.subresource.is_empty();
        if !created && info.verb != "deletecollection" {
            return Ok(no_such_path(&info));
        }
        return Err(ApiError::method_not_allowed());
    }
    if !resource.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Ok(no_such_path(&info));
    }
    // Only what is behind a proxy knows HEAD.
    if request.method() == Method::HEAD && info.subresource != "proxy" {
        return Err(ApiError::method_not_allowed());
    }
    let (parts, body) = request.into_parts();
    let now = server.clock.now();
    let exchange = Exchange { server, resource, query, user, now, info, parts, warnings, audit, held };
    handlers::serve(exchange, body).await
}

/// Whose version a document of `/openapi/v3` is about, if it is another server's.
fn remote_document(server: &Server, path: &str) -> Option<Remote> {
    let (group, version) = path.strip_prefix("/openapi/v3/apis/")?.split_once('/')?;
    server.registrations.remote(group, version).filter(|remote| remote.openapi_v3.is_some())
}

fn no_such_path(info: &RequestInfo) -> Response<Body> {
    if info.resource_request { body::error(&ApiError::no_such_path()) } else { not_found() }
}

fn not_found() -> Response<Body> {
    body::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Paths that are no resources.
async fn plain(
    server: &Server,
    info: &RequestInfo,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if let Some((_, route)) = server.routes.iter().find(|(path, _)| *path == info.path) {
        return Ok(route.serve(request).await);
    }
    let parts: Vec<&str> = info.path.trim_matches('/').split('/').collect();
    // Probes are answered whatever their method; discovery is read.
    if matches!(parts.as_slice(), ["api" | "apis", ..] | ["version"] | [""]) && request.method() != Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    Ok(match parts.as_slice() {
        [endpoint @ ("healthz" | "livez" | "readyz"), ..] => {
            let patience = if *endpoint == "readyz" { server.readiness_timeout } else { server.health_timeout };
            let store = health::of_store(&*server.storage, patience).await;
            health::serve(&server.checks, store, &parts, query)
        }
        ["version"] => body::json(StatusCode::OK, &server.version),
        ["metrics"] => {
            if let Some(flow) = &server.flow {
                flow.measure();
            }
            let size = server.storage.size().await.ok();
            let in_flight = [false, true].map(|writes| server.in_flight.taken(writes));
            server.metrics.serve(&server.cache, size, in_flight)
        }
        ["debug", "api_priority_and_fairness", name] => {
            let dump = server.flow.as_ref().and_then(|flow| flow.dump(name, query.has("includeRequestDetails")));
            dump.map_or_else(not_found, |text| body::text(StatusCode::OK, text))
        }
        ["metrics", "slis"] => health::indicators(&server.checks),
        ["openapi", rest @ ..] => {
            let served = server.served.load();
            let known = openapi::Known {
                table: &served.table,
                registrations: &server.registrations,
                version: str_at(&server.version, &["gitVersion"]),
            };
            openapi::serve(&known, &served.openapi, rest, query, request.headers()).unwrap_or_else(not_found)
        }
        ["api" | "apis", ..] | [""] => {
            let served = server.served.load();
            let (table, registrations, priorities) = (&served.table, &server.registrations, server.priorities);
            let known = discovery::Known { table, registrations, priorities };
            let found = discovery::serve(&known, &served.discovery, || server.paths(), &parts, request.headers())?;
            let missing = || if parts[0].is_empty() { not_found() } else { body::error(&ApiError::no_such_path()) };
            found.unwrap_or_else(missing)
        }
        _ => not_found(),
    })
}
