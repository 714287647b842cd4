//! What connectors read from requests and answer with.

use http::{Request, Response, StatusCode};
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
        (decode(key) == name).then(|| decode(value))
    })
}

/// Undoes percent-encoding and `+`.
pub(super) fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = |c: u8| char::from(c).to_digit(16);
        match (*first, tail) {
            (b'+', _) => out.push(b' '),
            (b'%', [a, b, after @ ..]) if hex(*a).is_some() && hex(*b).is_some() => {
                out.push((hex(*a).unwrap_or(0) * 16 + hex(*b).unwrap_or(0)) as u8);
                rest = after;
            }
            (byte, _) => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encodes a value for a query.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let values: Vec<String> = query_values("command=ls&command=-l+%2Ftmp&x", "command").collect();
        assert_eq!(values, ["ls", "-l /tmp"]);
        assert_eq!(query_values("a=1&x", "x").collect::<Vec<_>>(), [""]);
        assert_eq!(decode(&encode("a b/ü=&+%")), "a b/ü=&+%");
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
