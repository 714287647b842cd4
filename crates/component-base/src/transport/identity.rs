//! A client certificate in files that change: kubelets renew theirs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;

use super::ConfigError;
use super::kubeconfig::Identity;

/// Shows the certificate that the files hold when a connection is made.
pub(super) struct IdentityFiles {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Mutex<(Option<SystemTime>, Arc<CertifiedKey>)>,
}

impl std::fmt::Debug for IdentityFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityFiles").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// When the file that the path leads to was written.
fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn certified(identity: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, ConfigError> {
    let key = CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), provider);
    key.map(Arc::new).map_err(|e| ConfigError(format!("the client certificate is unusable: {e}")))
}

impl IdentityFiles {
    /// `identity` is what the files held when they were read first.
    pub(super) fn new(
        certificate: &Path,
        key: &Path,
        identity: &Identity,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, ConfigError> {
        let current = Mutex::new((written(certificate), certified(identity, &provider)?));
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), provider, current })
    }

    fn read(&self) -> Result<Arc<CertifiedKey>, ConfigError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|e| ConfigError(format!("cannot read {}: {e}", path.display())));
        certified(&Identity::from_pem(&read(&self.certificate)?, &read(&self.key)?)?, &self.provider)
    }
}

impl ResolvesClientCert for IdentityFiles {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let now = written(&self.certificate);
        let mut current = self.current.lock();
        if now != current.0 {
            match self.read() {
                Ok(key) => *current = (now, key),
                // Half written, or gone: the old one may still do.
                Err(error) => tracing::warn!("{error}"),
            }
        }
        Some(current.1.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_certificate_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("current.pem");
        let put = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
            std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
            certificate.der().clone()
        };
        let first = put("first");
        let text = std::fs::read(&path).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let identity = Identity::from_pem(&text, &text).unwrap();
        let files = IdentityFiles::new(&path, &path, &identity, provider).unwrap();
        let shown = || files.resolve(&[], &[]).unwrap().cert[0].clone();
        assert_eq!(shown(), first);
        let renewed = put("second");
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(shown(), renewed);
        std::fs::write(&path, "half").unwrap();
        assert_eq!(shown(), renewed, "until there is a whole one");
    }
}
