//! `/debug/scheduling/` of the API server: why the scheduler of this process put pods where they are.

use http::Response;
use kybern_apimachinery::ApiError;
use kybern_apiserver::{Body, BoxFuture, PrefixRequest, PrefixRoute, body};
use kybern_component_base::Reply;
use kybern_scheduler::{Explanations, explain};

/// Who gets here is authorized for the path.
pub(super) struct Pages(pub(super) Explanations);

impl PrefixRoute for Pages {
    fn serve(&self, request: PrefixRequest) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
        let path = request.request.uri().path();
        let reply = answer(&self.0, path.strip_prefix(explain::PREFIX).unwrap_or(path));
        Box::pin(async move {
            let mut response = Response::new(body::full(reply.body));
            *response.status_mut() = reply.status;
            let content_type = http::HeaderValue::from_static(reply.content_type);
            response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
            Ok(response)
        })
    }
}

/// The answer for `/NAMESPACE/NAME`.
pub(crate) fn answer(explanations: &Explanations, rest: &str) -> Reply {
    match rest.trim_start_matches('/').split_once('/') {
        Some((namespace, name)) if !name.is_empty() && !name.contains('/') => {
            Reply::json(http::StatusCode::OK, explanations.of(namespace, name).to_string())
        }
        _ => Reply::text(http::StatusCode::NOT_FOUND, "ask for NAMESPACE/NAME of a pod\n"),
    }
}
