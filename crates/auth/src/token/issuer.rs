//! Who issues and judges the cluster's service-account tokens: keys of files, which may change while it runs, or a signer
//! of its own.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::keys::{PublicKey, SigningKey};
use super::{Claims, ClaimsError, Discovery, ExternalSigner, JwtError, TokenSpec, jwt};

/// How long others may keep the documents where keys are files.
const DOCUMENT_LIFE: Duration = Duration::from_secs(3600);

/// A key that tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VerifyingKey {
    pub(super) id: String,
    pub(super) key: PublicKey,
    /// For tokens of old: it signs no more, and is not published.
    pub(super) hidden: bool,
}

/// The keys of a moment, and the documents that publish them.
pub(super) struct KeySet {
    pub(super) keys: Vec<VerifyingKey>,
    pub(super) discovery: Discovery,
}

impl KeySet {
    pub(super) fn new(issuer: &str, jwks_uri: &str, keys: Vec<VerifyingKey>) -> Self {
        let shown = keys.iter().filter(|key| !key.hidden).map(|key| (key.id.as_str(), &key.key));
        let discovery = Discovery::new(issuer, jwks_uri, shown);
        Self { keys, discovery }
    }
}

/// Keys of files.
struct Local {
    signer: SigningKey,
    set: KeySet,
}

enum Keys {
    Local(ArcSwap<Local>),
    External(Arc<ExternalSigner>),
}

/// Issues and verifies the cluster's service-account tokens.
pub struct Issuer {
    /// The first is written into tokens; all are accepted.
    issuers: Vec<String>,
    audiences: Vec<String>,
    /// Where others find the keys; empty: below the issuer.
    jwks_uri: String,
    keys: Keys,
}

impl Issuer {
    /// `audiences` empty: the issuer itself, as upstream's `--api-audiences` defaults. `keys` are accepted besides the
    /// signer's own.
    pub fn new(issuers: Vec<String>, audiences: Vec<String>, signer: SigningKey, keys: Vec<PublicKey>) -> Self {
        Self::of_files(issuers, audiences, "", signer, keys)
    }

    /// As [`Issuer::new`]; `jwks_uri` is where others find the keys, empty for a place below the issuer.
    pub fn of_files(
        issuers: Vec<String>,
        audiences: Vec<String>,
        jwks_uri: &str,
        signer: SigningKey,
        keys: Vec<PublicKey>,
    ) -> Self {
        let local = Local::new(&issuers, jwks_uri, signer, keys);
        Self::with(issuers, audiences, jwks_uri, Keys::Local(ArcSwap::from_pointee(local)))
    }

    /// With a signer that others run, and its keys.
    pub fn of_signer(issuers: Vec<String>, audiences: Vec<String>, signer: Arc<ExternalSigner>) -> Self {
        Self::with(issuers, audiences, "", Keys::External(signer))
    }

    fn with(issuers: Vec<String>, audiences: Vec<String>, jwks_uri: &str, keys: Keys) -> Self {
        let audiences = if audiences.is_empty() { issuers.clone() } else { audiences };
        Self { issuers, audiences, jwks_uri: jwks_uri.to_owned(), keys }
    }

