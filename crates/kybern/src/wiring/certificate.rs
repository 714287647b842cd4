//! The API server's certificate, which renews itself while it is in use.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use kybern_auth::pki::{CertifiedKey, Pki, PkiOptions};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Answers each handshake with the certificate of the moment.
#[derive(Debug)]
pub(crate) struct Certificate(ArcSwap<sign::CertifiedKey>);

impl Certificate {
    pub(crate) fn new(pair: &CertifiedKey) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(signing(pair)?))))
    }

    /// The user's own pair; the chain's text comes with it.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<(Arc<Self>, String)> {
        let text =
            |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let (chain_pem, key_pem) = (text(certificate)?, text(key)?);
        let unusable = |path: &Path, flag: &str, error: &dyn std::fmt::Display| {
            anyhow!("{} is not usable as {flag}: {error}", path.display())
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| unusable(certificate, "--tls-cert-file", &e))?;
        let key_der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
        let key_der = key_der.map_err(|e| unusable(key, "--tls-private-key-file", &e))?;
        let pair = sign::CertifiedKey::from_der(chain, key_der, &rustls::crypto::ring::default_provider());
        let pair = pair.map_err(|e| unusable(certificate, "--tls-cert-file", &e))?;
        Ok((Arc::new(Self(ArcSwap::from_pointee(pair))), chain_pem))
    }

    /// Renews the certificates of `options` whenever the first of them is due, for as long as the process lives.
    pub(crate) async fn keep_renewed(self: Arc<Self>, options: PkiOptions, mut due: Option<jiff::Timestamp>) {
        while let Some(at) = due {
            let wait = at.duration_since(jiff::Timestamp::now());
            tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
            due = match self.renew(&options) {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!("cannot renew certificates: {error:#}; trying again in an hour");
                    Some(jiff::Timestamp::now() + Duration::from_secs(3600))
                }
            };
        }
    }

    fn renew(&self, options: &PkiOptions) -> Result<Option<jiff::Timestamp>> {
        let pki = Pki::load_or_create(options, jiff::Timestamp::now())?;
        self.0.store(Arc::new(signing(&pki.apiserver)?));
        tracing::info!("certificates renewed");
        Ok(pki.next_renewal())
    }
}

fn signing(pair: &CertifiedKey) -> Result<sign::CertifiedKey> {
    let (chain, key) = pair.rustls().map_err(|e| anyhow!("the API server's certificate is not usable: {e}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    Ok(sign::CertifiedKey::new(chain, key))
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<sign::CertifiedKey>> {
        Some(self.0.load_full())
    }
}
