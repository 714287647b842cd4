//! TLS to a registry, as `registries.yaml` has it for a host.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use kybern_component_base::tls::AcceptAny;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::config::TlsSection;

/// The machine's own authorities, for hosts of which the file says nothing.
pub(super) fn default_config() -> io::Result<Arc<ClientConfig>> {
    static DEFAULT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(known) = DEFAULT.get() {
        return Ok(known.clone());
    }
    let built = Arc::new(build_config(&TlsSection::default())?);
    Ok(DEFAULT.get_or_init(|| built).clone())
}

pub(super) fn build_config(tls: &TlsSection) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let in_file = |path: &Path, error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if !tls.ca_file.as_os_str().is_empty() {
        let certificates =
            CertificateDer::pem_file_iter(&tls.ca_file).map_err(|error| in_file(&tls.ca_file, &error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| in_file(&tls.ca_file, &error))?;
            roots.add(certificate).map_err(|error| in_file(&tls.ca_file, &error))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = builder.with_root_certificates(roots);
    let mut config = if tls.cert_file.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let certificates = CertificateDer::pem_file_iter(&tls.cert_file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| in_file(&tls.cert_file, &error))?;
        let key = PrivateKeyDer::from_pem_file(&tls.key_file).map_err(|error| in_file(&tls.key_file, &error))?;
        builder.with_client_auth_cert(certificates, key).map_err(|error| in_file(&tls.cert_file, &error))?
    };
    if tls.insecure_skip_verify {
        config.dangerous().set_certificate_verifier(AcceptAny::new(provider));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_files_are_named_in_errors() {
        let tls = TlsSection { ca_file: "/no/ca.pem".into(), ..Default::default() };
        assert!(build_config(&tls).unwrap_err().to_string().contains("/no/ca.pem"));
        let tls = TlsSection { insecure_skip_verify: true, ..Default::default() };
        assert!(build_config(&tls).is_ok());
    }
}
