//! A certificate authority: a self-signed certificate and the key that signs others.

use std::path::Path;

use rcgen::{Issuer, KeyPair};

use super::certificate::{authority_params, generate_key, needs_renewal, set_validity};
use super::{CertifiedKey, PkiError, Profile, RENEW_BEFORE_DAYS, RequestSigner, files};
use crate::pem;

/// How long a signed certificate lives, in days.
const LEAF_DAYS: i64 = 365;

pub struct CertificateAuthority {
    pair: CertifiedKey,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Reads `STEM.crt` and `STEM.key`, or makes what is missing. Without its key, a certificate is of no use.
    pub fn load_or_create(
        directory: &Path,
        stem: &str,
        common_name: &str,
        now: jiff::Timestamp,
    ) -> Result<Self, PkiError> {
        let (certificate_path, key_path) =
            (directory.join(format!("{stem}.crt")), directory.join(format!("{stem}.key")));
        match (files::read(&certificate_path)?, files::read(&key_path)?) {
            (Some(certificate), Some(key)) => {
                let pair = CertifiedKey::new(certificate, key).map_err(|e| PkiError::unusable(&certificate_path, e))?;
                let key = KeyPair::from_pem(&pair.key_pem).map_err(|e| PkiError::unusable(&key_path, e))?;
                if !files::belongs(&key, &pair.der).map_err(|e| PkiError::unusable(&certificate_path, e))? {
                    return Err(PkiError::Mismatch { key: key_path, certificate: certificate_path });
                }
                if super::not_after(&pair.der).is_none_or(|end| end <= now) {
                    return Err(PkiError::unusable(&certificate_path, "it has expired"));
                }
                let issuer = Issuer::from_ca_cert_pem(&pem::encode("CERTIFICATE", &pair.der), key)
                    .map_err(|e| PkiError::unusable(&certificate_path, e))?;
                Ok(Self { pair, issuer })
            }
            (Some(_), None) => Err(PkiError::Half { missing: key_path, present: certificate_path }),
            (None, key) => {
                let key = match key {
                    // What a crash between the two writes leaves: goes on from there.
                    Some(pem) => KeyPair::from_pem(&pem).map_err(|e| PkiError::unusable(&key_path, e))?,
                    None => {
                        let key = generate_key()?;
                        files::write(&key_path, &key.serialize_pem())?;
                        key
                    }
                };
                let authority = Self::with_key(common_name, key, now)?;
                files::write(&certificate_path, &authority.pair.certificate_pem)?;
                Ok(authority)
            }
        }
    }

    /// A new authority that is in no file.
    pub fn create(common_name: &str, now: jiff::Timestamp) -> Result<Self, PkiError> {
        Self::with_key(common_name, generate_key()?, now)
    }

    fn with_key(common_name: &str, key: KeyPair, now: jiff::Timestamp) -> Result<Self, PkiError> {
        let fail = |cause: String| PkiError::Sign { subject: common_name.to_owned(), cause };
        let params = authority_params(common_name, now).map_err(fail)?;
        let certificate = params.self_signed(&key).map_err(|e| fail(e.to_string()))?;
        let pair = CertifiedKey::new(certificate.pem(), key.serialize_pem()).map_err(fail)?;
        Ok(Self { pair, issuer: Issuer::new(params, key) })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.pair.certificate_pem
    }

    pub fn certificate_der(&self) -> &[u8] {
        &self.pair.der
    }

    /// Signs a new key for one year.
    pub fn issue(&self, profile: &Profile, now: jiff::Timestamp) -> Result<CertifiedKey, PkiError> {
        let fail = |cause: String| PkiError::Sign { subject: profile.common_name.clone(), cause };
        let mut params = profile.params().map_err(fail)?;
        set_validity(&mut params, now, LEAF_DAYS).map_err(fail)?;
        let key = generate_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|e| fail(e.to_string()))?;
        CertifiedKey::new(certificate.pem(), key.serialize_pem()).map_err(fail)
    }

    /// The certificate and key in `STEM.crt` and `STEM.key`, made or renewed where `profile` asks for it.
    pub fn leaf(
        &self,
        directory: &Path,
        stem: &str,
        profile: &Profile,
        now: jiff::Timestamp,
    ) -> Result<CertifiedKey, PkiError> {
        let (certificate_path, key_path) =
            (directory.join(format!("{stem}.crt")), directory.join(format!("{stem}.key")));
        if let (Some(certificate), Some(key)) = (files::read(&certificate_path)?, files::read(&key_path)?) {
            let pair = CertifiedKey::new(certificate, key).map_err(|e| PkiError::unusable(&certificate_path, e))?;
            let key = KeyPair::from_pem(&pair.key_pem).map_err(|e| PkiError::unusable(&key_path, e))?;
            let whole = files::belongs(&key, &pair.der).map_err(|e| PkiError::unusable(&certificate_path, e))?;
            // A pair that does not match is what a crash between its two writes leaves.
            if whole && self.signed(&pair.der) && !needs_renewal(&pair.der, profile, now, RENEW_BEFORE_DAYS) {
                return Ok(pair);
            }
        }
        let pair = self.issue(profile, now)?;
        files::write(&key_path, &pair.key_pem)?;
        files::write(&certificate_path, &pair.certificate_pem)?;
        Ok(pair)
    }

    /// Whether this authority signed a certificate.
    pub fn signed(&self, der: &[u8]) -> bool {
        signed_by(&self.pair.der, der)
    }

    /// Signs certificate requests with this authority's key.
    pub fn request_signer(&self) -> RequestSigner {
        RequestSigner::from_pem(&self.pair.certificate_pem, &self.pair.key_pem).expect("an authority and its own key")
    }
}

/// Whether a certificate was signed with the key of another.
pub fn signed_by(authority: &[u8], leaf: &[u8]) -> bool {
    use x509_parser::prelude::FromDer;
    let parse = |der| x509_parser::certificate::X509Certificate::from_der(der).map(|(_, c)| c);
    match (parse(leaf), parse(authority)) {
        (Ok(leaf), Ok(authority)) => leaf.verify_signature(Some(authority.public_key())).is_ok(),
        _ => false,
    }
}
