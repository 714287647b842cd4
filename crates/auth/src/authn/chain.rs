//! By which authorities a client certificate is believed. TLS takes those of clients and of front proxies alike; who one of
//! the latter certifies is nobody by it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

/// Some authorities, which may be replaced by others while requests are judged. Clones share them.
#[derive(Clone, Debug)]
pub struct ClientAuthorities(Arc<ArcSwap<Arc<dyn ClientCertVerifier>>>);

impl ClientAuthorities {
    /// `roots` must not be empty.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(verifier(roots)?))))
    }

    /// From now on these: whom others certify is nobody any more, on connections that stand, too.
    pub fn replace(&self, roots: &[CertificateDer<'static>]) -> Result<(), String> {
        self.0.store(Arc::new(verifier(roots)?));
        Ok(())
    }

    /// Whether one of the authorities certifies the first of the certificates, for a client and at this moment.
    pub(super) fn certify(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        self.0.load().verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|e| e.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{CertificateAuthority, Profile};

    #[test]
    fn whom_the_old_authority_certified_is_nobody_once_it_is_replaced() {
        let now = jiff::Timestamp::now();
        let [old, new] = ["old", "new"].map(|name| CertificateAuthority::create(name, now).unwrap());
        let root = |ca: &CertificateAuthority| {
            let pem = crate::pem::decode(ca.certificate_pem()).unwrap();
            CertificateDer::from(pem[0].der.clone())
        };
        let chain = |ca: &CertificateAuthority| {
            let pair = ca.issue(&Profile::client("joe", None), now).unwrap();
            vec![CertificateDer::from(pair.certificate_der().to_vec())]
        };
        let authorities = ClientAuthorities::new(&[root(&old)]).unwrap();
        let shared = authorities.clone();
        assert!(shared.certify(&chain(&old)) && !shared.certify(&chain(&new)) && !shared.certify(&[]));
        authorities.replace(&[root(&old), root(&new)]).unwrap();
        assert!(shared.certify(&chain(&old)) && shared.certify(&chain(&new)));
        authorities.replace(&[root(&new)]).unwrap();
        assert!(!shared.certify(&chain(&old)) && shared.certify(&chain(&new)));
        assert!(authorities.replace(&[]).is_err());
        assert!(shared.certify(&chain(&new)), "what cannot be used changes nothing");
    }
}
