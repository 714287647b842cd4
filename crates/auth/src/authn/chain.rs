//! By which authorities a client certificate is believed. TLS takes those of clients and of front proxies alike; who one of
//! the latter certifies is nobody by it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Clients that are remembered; for one more all are forgotten.
const REMEMBERED: usize = 4096;

/// Some authorities, which may be replaced by others while requests are judged. Clones share them.
#[derive(Clone, Debug)]
pub struct ClientAuthorities(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    verifier: ArcSwap<Verifier>,
    /// Whose certificate was certified lately: a signature for each request would cost more than most requests.
    certified: Mutex<HashMap<CertificateDer<'static>, Certified>>,
}

type Verifier = Arc<dyn ClientCertVerifier>;

#[derive(Debug)]
struct Certified {
    by: Arc<Verifier>,
    /// When all certificates of the chain are valid, in seconds since 1970.
    valid: Range<u64>,
}

impl ClientAuthorities {
    /// `roots` must not be empty.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        let verifier = ArcSwap::from_pointee(verifier(roots)?);
        Ok(Self(Arc::new(Shared { verifier, certified: Mutex::default() })))
    }

    /// From now on these: whom others certify is nobody any more, on connections that stand, too.
    pub fn replace(&self, roots: &[CertificateDer<'static>]) -> Result<(), String> {
        self.0.verifier.store(Arc::new(verifier(roots)?));
        self.0.certified.lock().clear();
        Ok(())
    }

    /// Whether one of the authorities certifies the first of the certificates, for a client and at this moment.
    pub(super) fn certify(&self, chain: &[CertificateDer<'static>]) -> bool {
        self.certify_at(chain, UnixTime::now())
    }

    fn certify_at(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let verifier = self.0.verifier.load_full();
        let known = |known: &Certified| Arc::ptr_eq(&known.by, &verifier) && known.valid.contains(&now.as_secs());
        if self.0.certified.lock().get(leaf).is_some_and(known) {
            return true;
        }
        if verifier.verify_client_cert(leaf, intermediates, now).is_err() {
            return false;
        }
        if let Some(valid) = validity(chain) {
            let mut certified = self.0.certified.lock();
            if certified.len() >= REMEMBERED {
                certified.clear();
            }
            certified.insert(leaf.clone(), Certified { by: verifier, valid });
        }
        true
    }
}

/// When all of these are valid.
fn validity(chain: &[CertificateDer<'static>]) -> Option<Range<u64>> {
    chain.iter().try_fold(0..u64::MAX, |all, der| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let of = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
        let valid = certificate.validity();
        Some(all.start.max(of(valid.not_before)?)..all.end.min(of(valid.not_after)?))
    })
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Verifier, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|e| e.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[test]
    fn whom_it_remembers_ends_with_the_certificate_and_with_the_authority() {
        let now = jiff::Timestamp::now();
        let [ca, other] = ["ca", "other"].map(|name| CertificateAuthority::create(name, now).unwrap());
        let der = |ca: &CertificateAuthority| CertificateDer::from(ca.certificate_der().to_vec());
        let authorities = ClientAuthorities::new(&[der(&ca)]).unwrap();
        let issue = |ca: &CertificateAuthority| {
            let pair = ca.issue(&Profile::client("joe", None), now).unwrap();
            vec![CertificateDer::from(pair.certificate_der().to_vec())]
        };
        let (joe, mallory) = (issue(&ca), issue(&other));
        let at = |chain: &[CertificateDer<'static>], seconds: u64| {
            authorities.certify_at(chain, UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        };
        let seconds = now.as_second() as u64;
        let valid = validity(&joe).unwrap();
        for _ in 0..2 {
            assert!(at(&joe, seconds) && at(&joe, valid.end - 1));
            assert!(!at(&joe, valid.end + 1) && !at(&joe, valid.start - 1), "{valid:?}");
            assert!(!at(&mallory, seconds));
        }
        assert_eq!(authorities.0.certified.lock().len(), 1, "who is nobody is not remembered");
        authorities.replace(&[der(&other)]).unwrap();
        assert!(!at(&joe, seconds) && at(&mallory, seconds));
    }
}
