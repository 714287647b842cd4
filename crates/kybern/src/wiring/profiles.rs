//! `/debug/pprof/` of the API server: where the whole program's processor time goes.

use http::Response;
use kybern_apimachinery::ApiError;
use kybern_apiserver::{Body, BoxFuture, PrefixRequest, PrefixRoute, body};

/// Who gets here is authorized for the path.
pub(super) struct Pages;

impl PrefixRoute for Pages {
    fn serve(&self, request: PrefixRequest) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let PrefixRequest { request, held, .. } = request;
            let response = kybern_profiling::serve(request.method(), request.uri()).await;
            drop(held);
            Ok(response.map(body::full))
        })
    }
}
