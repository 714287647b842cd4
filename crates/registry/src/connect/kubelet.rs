//! The way to kubelets: HTTPS with the API server's client certificate, to the address and port that the node records.
//! Nothing else in this server shows that certificate to anyone.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::Body;
use kybern_auth::pki::Pki;
use kybern_component_base::tls::AcceptAny;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::{self, Reach, authority};
use super::stream::{self, Switched};
use crate::tree::{int, list, text};

/// The kubelet's port where a node does not tell it.
pub const DEFAULT_PORT: u16 = 10250;

/// How kubelets are reached: `--kubelet-…` of the API server.
pub struct KubeletOptions {
    /// What the server shows kubelets.
    pub certificate: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// By whose word a kubelet is believed; empty: any certificate is, as upstream without
    /// `--kubelet-certificate-authority`.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The types of node addresses, best first.
    pub preferred_address_types: Vec<String>,
    /// Where a node does not tell its kubelet's port.
    pub port: u16,
    /// How long a connection may take to stand.
    pub timeout: Duration,
}

/// Reaches kubelets for logs, exec and the like.
pub struct KubeletClient {
    tls: TlsConnector,
    /// For `insecureSkipTLSVerifyBackend` of logs.
    unverified: TlsConnector,
    preferred_address_types: Vec<String>,
    port: u16,
    timeout: Duration,
}

/// Why there is no way to kubelets.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the connection to kubelets: {0}")]
pub struct KubeletClientError(String);

/// Whether a kubelet has to prove who it is, where the server's flags demand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    AsConfigured,
    Never,
}

/// Why a kubelet did not answer.
#[derive(Debug)]
pub(super) struct Unreachable(pub(super) String);

impl KubeletClient {
    pub fn new(options: KubeletOptions) -> Result<Self, KubeletClientError> {
        let fail = |e: &dyn std::fmt::Display| KubeletClientError(e.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            rustls::ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|e| fail(&e))
        };
        let (certificate, key) = (options.certificate, options.key);
        let unverified = builder()?
            .dangerous()
            .with_custom_certificate_verifier(AcceptAny::new(provider.clone()))
            .with_client_auth_cert(certificate.clone(), key.clone_key())
            .map_err(|e| fail(&e))?;
        let unverified = TlsConnector::from(Arc::new(unverified));
        let tls = if options.authorities.is_empty() {
            unverified.clone()
        } else {
            let mut roots = rustls::RootCertStore::empty();
            for authority in options.authorities {
                roots.add(authority).map_err(|e| fail(&e))?;
            }
            let verified = builder()?.with_root_certificates(roots).with_client_auth_cert(certificate, key);
            TlsConnector::from(Arc::new(verified.map_err(|e| fail(&e))?))
        };
        let KubeletOptions { preferred_address_types, port, timeout, .. } = options;
        Ok(Self { tls, unverified, preferred_address_types, port, timeout })
    }

    /// With the certificate `apiserver-kubelet-client`, for kubelets of the same authority.
    pub fn of(pki: &Pki) -> Result<Self, KubeletClientError> {
        let (certificate, key) =
            pki.apiserver_kubelet_client.rustls().map_err(|e| KubeletClientError(e.to_string()))?;
        Self::new(KubeletOptions {
            certificate,
            key,
            authorities: vec![pki.ca.certificate_der().to_vec().into()],
            // As kubeadm sets them up.
            preferred_address_types: ["InternalIP", "ExternalIP", "Hostname"].map(str::to_owned).to_vec(),
            port: DEFAULT_PORT,
            timeout: dial::DIAL_TIMEOUT,
        })
    }

    /// Sends a request to a node's kubelet; `request`'s URI is path and query only.
    pub(super) async fn send(
        &self,
        node: &Value,
        verify: Verify,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let (host, port) = self.address(node)?;
        let failed = failure(&host, port, &request);
        self.send_to(&host, port, Reach::Any, verify, None, request).await.map_err(failed)
    }

    /// Asks a node's kubelet to switch protocols.
    pub(super) async fn switch(&self, node: &Value, request: Request<Body>) -> Result<Switched, ApiError> {
        let (host, port) = self.address(node)?;
        let failed = failure(&host, port, &request);
        let switched = async {
            let stream = self.connect(&host, port, Reach::Any, Verify::AsConfigured).await?;
            let switched = stream::switch(stream, &authority(&host, port), request).await;
            switched.map_err(|e| Unreachable(e.to_string()))
        };
        switched.await.map_err(failed)
    }

    /// Sends a request to where [`Self::address`] says that a kubelet is; `name` is the `Host` that it sees, by default its
    /// own.
    pub(super) async fn send_to(
        &self,
        host: &str,
        port: u16,
        reach: Reach,
        verify: Verify,
        name: Option<&str>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Unreachable> {
        let stream = self.connect(host, port, reach, verify).await?;
        let own = authority(host, port);
        let answer = stream::exchange(stream, name.unwrap_or(&own), request).await;
        answer.map_err(|e| Unreachable(e.to_string()))
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
        reach: Reach,
        verify: Verify,
    ) -> Result<TlsStream<TcpStream>, Unreachable> {
        let failed = |cause: &dyn std::fmt::Display| Unreachable(cause.to_string());
        let server = ServerName::try_from(host.to_owned()).map_err(|e| failed(&e))?;
        let stream = dial::connect(host, port, reach, self.timeout).await.map_err(|e| failed(&e))?;
        let connector = if verify == Verify::Never { &self.unverified } else { &self.tls };
        let handshake = tokio::time::timeout(self.timeout, connector.connect(server, stream)).await;
        handshake.map_err(|_| failed(&"TLS handshake timeout"))?.map_err(|e| failed(&e))
    }

    /// Where a node's kubelet listens, as the node records it.
    pub(super) fn address(&self, node: &Value) -> Result<(String, u16), ApiError> {
        let addresses = list(&node["status"], "addresses");
        let find = |kind: &String| {
            let recorded = addresses.iter().find(|a| text(a, "type") == kind).map(|a| text(a, "address"));
            let label = || object::label(node, "kubernetes.io/hostname").filter(|name| !name.is_empty());
            recorded.or_else(|| label().filter(|_| kind == "Hostname"))
        };
        let Some(host) = self.preferred_address_types.iter().find_map(find) else {
            let known: Vec<String> =
                addresses.iter().map(|a| format!("{{{} {}}}", text(a, "type"), text(a, "address"))).collect();
            let message = format!("no preferred addresses found; known addresses: [{}]", known.join(" "));
            return Err(ApiError::new(Reason::Unknown, message).with_code(500));
        };
        let recorded = int(&node["status"]["daemonEndpoints"]["kubeletEndpoint"], "Port").filter(|p| *p > 0);
        let port = recorded.map_or(Ok(self.port), u16::try_from).map_err(ApiError::internal)?;
        Ok((host.to_owned(), port))
    }
}

