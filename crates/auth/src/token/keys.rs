//! Signing and verification keys in the forms that upstream's `--service-account-key-file` takes: PKCS#8, PKCS#1, SEC 1,
//! SPKI and certificates; RSA and ECDSA P-256.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::der::element as der;
use crate::pem;

/// Why a key file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is not PEM: {0}")]
    Pem(String),
    #[error("it holds no RSA or ECDSA key")]
    None,
    #[error("its {label} block is rejected: {cause}")]
    Rejected { label: String, cause: String },
    #[error("its {0} key is not supported: use RSA of at least 2048 bits or ECDSA P-256")]
    Unsupported(&'static str),
}

/// `rsaEncryption` and `id-ecPublicKey` with `prime256v1`, as DER `AlgorithmIdentifier`s (RFC 8017, RFC 5480).
const RSA_ALGORITHM: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const P256_ALGORITHM: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];

/// A key that verifies tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// PKCS#1 `RSAPublicKey`.
    Rsa(Vec<u8>),
    /// The uncompressed point, 65 bytes.
    P256(Vec<u8>),
}

impl PublicKey {
    /// The JWS `alg`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
        }
    }

    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message, signature).is_ok()
            }
            Self::P256(key) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok(),
        }
    }

    /// `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> Vec<u8> {
        let (algorithm, key) = match self {
            Self::Rsa(key) => (RSA_ALGORITHM, key),
            Self::P256(key) => (P256_ALGORITHM, key),
        };
        let mut bits = vec![0];
        bits.extend_from_slice(key);
        der(0x30, &[algorithm, &der(0x03, &bits)].concat())
    }

    /// The key's id as upstream derives it: the SHA-256 of its SPKI form, base64url.
    pub fn id(&self) -> String {
        use base64::Engine;
        let hash = ring::digest::digest(&ring::digest::SHA256, &self.spki_der());
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash)
    }

    /// Modulus and exponent of an RSA key, big-endian without leading zeros.
    pub(super) fn rsa_parts(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let Self::Rsa(key) = self else { return None };
        let (_, key) = x509_parser::public_key::RSAPublicKey::from_der(key).ok()?;
        let strip = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
        Some((strip(key.modulus), strip(key.exponent)))
    }

    fn from_spki(bytes: &[u8]) -> Result<Self, String> {
        let (_, info) = SubjectPublicKeyInfo::from_der(bytes).map_err(|e| e.to_string())?;
        let key = info.subject_public_key.data.to_vec();
        match info.algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.1" => Ok(Self::Rsa(key)),
            "1.2.840.10045.2.1" if key.len() == 65 && key[0] == 4 => Ok(Self::P256(key)),
            _ => Err("it is neither RSA nor ECDSA P-256".to_owned()),
        }
    }
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
}

/// A key that signs tokens.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
    id: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The first private key of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        for block in pem::decode(text).map_err(KeyError::Pem)? {
            let rejected = |cause: String| KeyError::Rejected { label: block.label.clone(), cause };
            let pair = match block.label.as_str() {
                "PRIVATE KEY" => {
                    match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &block.der, &SystemRandom::new()) {
                        Ok(pair) => Pair::P256(Box::new(pair)),
                        Err(_) => Pair::Rsa(Box::new(
                            RsaKeyPair::from_pkcs8(&block.der).map_err(|e| rejected(e.to_string()))?,
                        )),
                    }
                }
                "RSA PRIVATE KEY" => {
                    Pair::Rsa(Box::new(RsaKeyPair::from_der(&block.der).map_err(|e| rejected(e.to_string()))?))
                }
                "EC PRIVATE KEY" => {
                    let (scalar, point) = sec1(&block.der).ok_or(KeyError::Unsupported("EC"))?;
                    let pair = EcdsaKeyPair::from_private_key_and_public_key(
                        &ECDSA_P256_SHA256_FIXED_SIGNING,
                        scalar,
                        point,
                        &SystemRandom::new(),
                    );
                    Pair::P256(Box::new(pair.map_err(|e| rejected(e.to_string()))?))
                }
                _ => continue,
            };
            let public = match &pair {
                Pair::Rsa(pair) => PublicKey::Rsa(pair.public_key().as_ref().to_vec()),
                Pair::P256(pair) => PublicKey::P256(pair.public_key().as_ref().to_vec()),
            };
            let id = public.id();
            return Ok(Self { pair, public, id });
        }
        Err(KeyError::None)
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// See [`PublicKey::id`].
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        let failed = "the system gives no random numbers for a signature";
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(|_| failed)?;
                Ok(signature)
            }
            Pair::P256(pair) => Ok(pair.sign(&SystemRandom::new(), message).map_err(|_| failed)?.as_ref().to_vec()),
        }
    }
}

