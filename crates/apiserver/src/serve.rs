//! Connections: TCP, TLS, HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use kybern_component_base::TlsPolicy;
use kybern_component_base::listener::{self, Limits, Listener, Protocol};
use rustls::pki_types::CertificateDer;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;

use crate::access::Peer;
use crate::drain;
use crate::server::Server;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the client CA is not usable: {0}")]
    ClientCa(String),
    #[error("TLS cannot be set up: {0}")]
    Config(#[from] rustls::Error),
}

/// TLS settings under a policy. `certificate` is asked at every handshake, so that it can be renewed while serving. Clients may show a
/// certificate of one of the `client_roots`.
pub fn tls_config(
    policy: &TlsPolicy,
    certificate: Arc<dyn ResolvesServerCert>,
    client_roots: &[CertificateDer<'static>],
) -> Result<ServerConfig, TlsError> {
    let builder = policy.server()?;
    let builder = if client_roots.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for root in client_roots {
            roots.add(root.clone()).map_err(|e| TlsError::ClientCa(e.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), policy.provider())
            .allow_unauthenticated()
            .build()
            .map_err(|e| TlsError::ClientCa(e.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = policy.alpn();
    Ok(config)
}

/// Accepts connections until the future is dropped. Connections live on.
pub async fn serve(server: Arc<Server>, listener: TcpListener, tls: impl Fn() -> Arc<ServerConfig>) {
    let listener = Listener::new(listener, "apiserver", Limits::SERVER);
    loop {
        let (stream, address, slot) = listener.accept().await;
        let (server, tls) = (server.clone(), tls());
        tokio::spawn(async move {
            let stream = match listener::handshake(stream, tls, &slot).await {
                Ok(stream) => stream,
                Err(error) => return tracing::debug!(%address, error, "a connection was not made"),
            };
            let tls = stream.get_ref().1;
            let certificates = tls.peer_certificates().unwrap_or_default();
            let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
            let protocol = Protocol::of(tls.alpn_protocol());
            let peer = Arc::new(Peer { address: Some(address), certificates, slot: Some(slot.clone()) });
            let service = move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer.clone());
                let server = server.clone();
                async move {
                    let (request, rest) = drain::lend(request);
                    let answer = server.handle(request).await;
                    rest.drain();
                    Ok::<_, std::convert::Infallible>(answer)
                }
            };
            if let Err(error) = listener::serve(stream, protocol, slot, service).await {
                tracing::debug!(%address, %error, "connection ended");
            }
        });
    }
}
