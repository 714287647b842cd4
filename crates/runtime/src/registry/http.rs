//! HTTP to a registry: one connection per request, TLS as configured, redirects followed.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;

use super::config::TlsSection;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a registry may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

const REDIRECTS_MAX: usize = 10;

const AGENT: &str = concat!("kybern/", env!("CARGO_PKG_VERSION"));

fn other(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Sends a request without or with a small body, and follows where it is sent on. Credentials go to the first host only.
pub(super) async fn send(
    method: Method,
    url: &str,
    headers: &HeaderMap,
    body: Bytes,
    tls: &TlsSection,
) -> io::Result<Response<Incoming>> {
    let mut url: Uri = url.parse().map_err(|error| other(format!("{url:?}: {error}")))?;
    let mut headers = headers.clone();
    let mut tls = tls.clone();
    for _ in 0..REDIRECTS_MAX {
        let response =
            tokio::time::timeout(CONNECT_TIMEOUT + ANSWER_TIMEOUT, once(&method, &url, &headers, body.clone(), &tls))
                .await
                .map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("{url}: no answer within {} s", ANSWER_TIMEOUT.as_secs()),
                    )
                })??;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        let Some(location) = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()) else {
            return Ok(response);
        };
        let next = resolve(&url, location)?;
        if next.authority() != url.authority() {
            headers.remove(AUTHORIZATION);
            tls = TlsSection::default();
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
        let host = base.authority().map(|a| a.as_str()).unwrap_or_default();
        return format!("{scheme}://{host}{location}").parse().map_err(bad);
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
    tls: &TlsSection,
) -> io::Result<Response<Incoming>> {
    let host = url.host().ok_or_else(|| other(format!("{url} has no host")))?;
    let encrypted = url.scheme_str() != Some("http");
    let port = url.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    // An IPv6 address is bracketed in a URL and bare elsewhere.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let named = |error: io::Error| io::Error::new(error.kind(), format!("connect to {host}:{port}: {error}"));
    let socket = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((name, port)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("connect to {host}:{port}: timed out")))?
        .map_err(named)?;
    let _ = socket.set_nodelay(true);
    let mut request = Request::builder().method(method).uri(url.path_and_query().map(|p| p.as_str()).unwrap_or("/"));
    if let Some(all) = request.headers_mut() {
        *all = headers.clone();
    }
    let authority = url.authority().map(|a| a.as_str()).unwrap_or(host);
    let request = request.header(HOST, authority).header(USER_AGENT, AGENT).body(Full::new(body));
    let request = request.map_err(|error| other(error.to_string()))?;
    if encrypted {
        let config = client_config(tls)?;
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
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    // Ends with the answer's body, or when that is dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.send_request(request).await.map_err(io::Error::other)
}

fn client_config(tls: &TlsSection) -> io::Result<Arc<ClientConfig>> {
    static DEFAULT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if *tls != TlsSection::default() {
        return build_config(tls).map(Arc::new);
    }
    if let Some(known) = DEFAULT.get() {
        return Ok(known.clone());
    }
    let built = Arc::new(build_config(tls)?);
    Ok(DEFAULT.get_or_init(|| built).clone())
}

fn build_config(tls: &TlsSection) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let in_file = |path: &Path, error: &dyn std::fmt::Display| other(format!("{}: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if !tls.ca_file.as_os_str().is_empty() {
        let certificates =
            CertificateDer::pem_file_iter(&tls.ca_file).map_err(|error| in_file(&tls.ca_file, &error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| in_file(&tls.ca_file, &error))?;
            roots.add(certificate).map_err(|error| in_file(&tls.ca_file, &error))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = builder.with_root_certificates(roots);
    let mut config = if tls.cert_file.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let certificates = CertificateDer::pem_file_iter(&tls.cert_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| in_file(&tls.cert_file, &error))?;
        let key = PrivateKeyDer::from_pem_file(&tls.key_file).map_err(|error| in_file(&tls.key_file, &error))?;
        builder.with_client_auth_cert(certificates, key).map_err(|error| in_file(&tls.cert_file, &error))?
    };
    if tls.insecure_skip_verify {
        config.dangerous().set_certificate_verifier(Arc::new(AcceptAny(provider)));
    }
    Ok(config)
}

/// Accepts every certificate: for hosts that `registries.yaml` marks `insecure_skip_verify`.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
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

    #[test]
    fn tls_files_are_named_in_errors() {
        let tls = TlsSection { ca_file: "/no/ca.pem".into(), ..Default::default() };
        assert!(build_config(&tls).unwrap_err().to_string().contains("/no/ca.pem"));
        let tls = TlsSection { insecure_skip_verify: true, ..Default::default() };
        assert!(build_config(&tls).is_ok());
    }
}
