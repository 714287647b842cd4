//! A signer on its socket that is well, away, wrong, or changes its keys.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kybern_testbed::{GrpcAnswer, serve_grpc};
use serde_json::json;

use super::*;
use crate::token::{Issuer, SigningKey, TokenSpec};

struct Keeper {
    /// Id, key, whether it is hidden; the first signs.
    keys: Mutex<Vec<(String, SigningKey, bool)>>,
    header: Mutex<Option<Value>>,
    hint: i64,
    fetches: AtomicUsize,
}

fn key() -> SigningKey {
    SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
}

impl Keeper {
    fn start(socket: &Path, hint: i64) -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let keys = Mutex::new(vec![("one".to_owned(), key(), false)]);
        let keeper = Arc::new(Self { keys, header: Mutex::default(), hint, fetches: 0.into() });
        let own = keeper.clone();
        (keeper, serve_grpc(socket, move |path, body| own.answer(path, &body)))
    }

    fn answer(&self, path: &str, body: &[u8]) -> GrpcAnswer {
        let keys = self.keys.lock();
        match path {
            "/v1.ExternalJWTSigner/Metadata" => {
                Ok(MetadataResponse { max_token_expiration_seconds: 7200 }.encode_to_vec())
            }
            "/v1.ExternalJWTSigner/FetchKeys" => {
                self.fetches.fetch_add(1, Ordering::Relaxed);
                let keys = keys.iter().map(|(id, key, hidden)| Key {
                    key_id: id.clone(),
                    key: key.public_key().spki_der(),
                    exclude_from_oidc_discovery: *hidden,
                });
                let answer = FetchKeysResponse {
                    keys: keys.collect(),
                    data_timestamp: Some(Time { seconds: 1_700_000_000, nanos: 0 }),
                    refresh_hint_seconds: self.hint,
                };
                Ok(answer.encode_to_vec())
            }
            _ => {
                let claims = SignRequest::decode(body).unwrap().claims;
                let Some((id, key, _)) = keys.first() else { return Err((13, "no key")) };
                let usual = json!({"alg": "ES256", "kid": id, "typ": "JWT"});
                let header = URL_SAFE_NO_PAD.encode(self.header.lock().clone().unwrap_or(usual).to_string());
                let signature = key.sign(format!("{header}.{claims}").as_bytes()).unwrap();
                Ok(SignResponse { header, signature: URL_SAFE_NO_PAD.encode(signature) }.encode_to_vec())
            }
        }
    }
}

fn spec() -> TokenSpec<'static> {
    TokenSpec {
        namespace: "ns",
        service_account: "sa",
        service_account_uid: "u",
        bound: None,
        node: None,
        audiences: Vec::new(),
        seconds: 3600,
        warn_after: None,
    }
}

fn now() -> jiff::Timestamp {
    "2026-11-20T00:00:00Z".parse().unwrap()
}

async fn issuer(socket: &Path) -> (Issuer, Arc<ExternalSigner>) {
    let signer = ExternalSigner::start(socket.to_owned(), "https://me", "").await.unwrap();
    (Issuer::of_signer(vec!["https://me".to_owned()], Vec::new(), signer.clone()), signer)
}

async fn issue(issuer: &Issuer) -> Result<String, String> {
    issuer.issue(&spec(), "id", now()).await.map_err(|e| e.to_string())
}

#[tokio::test]
async fn tokens_are_signed_elsewhere_and_keys_follow() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("jwt.sock");
    let (keeper, task) = Keeper::start(&socket, 3600);
    let (issuer, signer) = issuer(&socket).await;
    assert_eq!(signer.max_token_seconds(), 7200);
    let first = issue(&issuer).await.unwrap();
    assert_eq!(issuer.verify(&first, &[], now()).unwrap().service_account, "sa");

    // Another key signs; the first verifies only, and is published no more.
    let mut keys = std::mem::take(&mut *keeper.keys.lock());
    keys[0].2 = true;
    keys.insert(0, ("two".to_owned(), key(), false));
    *keeper.keys.lock() = keys;
    let fetches = || keeper.fetches.load(Ordering::Relaxed);
    assert_eq!(fetches(), 1);
    let second = issue(&issuer).await.unwrap();
    assert_eq!(fetches(), 2, "its key was not known");
    for token in [&first, &second] {
        assert!(issuer.verify(token, &[], now()).is_ok());
    }
    let (documents, fresh) = issuer.discovery();
    let text = String::from_utf8(documents.jwks).unwrap();
    assert!(text.contains("\"two\"") && !text.contains("\"one\""), "{text}");
    assert!((3590..=3600).contains(&fresh.as_secs()), "{fresh:?}");
    issuer.refresh_for(&second).await;
    assert_eq!(fetches(), 2, "a known key is not looked for");
    // Many who show unknown keys at once wait for one answer.
    let forged = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"none"}"#), "e30.x");
    futures_util::future::join_all((0..50).map(|_| issuer.refresh_for(&forged))).await;
    assert!(fetches() <= 4, "{}", fetches());
    assert!(issuer.verify(&forged, &[], now()).is_err());

    // It is away: what is known is still verified, and nobody is told that another key is good.
    task.abort();
    let _ = task.await;
    std::fs::remove_file(&socket).unwrap();
    tokio::time::pause();
    let refused = issue(&issuer).await.unwrap_err();
    assert!(
        refused.starts_with("while signing jwt: rpc error: code = DeadlineExceeded desc = latest balancer"),
        "{refused}"
    );
    assert!(issuer.verify(&first, &[], now()).is_ok());
    let mut registry = Registry::default();
    signer.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "apiserver_externaljwt_sign_request_total{code=\"OK\"} 2",
        "apiserver_externaljwt_sign_request_total{code=\"DeadlineExceeded\"} 1",
        "apiserver_externaljwt_fetch_keys_data_timestamp 1700000000.0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    // It comes back.
    tokio::time::resume();
    let (keeper, _task) = Keeper::start(&socket, 3600);
    keeper.keys.lock()[0].0 = "three".to_owned();
    let third = issue(&issuer).await.unwrap();
    assert!(issuer.verify(&third, &[], now()).is_ok());
    assert_eq!(issuer.verify(&first, &[], now()).unwrap_err().to_string(), "invalid signature", "its key is gone");
    drop(keeper);
}

