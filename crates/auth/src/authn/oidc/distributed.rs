//! Claims that a token does not hold itself, but says where they are (OpenID Connect Core, section 5.6.2): the groups' only.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::Value;
use kybern_webhook::Fetcher;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::provider::{RemoteKeys, discover};
use super::token::{Verifier, unverified_claims, unverified_issuer};
use super::validation::JwtIssuer;

/// How many issuers of such claims there may be.
const ISSUERS_MAX: usize = 64;

type Keys = Arc<OnceCell<Arc<RemoteKeys>>>;

pub(super) struct ClaimResolver {
    claim: String,
    /// The token's own issuer, and where its document is.
    issuer: String,
    document: Option<String>,
    fetcher: Arc<Fetcher>,
    /// Of the issuers of the claims, who need not be the token's.
    keys: Mutex<HashMap<String, Keys>>,
}

impl ClaimResolver {
    pub(super) fn new(claim: &str, settings: &JwtIssuer, fetcher: Arc<Fetcher>) -> Self {
        Self {
            claim: claim.to_owned(),
            issuer: settings.url.clone(),
            document: settings.discovery_url.clone(),
            fetcher,
            keys: Mutex::default(),
        }
    }

    /// Puts the claim among the token's, if that says where it is.
    pub(super) async fn expand(&self, claims: &mut Value, verifier: &Verifier<'_>) -> Result<(), String> {
        if claims.get(&self.claim).is_some() {
            return Ok(());
        }
        let Some(names) = claims.get("_claim_names") else { return Ok(()) };
        let names = names.as_object().filter(|names| names.values().all(Value::is_string));
        let names = names.ok_or("oidc: error parsing distributed claim names: they are no map of strings")?;
        let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
        let sources = sources.as_object().filter(|sources| sources.values().all(Value::is_object));
        let sources = sources.ok_or("oidc: could not parse claim sources: they are no map of objects")?;
        let Some(name) = names.get(&self.claim).and_then(Value::as_str) else { return Ok(()) };
        let source = sources
            .get(name)
            .ok_or_else(|| format!("id token _claim_names contained a source {name} missing in _claims_sources"))?;
        let text = |field: &str| source[field].as_str().filter(|text| !text.is_empty());
        // It may hold the claim itself, which is not looked at.
        let Some(endpoint) = text("endpoint") else { return Ok(()) };
        let value = self.resolve(endpoint, text("access_token"), verifier).await?;
        claims[&self.claim] = value;
        Ok(())
    }

    async fn resolve(&self, endpoint: &str, token: Option<&str>, verifier: &Verifier<'_>) -> Result<Value, String> {
        let claim = &self.claim;
        let getting = |error: String| format!("while getting distributed claim {claim:?}: {error}");
        let fetched = self.fetcher.get(endpoint, token).await.map_err(getting)?;
        if !fetched.status.is_success() {
            return Err(getting(format!("error while getting distributed claim JWT: {}", fetched.status)));
        }
        let jwt = String::from_utf8_lossy(&fetched.body).into_owned();
        let no_issuer = || format!("getting untrusted issuer from endpoint {endpoint} failed for claim {claim:?}");
        let claims = unverified_claims(&jwt).ok_or_else(no_issuer)?;
        let issuer = unverified_issuer(&claims).ok_or_else(no_issuer)?;
        let keys = self.keys_of(issuer).await;
        let keys = keys.map_err(|error| format!("verifying untrusted issuer {issuer} failed: {error}"))?;
        let verified = verifier.verify(&jwt, &claims, &keys).await;
        verified.map_err(|error| format!("verify distributed claim token: {error}"))?;
        claims.get(claim).cloned().ok_or_else(|| {
            format!("jwt returned by distributed claim endpoint {endpoint:?} did not contain claim: {claim}")
        })
    }

    async fn keys_of(&self, issuer: &str) -> Result<Arc<RemoteKeys>, String> {
        let cell = {
            let mut keys = self.keys.lock();
            if keys.len() >= ISSUERS_MAX && !keys.contains_key(issuer) {
                return Err(format!("there are more than {ISSUERS_MAX} issuers of distributed claims"));
            }
            keys.entry(issuer.to_owned()).or_default().clone()
        };
        let document = self.document.as_deref().filter(|_| issuer == self.issuer);
        cell.get_or_try_init(|| discover(issuer, document, &self.fetcher)).await.cloned()
    }
}
