//! The token by which a limited list goes on: upstream's form, a base64 JSON of revision and key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kybern_apimachinery::{ApiError, json};
use kybern_storage::Revision;
use serde::Deserialize;

#[derive(Deserialize)]
struct Token {
    v: String,
    /// -1 in upstream's "inconsistent continuation".
    rv: i64,
    start: String,
}

/// `last` is the storage key of the last item sent, `prefix` the kind's.
pub(crate) fn encode(revision: Revision, prefix: &str, last: &str) -> String {
    // Upstream's keys start after the last one: a NUL makes the next possible key.
    let start = format!("{}\u{0}", last.strip_prefix(prefix).unwrap_or(last));
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

/// The revision (`None`: whatever is latest) and the storage key to go on after.
pub(crate) fn decode(token: &str, prefix: &str) -> Result<(Option<Revision>, String), ApiError> {
    let refuse = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| refuse(&e.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| refuse(&e.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(refuse(&format!("server does not recognize this encoded version {:?}", token.v)));
    }
    if token.rv == 0 {
        return Err(refuse("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    let start = token.start.strip_suffix('\u{0}').unwrap_or(&token.start);
    if start.is_empty() || start.starts_with('/') || start.split('/').any(|s| s == "..") {
        return Err(refuse(start));
    }
    Ok((Revision::try_from(token.rv).ok(), format!("{prefix}{start}")))
}

/// The refusal of a token whose revision is gone, with one that goes on with what is there now.
pub(crate) fn expired(prefix: &str, after: &str) -> (ApiError, String) {
    let start = format!("{}\u{0}", after.strip_prefix(prefix).unwrap_or(after));
    let token = URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": -1, "start": start}).to_string());
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted \
between the time the first chunk was returned and now may show up in the list.";
    (ApiError::expired(message), token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        let token = encode(42, "/registry/pods/", "/registry/pods/ns/a");
        assert_eq!(decode(&token, "/registry/pods/").unwrap(), (Some(42), "/registry/pods/ns/a".to_owned()));
        let (_, token) = expired("/registry/pods/", "/registry/pods/ns/a");
        assert_eq!(decode(&token, "/registry/pods/").unwrap(), (None, "/registry/pods/ns/a".to_owned()));
        for bad in ["x", "", "e30", &URL_SAFE_NO_PAD.encode(r#"{"v":"v1","rv":1,"start":"a"}"#)] {
            assert!(decode(bad, "/p/").is_err(), "{bad}");
        }
    }
}
