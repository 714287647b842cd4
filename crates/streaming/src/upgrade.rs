//! Which protocol a client asks for, and the answer to it.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// An answer: `101`, or why not.
pub type Answer = Response<Full<bytes::Bytes>>;

pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// How the client wants to talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Spdy,
    WebSocket,
}

fn lists(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
}

/// The transport of an upgrade request; `None` when it is none.
pub fn transport(headers: &HeaderMap) -> Option<Transport> {
    let upgrades = lists(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let wants = |name: &str| lists(headers, header::UPGRADE).any(|token| token.eq_ignore_ascii_case(name));
    match upgrades {
        true if wants("websocket") => Some(Transport::WebSocket),
        true if wants("SPDY/3.1") => Some(Transport::Spdy),
        _ => None,
    }
}

/// Whether a WebSocket client offers a protocol.
pub fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    lists(headers, header::SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == protocol)
}

fn refuse(status: StatusCode, message: String) -> Answer {
    let mut answer = Response::new(Full::from(message));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// What a request that upgrades to nothing is answered.
pub fn not_an_upgrade() -> Answer {
    refuse(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request".to_owned())
}

/// The first of `supported` (best first) that a SPDY client offers. A client that offers nothing speaks the last one.
pub fn spdy_protocol<'a>(headers: &HeaderMap, supported: &[&'a str]) -> Result<&'a str, Box<Answer>> {
    let offered: Vec<&str> = lists(headers, header::HeaderName::from_static(STREAM_PROTOCOL)).collect();
    if offered.is_empty() {
        return supported.last().copied().ok_or_else(|| Box::new(not_an_upgrade()));
    }
    supported.iter().find(|name| offered.contains(name)).copied().ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {supported:?}"
        );
        Box::new(refuse(StatusCode::FORBIDDEN, message))
    })
}

/// The `101` of a SPDY upgrade.
pub fn spdy_answer(protocol: &str) -> Answer {
    let mut answer = switching("SPDY/3.1");
    if let Ok(value) = HeaderValue::from_str(protocol) {
        answer.headers_mut().insert(STREAM_PROTOCOL, value);
    }
    answer
}

/// The first of `supported` (best first) that a WebSocket client offers; `""` when it offers none.
pub fn websocket_protocol<'a>(headers: &HeaderMap, supported: &[&'a str]) -> Result<&'a str, Box<Answer>> {
    let offered: Vec<&str> = lists(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        return Ok("");
    }
    supported.iter().find(|name| offered.contains(name)).copied().ok_or_else(|| {
        let message = format!("requested protocol(s) are not supported: {offered:?}; supports {supported:?}");
        Box::new(refuse(StatusCode::BAD_REQUEST, message))
    })
}

/// The `101` of a WebSocket upgrade.
pub fn websocket_answer(headers: &HeaderMap, protocol: &str) -> Result<Answer, Box<Answer>> {
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "missing Sec-WebSocket-Key".to_owned())));
    };
    let mut answer = switching("websocket");
    let set = answer.headers_mut();
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        set.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Ok(protocol) = HeaderValue::from_str(protocol)
        && !protocol.is_empty()
    {
        set.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(answer)
}

fn switching(upgrade: &'static str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    answer
}

/// Takes the connection over once the answer is out.
pub async fn take_over(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match upgrade.await {
        Ok(upgraded) => Some(TokioIo::new(upgraded)),
        Err(error) => {
            tracing::debug!(%error, "a client left during its upgrade");
            None
        }
    }
}

/// The request's promise of its connection.
pub fn promise<B>(request: &mut Request<B>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(k, v)| (header::HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn transports() {
        let check = |list: &[(&'static str, &'static str)], expect| assert_eq!(transport(&headers(list)), expect);
        check(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")], Some(Transport::Spdy));
        check(&[("connection", "keep-alive, upgrade"), ("upgrade", "WebSocket")], Some(Transport::WebSocket));
        check(&[("connection", "Upgrade"), ("upgrade", "h2c")], None);
        check(&[("upgrade", "SPDY/3.1")], None);
    }

    #[test]
    fn protocols() {
        let supported = ["v4.channel.k8s.io", "channel.k8s.io"];
        let spdy = |offer: Option<&'static str>| {
            let list: Vec<_> = offer.map(|o| (STREAM_PROTOCOL, o)).into_iter().collect();
            spdy_protocol(&headers(&list), &supported).map_err(|a| a.status())
        };
        assert_eq!(spdy(Some("channel.k8s.io, v4.channel.k8s.io")), Ok("v4.channel.k8s.io"));
        assert_eq!(spdy(None), Ok("channel.k8s.io"));
        assert_eq!(spdy(Some("v9")), Err(StatusCode::FORBIDDEN));
    }
}
