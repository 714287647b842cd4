//! Certificates, tokens and kubeconfigs.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use kybern_auth::pki::{CertificateAuthority, Profile, SigningRequest};
use kybern_auth::token::{Issuer, SigningKey};
use kybern_client::{CertificateAuthorities, RestConfig};

static AUTHORITY: LazyLock<CertificateAuthority> =
    LazyLock::new(|| CertificateAuthority::create("fuzz", Timestamp::UNIX_EPOCH).expect("an authority"));

pub(crate) fn certificate(data: &[u8]) {
    let _ = AUTHORITY.signed(data);
    let _ = kybern_auth::pki::not_after(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = kybern_auth::pem::decode(text);
        let _ = kybern_auth::token::read_public_keys(text);
        let _ = SigningKey::from_pem(text);
        if let Ok(request) = SigningRequest::from_pem(text) {
            let usages = ["client auth".to_owned()];
            let _ =
                AUTHORITY.request_signer().sign(&request, &usages, Duration::from_secs(3600), Timestamp::UNIX_EPOCH);
        }
    }
    let _ = CertificateAuthorities::from_pem(data);
}

pub(crate) fn token(data: &[u8]) {
    static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
        let pair = AUTHORITY.issue(&Profile::client("a", None), Timestamp::UNIX_EPOCH).expect("a key pair");
        let key = SigningKey::from_pem(&pair.key_pem).expect("a key");
        let public = key.public_key().clone();
        Issuer::new(vec!["https://kubernetes.default.svc".to_owned()], vec!["a".to_owned()], key, vec![public])
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = ISSUER.issued(text);
    assert!(ISSUER.verify(text, &["a".to_owned()], Timestamp::UNIX_EPOCH).is_err(), "nobody has signed it");
    let _ = kybern_auth::authn::TokenFile::parse(text);
}

/// The files that it names are looked for where there are none.
pub(crate) fn kubeconfig(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A device is read for ever.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let _ = RestConfig::parse_kubeconfig(text, Path::new("/nonexistent"));
}
