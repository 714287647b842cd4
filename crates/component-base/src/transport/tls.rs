//! TLS as a [`RestConfig`] wants it.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::ConfigError;
use super::identity::IdentityFiles;
use super::kubeconfig::{CertificateAuthorities, RestConfig};
use super::roots::Roots;
use crate::tls::AcceptAny;

fn bad(text: String) -> ConfigError {
    ConfigError(text)
}

/// Trusts and shows what the configuration names; offers no protocols yet.
pub fn client_config(config: &RestConfig) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| bad(format!("TLS: {e}")))?;
    let builder = match &config.ca {
        CertificateAuthorities::Anyone => {
            builder.dangerous().with_custom_certificate_verifier(AcceptAny::new(provider.clone()))
        }
        CertificateAuthorities::These(list) => {
            let roots = Roots::new(list, provider.clone())
                .map_err(|e| bad(format!("the certificate authority is unusable: {e}")))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(roots))
        }
        CertificateAuthorities::System => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots)
        }
    };
    match (&config.identity, &config.identity_files) {
        (Some(identity), Some((certificate, key))) => {
            let files = IdentityFiles::new(certificate, key, identity, provider)?;
            Ok(builder.with_client_cert_resolver(Arc::new(files)))
        }
        (Some(identity), None) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|e| bad(format!("the client certificate is unusable: {e}"))),
        (None, _) => Ok(builder.with_no_client_auth()),
    }
}
