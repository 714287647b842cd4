//! A signer that others run (`--service-account-signing-endpoint`): it signs tokens on its socket and says which keys
//! verify them (`k8s.io/externaljwt`, version 1).

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use kybern_component_base::grpc::{self, Status, UnixServer};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use self::metrics::Metrics;
use super::issuer::{KeySet, VerifyingKey};
use super::keys::PublicKey;

mod metrics;

/// How long the signer may take for its keys; a token is somebody's who waits.
const FETCH_PATIENCE: Duration = Duration::from_secs(60);
const SIGN_PATIENCE: Duration = Duration::from_secs(30);
const METADATA_PATIENCE: Duration = Duration::from_secs(10);
/// Until it is asked again where it gave no keys.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// A year: clocks end somewhere.
const LONGEST_HINT: u64 = 365 * 24 * 3600;
/// Between two attempts to reach it.
const REDIAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Upstream's bounds.
const MAX_KEY_ID: usize = 1024;
const MIN_TOKEN_SECONDS: i64 = 600;

#[derive(Clone, PartialEq, Message)]
struct SignRequest {
    #[prost(string, tag = "1")]
    claims: String,
}

#[derive(Clone, PartialEq, Message)]
struct SignResponse {
    #[prost(string, tag = "1")]
    header: String,
    #[prost(string, tag = "2")]
    signature: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct FetchKeysResponse {
    #[prost(message, repeated, tag = "1")]
    keys: Vec<Key>,
    #[prost(message, optional, tag = "2")]
    data_timestamp: Option<Time>,
    #[prost(int64, tag = "3")]
    refresh_hint_seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Key {
    #[prost(string, tag = "1")]
    key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bool, tag = "3")]
    exclude_from_oidc_discovery: bool,
}

#[derive(Clone, PartialEq, Message)]
struct MetadataResponse {
    #[prost(int64, tag = "1")]
    max_token_expiration_seconds: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(default)]
    alg: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    typ: String,
}

type Fetching = Shared<BoxFuture<'static, Result<(), String>>>;

/// See the module.
pub struct ExternalSigner {
    server: UnixServer,
    issuer: String,
    jwks_uri: String,
    keys: ArcSwap<KeySet>,
    /// Until when the keys are as good as new.
    next: Mutex<Instant>,
    /// All that want keys wait for the same answer.
    fetching: Mutex<Option<Fetching>>,
    max_token_seconds: OnceLock<i64>,
    metrics: Metrics,
}

impl ExternalSigner {
    /// Asks for its keys and bounds, and keeps the keys fresh from now on.
    pub async fn start(socket: PathBuf, issuer: &str, jwks_uri: &str) -> Result<Arc<Self>, String> {
        let signer = Arc::new(Self {
            server: UnixServer::new(socket),
            issuer: issuer.to_owned(),
            jwks_uri: jwks_uri.to_owned(),
            keys: ArcSwap::from_pointee(KeySet::new(issuer, jwks_uri, Vec::new())),
            next: Mutex::new(Instant::now()),
            fetching: Mutex::default(),
            max_token_seconds: OnceLock::new(),
            metrics: Metrics::default(),
        });
        let doing = "while setting up external-jwt-signer";
        let filled = signer.fetch().await;
        filled.map_err(|e| {
            format!("{doing}: while initially filling key cache: while performing initial cache fill: {e}")
        })?;
        let metadata = signer.call("Metadata", Empty {}, METADATA_PATIENCE).await;
        let metadata: MetadataResponse = metadata.map_err(|e| format!("{doing}: {}", grpc::text(&e)))?;
        let seconds = metadata.max_token_expiration_seconds;
        if seconds < MIN_TOKEN_SECONDS {
            return Err(format!(
                "max token life supported by external-jwt-signer ({seconds}s) is less than acceptable (min {MIN_TOKEN_SECONDS}s)"
            ));
        }
        let _ = signer.max_token_seconds.set(seconds);
        tokio::spawn(Arc::clone(&signer).keep_fresh());
        Ok(signer)
    }