    /// Other keys from now on: what none of them signed is no longer good.
    pub fn replace(&self, signer: SigningKey, keys: Vec<PublicKey>) {
        if let Keys::Local(local) = &self.keys {
            local.store(Arc::new(Local::new(&self.issuers, &self.jwks_uri, signer, keys)));
        }
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

    /// The documents for the outside, and how long they may be kept.
    pub fn discovery(&self) -> (Discovery, Duration) {
        match &self.keys {
            Keys::Local(local) => (local.load().set.discovery.clone(), DOCUMENT_LIFE),
            Keys::External(signer) => (signer.keys().discovery.clone(), signer.fresh_for()),
        }
    }

    /// A token; `id` is its unique `jti`, a UUID.
    pub async fn issue(&self, spec: &TokenSpec<'_>, id: &str, now: Timestamp) -> Result<String, JwtError> {
        let claims = spec.claims(self.issuers.first(), &self.audiences, id, now);
        match &self.keys {
            Keys::Local(local) => jwt::sign(&local.load().signer, &claims),
            Keys::External(signer) => signer.sign(&claims).await.map_err(JwtError::Sign),
        }
    }

    /// Asks for new keys where a token names one that is not known: before [`Issuer::verify`].
    pub async fn refresh_for(&self, token: &str) {
        if let Keys::External(signer) = &self.keys
            && let Some(id) = jwt::key_id(token)
        {
            signer.look_for(&id).await;
        }
    }

    /// The claims of a token that one of the keys has signed: whose it is, until when and for whom, is not looked at.
    pub fn signed(&self, token: &str) -> Result<serde_json::Value, JwtError> {
        match &self.keys {
            Keys::Local(local) => signed(token, &local.load().set),
            Keys::External(signer) => signed(token, &signer.keys()),
        }
    }

    /// The claims of a valid token for one of `audiences` (empty: the server's own). Whether the service account and the
    /// bound object still live is for the caller to look up.
    pub fn verify(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Claims, ClaimsError> {
        let claims = self.signed(token)?;
        if !claims["iss"].as_str().is_some_and(|iss| self.issuers.iter().any(|i| i == iss)) {
            return Err(JwtError::Signature.into());
        }
        Claims::read(&claims, if audiences.is_empty() { &self.audiences } else { audiences }, now)
    }
}

fn signed(token: &str, set: &KeySet) -> Result<serde_json::Value, JwtError> {
    jwt::verify(token, set.keys.iter().map(|key| (key.id.as_str(), &key.key)))
}

impl Local {
    fn new(issuers: &[String], jwks_uri: &str, signer: SigningKey, keys: Vec<PublicKey>) -> Self {
        let mut all: Vec<VerifyingKey> = Vec::new();
        for key in [signer.public_key().clone()].into_iter().chain(keys) {
            let id = key.id();
            if all.iter().all(|known| known.id != id) {
                all.push(VerifyingKey { id, key, hidden: false });
            }
        }
        let set = KeySet::new(issuers.first().map_or("", String::as_str), jwks_uri, all);
        Self { signer, set }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::BoundObject;

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

    #[tokio::test]
    async fn a_token_is_good_for_its_audience_and_time() {
        let issuer = issuer();
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let at = |seconds| now + jiff::SignedDuration::from_secs(seconds);
        let token = issuer.issue(&spec(&[]), "id", now).await.unwrap();
        let claims = issuer.verify(&token, &[], at(3599)).unwrap();
        assert_eq!((claims.namespace.as_str(), claims.service_account.as_str()), ("ns", "sa"));
        assert_eq!(claims.bound, spec(&[]).bound);
        assert_eq!(issuer.verify(&token, &[], at(3600)), Err(ClaimsError::Expired));
        assert_eq!(issuer.verify(&token, &[], at(-1)), Err(ClaimsError::NotYetValid));
        assert_eq!(issuer.verify(&token, &["vault".to_owned()], now), Err(ClaimsError::Audience));
        let vault = issuer.issue(&spec(&["vault"]), "id", now).await.unwrap();
        assert_eq!(issuer.verify(&vault, &[], now), Err(ClaimsError::Audience));
        assert_eq!(issuer.verify(&vault, &["vault".to_owned()], now).unwrap().audiences, ["vault"]);
        assert!(issuer.issued(&token) && !issuer.issued("abc"));

        let user = claims.user();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert!(user.in_group("system:serviceaccounts:ns") && user.in_group("system:authenticated"));
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["u3"]);
    }

    #[tokio::test]
    async fn another_cluster_is_not_trusted() {
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let token = issuer().issue(&spec(&[]), "id", now).await.unwrap();
        assert_eq!(issuer().verify(&token, &[], now), Err(ClaimsError::Jwt(JwtError::Signature)));
    }

    #[tokio::test]
    async fn a_key_that_is_replaced_verifies_as_long_as_it_is_listed() {
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let new = || SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let old = new();
        let kept = old.public_key().clone();
        let issuer = Issuer::new(vec!["https://issuer".into()], vec![], old, vec![]);
        let token = issuer.issue(&spec(&[]), "id", now).await.unwrap();
        let jwks = || serde_json::from_slice::<serde_json::Value>(&issuer.discovery().0.jwks).unwrap();
        assert_eq!(jwks()["keys"].as_array().unwrap().len(), 1);
        issuer.replace(new(), vec![kept.clone()]);
        assert_eq!(jwks()["keys"][1]["kid"], kept.id());
        let newer = issuer.issue(&spec(&[]), "id", now).await.unwrap();
        assert!(issuer.verify(&token, &[], now).is_ok() && issuer.verify(&newer, &[], now).is_ok());
        issuer.replace(new(), vec![]);
        for withdrawn in [&token, &newer] {
            assert_eq!(issuer.verify(withdrawn, &[], now), Err(ClaimsError::Jwt(JwtError::Signature)));
        }
    }
}
