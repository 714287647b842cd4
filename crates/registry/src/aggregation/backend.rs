//! Another API server, and how requests get there: with this server's certificate and the user in headers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kybern_apimachinery::percent::encode;
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::{Body, body};
use kybern_component_base::transport::{
    CertificateAuthorities, Connector, Identity, RestConfig, Stream, SystemResolver,
};
use kybern_webhook::{dial_error, request_error};
use tower_service::Service;

use super::api_service::Backend;

/// Where a Service is called: host and port, from its namespace, name and port.
pub type Locate = Arc<dyn Fn(&str, &str, u16) -> Result<(String, u16), String> + Send + Sync>;

/// The most that is read of another server's document.
const DOCUMENT_MAX: usize = 8 << 20;
const HTTP_1: &[&[u8]] = &[b"http/1.1"];
const HTTP_2: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Connections to one backend.
pub(super) struct Connections {
    backend: Backend,
    locate: Locate,
    pool: legacy::Client<Connector, Body>,
    /// Connections that switch protocols, which HTTP/2 has none of.
    single: Connector,
    /// Believes anything: tells whether somebody is there, and brings nothing else.
    probe: legacy::Client<Connector, Body>,
}

/// Certificate and key that this server shows.
pub(super) type ProxyIdentity = Option<(PathBuf, PathBuf)>;

fn rest_config(backend: &Backend, identity: &ProxyIdentity, verified: bool) -> Result<RestConfig, String> {
    let ca = if backend.insecure || !verified {
        CertificateAuthorities::Anyone
    } else if backend.ca_bundle.is_empty() {
        CertificateAuthorities::System
    } else {
        let unusable = |_| "unable to load root certificates: unable to parse bytes as PEM block".to_owned();
        CertificateAuthorities::from_pem(&backend.ca_bundle).map_err(unusable)?
    };
    let name = format!("{}.{}.svc", backend.name, backend.namespace);
    let mut config =
        RestConfig { server: format!("https://{name}"), server_name: Some(name), ca, ..Default::default() };
    if let Some((certificate, key)) = identity {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()));
        config.identity = Some(Identity::from_pem(&read(certificate)?, &read(key)?).map_err(|e| e.0)?);
        // It is read again when it is renewed.
        config.identity_files = Some((certificate.clone(), key.clone()));
    }
    Ok(config)
}

fn pool(connector: Connector) -> legacy::Client<Connector, Body> {
    let mut pool = legacy::Client::builder(TokioExecutor::new());
    pool.pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(90))
        .pool_max_idle_per_host(32)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(15));
    pool.build(connector)
}

impl Connections {
    pub(super) fn new(backend: &Backend, identity: &ProxyIdentity, locate: Locate) -> Result<Self, String> {
        let connector = |protocols, verified| {
            Connector::new(&rest_config(backend, identity, verified)?, protocols, Arc::new(SystemResolver))
                .map_err(|e| e.0)
        };
        Ok(Self {
            backend: backend.clone(),
            locate,
            pool: pool(connector(HTTP_2, true)?),
            single: connector(HTTP_1, true)?,
            probe: pool(connector(HTTP_2, false)?),
        })
    }

    /// Host and port where the backend is called.
    pub(super) fn authority(&self) -> Result<String, String> {
        let Backend { namespace, name, port, .. } = &self.backend;
        let (host, port) = (self.locate)(namespace, name, *port)?;
        Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }

    /// Passes a request on, whose URI is the whole address.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, String> {
        let response = self.pool.request(request).await.map_err(|error| request_error(&error))?;
        Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    /// A connection of its own to an address.
    pub(super) async fn dial(&self, uri: Uri) -> Result<TokioIo<Stream>, String> {
        let stream = self.single.clone().call(uri).await.map_err(|error| dial_error(&error))?;
        Ok(TokioIo::new(stream))
    }