    /// The longest life of a token that it signs.
    pub fn max_token_seconds(&self) -> i64 {
        self.max_token_seconds.get().copied().unwrap_or(MIN_TOKEN_SECONDS)
    }

    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    pub(super) fn fresh_for(&self) -> Duration {
        self.next.lock().saturating_duration_since(Instant::now())
    }

    /// Waits for it to be there, within bounds.
    async fn call<I, O>(&self, method: &'static str, message: I, patience: Duration) -> Result<O, Status>
    where
        I: Message + Clone + 'static,
        O: Message + Default + 'static,
    {
        let path = match method {
            "Sign" => "/v1.ExternalJWTSigner/Sign",
            "FetchKeys" => "/v1.ExternalJWTSigner/FetchKeys",
            _ => "/v1.ExternalJWTSigner/Metadata",
        };
        let (began, failed) = (Instant::now(), Mutex::new(String::new()));
        let called = tokio::time::timeout(patience, async {
            let mut pause = REDIAL.0;
            loop {
                match self.server.connection().await {
                    Ok(connection) => match connection.unary(path, message.clone()).await {
                        // It went away meanwhile.
                        Err(status) if connection.is_closed() => status.message().clone_into(&mut failed.lock()),
                        answer => return answer,
                    },
                    Err(error) => *failed.lock() = error,
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(REDIAL.1);
            }
        });
        let answer = called.await.unwrap_or_else(|_| {
            let (path, cause) = (self.server.path().display(), failed.lock());
            Err(Status::deadline_exceeded(match cause.as_str() {
                "" => "context deadline exceeded".to_owned(),
                cause => format!(
                    "latest balancer error: connection error: desc = \"transport: Error while dialing: dial unix {path}: connect: {cause}\""
                ),
            }))
        });
        self.metrics.called(method, answer.as_ref().err(), began.elapsed());
        answer
    }

    /// A token of the claims.
    pub(super) async fn sign(self: &Arc<Self>, claims: &Value) -> Result<String, String> {
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        let answer = self.call("Sign", SignRequest { claims: claims.clone() }, SIGN_PATIENCE).await;
        let code = answer.as_ref().err().map(Status::code);
        let signed = match answer {
            Ok(answer) => self.check(&answer).await.map(|()| answer),
            Err(status) => Err(format!("while signing jwt: {}", grpc::text(&status))),
        };
        self.metrics.signed(signed.as_ref().err().map(|_| code));
        let SignResponse { header, signature } = signed?;
        Ok(format!("{header}.{claims}.{signature}"))
    }

    async fn check(self: &Arc<Self>, answer: &SignResponse) -> Result<(), String> {
        let wrong = |cause: String| format!("while validating header: {cause}");
        let header = URL_SAFE_NO_PAD.decode(&answer.header);
        let header = header.map_err(|e| wrong(format!("while unwrapping header: {e}")))?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|e| wrong(format!("while parsing header JSON: {e}")))?;
        if header.typ != "JWT" {
            return Err(wrong("bad type".to_owned()));
        }
        if header.kid.is_empty() {
            return Err(wrong("key id missing".to_owned()));
        }
        if header.kid.len() > MAX_KEY_ID {
            return Err(wrong("key id longer than 1 kb".to_owned()));
        }
        if !matches!(header.alg.as_str(), "RS256" | "ES256" | "ES384" | "ES512") {
            return Err(wrong(format!("bad signing algorithm {:?}", header.alg)));
        }
        self.look_for(&header.kid).await;
        if self.keys().keys.iter().any(|key| key.id == header.kid && key.hidden) {
            let kid = &header.kid;
            return Err(wrong(format!("key used for signing JWT (kid: {kid}) is excluded from OIDC discovery docs")));
        }
        if answer.signature.is_empty() {
            return Err("empty signature returned".to_owned());
        }
        Ok(())
    }

    /// Fetches the keys if this one is not among them.
    pub(super) async fn look_for(self: &Arc<Self>, id: &str) {
        if self.keys().keys.iter().any(|key| key.id == id) {
            return;
        }
        if let Err(error) = self.fetch().await {
            tracing::error!(%error, "the keys of service accounts' tokens stay as they are");
        }
    }

    /// Fetches the keys. Whoever asks meanwhile gets the same answer.
    async fn fetch(self: &Arc<Self>) -> Result<(), String> {
        let fetching = {
            let mut slot = self.fetching.lock();
            match slot.as_ref().filter(|fetching| fetching.peek().is_none()) {
                Some(fetching) => fetching.clone(),
                None => {
                    // A task of its own: those who wait may go.
                    let task = tokio::spawn(Arc::clone(self).fetched());
                    let end = async move { task.await.unwrap_or_else(|error| Err(error.to_string())) };
                    slot.insert(end.boxed().shared()).clone()
                }
            }
        };
        fetching.await
    }

    async fn fetched(self: Arc<Self>) -> Result<(), String> {
        let answer = self.call("FetchKeys", Empty {}, FETCH_PATIENCE).await;
        let code = answer.as_ref().err().map(Status::code);
        let read = match &answer {
            Ok(answer) => read_keys(answer),
            Err(status) => Err(format!("while getting externally supported jwt signing keys: {}", grpc::text(status))),
        };
        self.metrics.fetched(read.as_ref().err().map(|_| code), answer.as_ref().ok().and_then(timestamp));
        let keys = read.map_err(|cause| format!("while fetching token verification keys: {cause}"))?;
        let hint = answer.map_or(0, |answer| answer.refresh_hint_seconds.unsigned_abs());
        let old = self.keys.load_full();
        if old.keys != keys {
            self.keys.store(Arc::new(KeySet::new(&self.issuer, &self.jwks_uri, keys)));
        }
        *self.next.lock() = Instant::now() + Duration::from_secs(hint.min(LONGEST_HINT));
        Ok(())
    }

    async fn keep_fresh(self: Arc<Self>) {
        loop {
            let next = *self.next.lock();
            tokio::time::sleep_until(next).await;
            // Somebody may have asked meanwhile.
            if *self.next.lock() > Instant::now() {
                continue;
            }
            if let Err(error) = self.fetch().await {
                tracing::error!(%error, "the keys of service accounts' tokens stay as they are");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

fn timestamp(answer: &FetchKeysResponse) -> Option<f64> {
    answer.data_timestamp.as_ref().map(|time| time.seconds as f64 + f64::from(time.nanos) / 1e9)
}

fn read_keys(answer: &FetchKeysResponse) -> Result<Vec<VerifyingKey>, String> {
    if answer.refresh_hint_seconds <= 0 {
        return Err(format!("found invalid refresh hint ({}s)", answer.refresh_hint_seconds));
    }
    if answer.keys.is_empty() {
        return Err("found no keys".to_owned());
    }
    let time = answer.data_timestamp.as_ref().ok_or("invalid data timestamp: proto: invalid nil Timestamp")?;
    // Between the years 1 and 9999.
    if !(-62_135_596_800..=253_402_300_799).contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return Err(format!(
            "invalid data timestamp: proto: timestamp (seconds:{} nanos:{}) out of range",
            time.seconds, time.nanos
        ));
    }
    let read = |key: &Key| {
        if key.key_id.is_empty() || key.key_id.len() > MAX_KEY_ID {
            return Err(format!("found invalid public key id {:?}", key.key_id));
        }
        if key.key.is_empty() {
            return Err("found empty public key".to_owned());
        }
        let public = PublicKey::from_spki(&key.key);
        let public = public.map_err(|cause| format!("while parsing external public keys: {cause}"))?;
        Ok(VerifyingKey { id: key.key_id.clone(), key: public, hidden: key.exclude_from_oidc_discovery })
    };
    answer.keys.iter().map(read).collect()
}

#[cfg(test)]
#[path = "external/tests.rs"]
mod tests;
