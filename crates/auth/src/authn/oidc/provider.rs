//! An issuer's documents: where its keys are, and the keys, which it may change at any time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::header::{AGE, CACHE_CONTROL, HeaderMap};
use kybern_apimachinery::Value;
use kybern_webhook::{Fetched, Fetcher};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::keys::{Key, read_set};

pub(super) const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// How long after a failure an issuer's document is fetched again.
const RETRY: Duration = Duration::from_secs(10);
/// How long before their time keys are taken to be old, as upstream's.
const EXPIRY_DELTA: Duration = Duration::from_secs(30);
/// How far apart fetches of keys are: tokens with keys that do not exist would else make one each.
const FETCH_GAP: Duration = Duration::from_secs(1);

/// An issuer whose document is fetched until it is there. It needs not be up when the server starts: it may run on the cluster.
pub(super) struct Provider {
    state: watch::Sender<State>,
}

enum State {
    /// The last error.
    Away(String),
    Ready(Arc<RemoteKeys>),
}

impl Provider {
    /// `document`: where the issuer's document is, if not below the issuer's URL.
    pub(super) fn start(issuer: &str, document: Option<&str>, fetcher: Arc<Fetcher>) -> Arc<Self> {
        let initial = format!("oidc: authenticator for issuer {issuer:?} is not initialized");
        let provider = Arc::new(Self { state: watch::Sender::new(State::Away(initial)) });
        let (weak, issuer, document) = (Arc::downgrade(&provider), issuer.to_owned(), document.map(str::to_owned));
        tokio::spawn(async move {
            while let Some(wait) = Self::attempt(&weak, &issuer, document.as_deref(), &fetcher).await {
                tokio::time::sleep(wait).await;
            }
        });
        provider
    }

    /// How long to wait for the next one.
    async fn attempt(
        weak: &Weak<Self>,
        issuer: &str,
        document: Option<&str>,
        fetcher: &Arc<Fetcher>,
    ) -> Option<Duration> {
        weak.upgrade()?;
        let found = discover(issuer, document, fetcher).await;
        let provider = weak.upgrade()?;
        match found {
            Ok(keys) => {
                provider.state.send_replace(State::Ready(keys));
                None
            }
            Err(error) => {
                tracing::error!("oidc authenticator: initializing plugin: {error}");
                provider.state.send_replace(State::Away(error));
                Some(RETRY)
            }
        }
    }

    /// The keys, once the issuer's document was there.
    pub(super) fn keys(&self) -> Option<Arc<RemoteKeys>> {
        match &*self.state.borrow() {
            State::Ready(keys) => Some(Arc::clone(keys)),
            State::Away(_) => None,
        }
    }

    /// Why it cannot be used.
    pub(super) fn health(&self) -> Result<(), String> {
        match &*self.state.borrow() {
            State::Ready(_) => Ok(()),
            State::Away(error) => Err(error.clone()),
        }
    }

    pub(super) async fn ready(&self) {
        // The sender is this provider's own: it outlives the wait.
        let _ = self.state.subscribe().wait_for(|state| matches!(state, State::Ready(_))).await;
    }
}

/// Where an issuer's keys are, from its document.
pub(super) async fn discover(
    issuer: &str,
    document: Option<&str>,
    fetcher: &Arc<Fetcher>,
) -> Result<Arc<RemoteKeys>, String> {
    let url = document.map_or_else(|| format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')), str::to_owned);
    let Fetched { status, body, .. } = fetcher.get(&url, None).await?;
    if status != http::StatusCode::OK {
        return Err(format!("{status}: {}", shown(&body)));
    }
    let failed = |cause: String| format!("oidc: failed to decode provider discovery object: {cause}");
    let document: Value = serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
    let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
    if text("issuer") != issuer {
        return Err(format!(
            "oidc: issuer did not match the issuer returned by provider, expected {issuer:?} got {:?}",
            text("issuer")
        ));
    }
    Ok(Arc::new(RemoteKeys { url: text("jwks_uri"), fetcher: Arc::clone(fetcher), held: Mutex::default() }))
}

/// The beginning of a body, for a message.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned()
}