/// Scalar and point of a SEC 1 `ECPrivateKey` (RFC 5915) on P-256: version 1, 32 bytes, the curve, the point.
pub(crate) fn sec1(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.windows(5).position(|w| w == [0x02, 0x01, 0x01, 0x04, 0x20])? + 5;
    let scalar = bytes.get(at..at + 32)?;
    let rest = &bytes[at + 32..];
    let point = rest.windows(4).position(|w| w == [0x03, 0x42, 0x00, 0x04])? + 3;
    Some((scalar, rest.get(point..point + 65)?))
}

/// Every key of a PEM text: public keys, certificates, and the public halves of private keys.
pub fn read_public_keys(text: &str) -> Result<Vec<PublicKey>, KeyError> {
    let mut keys = Vec::new();
    for block in pem::decode(text).map_err(KeyError::Pem)? {
        let rejected = |cause: String| KeyError::Rejected { label: block.label.clone(), cause };
        match block.label.as_str() {
            "PUBLIC KEY" => keys.push(PublicKey::from_spki(&block.der).map_err(rejected)?),
            "RSA PUBLIC KEY" => keys.push(PublicKey::Rsa(block.der)),
            "CERTIFICATE" => {
                let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&block.der)
                    .map_err(|e| rejected(e.to_string()))?;
                keys.push(PublicKey::from_spki(certificate.public_key().raw).map_err(rejected)?);
            }
            label if label.ends_with("PRIVATE KEY") => {
                keys.push(SigningKey::from_pem(&pem::encode(label, &block.der))?.public_key().clone());
            }
            _ => {}
        }
    }
    if keys.is_empty() { Err(KeyError::None) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_form_is_the_one_that_others_write() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = SigningKey::from_pem(&pair.serialize_pem()).unwrap();
        let spki = pem::encode("PUBLIC KEY", &key.public_key().spki_der());
        assert!(spki.split_whitespace().eq(pair.public_key_pem().split_whitespace()));
        let signature = key.sign(b"hello").unwrap();
        let read = read_public_keys(&spki).unwrap();
        assert!(read[0].verify(b"hello", &signature));
        assert!(!read[0].verify(b"hellp", &signature));
        assert_eq!(read_public_keys(&pair.serialize_pem()).unwrap(), read);
    }

    #[test]
    fn a_sec1_key_is_read() {
        // The scalar and point of a PKCS#8 key, rewritten in SEC 1 form.
        let pair = rcgen::KeyPair::generate().unwrap();
        let pkcs8 = pair.serialize_der();
        let (scalar, point) = {
            let at = pkcs8.windows(5).position(|w| w == [0x02, 0x01, 0x01, 0x04, 0x20]).unwrap() + 5;
            (pkcs8[at..at + 32].to_vec(), pair.public_key_raw().to_vec())
        };
        let mut bits = vec![0];
        bits.extend(&point);
        let body =
            [vec![2, 1, 1], der(4, &scalar), der(0xa0, &P256_ALGORITHM[11..]), der(0xa1, &der(3, &bits))].concat();
        let text = pem::encode("EC PRIVATE KEY", &der(0x30, &body));
        assert_eq!(SigningKey::from_pem(&text).unwrap().public_key(), &PublicKey::P256(point));
    }

    #[test]
    fn rubbish_is_refused_with_its_reason() {
        assert_eq!(SigningKey::from_pem("").unwrap_err(), KeyError::None);
        assert!(matches!(
            SigningKey::from_pem(&pem::encode("RSA PRIVATE KEY", b"x")).unwrap_err(),
            KeyError::Rejected { .. }
        ));
        assert_eq!(read_public_keys("no key here").unwrap_err(), KeyError::None);
    }
}
