//! Errors of connections as Go's standard library words them: operators search for these texts, and tools match them.

use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;

use hyper_util::client::legacy;
use jiff::Timestamp;
use kybern_component_base::transport::DialError;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, InvalidMessage};

use crate::error::NoResponse;

/// Text and kind of an error of a call that brought no response.
pub(crate) fn no_response(error: &legacy::Error) -> (String, NoResponse) {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut innermost = error.to_string();
    while let Some(error) = cause {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return dialling(dial);
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io_error(io, "read");
        }
        if let Some(http) = error.downcast_ref::<hyper::Error>()
            && http.source().is_none()
        {
            if http.is_incomplete_message() || http.is_canceled() || http.is_closed() {
                return ("EOF".to_owned(), NoResponse::Other);
            }
            if http.is_parse() {
                let text = format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response ({http})");
                return (text, NoResponse::Other);
            }
        }
        innermost = error.to_string();
        cause = error.source();
    }
    // HTTP/2's own errors end here.
    let lost = innermost.contains("connection lost") || innermost.contains("keep-alive timed out");
    if lost { ("http2: client connection lost".to_owned(), NoResponse::Lost) } else { (innermost, NoResponse::Other) }
}

/// Text of an error of a connection that does not come about.
pub fn dial_error(error: &DialError) -> String {
    dialling(error).0
}

/// Text of an error of a request that brought no response.
pub fn request_error(error: &legacy::Error) -> String {
    no_response(error).0
}

fn dialling(error: &DialError) -> (String, NoResponse) {
    match error {
        // A Service's resolver has upstream's words; the system's are not Go's.
        DialError::Resolve { host, source } if source.is::<std::io::Error>() => {
            (format!("dial tcp: lookup {host}: no such host"), NoResponse::Other)
        }
        DialError::Resolve { source, .. } => (source.to_string(), NoResponse::Other),
        DialError::NoAddress { host } => (format!("dial tcp: lookup {host}: no such host"), NoResponse::Other),
        DialError::Connect { address, source } => {
            let (text, kind) = io_error(source, "connect");
            (format!("dial tcp {address}: {text}"), kind)
        }
        DialError::Timeout { host, port } => (format!("dial tcp {host}:{port}: i/o timeout"), NoResponse::Other),
        DialError::Tls { source, .. } => {
            match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => (tls_error(tls), NoResponse::Other),
                None => io_error(source, "read"),
            }
        }
    }
}

fn io_error(error: &std::io::Error, call: &str) -> (String, NoResponse) {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return (tls_error(tls), NoResponse::Other);
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => (format!("{call}: connection refused"), NoResponse::Other),
        ErrorKind::ConnectionReset => (format!("{call}: connection reset by peer"), NoResponse::Lost),
        ErrorKind::BrokenPipe => ("write: broken pipe".to_owned(), NoResponse::Other),
        ErrorKind::UnexpectedEof => ("EOF".to_owned(), NoResponse::Other),
        ErrorKind::HostUnreachable => (format!("{call}: no route to host"), NoResponse::Other),
        ErrorKind::NetworkUnreachable => (format!("{call}: network is unreachable"), NoResponse::Other),
        ErrorKind::TimedOut => (format!("{call}: connection timed out"), NoResponse::Other),
        _ => match error.to_string().strip_prefix("received fatal alert: ") {
            Some(alert) => (format!("remote error: tls: {}", alert_text(alert)), NoResponse::Other),
            None => (format!("{call}: {error}"), NoResponse::Other),
        },
    }
}

fn tls_error(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => match certificate_error(error) {
            Some(text) => format!("tls: failed to verify certificate: x509: {text}"),
            None => format!("tls: failed to verify certificate: x509: {error}"),
        },
        // A server without TLS answers the handshake in words.
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_text(&format!("{alert:?}"))),
        other => format!("tls: {other}"),
    }
}

fn certificate_error(error: &CertificateError) -> Option<String> {
    let time = |time: &UnixTime| {
        let at = Timestamp::new(i64::try_from(time.as_secs()).unwrap_or(0), 0).unwrap_or_default();
        at.to_string()
    };
    Some(match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::ExpiredContext { time: now, not_after } => {
            format!(
                "certificate has expired or is not yet valid: current time {} is after {}",
                time(now),
                time(not_after)
            )
        }
        CertificateError::NotValidYetContext { time: now, not_before } => {
            format!(
                "certificate has expired or is not yet valid: current time {} is before {}",
                time(now),
                time(not_before)
            )
        }
        CertificateError::NotValidForNameContext { expected, presented } => wrong_name(expected, presented),
        CertificateError::InvalidPurposeContext { .. } => "certificate specifies an incompatible key usage".to_owned(),
        _ => return None,
    })
}

/// What a certificate is valid for, as rustls tells it: `DnsName("a")`, `IpAddress(127.0.0.1)`.
fn wrong_name(expected: &ServerName<'static>, presented: &[String]) -> String {
    let inside = |name: &String, kind: &str| {
        let name = name.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')')?;
        Some(name.trim_matches('"').to_owned())
    };
    let names = |kind| presented.iter().filter_map(|name| inside(name, kind)).collect::<Vec<_>>().join(", ");
    let expected = expected.to_str();
    if expected.parse::<std::net::IpAddr>().is_ok() {
        let addresses = names("IpAddress");
        return if addresses.is_empty() {
            format!("cannot validate certificate for {expected} because it doesn't contain any IP SANs")
        } else {
            format!("certificate is valid for {addresses}, not {expected}")
        };
    }
    let names = names("DnsName");
    if names.is_empty() {
        format!("certificate is not valid for any names, but wanted to match {expected}")
    } else {
        format!("certificate is valid for {names}, not {expected}")
    }
}

/// An alert by its name, with which rustls tells it where others have wrapped its error.
fn alert_text(alert: &str) -> &str {
    match alert {
        "BadCertificate" => "bad certificate",
        "CertificateRequired" => "certificate required",
        "CertificateExpired" => "expired certificate",
        "UnknownCA" => "unknown certificate authority",
        "HandshakeFailure" => "handshake failure",
        "ProtocolVersion" => "protocol version not supported",
        "UnrecognisedName" => "unrecognized name",
        "InternalError" => "internal error",
        "AccessDenied" => "access denied",
        other => other,
    }
}

/// A duration as Go's `time.Duration` prints whole seconds and milliseconds.
pub(crate) fn duration(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    if time.as_millis() == 0 {
        return "0s".to_owned();
    }
    if seconds == 0 {
        return format!("{millis}ms");
    }
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (millis, text) in
            [(0, "0s"), (250, "250ms"), (1000, "1s"), (1500, "1.5s"), (60_000, "1m0s"), (3_605_000, "1h0m5s")]
        {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }
}