/// A failed request, as Go's client tells of one.
fn failure(host: &str, port: u16, request: &Request<Body>) -> impl FnOnce(Unreachable) -> ApiError + use<> {
    let place = format!("https://{}{}", authority(host, port), request.uri());
    let method = capitalized(request.method().as_str());
    move |Unreachable(cause)| ApiError::new(Reason::Unknown, format!("{method} {place:?}: {cause}")).with_code(500)
}

/// `Get` of `GET`, as Go's client names methods in errors.
fn capitalized(method: &str) -> String {
    let (first, rest) = method.split_at(1);
    format!("{first}{}", rest.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn client(preferred: &[&str]) -> KubeletClient {
        let now = jiff::Timestamp::now();
        let ca = kybern_auth::pki::CertificateAuthority::create("ca", now).unwrap();
        let leaf = ca.issue(&kybern_auth::pki::Profile::client("server", None), now).unwrap();
        let (certificate, key) = leaf.rustls().unwrap();
        KubeletClient::new(KubeletOptions {
            certificate,
            key,
            authorities: Vec::new(),
            preferred_address_types: preferred.iter().map(|t| (*t).to_owned()).collect(),
            port: DEFAULT_PORT,
            timeout: dial::DIAL_TIMEOUT,
        })
        .unwrap()
    }

    #[test]
    fn a_node_tells_where_its_kubelet_is() {
        let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "label"}}, "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "ExternalIP", "address": "203.0.113.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}});
        let check = |preferred: &[&str], expect: &str| {
            assert_eq!(client(preferred).address(&node).unwrap(), (expect.to_owned(), 10251), "{preferred:?}");
        };
        check(&["InternalIP", "ExternalIP"], "192.0.2.1");
        check(&["ExternalIP", "InternalIP"], "203.0.113.1");
        check(&["Hostname", "InternalIP"], "label");
        let refused = client(&["ExternalDNS"]).address(&node).unwrap_err();
        let text = "no preferred addresses found; known addresses: [{InternalIP 192.0.2.1} {ExternalIP 203.0.113.1}]";
        assert_eq!((refused.code(), refused.message()), (500, text));
        let bare = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "Hostname", "address": "n"}]}});
        assert_eq!(client(&["Hostname"]).address(&bare).unwrap(), ("n".to_owned(), DEFAULT_PORT));
    }
}