/// The keys of an issuer, which are fetched when a token is signed by none of those that are known.
pub(super) struct RemoteKeys {
    url: String,
    fetcher: Arc<Fetcher>,
    held: Mutex<Held>,
}

type Fetching = Shared<BoxFuture<'static, Result<Arc<Vec<Key>>, String>>>;

#[derive(Default)]
struct Held {
    keys: Arc<Vec<Key>>,
    /// Until when unknown ones are not looked for.
    expiry: Option<Instant>,
    fetched: Option<Instant>,
    /// The fetch that is under way: all who need it wait for the same.
    fetching: Option<Fetching>,
}

impl RemoteKeys {
    /// Whether a key of this name, or any if it is empty, made the signature.
    pub(super) async fn verify(
        self: &Arc<Self>,
        id: &str,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), String> {
        let good = |keys: &[Key]| {
            let mut named = keys.iter().filter(|key| id.is_empty() || key.id == id);
            named.any(|key| key.verifies(algorithm, message, signature))
        };
        let known = self.held.lock().keys.clone();
        // Old ones are good, too, while the issuer cannot be reached.
        if good(&known) {
            return Ok(());
        }
        let fetching = {
            let mut held = self.held.lock();
            if held.expiry.is_some_and(|expiry| Instant::now() + EXPIRY_DELTA <= expiry) {
                return Err("failed to verify id token signature".to_owned());
            }
            held.fetching.get_or_insert_with(|| self.clone().fetch()).clone()
        };
        let keys = fetching.await.map_err(|error| format!("fetching keys {error}"))?;
        if good(&keys) { Ok(()) } else { Err("failed to verify id token signature".to_owned()) }
    }

    /// On a task of its own: who asked first may go, and others wait.
    fn fetch(self: Arc<Self>) -> Fetching {
        let task = tokio::spawn(async move {
            let last = self.held.lock().fetched;
            if let Some(last) = last {
                tokio::time::sleep_until(last + FETCH_GAP).await;
            }
            let fetched = self.fetch_now().await;
            let mut held = self.held.lock();
            held.fetching = None;
            held.fetched = Some(Instant::now());
            fetched.map(|(keys, expiry)| {
                held.keys = Arc::new(keys);
                held.expiry = expiry;
                Arc::clone(&held.keys)
            })
        });
        let ended = async { task.await.unwrap_or_else(|_| Err("oidc: get keys failed".to_owned())) };
        let ended: BoxFuture<'static, _> = Box::pin(ended);
        ended.shared()
    }

    async fn fetch_now(&self) -> Result<(Vec<Key>, Option<Instant>), String> {
        let fetched = self.fetcher.get(&self.url, None).await.map_err(|e| format!("oidc: get keys failed {e}"))?;
        if fetched.status != http::StatusCode::OK {
            return Err(format!("oidc: get keys failed: {} {}", fetched.status, shown(&fetched.body)));
        }
        let keys = read_set(&fetched.body)?;
        Ok((keys, lifetime(&fetched.headers).map(|time| Instant::now() + time)))
    }
}

/// How long an answer may be kept; without a word of the issuer's, not at all.
fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let directives: Vec<&str> = text(CACHE_CONTROL)?.split(',').map(str::trim).collect();
    if directives.iter().any(|one| matches!(*one, "no-store" | "no-cache")) {
        return None;
    }
    let seconds = directives.iter().find_map(|one| one.strip_prefix("max-age=")?.trim_matches('"').parse::<u64>().ok());
    let age = text(AGE).and_then(|age| age.parse::<u64>().ok()).unwrap_or(0);
    seconds.map(|seconds| Duration::from_secs(seconds.saturating_sub(age).min(365 * 24 * 3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_live_as_long_as_they_say() {
        let check = |pairs: &[(&'static str, &'static str)], expect: Option<u64>| {
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(lifetime(&headers).map(|t| t.as_secs()), expect, "{pairs:?}");
        };
        check(&[], None);
        check(&[("cache-control", "public, max-age=300")], Some(300));
        check(&[("cache-control", "max-age=300"), ("age", "100")], Some(200));
        check(&[("cache-control", "max-age=300, no-store")], None);
        check(&[("cache-control", "max-age=99999999999999")], Some(365 * 24 * 3600));
        check(&[("cache-control", "max-age=nonsense")], None);
    }
}
