//! The bearer token of a request.

use http::header::AUTHORIZATION;
use kybern_apiserver::access::Credentials;

/// The token of `Authorization: Bearer TOKEN`, or of a WebSocket's `base64url.bearer.authorization.k8s.io.TOKEN`
/// subprotocol, where browsers have no other place for it.
pub(super) fn token(credentials: &Credentials<'_>) -> Option<String> {
    if let Some(value) = credentials.headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let protocols = credentials.headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
    let encoded = protocols
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|p| p.trim().strip_prefix(PREFIX))?;
    use base64::Engine;
    String::from_utf8(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// Compares without telling by its time where two secrets differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    // Hashes of equal length are compared, so that the length does not show either.
    let hash = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let (a, b) = (hash(a), hash(b));
    a.as_ref().iter().zip(b.as_ref()).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_both_places() {
        let check = |name: &'static str, value: &'static str, expect: Option<&str>| {
            let mut headers = http::HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let credentials =
                Credentials { headers: &headers, path: "/", client_certificates: &[], notes: &Default::default() };
            assert_eq!(token(&credentials).as_deref(), expect, "{name}: {value}");
        };
        check("authorization", "Bearer abc", Some("abc"));
        check("authorization", "bearer  abc ", Some("abc"));
        check("authorization", "Basic abc", None);
        check("authorization", "Bearer ", None);
        check("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj", Some("abc"));
        assert!(same("a", "a") && !same("a", "b") && !same("a", "aa"));
    }
}
