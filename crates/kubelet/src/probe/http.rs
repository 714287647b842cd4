//! One HTTP or HTTPS GET, for probes and lifecycle hooks. Certificates are not verified: upstream does not either, for a
//! container's own certificate says nothing about its health.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use kybern_api::IntOrString;
use kybern_api::core::v1::{Container, HTTPGetAction};
use kybern_component_base::tls::AcceptAny;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const MAX_BODY: usize = 10 * 1024;

/// A port by number or by its name in the container.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = ports.into_iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n != 0)
        .ok_or_else(|| format!("invalid port number: {port:?}"))
}

/// Why no connection came about, in the words of upstream's language.
pub fn dial_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => format!("connect: {error}"),
    }
}

/// Performs the request. `Ok` holds the status and the start of the body.
pub async fn get(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
    user_agent: &str,
    timeout: Duration,
) -> Result<(u16, String), String> {
    let port = port(container, &action.port)?;
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let https = action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let url = format!("{}://{authority}{path}", if https { "https" } else { "http" });
    let mut request = http::Request::get(&path).header(http::header::CONNECTION, "close");
    let headers = request.headers_mut().ok_or_else(|| format!("Get {url:?}: the path is not valid"))?;
    let mut set = |name: &str, value: &str| {
        let pair = (http::HeaderName::try_from(name).ok(), http::HeaderValue::try_from(value).ok());
        if let (Some(name), Some(value)) = pair {
            headers.insert(name, value);
        }
    };
    set("host", &authority);
    set("user-agent", user_agent);
    set("accept", "*/*");
    for header in action.http_headers.iter().flatten() {
        set(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let exchange = async {
        let stream =
            TcpStream::connect((host, port)).await.map_err(|e| format!("dial tcp {authority}: {}", dial_error(&e)))?;
        if https {
            let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
            let stream = tokio_rustls::TlsConnector::from(unverified())
                .connect(name, stream)
                .await
                .map_err(|e| e.to_string())?;
            send(stream, request).await
        } else {
            send(stream, request).await
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(done) => done.map_err(|cause| format!("Get {url:?}: {cause}")),
        Err(_) => {
            Err(format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn send<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<(u16, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, body))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

/// A TLS client that takes any certificate.
pub fn unverified() -> Arc<rustls::ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<rustls::ClientConfig>> = std::sync::OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions");
        Arc::new(builder.dangerous().with_custom_certificate_verifier(AcceptAny::new(provider)).with_no_client_auth())
    });
    config.clone()
}
