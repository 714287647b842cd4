//! The API server's certificate, which renews itself while it is in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use arc_swap::ArcSwap;
use kybern_auth::pki::{CertifiedKey, Pki, PkiOptions};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::watched_files::WatchedFiles;

/// Answers each handshake with the certificate of the moment.
#[derive(Debug)]
pub(crate) struct Certificate(ArcSwap<sign::CertifiedKey>);

impl Certificate {
    pub(crate) fn new(pair: &CertifiedKey) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(signing(pair)?))))
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

/// The user's own certificate and key, which he may replace while they are in use.
pub(crate) struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    files: WatchedFiles,
}

impl CertificateFiles {
    /// Must be called within a tokio runtime.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let files = WatchedFiles::read([certificate, key])?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), files })
    }

    /// The pair, which is shown anew whenever the files change. Must be called within a tokio runtime.
    pub(crate) fn followed(certificate: &Path, key: &Path) -> Result<Arc<Certificate>> {
        let files = Self::read(certificate, key)?;
        let (pair, _) = files.first()?;
        tokio::spawn(files.follow(Arc::clone(&pair)));
        Ok(pair)
    }

    /// As they are; the chain's text comes with them.
    pub(crate) fn first(&self) -> Result<(Arc<Certificate>, String)> {
        let contents = self.files.contents();
        Ok((Arc::new(Certificate(ArcSwap::from_pointee(self.pair(contents)?))), contents[0].clone()))
    }

    fn pair(&self, contents: &[String]) -> Result<sign::CertifiedKey> {
        let unusable = |path: &Path, flag: &str, error: &dyn std::fmt::Display| {
            anyhow!("{} is not usable as {flag}: {error}", path.display())
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(contents[0].as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| unusable(&self.certificate, "--tls-cert-file", &e))?;
        let key = PrivateKeyDer::from_pem_slice(contents[1].as_bytes());
        let key = key.map_err(|e| unusable(&self.key, "--tls-private-key-file", &e))?;
        let pair = sign::CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider());
        pair.map_err(|e| unusable(&self.certificate, "--tls-cert-file", &e))
    }

    /// Shows clients the pair that the files hold. One that cannot be used, half of a change for instance, changes nothing.
    pub(crate) async fn follow(mut self, shown: Arc<Certificate>) {
        loop {
            let changed = self.files.changed().await.map(<[String]>::to_vec);
            match changed.and_then(|contents| self.pair(&contents)) {
                Ok(pair) => {
                    shown.0.store(Arc::new(pair));
                    tracing::info!("the serving certificate is that of {} from now on", self.certificate.display());
                }
                Err(error) => tracing::error!("the serving certificate stays as it is: {error:#}"),
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_pair_is_shown_and_half_of_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let ca = kybern_testbed::https::TestCa::new("ca");
        let [first, second] = [0, 1].map(|_| ca.issue(&["localhost"]));
        std::fs::write(&certificate, &first.certificate_pem).unwrap();
        std::fs::write(&key, &first.key_pem).unwrap();
        let files = CertificateFiles::read(&certificate, &key).unwrap();
        let (shown, chain) = files.first().unwrap();
        assert_eq!(chain, first.certificate_pem);
        tokio::spawn(files.follow(Arc::clone(&shown)));
        let before = shown.0.load_full().cert.clone();
        std::fs::write(&key, &second.key_pem).unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(shown.0.load_full().cert, before, "the key is not the certificate's");
        std::fs::write(&certificate, &second.certificate_pem).unwrap();
        for _ in 0..100 {
            if shown.0.load_full().cert != before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the new certificate is not shown");
    }
}
