//! What a service-account token says (`pkg/serviceaccount/claims.go`): who, for whom, until when, bound to what.

use jiff::Timestamp;
use kybern_apiserver::access::UserInfo;
use serde_json::{Map, Value, json};

use super::keys::{PublicKey, SigningKey};
use super::{Discovery, JwtError, jwt};

/// The object whose life bounds a token's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundObject {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// A token to be issued.
#[derive(Clone, Debug)]
pub struct TokenSpec<'a> {
    pub namespace: &'a str,
    pub service_account: &'a str,
    pub service_account_uid: &'a str,
    pub bound: Option<BoundObject>,
    /// The node of a bound pod: name and uid.
    pub node: Option<(String, String)>,
    /// Empty: the server's own.
    pub audiences: Vec<String>,
    pub seconds: i64,
    /// For a token that lives longer than its owner was told: from when on its use is a sign of a client that does not
    /// read new ones.
    pub warn_after: Option<i64>,
}

/// A verified token's claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    pub bound: Option<BoundObject>,
    pub node: Option<(String, String)>,
    pub audiences: Vec<String>,
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    #[error(transparent)]
    Jwt(#[from] JwtError),
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYetValid,
    #[error("service account token claims could not be validated due to unexpected private claim")]
    Private,
    #[error("invalid bearer token audience")]
    Audience,
}

impl Claims {
    /// The user that the token stands for. `pod_uid` and node go to upstream's extra keys.
    pub fn user(&self) -> UserInfo {
        const PREFIX: &str = "authentication.kubernetes.io";
        let mut user = UserInfo {
            name: format!("system:serviceaccount:{}:{}", self.namespace, self.service_account),
            uid: self.service_account_uid.clone(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{}", self.namespace),
                crate::AUTHENTICATED.to_owned(),
            ],
            ..UserInfo::default()
        };
        let mut extra = |key: &str, value: String| user.extra.insert(format!("{PREFIX}/{key}"), vec![value]);
        if !self.id.is_empty() {
            extra("credential-id", format!("JTI={}", self.id));
        }
        match &self.bound {
            Some(pod) if pod.kind == "Pod" => {
                extra("pod-name", pod.name.clone());
                extra("pod-uid", pod.uid.clone());
            }
            _ => {}
        }
        if let Some((name, uid)) = &self.node {
            extra("node-name", name.clone());
            extra("node-uid", uid.clone());
        }
        user
    }
}

/// Issues and verifies the cluster's service-account tokens.
pub struct Issuer {
    /// The first is written into tokens; all are accepted.
    issuers: Vec<String>,
    audiences: Vec<String>,
    signer: SigningKey,
    verifiers: Vec<(String, PublicKey)>,
}

impl Issuer {
    /// `audiences` empty: the issuer itself, as upstream's `--api-audiences` defaults. `keys` are accepted besides the
    /// signer's own.
    pub fn new(issuers: Vec<String>, audiences: Vec<String>, signer: SigningKey, keys: Vec<PublicKey>) -> Self {
        let mut verifiers = vec![(signer.id().to_owned(), signer.public_key().clone())];
        for key in keys {
            let id = key.id();
            if verifiers.iter().all(|(known, _)| *known != id) {
                verifiers.push((id, key));
            }
        }
        let audiences = if audiences.is_empty() { issuers.clone() } else { audiences };
        Self { issuers, audiences, signer, verifiers }
    }

    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Whether a token claims to be one of these issuers'; others may be another authenticator's.
    pub fn issued(&self, token: &str) -> bool {
        jwt::decode_unverified_issuer(token).is_some_and(|iss| self.issuers.contains(&iss))
    }

    /// The documents for the outside.
    pub fn discovery(&self, jwks_uri: &str) -> Discovery {
        let issuer = self.issuers.first().map_or("", String::as_str);
        Discovery::new(issuer, jwks_uri, self.keys())
    }

    fn keys(&self) -> impl Iterator<Item = (&str, &PublicKey)> + Clone {
        self.verifiers.iter().map(|(id, key)| (id.as_str(), key))
    }

    /// A token; `id` is its unique `jti`, a UUID.
    pub fn issue(&self, spec: &TokenSpec<'_>, id: &str, now: Timestamp) -> Result<String, JwtError> {
        let named = |name: &str, uid: &str| json!({"name": name, "uid": uid});
        let mut private = json!({
            "namespace": spec.namespace, "serviceaccount": named(spec.service_account, spec.service_account_uid),
        });
        if let Some(bound) = &spec.bound {
            private[bound.kind.to_ascii_lowercase()] = named(&bound.name, &bound.uid);
        }
        if let Some((name, uid)) = &spec.node {
            private["node"] = if uid.is_empty() { json!({"name": name}) } else { named(name, uid) };
        }
        let audiences = if spec.audiences.is_empty() { &self.audiences } else { &spec.audiences };
        let seconds = now.as_second();
        if let Some(after) = spec.warn_after {
            private["warnafter"] = (seconds + after).into();
        }
        let claims = json!({
            "iss": self.issuers.first(), "sub": format!("system:serviceaccount:{}:{}", spec.namespace, spec.service_account),
            "aud": audiences, "iat": seconds, "nbf": seconds, "exp": seconds + spec.seconds, "jti": id, "kubernetes.io": private,
        });
        jwt::sign(&self.signer, &claims)
    }

