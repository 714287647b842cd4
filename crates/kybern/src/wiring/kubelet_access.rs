//! How an API server reaches kubelets: its `--kubelet-…` flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kybern_auth::pki::Pki;
use kybern_registry::{KubeletClient, KubeletOptions};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

#[derive(Clone, Debug)]
pub(crate) struct KubeletAccess {
    /// Certificate and key; `None`: those of the cluster's authority.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// `None`: kubelets are believed whatever they show.
    pub(crate) authority: Option<PathBuf>,
    pub(crate) preferred_address_types: Vec<String>,
    pub(crate) port: u16,
    pub(crate) timeout: Duration,
}

impl KubeletAccess {
    pub(crate) fn client(&self, pki: &Pki) -> Result<KubeletClient> {
        let (certificate, key) = match &self.certificate {
            Some((certificate, key)) => {
                let unusable = || format!("{} is not usable as --kubelet-client-key", key.display());
                (certificates(certificate)?, PrivateKeyDer::from_pem_file(key).with_context(unusable)?)
            }
            None => pki.apiserver_kubelet_client.rustls().map_err(|cause| anyhow!(cause))?,
        };
        let authorities = self.authority.as_deref().map(certificates).transpose()?.unwrap_or_default();
        if authorities.is_empty() {
            tracing::warn!(
                "kubelets' serving certificates are not verified: name their authority with --kubelet-certificate-authority"
            );
        }
        Ok(KubeletClient::new(KubeletOptions {
            certificate,
            key,
            authorities,
            preferred_address_types: self.preferred_address_types.clone(),
            port: self.port,
            timeout: self.timeout,
        })?)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("cannot read the certificates in {}", path.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(found)
}
