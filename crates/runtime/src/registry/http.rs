//! HTTP to a registry: one connection per request, TLS as configured, redirects followed.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::config::Registries;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a registry may take to begin its answer, and to send a document.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

const REDIRECTS_MAX: usize = 10;

const AGENT: &str = concat!("kybern/", env!("CARGO_PKG_VERSION"));

/// Reads a document to its end.
pub(super) async fn read(response: Response<Incoming>, limit: usize) -> io::Result<Bytes> {
    let body = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(response.into_body(), limit).collect()).await;
    let body = body.map_err(|_| late(format!("the answer did not end within {} s", ANSWER_TIMEOUT.as_secs())))?;
    body.map(|body| body.to_bytes()).map_err(|error| {
        let too_long = error.is::<LengthLimitError>();
        if too_long { other(format!("the answer is longer than {limit} bytes")) } else { explained(error.as_ref()) }
    })
}

/// What hyper says leaves the cause to whoever asks for it.
pub(crate) fn explained(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    // A wrapper often says what it wraps.
    texts.dedup();
    other(texts.join(": "))
}

fn late(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn other(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Host and port of a URL.
fn place(url: &Uri) -> &str {
    url.authority().and_then(|authority| authority.as_str().rsplit('@').next()).unwrap_or_default()
}

/// Sends a request without or with a small body, and follows where it is sent on. Credentials go to the first host only:
/// the `Authorization` header, and a body, which holds a token.
pub(super) async fn send(
    method: Method,
    url: &str,
    headers: &HeaderMap,
    body: Bytes,
    registries: &Registries,
) -> io::Result<Response<Incoming>> {
    let mut url: Uri = url.parse().map_err(|error| other(format!("{url:?}: {error}")))?;
    let mut headers = headers.clone();
    for _ in 0..REDIRECTS_MAX {
        let response = tokio::time::timeout(
            CONNECT_TIMEOUT + ANSWER_TIMEOUT,
            once(&method, &url, &headers, body.clone(), registries),
        )
        .await
        .map_err(|_| late(format!("{url}: no answer within {} s", ANSWER_TIMEOUT.as_secs())))??;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        let Some(location) = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()) else {
            return Ok(response);
        };
        let next = resolve(&url, location)?;
        if place(&next) != place(&url) {
            headers.remove(AUTHORIZATION);
            if !body.is_empty() {
                return Err(other(format!("{url} sends credentials on to another host, {next}: refused")));
            }
        }
        url = next;
    }
    Err(other(format!("{url}: more than {REDIRECTS_MAX} redirects")))
}

/// A redirect's target, which may lack scheme and host.
fn resolve(base: &Uri, location: &str) -> io::Result<Uri> {
    let bad = |error: http::uri::InvalidUri| other(format!("redirect to {location:?}: {error}"));
    if location.starts_with('/') && !location.starts_with("//") {
        let scheme = base.scheme_str().unwrap_or("https");
        return format!("{scheme}://{}{location}", place(base)).parse().map_err(bad);
    }
    let target: Uri = location.parse().map_err(bad)?;
    if target.scheme().is_none() {
        return Err(other(format!("redirect to {location:?}, which has no host")));
    }
    if base.scheme_str() == Some("https") && target.scheme_str() == Some("http") {
        return Err(other(format!("redirect from https to {location:?}, which is not encrypted")));
    }
    Ok(target)
}

async fn once(
    method: &Method,
    url: &Uri,
    headers: &HeaderMap,
    body: Bytes,
    registries: &Registries,
) -> io::Result<Response<Incoming>> {
    let host = url.host().ok_or_else(|| other(format!("{url} has no host")))?;
    let encrypted = url.scheme_str() != Some("http");
    let port = url.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    // An IPv6 address is bracketed in a URL and bare elsewhere.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let named = |error: io::Error| io::Error::new(error.kind(), format!("connect to {host}:{port}: {error}"));
    let socket = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((name, port)))
        .await
        .map_err(|_| late(format!("connect to {host}:{port}: timed out")))?
        .map_err(named)?;
    let _ = socket.set_nodelay(true);
    let mut request = Request::builder().method(method).uri(url.path_and_query().map(|p| p.as_str()).unwrap_or("/"));
    if let Some(all) = request.headers_mut() {
        *all = headers.clone();
    }
    let request = request.header(HOST, place(url)).header(USER_AGENT, AGENT).body(Full::new(body));
    let request = request.map_err(|error| other(error.to_string()))?;
    if encrypted {
        let config = registries.tls(place(url))?;
        let server = ServerName::try_from(name.to_owned()).map_err(|error| other(format!("{host}: {error}")))?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(server, socket).await.map_err(named)?;
        exchange(TokioIo::new(stream), request).await
    } else {
        exchange(TokioIo::new(socket), request).await
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> io::Result<Response<Incoming>>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| explained(&error))?;
    // Ends with the answer's body, or when that is dropped.
    let connection = tokio::spawn(connection);
    match sender.send_request(request).await {
        Ok(response) => Ok(response),
        Err(error) => {
            drop(sender);
            // Of a connection that broke first, the request only knows that it is gone.
            let cause = connection.await.ok().and_then(Result::err);
            Err(explained(cause.as_ref().unwrap_or(&error)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let base: Uri = "https://r.io/v2/a".parse().unwrap();
        assert_eq!(resolve(&base, "/blob?x=1").unwrap().to_string(), "https://r.io/blob?x=1");
        assert_eq!(resolve(&base, "https://cdn.io/b").unwrap().to_string(), "https://cdn.io/b");
        assert!(resolve(&base, "http://cdn.io/b").unwrap_err().to_string().contains("not encrypted"));
        assert!(resolve(&base, "blob").is_err());
    }
}