#[tokio::test]
async fn keys_are_fetched_again_when_the_signer_says() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("jwt.sock");
    let (keeper, _task) = Keeper::start(&socket, 1);
    let (issuer, _signer) = issuer(&socket).await;
    let token = issue(&issuer).await.unwrap();
    *keeper.keys.lock() = vec![("new".to_owned(), key(), false)];
    for _ in 0..100 {
        if issuer.verify(&token, &[], now()).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("a key that was withdrawn is still good");
}

#[tokio::test]
async fn what_a_signer_may_not_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("jwt.sock");
    let (keeper, _task) = Keeper::start(&socket, 3600);
    let (issuer, _signer) = issuer(&socket).await;
    for (header, expect) in [
        (json!({"alg": "ES256", "kid": "one"}), "while validating header: bad type"),
        (json!({"alg": "ES256", "typ": "JWT"}), "while validating header: key id missing"),
        (
            json!({"alg": "ES256", "typ": "JWT", "kid": "k".repeat(1025)}),
            "while validating header: key id longer than 1 kb",
        ),
        (json!({"alg": "none", "typ": "JWT", "kid": "one"}), "while validating header: bad signing algorithm \"none\""),
        (
            json!({"alg": "ES256", "typ": "JWT", "kid": "one", "jku": "x"}),
            "while validating header: while parsing header JSON",
        ),
    ] {
        *keeper.header.lock() = Some(header);
        let refused = issue(&issuer).await.unwrap_err();
        assert!(refused.starts_with(expect), "{refused}");
    }
    *keeper.header.lock() = None;
    keeper.keys.lock().insert(0, ("hidden".to_owned(), key(), true));
    let refused = issue(&issuer).await.unwrap_err();
    assert!(
        refused.ends_with("key used for signing JWT (kid: hidden) is excluded from OIDC discovery docs"),
        "{refused}"
    );
    keeper.keys.lock().clear();
    assert_eq!(issue(&issuer).await.unwrap_err(), "while signing jwt: rpc error: code = Internal desc = no key");

    let table = |change: &dyn Fn(&mut FetchKeysResponse)| {
        let mut answer = FetchKeysResponse {
            keys: vec![Key { key_id: "a".into(), key: key().public_key().spki_der(), ..Default::default() }],
            data_timestamp: Some(Time::default()),
            refresh_hint_seconds: 60,
        };
        change(&mut answer);
        read_keys(&answer).map(|keys| keys.len())
    };
    assert_eq!(table(&|_| ()), Ok(1));
    let refused = |expect: &str, change: &dyn Fn(&mut FetchKeysResponse)| {
        let error = table(change).unwrap_err();
        assert!(error.starts_with(expect), "{error}");
    };
    refused("found invalid refresh hint (0s)", &|a| a.refresh_hint_seconds = 0);
    refused("found no keys", &|a| a.keys.clear());
    refused("invalid data timestamp", &|a| a.data_timestamp = None);
    refused("found invalid public key id \"\"", &|a| a.keys[0].key_id.clear());
    refused("found empty public key", &|a| a.keys[0].key.clear());
    refused("while parsing external public keys: ", &|a| a.keys[0].key = vec![1, 2, 3]);

    // One that is not there when the server starts.
    tokio::time::pause();
    let away = ExternalSigner::start(folder.path().join("none"), "https://me", "").await.err().unwrap();
    assert!(away.starts_with("while setting up external-jwt-signer: while initially filling key cache: "), "{away}");
    assert!(away.contains("/none"), "{away}");
}
