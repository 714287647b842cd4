//! What of a request may leave this server: one stage before every connector takes the caller's credentials away, and what
//! concerns the caller's connection alone, so that no connector has to think of it.

use http::header::{CONNECTION, COOKIE, HeaderName, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};

/// The headers in which an authenticator finds credentials, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialHeaders {
    pub names: Vec<String>,
    pub prefixes: Vec<String>,
}

/// What holds credentials whatever is configured: a server further on may believe what this one does not.
const CREDENTIALS: [HeaderName; 3] = [http::header::AUTHORIZATION, http::header::PROXY_AUTHORIZATION, COOKIE];
const CREDENTIAL_PREFIXES: [&str; 2] = ["x-remote-", "impersonate-"];
/// How browsers, which cannot set headers, send a token with a WebSocket.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Headers that concern one connection alone (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    UPGRADE,
    http::header::PROXY_AUTHENTICATE,
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Makes a request's headers fit to be passed on.
pub(crate) fn prepare(headers: &mut HeaderMap, configured: &[CredentialHeaders]) {
    let upgrade = take_hop_by_hop(headers);
    take_credentials(headers, configured);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

fn take_credentials(headers: &mut HeaderMap, configured: &[CredentialHeaders]) {
    for name in &CREDENTIALS {
        headers.remove(name);
    }
    let holds = |name: &str| {
        // Servers that hand headers on as variables take `_` and `-` for the same.
        let name = name.replace('_', "-");
        let same = |known: &str| known.replace('_', "-") == name;
        let begins = |prefix: &str| name.starts_with(&prefix.replace('_', "-"));
        CREDENTIAL_PREFIXES.iter().any(|p| begins(p))
            || configured.iter().any(|c| c.names.iter().any(|n| same(n)) || c.prefixes.iter().any(|p| begins(p)))
    };
    let found: Vec<HeaderName> = headers.keys().filter(|name| holds(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        let kept: Vec<String> = tokens(headers, &SEC_WEBSOCKET_PROTOCOL)
            .filter(|token| !token.to_ascii_lowercase().starts_with(BEARER_PROTOCOL))
            .map(str::to_owned)
            .collect();
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        if let Ok(value) = HeaderValue::from_str(&kept.join(", "))
            && !kept.is_empty()
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

/// Takes away what concerns one connection alone, and gives the protocol that an upgrade asks for or grants.
pub fn take_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| token.to_ascii_lowercase().parse().ok()).collect();
    let upgrade = headers.get(UPGRADE).filter(|_| named.contains(&UPGRADE)).cloned();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    upgrade
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sent: &str, expect: &str) {
        let mut headers = HeaderMap::new();
        for line in sent.split('\n').map(str::trim) {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let configured =
            [CredentialHeaders { names: vec!["x-my-user".to_owned()], prefixes: vec!["x-my-extra-".to_owned()] }];
        prepare(&mut headers, &configured);
        let mut left: Vec<String> = headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left.join("\n"), expect, "{sent}");
    }

    #[test]
    fn credentials_stay_here() {
        check("Authorization: Bearer x\nProxy-Authorization: Basic x\nCookie: a=b\nAccept: a", "accept: a");
        check("X-Remote-User: a\nX-Remote-Extra-Scopes: a\nx_remote_group: system:masters\nX-Other: b", "x-other: b");
        check("Impersonate-User: a\nImpersonate-Extra-x: b\nimpersonate_group: c\nX-Other: b", "x-other: b");
        check("X-My-User: a\nX-My-Extra-b: c\nX_My_User: d\nX-My: e", "x-my: e");
        check(
            "Sec-WebSocket-Protocol: v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4\n\
             Sec-WebSocket-Protocol: Base64URL.bearer.authorization.k8s.io.dG9rZW4, chat",
            "sec-websocket-protocol: v4.channel.k8s.io, chat",
        );
        check("Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.dG9rZW4\nX-A: b", "x-a: b");
    }

    #[test]
    fn what_concerns_one_connection_stays_on_it() {
        check("Connection: close, X-Secret\nX-Secret: a\nKeep-Alive: 5\nTE: trailers\nX-A: b", "x-a: b");
        check("Transfer-Encoding: chunked\nTrailer: x\nUpgrade: chat\nX-A: b", "x-a: b");
        // An upgrade is asked of the next server in turn.
        check("Connection: keep-alive, Upgrade\nUpgrade: websocket", "connection: Upgrade\nupgrade: websocket");
    }
}
