//! JSON web tokens in compact form (RFC 7515, 7519), signed with RS256, ES256, ES384 or ES512. `alg: none` and symmetric algorithms do
//! not exist here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::keys::{PublicKey, SigningKey};

/// Why a token is not accepted. The texts name no part of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("the token is not a JSON web token in compact form")]
    Malformed,
    #[error("invalid signature")]
    Signature,
    /// There is no token.
    #[error("{0}")]
    Sign(String),
}

/// Signs claims.
pub fn sign(key: &SigningKey, claims: &Value) -> Result<String, JwtError> {
    let header = json!({"alg": key.public_key().algorithm(), "kid": key.id()});
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
    let signature = key.sign(token.as_bytes()).map_err(|cause| JwtError::Sign(cause.to_owned()))?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// The signature of a content that is told apart from it (RFC 7515, appendix F), with HS256 and the key of this id: what a
/// bootstrap token puts on `cluster-info`.
pub fn detached_signature(content: &str, id: &str, key: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

fn part(text: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// The `iss` of what looks like a JWT, unverified: tells whose token it claims to be.
pub fn decode_unverified_issuer(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    part(payload)?.get("iss")?.as_str().map(str::to_owned)
}

/// The id of the key that a token names, unverified.
pub(super) fn key_id(token: &str) -> Option<String> {
    part(token.split('.').next()?)?.get("kid")?.as_str().map(str::to_owned)
}

/// The claims of a token that one of `keys` signed: the key of its `kid` first, else every key of its algorithm.
pub fn verify<'k>(
    token: &str,
    keys: impl Iterator<Item = (&'k str, &'k PublicKey)> + Clone,
) -> Result<Value, JwtError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    let header = part(header).ok_or(JwtError::Malformed)?;
    let claims = part(payload).filter(Value::is_object).ok_or(JwtError::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| JwtError::Malformed)?;
    let algorithm = header["alg"].as_str().ok_or(JwtError::Malformed)?;
    let id = header["kid"].as_str();
    let named = keys.clone().any(|(kid, _)| Some(kid) == id);
    let good = keys
        .filter(|(kid, key)| key.algorithm() == algorithm && (!named || Some(*kid) == id))
        .any(|(_, key)| key.verify(signed.as_bytes(), &signature));
    if good { Ok(claims) } else { Err(JwtError::Signature) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_accepted() {
        let new_key = || SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let (key, other) = (new_key(), new_key());
        let claims = json!({"iss": "me", "sub": "x"});
        let token = sign(&key, &claims).unwrap();
        let keys = [(key.id(), key.public_key())];
        assert_eq!(verify(&token, keys.into_iter()), Ok(claims));
        assert_eq!(decode_unverified_issuer(&token).as_deref(), Some("me"));
        assert_eq!(verify(&token, [(other.id(), other.public_key())].into_iter()), Err(JwtError::Signature));
        // A key under another id is still tried when the token's id is unknown.
        assert!(verify(&token, [("renamed", key.public_key())].into_iter()).is_ok());

        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let forged = URL_SAFE_NO_PAD.encode(r#"{"iss":"me","sub":"admin"}"#);
        for bad in [
            format!("{none}.{}.", parts[1]),
            format!("{}.{forged}.{}", parts[0], parts[2]),
            format!("{none}.{forged}.{}", parts[2]),
        ] {
            assert_eq!(verify(&bad, keys.into_iter()), Err(JwtError::Signature), "{bad}");
        }
        for bad in ["", "a.b", "a.b.c", "....", &token[1..]] {
            assert!(verify(bad, keys.into_iter()).is_err(), "{bad}");
        }
    }
}
