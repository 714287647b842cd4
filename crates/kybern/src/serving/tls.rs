//! The flags of every server's TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use kybern_auth::pki::{CertificateAuthority, CertifiedKey, Profile};
use kybern_component_base::TlsPolicy;

use crate::wiring::certificate::{Certificate, CertificateFiles};

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TlsFlags {
    /// The oldest version of TLS that clients may speak: VersionTLS12 or VersionTLS13 [default: VersionTLS12].
    #[arg(long)]
    tls_min_version: Option<String>,
    /// The ciphers of TLS 1.2 that clients may speak, by Go's names [default: all with ECDHE and AEAD].
    #[arg(long, value_delimiter = ',')]
    tls_cipher_suites: Vec<String>,
    /// Speaks HTTP/1.1 only.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false)]
    disable_http2_serving: bool,
}

impl TlsFlags {
    pub(crate) fn policy(&self) -> Result<TlsPolicy> {
        let version = self.tls_min_version.as_deref().unwrap_or_default();
        let mut policy = TlsPolicy::new(version, &self.tls_cipher_suites)?;
        policy.http2 = !self.disable_http2_serving;
        Ok(policy)
    }
}

/// The pair that a component serves with: the files named, those in `directory`, or one that certifies itself, kept in
/// `directory` where there is one.
pub(super) fn certificate(
    files: Option<(&Path, &Path)>,
    directory: Option<&Path>,
    component: &str,
) -> Result<Arc<Certificate>> {
    if let Some((certificate, key)) = files {
        return CertificateFiles::followed(certificate, key);
    }
    if let Some(directory) = directory.filter(|directory| !directory.as_os_str().is_empty()) {
        let (certificate, key) = own_pair(directory, component)?;
        return CertificateFiles::followed(&certificate, &key);
    }
    Certificate::new(&self_certified(component)?)
}

/// `COMPONENT.crt` and `COMPONENT.key` in a directory, made where they are missing.
pub(crate) fn own_pair(directory: &Path, component: &str) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (directory.join(format!("{component}.crt")), directory.join(format!("{component}.key")));
    if !certificate.exists() || !key.exists() {
        let pair = self_certified(component)?;
        let made = kybern_linux::files::make_dirs(directory, 0o700);
        made.with_context(|| format!("cannot make {}", directory.display()))?;
        write_private(&key, &pair.key_pem)?;
        write_private(&certificate, &pair.certificate_pem)?;
    }
    Ok((certificate, key))
}

fn self_certified(component: &str) -> Result<CertifiedKey> {
    let now = jiff::Timestamp::now();
    let cannot = |error: &dyn std::fmt::Display| anyhow!("cannot make a serving certificate: {error}");
    let authority = CertificateAuthority::create(&format!("{component}-ca"), now).map_err(|e| cannot(&e))?;
    let mut names = vec!["localhost".to_owned()];
    names.extend(crate::node_address::host_name());
    let profile = Profile::server(component, None, names, vec![[127, 0, 0, 1].into()]);
    let mut pair = authority.issue(&profile, now).map_err(|e| cannot(&e))?;
    // Whoever wants to verify it finds its authority with it.
    pair.certificate_pem.push_str(authority.certificate_pem());
    Ok(pair)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let open = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
    let written = open.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
