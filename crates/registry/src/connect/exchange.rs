//! What connectors read from requests and answer with.

use http::{Request, Response, StatusCode};
use kybern_apimachinery::percent::decode_query;
use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::{Body, body};

/// The object in a request's body, which the server has checked and turned into JSON.
pub(super) async fn read_object(request: Request<Body>) -> Result<Value, ApiError> {
    let bytes = body::read(request.into_body()).await?;
    serde_json::from_slice(&bytes).map_err(ApiError::internal)
}

pub(super) fn created(object: &Value) -> Response<Body> {
    body::json(StatusCode::CREATED, object)
}

/// `Status: Success` of a creation.
pub(super) fn success() -> Response<Body> {
    created(&json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
}

/// The values of a query parameter, decoded, in order.
pub(super) fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_query(key) == name).then(|| decode_query(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let values: Vec<String> = query_values("command=ls&command=-l+%2Ftmp&x", "command").collect();
        assert_eq!(values, ["ls", "-l /tmp"]);
        assert_eq!(query_values("a=1&x", "x").collect::<Vec<_>>(), [""]);
    }
}
