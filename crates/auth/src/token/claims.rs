//! What a service-account token says (`pkg/serviceaccount/claims.go`): who, for whom, until when, bound to what.

use jiff::Timestamp;
use kybern_apiserver::access::UserInfo;
use serde_json::{Map, Value, json};

use super::JwtError;

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

impl TokenSpec<'_> {
    /// Of `issuer`; `id` is its unique `jti`, a UUID.
    pub(super) fn claims(&self, issuer: Option<&String>, audiences: &[String], id: &str, now: Timestamp) -> Value {
        let named = |name: &str, uid: &str| json!({"name": name, "uid": uid});
        let mut private = json!({
            "namespace": self.namespace, "serviceaccount": named(self.service_account, self.service_account_uid),
        });
        if let Some(bound) = &self.bound {
            private[bound.kind.to_ascii_lowercase()] = named(&bound.name, &bound.uid);
        }
        if let Some((name, uid)) = &self.node {
            private["node"] = if uid.is_empty() { json!({"name": name}) } else { named(name, uid) };
        }
        let audiences = if self.audiences.is_empty() { audiences } else { &self.audiences };
        let seconds = now.as_second();
        if let Some(after) = self.warn_after {
            private["warnafter"] = (seconds + after).into();
        }
        json!({
            "iss": issuer, "sub": format!("system:serviceaccount:{}:{}", self.namespace, self.service_account),
            "aud": audiences, "iat": seconds, "nbf": seconds, "exp": seconds + self.seconds, "jti": id,
            "kubernetes.io": private,
        })
    }
}

impl Claims {
    /// Those of a token whose signature is good, if it is for one of `wanted` now.
    pub(super) fn read(claims: &Value, wanted: &[String], now: Timestamp) -> Result<Self, ClaimsError> {
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
        Ok(Self {
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
