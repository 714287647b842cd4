//! `/openapi/v2` and `/openapi/v3`.

use std::sync::Arc;

use http::{HeaderMap, Response};
use kybern_apimachinery::ApiError;

use crate::Body;
use crate::options::Query;
use crate::server::Server;

/// `rest` is the path after `openapi`; `None` when there is no such document.
pub(crate) fn serve(
    _server: &Arc<Server>,
    _rest: &[&str],
    _query: &Query,
    _headers: &HeaderMap,
) -> Result<Option<Response<Body>>, ApiError> {
    Ok(None)
}
