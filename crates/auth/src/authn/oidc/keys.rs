//! The keys of an issuer (JWK, RFC 7517) and what they signed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kybern_apimachinery::Value;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};

use crate::token::Curve;

/// The algorithms that may be allowed, as upstream sorts them.
pub const SIGNING_ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// One key of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Empty where it has no name.
    pub(super) id: String,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// The uncompressed point.
    Ec(Curve, Vec<u8>),
}

impl Key {
    /// `None` for what is no key that can verify: it is passed over.
    fn of(jwk: &Value) -> Option<Self> {
        let text = |field: &str| jwk[field].as_str();
        let bytes = |field: &str| URL_SAFE_NO_PAD.decode(text(field)?.trim_end_matches('=')).ok();
        let material = match text("kty")? {
            "RSA" => {
                let number = |field| Some(bytes(field)?.into_iter().skip_while(|byte| *byte == 0).collect());
                Material::Rsa { modulus: number("n")?, exponent: number("e")? }
            }
            "EC" => {
                let curve = Curve::named(text("crv")?)?;
                let mut point = vec![4];
                for field in ["x", "y"] {
                    let number = bytes(field)?;
                    point.extend(std::iter::repeat_n(0, curve.size().checked_sub(number.len())?));
                    point.extend(number);
                }
                Material::Ec(curve, point)
            }
            _ => return None,
        };
        Some(Self { id: text("kid").unwrap_or_default().to_owned(), material })
    }

    /// Whether this key made the signature, by an algorithm that is one of its own: a public key is never taken for a secret.
    pub(super) fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let Some(parameters) = rsa(algorithm) else { return false };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
            }
            Material::Ec(curve, point) => curve.algorithm() == algorithm && curve.verify(point, message, signature),
        }
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// The keys of a JWK set.
pub(super) fn read_set(body: &[u8]) -> Result<Vec<Key>, String> {
    let failed = |cause: String| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(512)]);
        format!("oidc: failed to decode keys: {cause} {shown}")
    };
    let set: Value = serde_json::from_slice(body).map_err(|e| failed(e.to_string()))?;
    let keys = set["keys"].as_array().ok_or_else(|| failed("it has no list of keys".to_owned()))?;
    Ok(keys.iter().filter_map(Key::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SigningKey;

    #[test]
    fn keys_verify_by_their_own_algorithms() {
        let pair = SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let token = crate::token::sign(&pair, &serde_json::json!({"a": 1})).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let set = crate::token::Discovery::new("i", "u", [("one", pair.public_key())].into_iter()).jwks;
        let keys = read_set(&set).unwrap();
        assert_eq!(keys.len(), 1);
        assert!(keys[0].verifies("ES256", message.as_bytes(), &signature));
        for algorithm in ["none", "HS256", "ES384", "ES512", "RS256", ""] {
            assert!(!keys[0].verifies(algorithm, message.as_bytes(), &signature), "{algorithm}");
        }
        assert!(!keys[0].verifies("ES256", b"other", &signature));
    }

    #[test]
    fn a_key_on_p521_verifies_es512_alone() {
        let pair = p521::ecdsa::SigningKey::from_slice(&[[0; 2].as_slice(), &[7; 64]].concat()).unwrap();
        let point = pair.verifying_key().to_sec1_point(false);
        let half = |at: usize| URL_SAFE_NO_PAD.encode(&point.as_bytes()[at..at + 66]);
        let set = format!(r#"{{"keys": [{{"kty": "EC", "crv": "P-521", "x": "{}", "y": "{}"}}]}}"#, half(1), half(67));
        let keys = read_set(set.as_bytes()).unwrap();
        let signature: p521::ecdsa::Signature = p521::ecdsa::signature::Signer::sign(&pair, b"m");
        let signature = signature.to_bytes();
        assert!(keys[0].verifies("ES512", b"m", &signature) && !keys[0].verifies("ES512", b"n", &signature));
        for algorithm in ["ES256", "ES384", "RS512", "none"] {
            assert!(!keys[0].verifies(algorithm, b"m", &signature), "{algorithm}");
        }
    }

    #[test]
    fn what_is_no_key_is_passed_over() {
        let set = br#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC", "crv": "P-256", "x": "AQ"},
            {"kty": "OKP"}, {"kty": "RSA", "n": "!"}, 7, {"kty": "EC", "crv": "P-384", "x": "AQ", "y": "AQ"}]}"#;
        let keys = read_set(set).unwrap();
        assert_eq!(keys.len(), 1, "{keys:?}");
        assert!(!keys[0].verifies("ES384", b"m", &[0; 96]), "a point that is on no curve");
        assert!(read_set(b"{").unwrap_err().starts_with("oidc: failed to decode keys: "));
        assert!(read_set(b"{}").is_err());
    }
}