    /// The claims of a valid token for one of `audiences` (empty: the server's own). Whether the service account and the
    /// bound object still live is for the caller to look up.
    pub fn verify(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Claims, ClaimsError> {
        let claims = jwt::verify(token, self.keys())?;
        if !claims["iss"].as_str().is_some_and(|iss| self.issuers.iter().any(|i| i == iss)) {
            return Err(JwtError::Signature.into());
        }
        let seconds = now.as_second();
        // A token without an end is not one of ours: bound tokens all have one.
        if claims["exp"].as_i64().is_none_or(|end| seconds >= end) {
            return Err(ClaimsError::Expired);
        }
        if claims["nbf"].as_i64().is_some_and(|start| seconds < start) {
            return Err(ClaimsError::NotYetValid);
        }
        let named: Vec<String> = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let audiences: Vec<String> = named.into_iter().filter(|a| wanted.contains(a)).collect();
        if audiences.is_empty() {
            return Err(ClaimsError::Audience);
        }
        let private = claims["kubernetes.io"].as_object().ok_or(ClaimsError::Private)?;
        let (service_account, service_account_uid) =
            reference(private, "serviceaccount").ok_or(ClaimsError::Private)?;
        let namespace =
            private.get("namespace").and_then(Value::as_str).filter(|n| !n.is_empty()).ok_or(ClaimsError::Private)?;
        let node = reference(private, "node");
        let bound = ["Pod", "Secret", "Node"].into_iter().find_map(|kind| {
            let (name, uid) = reference(private, &kind.to_ascii_lowercase())?;
            Some(BoundObject { kind: kind.to_owned(), name, uid })
        });
        Ok(Claims {
            namespace: namespace.to_owned(),
            service_account,
            service_account_uid,
            bound,
            node,
            audiences,
            id: claims["jti"].as_str().unwrap_or("").to_owned(),
        })
    }
}

fn reference(private: &Map<String, Value>, key: &str) -> Option<(String, String)> {
    let object = private.get(key)?;
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let name = text("name");
    (!name.is_empty()).then(|| (name, text("uid")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> Issuer {
        let key = SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        Issuer::new(vec!["https://issuer".into(), "old".into()], vec![], key, vec![])
    }

    fn spec(audiences: &[&str]) -> TokenSpec<'static> {
        TokenSpec {
            namespace: "ns",
            service_account: "sa",
            service_account_uid: "u1",
            bound: Some(BoundObject { kind: "Pod".into(), name: "p".into(), uid: "u2".into() }),
            node: Some(("n".into(), "u3".into())),
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
            seconds: 3600,
            warn_after: None,
        }
    }

    #[test]
    fn a_token_is_good_for_its_audience_and_time() {
        let issuer = issuer();
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let at = |seconds| now + jiff::SignedDuration::from_secs(seconds);
        let token = issuer.issue(&spec(&[]), "id", now).unwrap();
        let claims = issuer.verify(&token, &[], at(3599)).unwrap();
        assert_eq!((claims.namespace.as_str(), claims.service_account.as_str()), ("ns", "sa"));
        assert_eq!(claims.bound, spec(&[]).bound);
        assert_eq!(issuer.verify(&token, &[], at(3600)), Err(ClaimsError::Expired));
        assert_eq!(issuer.verify(&token, &[], at(-1)), Err(ClaimsError::NotYetValid));
        assert_eq!(issuer.verify(&token, &["vault".to_owned()], now), Err(ClaimsError::Audience));
        let vault = issuer.issue(&spec(&["vault"]), "id", now).unwrap();
        assert_eq!(issuer.verify(&vault, &[], now), Err(ClaimsError::Audience));
        assert_eq!(issuer.verify(&vault, &["vault".to_owned()], now).unwrap().audiences, ["vault"]);
        assert!(issuer.issued(&token) && !issuer.issued("abc"));

        let user = claims.user();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert!(user.in_group("system:serviceaccounts:ns") && user.in_group("system:authenticated"));
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["u3"]);
    }

    #[test]
    fn another_cluster_is_not_trusted() {
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let token = issuer().issue(&spec(&[]), "id", now).unwrap();
        assert_eq!(issuer().verify(&token, &[], now), Err(ClaimsError::Jwt(JwtError::Signature)));
    }
}
