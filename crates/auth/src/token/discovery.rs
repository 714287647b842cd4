//! The documents by which others verify the cluster's tokens: `/.well-known/openid-configuration` and
//! `/openid/v1/jwks`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::keys::PublicKey;

/// Both documents, ready to be served.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// `application/json`.
    pub openid_configuration: Vec<u8>,
    /// `application/jwk-set+json`.
    pub jwks: Vec<u8>,
}

impl Discovery {
    pub const CONFIGURATION_PATH: &'static str = "/.well-known/openid-configuration";
    pub const JWKS_PATH: &'static str = "/openid/v1/jwks";

    /// `jwks_uri`: empty for `ISSUER/openid/v1/jwks`.
    pub fn new<'k>(issuer: &str, jwks_uri: &str, keys: impl Iterator<Item = (&'k str, &'k PublicKey)> + Clone) -> Self {
        let uri = if jwks_uri.is_empty() {
            format!("{}{}", issuer.trim_end_matches('/'), Self::JWKS_PATH)
        } else {
            jwks_uri.to_owned()
        };
        let mut algorithms: Vec<&str> = keys.clone().map(|(_, k)| k.algorithm()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        let configuration = json!({
            "issuer": issuer, "jwks_uri": uri, "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": algorithms,
        });
        let keys: Vec<Value> = keys.filter_map(|(id, key)| jwk(id, key)).collect();
        Self {
            openid_configuration: configuration.to_string().into_bytes(),
            jwks: json!({"keys": keys}).to_string().into_bytes(),
        }
    }
}

/// A key as RFC 7517 writes it.
fn jwk(id: &str, key: &PublicKey) -> Option<Value> {
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let mut jwk = match key {
        PublicKey::Ec(curve, point) => {
            let (x, y) = point[1..].split_at(curve.size());
            json!({"kty": "EC", "crv": curve.name(), "x": b64(x), "y": b64(y)})
        }
        PublicKey::Rsa(_) => {
            let (modulus, exponent) = key.rsa_parts()?;
            json!({"kty": "RSA", "n": b64(&modulus), "e": b64(&exponent)})
        }
    };
    jwk["use"] = "sig".into();
    jwk["kid"] = id.into();
    jwk["alg"] = key.algorithm().into();
    Some(jwk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SigningKey;

    #[test]
    fn documents_name_the_keys() {
        let key = SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let documents = Discovery::new(
            "https://kubernetes.default.svc.cluster.local",
            "",
            [(key.id(), key.public_key())].into_iter(),
        );
        let configuration: Value = serde_json::from_slice(&documents.openid_configuration).unwrap();
        assert_eq!(configuration["jwks_uri"], "https://kubernetes.default.svc.cluster.local/openid/v1/jwks");
        assert_eq!(configuration["id_token_signing_alg_values_supported"], json!(["ES256"]));
        let jwks: Value = serde_json::from_slice(&documents.jwks).unwrap();
        assert_eq!(jwks["keys"][0]["kid"], key.id());
        assert_eq!(jwks["keys"][0]["x"].as_str().unwrap().len(), 43);
    }
}
