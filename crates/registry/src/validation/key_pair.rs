//! Whether a certificate and a key belong together, in the words of Go's `tls.X509KeyPair`.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// What is wrong with a pair in PEM.
pub(crate) fn fault(certificate: &[u8], key: &[u8]) -> Option<String> {
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificate).filter_map(Result::ok).collect();
    if certificates.is_empty() {
        let other = labels(certificate);
        return Some(if other.is_empty() {
            "tls: failed to find any PEM data in certificate input".to_owned()
        } else if other.len() == 1 && is_key(&other[0]) {
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may \
             have been switched"
                .to_owned()
        } else {
            let other = other.join(" ");
            format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the \
                 following types: [{other}]"
            )
        });
    }
    let Some(private) = PrivateKeyDer::pem_slice_iter(key).find_map(Result::ok) else {
        let other = labels(key);
        return Some(if other.is_empty() {
            "tls: failed to find any PEM data in key input".to_owned()
        } else if other.len() == 1 && other[0] == "CERTIFICATE" {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        } else {
            let other = other.join(" ");
            format!(
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks \
                 of the following types: [{other}]"
            )
        });
    };
    let Ok(signer) = rustls::crypto::ring::sign::any_supported_type(&private) else {
        return Some("tls: failed to parse private key".to_owned());
    };
    match CertifiedKey::new(certificates, signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => None,
        Err(rustls::Error::InconsistentKeys(_)) => Some("tls: private key does not match public key".to_owned()),
        Err(_) => Some("x509: malformed certificate".to_owned()),
    }
}

fn is_key(label: &str) -> bool {
    label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY")
}

/// The types of the PEM blocks in a text.
fn labels(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let begun = text.lines().filter_map(|line| line.trim_end().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    begun.filter(|label| text.contains(&format!("-----END {label}-----"))).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use kybern_auth::pki::{CertificateAuthority, Profile};

    use super::*;

    #[test]
    fn pairs() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let authority = CertificateAuthority::create("ca", now).unwrap();
        let pair = || authority.issue(&Profile::client("a", None), now).unwrap();
        let (one, other) = (pair(), pair());
        let (certificate, key) = (one.certificate_pem, one.key_pem);
        let check = |certificate: &str, key: &str| fault(certificate.as_bytes(), key.as_bytes());
        assert_eq!(check(&certificate, &key), None);
        let text = |fault: Option<String>| fault.unwrap();
        assert_eq!(text(check(&certificate, &other.key_pem)), "tls: private key does not match public key");
        assert_eq!(text(check("x", &key)), "tls: failed to find any PEM data in certificate input");
        assert_eq!(text(check(&certificate, "x")), "tls: failed to find any PEM data in key input");
        assert!(text(check(&key, &certificate)).ends_with("PEM inputs may have been switched"));
        assert!(text(check(&certificate, &certificate)).starts_with("tls: found a certificate rather than a key"));
    }
}
