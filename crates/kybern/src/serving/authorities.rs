//! By whom client certificates are certified, as of now: the authorities of files stay, those of the cluster's ConfigMap
//! change.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

/// Asks each handshake's client for a certificate of the authorities of the moment; while there are none, for none.
#[derive(Debug)]
pub(super) struct CurrentAuthorities {
    provider: Arc<CryptoProvider>,
    verifier: ArcSwapOption<Verifier>,
}

#[derive(Debug)]
struct Verifier(Arc<dyn ClientCertVerifier>);

impl CurrentAuthorities {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { provider, verifier: ArcSwapOption::empty() })
    }

    pub(super) fn set(&self, roots: &[CertificateDer<'static>]) -> Result<(), String> {
        if roots.is_empty() {
            self.verifier.store(None);
            return Ok(());
        }
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|error| error.to_string())?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&self.provider)).build();
        let verifier = verifier.map_err(|error| error.to_string())?;
        self.verifier.store(Some(Arc::new(Verifier(verifier))));
        Ok(())
    }
}

impl ClientCertVerifier for CurrentAuthorities {
    fn offer_client_auth(&self) -> bool {
        self.verifier.load().is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // They change under the handshake's feet; clients send what they have.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &*self.verifier.load() {
            Some(verifier) => verifier.0.verify_client_cert(leaf, intermediates, now),
            None => Err(Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
