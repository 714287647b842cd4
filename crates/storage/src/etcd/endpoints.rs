//! The members of an etcd, and the connection to one of them that requests go over.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kybern_component_base::grpc::Connection;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::StorageError;

/// How long one member may take to answer a dial.
const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// After this the next member is dialled as well.
const DIAL_STAGGER: Duration = Duration::from_millis(250);

/// PEM files for TLS. Without authorities the machine's own are believed.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Why an etcd cannot be used as it was named.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--etcd-servers is not usable: {endpoint:?} is not of the form https://host:port")]
    Endpoint { endpoint: String },
    #[error("--etcd-servers names no server")]
    NoEndpoint,
    #[error("{flag} is not usable: {cause}")]
    Tls { flag: &'static str, cause: String },
}

struct Endpoint {
    url: String,
    authority: String,
    tls: bool,
}

/// See the module.
pub(super) struct Endpoints {
    list: Vec<Endpoint>,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Which member is dialled first.
    first: AtomicUsize,
    current: Mutex<Option<(usize, Connection)>>,
    dialling: tokio::sync::Mutex<()>,
}

impl Endpoints {
    pub(super) fn new(servers: &[String], files: &TlsFiles) -> Result<Self, ConfigError> {
        let list: Vec<Endpoint> = servers.iter().map(|server| endpoint(server)).collect::<Result<_, _>>()?;
        if list.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        let tls = list.iter().any(|e| e.tls).then(|| tls_config(files).map(Arc::new)).transpose()?;
        Ok(Self { list, tls, first: 0.into(), current: Mutex::default(), dialling: Default::default() })
    }

    /// The connection that requests go over, and its member. An error means that nothing was sent.
    pub(super) async fn connection(&self) -> Result<(usize, Connection), StorageError> {
        if let Some(connection) = self.open() {
            return Ok(connection);
        }
        let _dialling = self.dialling.lock().await;
        if let Some(connection) = self.open() {
            return Ok(connection);
        }
        let dialled = self.dial().await?;
        *self.current.lock() = Some(dialled.clone());
        Ok(dialled)
    }

    fn open(&self) -> Option<(usize, Connection)> {
        self.current.lock().clone().filter(|(_, connection)| !connection.is_closed())
    }

    /// A connection of its own, to the first member that takes it.
    pub(super) async fn dial(&self) -> Result<(usize, Connection), StorageError> {
        let first = self.first.load(Ordering::Relaxed);
        let mut dials: FuturesUnordered<_> = (0..self.list.len())
            .map(|nth| {
                let index = (first + nth) % self.list.len();
                async move {
                    tokio::time::sleep(DIAL_STAGGER * nth as u32).await;
                    let endpoint = &self.list[index];
                    let tls = endpoint.tls.then(|| self.tls.clone()).flatten();
                    let dial = Connection::tcp(&endpoint.authority, tls);
                    let dialled = match tokio::time::timeout(DIAL_PATIENCE, dial).await {
                        Ok(dialled) => dialled,
                        Err(_) => Err("it does not answer".to_owned()),
                    };
                    dialled.map(|connection| (index, connection)).map_err(|e| format!("{}: {e}", endpoint.url))
                }
            })
            .collect();
        let mut causes = Vec::new();
        while let Some(dialled) = dials.next().await {
            match dialled {
                Ok(connection) => return Ok(connection),
                Err(cause) => causes.push(cause),
            }
        }
        causes.sort();
        Err(StorageError::Unavailable(format!("etcd cannot be reached: {}", causes.join("; "))))
    }

    /// A member does not do as it should: the next request goes to another.
    pub(super) fn distrust(&self, member: usize) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|(index, _)| *index == member) {
            *current = None;
        }
        let next = (member + 1) % self.list.len();
        let _ = self.first.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn url(&self, member: usize) -> &str {
        self.list.get(member).map_or("", |endpoint| &endpoint.url)
    }
}

fn endpoint(server: &str) -> Result<Endpoint, ConfigError> {
    let wrong = || ConfigError::Endpoint { endpoint: server.to_owned() };
    let (scheme, rest) = server.trim().split_once("://").unwrap_or(("http", server.trim()));
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(wrong()),
    };
    let rest = rest.trim_end_matches('/');
    let uri: http::uri::Authority = rest.parse().map_err(|_| wrong())?;
    if uri.host().is_empty() || rest.contains('@') {
        return Err(wrong());
    }
    let authority = format!("{}:{}", uri.host(), uri.port_u16().unwrap_or(2379));
    Ok(Endpoint { url: server.trim().to_owned(), authority, tls })
}

fn tls_config(files: &TlsFiles) -> Result<rustls::ClientConfig, ConfigError> {
    let wrong = |flag: &'static str, path: Option<&Path>, cause: &dyn Display| ConfigError::Tls {
        flag,
        cause: path.map_or_else(|| cause.to_string(), |path| format!("{}: {cause}", path.display())),
    };
    let mut roots = rustls::RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            let failed = |e: &dyn Display| wrong("--etcd-cafile", Some(path), e);
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))? {
                roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
            }
            if roots.is_empty() {
                return Err(failed(&"it holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("--etcd-servers", None, &e))?
        .with_root_certificates(roots);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let failed = |e: &dyn Display| wrong("--etcd-certfile", Some(certificate), e);
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(certificate).map_err(|e| failed(&e))?.collect();
            let chain = chain.map_err(|e| failed(&e))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("--etcd-keyfile", Some(key), &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| failed(&e))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(wrong("--etcd-certfile", None, &"it needs --etcd-keyfile, and the other way round")),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls() {
        for (given, authority, tls) in [
            ("https://etcd.example:2379", "etcd.example:2379", true),
            ("http://127.0.0.1:12379/", "127.0.0.1:12379", false),
            ("127.0.0.1:2379", "127.0.0.1:2379", false),
            ("https://[::1]", "[::1]:2379", true),
        ] {
            let endpoint = endpoint(given).unwrap();
            assert_eq!((endpoint.authority.as_str(), endpoint.tls), (authority, tls), "{given}");
        }
        for given in ["", "unix:///run/etcd", "https://", "http://user@host:1", "http://a b"] {
            assert!(endpoint(given).is_err(), "{given}");
        }
    }
}
