//! Signing and verification keys in the forms that upstream's `--service-account-key-file` takes: PKCS#8, PKCS#1, SEC 1,
//! SPKI and certificates; RSA and ECDSA on P-256, P-384 and P-521.

use p521::ecdsa::signature::{Signer, Verifier};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
    UnparsedPublicKey,
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
    #[error("its {0} key is not supported: use RSA of at least 2048 bits or ECDSA P-256, P-384 or P-521")]
    Unsupported(&'static str),
}

/// `rsaEncryption`, and `id-ecPublicKey` with its curves, as DER `AlgorithmIdentifier`s (RFC 8017, RFC 5480).
const RSA_ALGORITHM: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const P256_ALGORITHM: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
const P384_ALGORITHM: &[u8] =
    &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521_ALGORITHM: &[u8] =
    &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Of its [`Self::name`].
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.name() == name)
    }

    /// As JSON Web Keys write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The JWS `alg`.
    pub(crate) fn algorithm(self) -> &'static str {
        match self {
            Self::P256 => "ES256",
            Self::P384 => "ES384",
            Self::P521 => "ES512",
        }
    }

    /// Bytes of a coordinate.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn identifier(self) -> &'static [u8] {
        match self {
            Self::P256 => P256_ALGORITHM,
            Self::P384 => P384_ALGORITHM,
            Self::P521 => P521_ALGORITHM,
        }
    }

    /// Whether the key with this uncompressed point made the signature: both halves at their full length.
    pub(crate) fn verify(self, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let algorithm = match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            // ring has not this one.
            Self::P521 => {
                let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
                let signature = p521::ecdsa::Signature::from_slice(signature);
                return key.is_ok_and(|key| signature.is_ok_and(|signature| key.verify(message, &signature).is_ok()));
            }
        };
        UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
    }

    /// `None` where ring does not sign.
    fn signing(self) -> Option<&'static EcdsaSigningAlgorithm> {
        match self {
            Self::P256 => Some(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::P384 => Some(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::P521 => None,
        }
    }
}

/// A key that verifies tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// PKCS#1 `RSAPublicKey`.
    Rsa(Vec<u8>),
    /// The uncompressed point.
    Ec(Curve, Vec<u8>),
}

impl PublicKey {
    /// The JWS `alg`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(curve, _) => curve.algorithm(),
        }
    }

    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message, signature).is_ok()
            }
            Self::Ec(curve, key) => curve.verify(key, message, signature),
        }
    }

    /// `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> Vec<u8> {
        let (algorithm, key) = match self {
            Self::Rsa(key) => (RSA_ALGORITHM, key),
            Self::Ec(curve, key) => (curve.identifier(), key),
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

    /// Of a DER `SubjectPublicKeyInfo`.
    pub(super) fn from_spki(bytes: &[u8]) -> Result<Self, String> {
        let (_, info) = SubjectPublicKeyInfo::from_der(bytes).map_err(|e| e.to_string())?;
        let key = info.subject_public_key.data.to_vec();
        let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
        let point = |curve: Curve| key.len() == 1 + 2 * curve.size() && key[0] == 4;
        match (info.algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
            ("1.2.840.113549.1.1.1", _) => Ok(Self::Rsa(key)),
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) if point(Curve::P256) => Ok(Self::Ec(Curve::P256, key)),
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) if point(Curve::P384) => Ok(Self::Ec(Curve::P384, key)),
            ("1.2.840.10045.2.1", Some("1.3.132.0.35")) if point(Curve::P521) => Ok(Self::Ec(Curve::P521, key)),
            _ => Err("it is neither RSA nor ECDSA P-256, P-384 or P-521".to_owned()),
        }
    }
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(Curve, Box<EcdsaKeyPair>),
    P521(Box<p521::ecdsa::SigningKey>),
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
                "PRIVATE KEY" | "EC PRIVATE KEY" if p521_key(&block.der).is_some() => {
                    Pair::P521(Box::new(p521_key(&block.der).expect("it is one")))
                }
                "PRIVATE KEY" => {
                    let on = |curve: Curve| {
                        let pair = EcdsaKeyPair::from_pkcs8(curve.signing()?, &block.der, &SystemRandom::new()).ok()?;
                        Some(Pair::Ec(curve, Box::new(pair)))
                    };
                    match Curve::ALL.into_iter().find_map(on) {
                        Some(pair) => pair,
                        None => Pair::Rsa(Box::new(
                            RsaKeyPair::from_pkcs8(&block.der).map_err(|e| rejected(e.to_string()))?,
                        )),
                    }
                }
                "RSA PRIVATE KEY" => {
                    Pair::Rsa(Box::new(RsaKeyPair::from_der(&block.der).map_err(|e| rejected(e.to_string()))?))
                }
                "EC PRIVATE KEY" => {
                    let on = |curve: Curve| Some((curve, curve.signing()?, sec1(&block.der, curve)?));
                    let found = Curve::ALL.into_iter().find_map(on);
                    let (curve, signing, (scalar, point)) = found.ok_or(KeyError::Unsupported("EC"))?;
                    let pair =
                        EcdsaKeyPair::from_private_key_and_public_key(signing, scalar, point, &SystemRandom::new());
                    Pair::Ec(curve, Box::new(pair.map_err(|e| rejected(e.to_string()))?))
                }
                _ => continue,
            };
            let public = match &pair {
                Pair::Rsa(pair) => PublicKey::Rsa(pair.public_key().as_ref().to_vec()),
                Pair::Ec(curve, pair) => PublicKey::Ec(*curve, pair.public_key().as_ref().to_vec()),
                Pair::P521(pair) => {
                    PublicKey::Ec(Curve::P521, pair.verifying_key().to_sec1_point(false).as_bytes().to_vec())
                }
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
            Pair::Ec(_, pair) => Ok(pair.sign(&SystemRandom::new(), message).map_err(|_| failed)?.as_ref().to_vec()),
            Pair::P521(pair) => {
                let signature: p521::ecdsa::Signature = pair.try_sign(message).map_err(|_| "the key does not sign")?;
                Ok(signature.to_bytes().to_vec())
            }
        }
    }
}

