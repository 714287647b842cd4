//! Tokens as they were: without an end, in a Secret that must hold them (`pkg/serviceaccount/legacy.go`).

use serde_json::{Value, json};

use super::{JwtError, SigningKey, jwt};

/// The label of a Secret that says when its token was last used: a day.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label of a Secret that says since when its token is good no more: a day.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

const NAMESPACE: &str = "kubernetes.io/serviceaccount/namespace";
const SECRET: &str = "kubernetes.io/serviceaccount/secret.name";
const ACCOUNT: &str = "kubernetes.io/serviceaccount/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/serviceaccount/service-account.uid";

/// What such a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyToken {
    pub namespace: String,
    pub service_account: String,
    pub service_account_uid: String,
    pub secret: String,
}

impl LegacyToken {
    pub const ISSUER: &'static str = "kubernetes/serviceaccount";

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }

    pub fn sign(&self, key: &SigningKey) -> Result<String, JwtError> {
        let claims = json!({
            "iss": Self::ISSUER, "sub": self.user(), NAMESPACE: self.namespace, SECRET: self.secret,
            ACCOUNT: self.service_account, ACCOUNT_UID: self.service_account_uid,
        });
        jwt::sign(key, &claims)
    }

    /// Of a token whose signature is good.
    pub(crate) fn read(claims: &Value) -> Result<Self, String> {
        let text = |key: &str, name: &str| match claims[key].as_str().unwrap_or("") {
            "" => Err(format!("{name} claim is missing")),
            text => Ok(text.to_owned()),
        };
        let subject = text("sub", "sub")?;
        let token = Self {
            namespace: text(NAMESPACE, "namespace")?,
            secret: text(SECRET, "secretName")?,
            service_account: text(ACCOUNT, "serviceAccountName")?,
            service_account_uid: text(ACCOUNT_UID, "serviceAccountUID")?,
        };
        if subject != token.user() {
            return Err("sub claim is invalid".to_owned());
        }
        Ok(token)
    }
}