    /// Whether the backend answers at a path, whoever it is.
    pub(super) async fn answers(&self, path: &str, patience: Duration) -> Result<(), String> {
        let url = format!("https://{}{path}", self.authority()?);
        let failed = |cause: String| format!("failing or missing response from {url}: {cause}");
        let unanswered = |cause: &dyn std::fmt::Display| failed(format!("Get {url:?}: {cause}"));
        let mut request = Request::get(&url).body(body::empty()).map_err(|e| unanswered(&e))?;
        let aggregator = user("system:kube-aggregator", &["system:masters"]);
        identify(request.headers_mut(), &aggregator).map_err(|e| unanswered(&e))?;
        let answer = tokio::time::timeout(patience, self.probe.request(request)).await;
        let late = |_| unanswered(&"context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
        let status = answer.map_err(late)?.map_err(|error| unanswered(&request_error(&error)))?.status();
        if status.is_success() { Ok(()) } else { Err(failed(format!("bad status from {url}: {}", status.as_u16()))) }
    }

    /// A document of the backend's, asked for in this server's own name.
    pub(super) async fn document(&self, asked: Asked<'_>) -> Result<Document, String> {
        let Asked { path, accept, user, etag, patience } = asked;
        let get = async {
            let url = format!("https://{}{path}", self.authority()?);
            let mut request = Request::builder().method(Method::GET).uri(url).header(ACCEPT, accept);
            if !etag.is_empty() {
                request = request.header(IF_NONE_MATCH, etag);
            }
            let mut request = request.body(body::empty()).map_err(|e| e.to_string())?;
            identify(request.headers_mut(), user)?;
            let (head, body) = self.send(request).await?.into_parts();
            let bytes = read(body).await.map_err(|e| format!("{path}: {e}"))?;
            let text = |name: HeaderName| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
            Ok(Document { status: head.status, media: text(http::header::CONTENT_TYPE), etag: text(ETAG), bytes })
        };
        let late = |_| Err(format!("{path}: request timed out"));
        tokio::time::timeout(patience, get).await.unwrap_or_else(late)
    }
}

/// A whole document, of a size that harms nobody.
async fn read(mut body: Body) -> Result<Bytes, String> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() else { continue };
        if bytes.len() + data.len() > DOCUMENT_MAX {
            return Err(format!("it is longer than {DOCUMENT_MAX} bytes"));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub(super) path: &'a str,
    pub(super) accept: &'a str,
    pub(super) user: &'a UserInfo,
    /// Of what is known; empty for nothing.
    pub(super) etag: &'a str,
    pub(super) patience: Duration,
}

pub(super) struct Document {
    pub(super) status: StatusCode,
    pub(super) media: String,
    pub(super) etag: String,
    pub(super) bytes: Bytes,
}

pub(super) fn user(name: &str, groups: &[&str]) -> UserInfo {
    let groups = groups.iter().map(|g| (*g).to_owned()).collect();
    UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
}

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";
/// What may stand in a header's name as it is, but for letters and digits.
const IN_NAMES: &[u8] = b"!#$&'*+-.^_`|~";

/// Says who the user is, in the only headers that may say so.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), String> {
    let said = |name: &str| {
        // Servers that hand headers on as variables take `_` and `-` for the same.
        let name = name.replace('_', "-");
        matches!(name.as_str(), "x-remote-user" | "x-remote-uid" | "x-remote-group") || name.starts_with(EXTRA)
    };
    let sent: Vec<HeaderName> = headers.keys().filter(|name| said(name.as_str())).cloned().collect();
    for name in sent {
        headers.remove(name);
    }
    let value = |name: &HeaderName, text: &str| {
        let invalid = |_| format!("net/http: invalid header field value for {name:?}");
        HeaderValue::from_bytes(text.as_bytes()).map_err(invalid)
    };
    headers.insert(USER, value(&USER, &user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&UID, &user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(&GROUP, group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", encode(key, IN_NAMES)).to_ascii_lowercase();
        let name: HeaderName = name.parse().map_err(|_| format!("net/http: invalid header field name {name:?}"))?;
        for text in values {
            headers.append(&name, value(&name, text)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attack_nobody_but_this_server_says_who_the_user_is() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x_remote_group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("x-remote-uid", "0"),
            ("x-other", "stays"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut joe = user("joe", &["a", "b"]);
        joe.extra.insert("example.com/Ünit".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        identify(&mut headers, &joe).unwrap();
        let mut all: Vec<String> = headers.iter().map(|(k, v)| format!("{k}={}", v.to_str().unwrap())).collect();
        all.sort();
        assert_eq!(
            all,
            [
                "x-other=stays",
                "x-remote-extra-example.com%2f%c3%9cnit=x",
                "x-remote-extra-example.com%2f%c3%9cnit=y",
                "x-remote-group=a",
                "x-remote-group=b",
                "x-remote-user=joe",
            ]
        );
        // What fits in no header is refused, and not left out.
        let refused = identify(&mut headers, &user("joe\r\nX-Remote-Group: system:masters", &[])).unwrap_err();
        assert_eq!(refused, "net/http: invalid header field value for \"x-remote-user\"");
        assert!(identify(&mut headers, &user("joe", &["a\nb"])).is_err());
    }
}
