//! Bundles of authorities, as PEM, that several API servers write into one place.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pem;

/// How long after its end a certificate is still passed on.
const GRACE: i64 = 5 * 60;

/// The certificates of both, each once, but for those that have ended. What is no PEM counts for nothing.
pub fn combine_bundles(one: &str, other: &str, now: Timestamp) -> String {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for bundle in [one, other] {
        for der in CertificateDer::pem_slice_iter(bundle.as_bytes()).map_while(Result::ok) {
            let live = X509Certificate::from_der(&der)
                .is_ok_and(|(_, parsed)| parsed.validity().not_after.timestamp() > now.as_second() - GRACE);
            if live && all.iter().all(|known| **known != *der) {
                all.push(der.to_vec());
            }
        }
    }
    all.iter().map(|der| pem::encode("CERTIFICATE", der)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::CertificateAuthority;

    #[test]
    fn each_is_there_once_until_it_ends() {
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let [a, b] = ["a", "b"].map(|name| CertificateAuthority::create(name, now).unwrap());
        let (a, b) = (a.certificate_pem(), b.certificate_pem());
        let both = combine_bundles(a, &format!("{b}\n{a}"), now);
        assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(combine_bundles(&both, b, now), both, "nothing is new");
        assert_eq!(combine_bundles("nonsense", a, now), combine_bundles(a, "", now));
        let later = "2126-11-20T00:00:00Z".parse().unwrap();
        assert_eq!(combine_bundles(a, b, later), "");
    }
}
