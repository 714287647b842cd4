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

/// How often a redirection is followed, as Go's client does.
const REDIRECTIONS_MAX: usize = 10;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Its start.
    pub body: String,
    location: Option<String>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    fn of(action: &HTTPGetAction, container: &Container, pod_ip: &str) -> Result<Self, String> {
        let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        Ok(Self {
            https: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip).to_owned(),
            port: port(container, &action.port)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }

    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }

    /// The place that a redirection names, if it is on the same host: no other is followed.
    fn redirected(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Self { path: location.to_owned(), ..self.clone() });
        }
        if !location.contains("//") {
            let here = self.path.split('?').next().unwrap_or("/");
            let folder = here.rsplit_once('/').map_or("", |(folder, _)| folder);
            return Some(Self { path: format!("{folder}/{location}"), ..self.clone() });
        }
        let target: http::Uri = location.parse().ok()?;
        let path = target.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let host = target.host()?;
        if host.trim_matches(['[', ']']) != self.host {
            return None;
        }
        let https = target.scheme_str().map_or(self.https, |scheme| scheme == "https");
        let port = target.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Self { https, host: self.host.clone(), port, path })
    }
}

/// Performs the request, following redirections on the same host.
pub async fn get(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
    user_agent: &str,
    timeout: Duration,
) -> Result<Answer, String> {
    let mut place = Place::of(action, container, pod_ip)?;
    let end = tokio::time::Instant::now() + timeout;
    for _ in 0..=REDIRECTIONS_MAX {
        let url = place.url();
        let answer = match tokio::time::timeout_at(end, ask(&place, action, user_agent)).await {
            Ok(done) => done.map_err(|cause| format!("Get {url:?}: {cause}"))?,
            Err(_) => {
                return Err(format!(
                    "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                ));
            }
        };
        let followed = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
        match answer.location.as_deref().filter(|_| followed).and_then(|location| place.redirected(location)) {
            Some(next) => place = next,
            None => return Ok(answer),
        }
    }
    Err(format!("Get {:?}: stopped after {REDIRECTIONS_MAX} redirects", place.url()))
}

/// Performs one request.
async fn ask(place: &Place, action: &HTTPGetAction, user_agent: &str) -> Result<Answer, String> {
    let authority = place.authority();
    let mut request = http::Request::get(&place.path).header(http::header::CONNECTION, "close");
    let headers = request.headers_mut().ok_or("the path is not valid")?;
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
    let stream = TcpStream::connect((place.host.as_str(), place.port))
        .await
        .map_err(|e| format!("dial tcp {authority}: {}", dial_error(&e)))?;
    if !place.https {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(place.host.clone()).map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(unverified());
    let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
    send(stream, request).await
}

async fn send<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok(Answer { status, body, location })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_stay_on_the_host() {
        let here = Place { https: false, host: "10.0.0.2".into(), port: 8080, path: "/a/b?c=d".into() };
        for (location, expect) in [
            ("/login?x", Some("http://10.0.0.2:8080/login?x")),
            ("next", Some("http://10.0.0.2:8080/a/next")),
            ("http://10.0.0.2:81/x", Some("http://10.0.0.2:81/x")),
            ("https://10.0.0.2/", Some("https://10.0.0.2:443/")),
            ("http://example.com/", None),
        ] {
            assert_eq!(here.redirected(location).map(|place| place.url()).as_deref(), expect, "{location}");
        }
    }

    #[tokio::test]
    async fn the_last_answer_counts() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 512];
                let length = stream.read(&mut request).await.unwrap();
                let head = match std::str::from_utf8(&request[..length]).unwrap().split(' ').nth(1).unwrap() {
                    "/moved" => "302 Found\r\nLocation: /broken",
                    "/away" => "302 Found\r\nLocation: http://192.0.2.1/",
                    "/round" => "301 Moved\r\nLocation: /round",
                    _ => "500 Broken",
                };
                let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let status = |path: &str| {
            let action = HTTPGetAction { path: Some(path.into()), port: IntOrString::Int(port), ..Default::default() };
            async move {
                let done = get(&action, &Container::default(), "127.0.0.1", "test", Duration::from_secs(10)).await;
                done.map(|answer| answer.status)
            }
        };
        assert_eq!(status("/moved").await, Ok(500));
        assert_eq!(status("/away").await, Ok(302));
        assert!(status("/round").await.unwrap_err().ends_with("stopped after 10 redirects"));
    }
}