/// Scalar and point of a SEC 1 `ECPrivateKey` (RFC 5915) on a curve: version 1, the scalar, the curve, the point.
pub(crate) fn sec1(bytes: &[u8], curve: Curve) -> Option<(&[u8], &[u8])> {
    let size = curve.size();
    let length = u8::try_from(size).ok()?;
    let at = bytes.windows(5).position(|w| w == [0x02, 0x01, 0x01, 0x04, length])? + 5;
    let scalar = bytes.get(at..at + size)?;
    let rest = &bytes[at + size..];
    let point = rest.windows(4).position(|w| w == [0x03, 2 * length + 2, 0x00, 0x04])? + 3;
    Some((scalar, rest.get(point..point + 1 + 2 * size)?))
}

/// The key of an `ECPrivateKey` on P-521, by itself or within PKCS#8; its point follows from its scalar.
fn p521_key(bytes: &[u8]) -> Option<p521::ecdsa::SigningKey> {
    let size = Curve::P521.size();
    let curve = &P521_ALGORITHM[P521_ALGORITHM.len() - 7..];
    bytes.windows(curve.len()).position(|window| window == curve)?;
    let at = bytes.windows(5).position(|w| w == [0x02, 0x01, 0x01, 0x04, size as u8])? + 5;
    p521::ecdsa::SigningKey::from_slice(bytes.get(at..at + size)?).ok()
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
    use base64::Engine;

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
    fn keys_of_each_curve_are_read_in_both_forms_and_sign() {
        for (curve, algorithm, jws) in [
            (Curve::P256, &rcgen::PKCS_ECDSA_P256_SHA256, "ES256"),
            (Curve::P384, &rcgen::PKCS_ECDSA_P384_SHA384, "ES384"),
        ] {
            let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let (pkcs8, point) = (pair.serialize_der(), pair.public_key_raw().to_vec());
            let length = curve.size() as u8;
            let at = pkcs8.windows(5).position(|w| w == [0x02, 0x01, 0x01, 0x04, length]).unwrap() + 5;
            // Scalar and point of the PKCS#8 key, rewritten in SEC 1 form.
            let scalar = &pkcs8[at..at + curve.size()];
            let bits = [&[0], point.as_slice()].concat();
            let named = der(0xa0, &curve.identifier()[11..]);
            let body = [vec![2, 1, 1], der(4, scalar), named, der(0xa1, &der(3, &bits))].concat();
            for text in [pair.serialize_pem(), pem::encode("EC PRIVATE KEY", &der(0x30, &body))] {
                let key = SigningKey::from_pem(&text).unwrap();
                assert_eq!(key.public_key(), &PublicKey::Ec(curve, point.clone()));
                assert_eq!(key.public_key().algorithm(), jws);
                assert_eq!(read_public_keys(&pair.public_key_pem()).unwrap(), [key.public_key().clone()]);
                let signature = key.sign(b"hello").unwrap();
                assert!(key.public_key().verify(b"hello", &signature));
            }
        }
    }

    /// Made by OpenSSL: a key in three forms, and what it signed.
    #[test]
    fn keys_on_p521_are_read_and_sign_as_others() {
        let sec1 = "MIHcAgEBBEIAd/tdyudQAjz2VUeDnobNnHh8Jbst1A511VJxMeaN0kWZhcFmqvRTckStxMyO9rmdKeugy8kHQU6beNWleY4yjregBwYF\
         K4EEACOhgYkDgYYABAEGc33I0sLxvIdQQfNBxinnFL92/BnHDqlDkLtIstO5RM3+Rxc2bQUMd0I/DT6QdSmqR7IMFKBUK4o8mNX335eQ\
         4QAufjJW02RkAuAElpffolWpwAvSc/K0dj2qSyr7/Zs0QwWT88cxLyzQEmZDakjTZ0seE5MWNUJg3qTlfzw8a1NOzA==";
        let pkcs8 = "MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIAd/tdyudQAjz2VUeDnobNnHh8Jbst1A511VJxMeaN0kWZhcFmqvRTckSt\
         xMyO9rmdKeugy8kHQU6beNWleY4yjrehgYkDgYYABAEGc33I0sLxvIdQQfNBxinnFL92/BnHDqlDkLtIstO5RM3+Rxc2bQUMd0I/DT6Q\
         dSmqR7IMFKBUK4o8mNX335eQ4QAufjJW02RkAuAElpffolWpwAvSc/K0dj2qSyr7/Zs0QwWT88cxLyzQEmZDakjTZ0seE5MWNUJg3qTl\
         fzw8a1NOzA==";
        let public = "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBBnN9yNLC8byHUEHzQcYp5xS/dvwZxw6pQ5C7SLLTuUTN/kcXNm0FDHdCPw0+kHUpqkey\
         DBSgVCuKPJjV99+XkOEALn4yVtNkZALgBJaX36JVqcAL0nPytHY9qksq+/2bNEMFk/PHMS8s0BJmQ2pI02dLHhOTFjVCYN6k5X88PGtT\
         Tsw=";
        let signature = "AK6aE2XqNN9j9sl9qWsQRLl3K8EJmSJWkBef/zqB7D1mF4+neldKB+J/G2xdVnwXT4Wv1kywy+J3kTPol4bW1o6EAR1G9GIJPX8iKjHJ\
         rgcUIvOO32lz8Dk5HtIklwy+WwXeeFPs4nWpNw5jguzGaZlB/SYPPXqqZNm0nFva14tlCPVj";
        let text = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let signature = base64::engine::general_purpose::STANDARD.decode(signature).unwrap();
        let [public] = read_public_keys(&text("PUBLIC KEY", public)).unwrap().try_into().unwrap();
        assert_eq!(public.algorithm(), "ES512");
        assert!(public.verify(b"hello", &signature) && !public.verify(b"hellp", &signature));
        let mut other = signature.clone();
        other[131] ^= 1;
        assert!(!public.verify(b"hello", &other));
        for bad in [&signature[..131], &[&signature[..], &[0]].concat(), &[0; 132], b""] {
            assert!(!public.verify(b"hello", bad), "{} bytes", bad.len());
        }
        for private in [text("EC PRIVATE KEY", sec1), text("PRIVATE KEY", pkcs8)] {
            let key = SigningKey::from_pem(&private).unwrap();
            assert_eq!(key.public_key(), &public);
            assert!(read_public_keys(&private).unwrap().iter().eq([&public]));
            assert!(public.verify(b"hello", &key.sign(b"hello").unwrap()));
            let token = crate::token::sign(&key, &serde_json::json!({"iss": "a"})).unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
            assert!(public.verify(message.as_bytes(), &signature));
        }
        // A point that is on no curve.
        let spki = der(0x30, &[P521_ALGORITHM, &der(3, &[&[0, 4], [7; 132].as_slice()].concat())].concat());
        let [off] = read_public_keys(&pem::encode("PUBLIC KEY", &spki)).unwrap().try_into().unwrap();
        assert!(!off.verify(b"hello", &signature));
        let p224 = [&P521_ALGORITHM[..17], &[0x21]].concat();
        let spki = der(0x30, &[p224, der(3, &[&[0, 4], [7; 132].as_slice()].concat())].concat());
        let refused = read_public_keys(&pem::encode("PUBLIC KEY", &spki)).unwrap_err().to_string();
        assert!(refused.contains("P-521"), "{refused}");
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
