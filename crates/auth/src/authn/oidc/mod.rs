//! ID tokens of OpenID Connect issuers (`apiserver/plugin/pkg/authenticator/token/oidc`): of `--oidc-*`, or of the file of
//! `--authentication-config`.

mod claims;
mod configuration;
mod distributed;
mod expressions;
mod keys;
mod metrics;
mod provider;
mod token;
mod validation;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use kybern_apimachinery::Value;
use kybern_apimachinery::time::Clock;
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::UserInfo;
use kybern_webhook::Fetcher;

pub use configuration::{AnonymousConfiguration, AuthenticationConfiguration, configuration_of, parse_configuration};
pub use keys::SIGNING_ALGORITHMS;
pub use metrics::Metrics as OidcMetrics;
pub use validation::JwtIssuer;

use self::claims::user_of;
use self::distributed::ClaimResolver;
use self::provider::Provider;
use self::token::{Verifier, unverified_claims, unverified_issuer};
use super::{TokenAuthenticator, TokenUser};

/// Judges the tokens of one issuer.
pub struct OidcAuthenticator {
    settings: JwtIssuer,
    algorithms: Vec<String>,
    provider: Arc<Provider>,
    resolver: Option<ClaimResolver>,
    clock: Arc<dyn Clock>,
    metrics: Arc<OidcMetrics>,
}

impl OidcAuthenticator {
    /// Begins to fetch the issuer's document. Must be called within a tokio runtime.
    pub fn start(
        settings: JwtIssuer,
        algorithms: Vec<String>,
        user_agent: &str,
        clock: Arc<dyn Clock>,
        metrics: Arc<OidcMetrics>,
    ) -> Self {
        let fetcher = Arc::new(Fetcher::new(settings.authorities.clone(), user_agent));
        let document = settings.discovery_url.as_deref();
        let provider = Provider::start(&settings.url, document, Arc::clone(&fetcher));
        let resolver = settings.groups_claim().map(|claim| ClaimResolver::new(claim, &settings, fetcher));
        Self { settings, algorithms, provider, resolver, clock, metrics }
    }

    /// Why no token can be judged yet.
    pub fn health(&self) -> Result<(), String> {
        let failed = |error| format!("oidc: authenticator for issuer {:?} is not healthy: {error}", self.settings.url);
        self.provider.health().map_err(failed)
    }

    /// Waits until tokens can be judged.
    pub async fn ready(&self) {
        self.provider.ready().await;
    }

    async fn judge(&self, token: &str, mut claims: Value) -> Result<UserInfo, String> {
        // Whoever is away keeps nobody waiting.
        let keys = self.provider.keys().ok_or("oidc: authenticator not initialized")?;
        let verifier =
            Verifier { audiences: &self.settings.audiences, algorithms: &self.algorithms, now: self.clock.now() };
        verifier.verify(token, &claims, &keys).await.map_err(|error| format!("oidc: verify token: {error}"))?;
        if let Some(resolver) = &self.resolver {
            let expanded = resolver.expand(&mut claims, &verifier).await;
            expanded.map_err(|error| format!("oidc: could not expand distributed claims: {error}"))?;
        }
        user_of(&self.settings, &claims)
    }
}

impl TokenAuthenticator for OidcAuthenticator {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Option<TokenUser>, String>> {
        Box::pin(async move {
            let claims = unverified_claims(token);
            let Some(claims) = claims.filter(|c| unverified_issuer(c) == Some(self.settings.url.as_str())) else {
                return Ok(None);
            };
            let started = Instant::now();
            let judged = self.judge(token, claims).await;
            self.metrics.judged(&self.settings.url, judged.is_ok(), started.elapsed());
            judged.map(|user| Some(TokenUser { user, audiences: None, notes: Vec::new() }))
        })
    }
}

/// The authenticators of the moment: those of a file that changes.
#[derive(Default)]
pub struct OidcAuthenticators(ArcSwap<Vec<Arc<OidcAuthenticator>>>);

impl OidcAuthenticators {
    pub fn new(list: Vec<Arc<OidcAuthenticator>>) -> Self {
        Self(ArcSwap::from_pointee(list))
    }

    pub fn replace(&self, list: Vec<Arc<OidcAuthenticator>>) {
        self.0.store(Arc::new(list));
    }
}

impl TokenAuthenticator for OidcAuthenticators {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<TokenUser>, String>> {
        let list = self.0.load_full();
        Box::pin(async move {
            for one in &*list {
                if let Some(user) = one.authenticate_token(token, audiences).await? {
                    return Ok(Some(user));
                }
            }
            Ok(None)
        })
    }
}
