//! The way to kubelets: HTTPS with the API server's client certificate, the kubelet's own verified against the
//! cluster's CA.

use std::sync::Arc;

use http::{Request, Response};
use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::Body;
use kybern_auth::pki::Pki;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream;
use crate::tree::{int, list, text};

/// The kubelet's port where a node does not tell it.
const DEFAULT_PORT: i64 = 10250;

/// Reaches kubelets for logs, exec and the like.
pub struct KubeletClient {
    tls: TlsConnector,
}

/// Why there is no way to kubelets.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the connection to kubelets: {0}")]
pub struct KubeletClientError(String);

impl KubeletClient {
    /// With the certificate `apiserver-kubelet-client`.
    pub fn new(pki: &Pki) -> Result<Self, KubeletClientError> {
        let fail = |e: &dyn std::fmt::Display| KubeletClientError(e.to_string());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pki.ca.certificate_der().to_vec().into()).map_err(|e| fail(&e))?;
        let (chain, key) = pki.apiserver_kubelet_client.rustls().map_err(|e| fail(&e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| fail(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| fail(&e))?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends a request to a node's kubelet; `request`'s URI is path and query only.
    pub(super) async fn send(&self, node: &Value, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (host, port) = address(node)?;
        self.send_tls(&host, port, request).await
    }

    pub(super) async fn send_tls(
        &self,
        host: &str,
        port: u16,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let place = format!("https://{}{}", authority(host, port), request.uri().path());
        let failed = |cause: &dyn std::fmt::Display| unreachable(&place, cause);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(&e))?;
        let stream = connect(host, port).await.map_err(|e| failed(&e))?;
        let stream = self.tls.connect(name, stream).await.map_err(|e| failed(&e))?;
        stream::exchange(stream, &authority(host, port), request).await.map_err(|e| failed(&e))
    }
}

/// The text that upstream's dialer gives.
fn unreachable(place: &str, cause: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(Reason::InternalError, format!("Get {place:?}: {cause}"))
}

/// Sends a request in the clear, to a pod or a Service's endpoint.
pub(super) async fn send_plain(host: &str, port: u16, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let place = format!("http://{}{}", authority(host, port), request.uri().path());
    let failed = |cause: &dyn std::fmt::Display| {
        ApiError::new(Reason::ServiceUnavailable, format!("error trying to reach service: {place}: {cause}"))
    };
    let stream = connect(host, port).await.map_err(|e| failed(&e))?;
    stream::exchange(stream, &authority(host, port), request).await.map_err(|e| failed(&e))
}

/// Gives up after what a live host on a busy network may need.
async fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let dial = TcpStream::connect((host, port));
    match tokio::time::timeout(std::time::Duration::from_secs(10), dial).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within 10 seconds")),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Where a node's kubelet listens: the address types in kubeadm's order of preference.
fn address(node: &Value) -> Result<(String, u16), ApiError> {
    let addresses = list(&node["status"], "addresses");
    let find = |kind: &str| addresses.iter().find(|a| text(a, "type") == kind).map(|a| text(a, "address"));
    let Some(host) = ["InternalIP", "ExternalIP", "Hostname"].into_iter().find_map(find) else {
        let name = object::name(node);
        return Err(ApiError::internal(format!("no preferred addresses found; known addresses: [] of node {name:?}")));
    };
    let port =
        int(&node["status"]["daemonEndpoints"]["kubeletEndpoint"], "Port").filter(|p| *p > 0).unwrap_or(DEFAULT_PORT);
    Ok((host.to_owned(), u16::try_from(port).map_err(ApiError::internal)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_node_tells_where_its_kubelet_is() {
        let node = json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.0.2.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}});
        assert_eq!(address(&node).unwrap(), ("192.0.2.1".to_owned(), 10251));
        assert!(address(&json!({"metadata": {"name": "n"}})).is_err());
        assert_eq!(authority("::1", 80), "[::1]:80");
    }
}
