//! Tokens of issuers, judged by what the issuers publish over TLS.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use kybern_apimachinery::time::SystemClock;
use kybern_apiserver::access::UserInfo;
use kybern_auth::authn::oidc::{
    OidcAuthenticator, OidcAuthenticators, OidcMetrics, SIGNING_ALGORITHMS, configuration_of,
};
use kybern_auth::authn::{BearerTokens, TokenAuthenticator};
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    RsaKeyPair,
};
use serde_json::{Value, json};

/// Made for these tests, as ring makes none.
const RSA: &str = include_str!("rsa.pem");

enum Pair {
    Ec(EcdsaKeyPair, &'static str, &'static str),
    Rsa(RsaKeyPair),
}

/// A key of an issuer.
struct Key {
    id: &'static str,
    pair: Pair,
}

impl Key {
    fn ec(
        id: &'static str,
        algorithm: &'static EcdsaSigningAlgorithm,
        curve: &'static str,
        name: &'static str,
    ) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self { id, pair: Pair::Ec(pair, curve, name) }
    }

    fn p256(id: &'static str) -> Self {
        Self::ec(id, &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256")
    }

    fn rsa(id: &'static str) -> Self {
        let der: String = RSA.lines().filter(|line| !line.starts_with("---")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap();
        Self { id, pair: Pair::Rsa(RsaKeyPair::from_pkcs8(&der).unwrap()) }
    }

    fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Ec(pair, curve, _) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "use": "sig", "kid": self.id, "crv": curve, "x": b64(x), "y": b64(y)})
            }
            Pair::Rsa(pair) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
                json!({"kty": "RSA", "use": "sig", "kid": self.id, "n": b64(&n), "e": b64(&e)})
            }
        }
    }

    fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Ec(pair, ..) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    other => panic!("{other}"),
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        }
    }

    fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Ec(_, _, name) => name,
            Pair::Rsa(_) => "RS256",
        }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "kid": self.id}), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let b64 = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", b64(header), b64(claims));
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let signature = URL_SAFE_NO_PAD.encode(self.signature(algorithm, message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// What an issuer does.
#[derive(Default)]
struct State {
    url: OnceLock<String>,
    keys: Mutex<Vec<Value>>,
    fetches: AtomicUsize,
    away: AtomicBool,
    cache_control: Mutex<Option<String>>,
    /// What is answered at `/groups`, to who shows the token `let-me`.
    groups: Mutex<String>,
}

struct Idp {
    server: HttpsServer,
    ca: TestCa,
    state: Arc<State>,
}

impl Idp {
    async fn start(keys: &[&Key]) -> Self {
        let ca = TestCa::new("idp");
        Self::start_with(keys, ca).await
    }

    async fn start_with(keys: &[&Key], ca: TestCa) -> Self {
        let state = Arc::new(State::default());
        *state.keys.lock() = keys.iter().map(|key| key.jwk()).collect();
        let certificate = ca.issue(&["127.0.0.1"]);
        let shared = Arc::clone(&state);
        let server = HttpsServer::start(HttpsOptions::new(&certificate), move |request| {
            let state = Arc::clone(&shared);
            async move { answer(&state, &request) }
        })
        .await;
        state.url.set(server.url()).unwrap();
        Self { server, ca, state }
    }

    fn claims(&self, more: Value) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({"iss": self.server.url(), "aud": "me", "sub": "joe", "exp": now + 60, "iat": now});
        for (claim, value) in more.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        claims
    }

    fn jwt(&self) -> Value {
        json!({
            "issuer": {"url": self.server.url(), "audiences": ["me"], "certificateAuthority": self.ca.pem},
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "oidc:"},
                "groups": {"claim": "groups", "prefix": "oidc:"},
            },
        })
    }

    fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::Relaxed)
    }
}

fn answer(state: &State, request: &Request<Bytes>) -> Response<Bytes> {
    let response = |code: u16, body: String| Response::builder().status(code).body(Bytes::from(body)).unwrap();
    if state.away.load(Ordering::Relaxed) {
        return response(503, "away".to_owned());
    }
    let url = state.url.get().unwrap();
    match request.uri().path() {
        "/.well-known/openid-configuration" | "/elsewhere" => {
            response(200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string())
        }
        "/keys" => {
            state.fetches.fetch_add(1, Ordering::Relaxed);
            let mut answer = response(200, json!({"keys": *state.keys.lock()}).to_string());
            if let Some(value) = &*state.cache_control.lock() {
                answer.headers_mut().insert("cache-control", value.parse().unwrap());
            }
            answer
        }
        "/groups" if request.headers().get("authorization").is_some_and(|v| v == "Bearer let-me") => {
            response(200, state.groups.lock().clone())
        }
        "/groups" => response(401, String::new()),
        _ => response(404, String::new()),
    }
}

async fn authenticators(jwts: Vec<Value>) -> (Vec<Arc<OidcAuthenticator>>, BearerTokens) {
    let configuration = configuration_of(&json!({"jwt": jwts}), &[]).map_err(|e| panic!("{e}")).unwrap();
    let algorithms: Vec<String> = SIGNING_ALGORITHMS.iter().map(|one| (*one).to_owned()).collect();
    let make = |issuer| {
        Arc::new(OidcAuthenticator::start(
            issuer,
            algorithms.clone(),
            "test",
            Arc::new(SystemClock),
            Arc::new(OidcMetrics::default()),
        ))
    };
    let list: Vec<Arc<OidcAuthenticator>> = configuration.issuers.into_iter().map(make).collect();
    let judge: Arc<dyn TokenAuthenticator> = Arc::new(OidcAuthenticators::new(list.clone()));
    (list, BearerTokens::new(vec![judge], vec!["api".to_owned()]))
}

async fn ready(jwt: Value) -> BearerTokens {
    let (list, tokens) = authenticators(vec![jwt]).await;
    tokio::time::timeout(Duration::from_secs(20), list[0].ready()).await.expect("the issuer is there");
    tokens
}

async fn judge(tokens: &BearerTokens, token: &str) -> Result<UserInfo, String> {
    match tokens.judge(token, &[]).await? {
        Some((user, _)) => Ok(user),
        None => Err("nobody's".to_owned()),
    }
}

#[tokio::test]
async fn tokens_are_believed_by_every_algorithm() {
    let (p256, p384) = (Key::p256("a"), Key::ec("b", &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", "ES384"));
    let rsa = Key::rsa("c");
    let idp = Idp::start(&[&p256, &p384, &rsa]).await;
    let tokens = ready(idp.jwt()).await;
    let claims = idp.claims(json!({"jti": "7", "groups": ["x", "y"]}));
    let user = judge(&tokens, &p256.sign(&claims)).await.unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("oidc:joe", ""));
    assert_eq!(user.groups, ["oidc:x", "oidc:y", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=7"]);
    assert!(judge(&tokens, &p384.sign(&claims)).await.is_ok());
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let token = rsa.sign_as(&json!({"alg": algorithm, "kid": "c"}), &claims);
        assert_eq!(judge(&tokens, &token).await.unwrap().name, "oidc:joe", "{algorithm}");
        assert!(judge(&tokens, &rsa.sign_as(&json!({"alg": algorithm}), &claims)).await.is_ok(), "without a name");
    }
    assert_eq!(idp.fetches(), 1, "keys are kept");
}

#[tokio::test]
async fn attack_what_is_wrong_with_a_token_is_seen() {
    let (key, stranger, rsa) = (Key::p256("a"), Key::p256("a"), Key::rsa("c"));
    let idp = Idp::start(&[&key, &rsa]).await;
    *idp.state.cache_control.lock() = Some("max-age=3600".to_owned());
    let tokens = ready(idp.jwt()).await;
    let now = jiff::Timestamp::now().as_second();
    let good = idp.claims(json!({}));
    assert!(judge(&tokens, &key.sign(&good)).await.is_ok());
    let changed = |more: Value| key.sign(&idp.claims(more));
    let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = key.sign(&good);
    let parts: Vec<&str> = token.split('.').collect();
    let forged = b64(&idp.claims(json!({"sub": "admin"})).to_string());
    // The public key taken for a secret.
    let hmac = {
        let message = format!("{}.{forged}", b64(r#"{"alg":"HS256","kid":"c"}"#));
        let secret = rsa.jwk().to_string();
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&secret, message.as_bytes()));
        format!("{message}.{signature}")
    };
    let unsupported = "oidc: verify token: oidc: id token signed with unsupported algorithm";
    let unsigned = "failed to verify signature: failed to verify id token signature";
    let expired = "oidc: verify token: oidc: token is expired (Token Expiry: ";
    for (what, token, expect) in [
        ("none", format!("{}.{forged}.", b64(r#"{"alg":"none"}"#)), unsupported),
        ("none, signed", format!("{}.{forged}.{}", b64(r#"{"alg":"None"}"#), parts[2]), unsupported),
        ("no algorithm", format!("{}.{forged}.{}", b64("{}"), parts[2]), unsupported),
        ("a public key as a secret", hmac, unsupported),
        ("other claims", format!("{}.{forged}.{}", parts[0], parts[2]), unsigned),
        ("another's key of the same name", stranger.sign(&good), unsigned),
        ("an unknown name", key.sign_as(&json!({"alg": "ES256", "kid": "x"}), &good), unsigned),
        ("another key's name", key.sign_as(&json!({"alg": "ES256", "kid": "c"}), &good), unsigned),
        ("another algorithm", key.sign_as(&json!({"alg": "RS256x", "kid": "a"}), &good), unsupported),
        ("critical", key.sign_as(&json!({"alg": "ES256", "kid": "a", "crit": ["b64"]}), &good), "critical headers"),
        ("expired", changed(json!({"exp": now - 1})), expired),
        ("without an end", changed(json!({"exp": null})), expired),
        ("an end that is text", changed(json!({"exp": "2999-01-01"})), "failed to unmarshal claims: exp"),
        ("too early", changed(json!({"nbf": now + 120})), "before the nbf (not before) time"),
        ("another audience", changed(json!({"aud": "you"})), "oidc: expected audience \"me\" got [\"you\"]"),
        ("other audiences", changed(json!({"aud": ["you", "them"]})), "got [\"you\" \"them\"]"),
        ("no audience", changed(json!({"aud": null})), "oidc: expected audience \"me\" got []"),
        ("a strange audience", changed(json!({"aud": {"me": true}})), "failed to unmarshal claims: aud"),
        ("no name", changed(json!({"sub": 7})), "oidc: parse username claims \"sub\": json: cannot unmarshal number"),
        ("strange groups", changed(json!({"groups": {"a": 1}})), "oidc: parse groups claim \"groups\""),
        ("groups that are numbers", changed(json!({"groups": ["a", 1]})), "oidc: parse groups claim \"groups\""),
        ("another issuer", changed(json!({"iss": "https://other"})), "nobody's"),
        ("an issuer that is no text", changed(json!({"iss": [idp.server.url()]})), "nobody's"),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), unsigned),
        ("four parts", format!("{token}.x"), "nobody's"),
        ("no token", "abc".to_owned(), "nobody's"),
        ("white space", format!("{token} "), "malformed"),
        ("long", format!("{}.{}.{}", parts[0], parts[1], "A".repeat(70_000)), "the token is too long"),
    ] {
        let error = judge(&tokens, &token).await.expect_err(what);
        assert!(error.contains(expect), "{what}: {error}");
    }
    assert!(judge(&tokens, &changed(json!({"aud": ["you", "me"], "nbf": now + 30}))).await.is_ok());
    let one = judge(&tokens, &changed(json!({"groups": "x"}))).await.unwrap();
    assert_eq!(one.groups, ["oidc:x", "system:authenticated"], "one group need not be a list");
    assert_eq!(idp.fetches(), 1, "while keys are fresh, none is looked for");
}

#[tokio::test]
async fn addresses_must_be_verified() {
    let key = Key::p256("a");
    let idp = Idp::start(&[&key]).await;
    let mut jwt = idp.jwt();
    jwt["claimMappings"]["username"] = json!({"claim": "email", "prefix": ""});
    let tokens = ready(jwt).await;
    let of = async |more: Value| judge(&tokens, &key.sign(&idp.claims(more))).await.map(|user| user.name);
    let email = "joe@example.org";
    assert_eq!(of(json!({"email": email, "email_verified": true})).await, Ok(email.to_owned()));
    assert_eq!(of(json!({"email": email})).await, Ok(email.to_owned()), "the issuer says nothing of it");
    let unverified = Err("oidc: email not verified".to_owned());
    assert_eq!(of(json!({"email": email, "email_verified": false})).await, unverified);
    assert!(
        of(json!({"email": email, "email_verified": "true"})).await.unwrap_err().contains("parse 'email_verified'")
    );
    let absent = "oidc: parse username claims \"email\": claim not present";
    assert_eq!(of(json!({})).await, Err(absent.to_owned()));
}

#[tokio::test]
async fn expressions_make_the_user_and_rules_refuse_it() {
    let key = Key::p256("a");
    let idp = Idp::start(&[&key]).await;
    let mut jwt = idp.jwt();
    jwt["issuer"]["audiences"] = json!(["me", "us"]);
    jwt["issuer"]["audienceMatchPolicy"] = "MatchAny".into();
    jwt["claimMappings"] = json!({
        "username": {"expression": "claims.sub + ':' + string(claims.level)"},
        "groups": {"expression": "claims.roles.split(',')"},
        "uid": {"expression": "claims.oid"},
        "extra": [{"key": "example.org/tenant", "valueExpression": "claims.tenant"},
                  {"key": "example.org/none", "valueExpression": "''"}],
    });
    jwt["claimValidationRules"] = json!([
        {"claim": "hd", "requiredValue": "example.org"},
        {"expression": "claims.exp - claims.iat <= 3600", "message": "it lives too long"},
    ]);
    jwt["userValidationRules"] = json!([
        {"expression": "!user.username.startsWith('system:')", "message": "system names are not theirs"},
        {"expression": "user.groups.all(g, !g.startsWith('system:'))", "message": "nor system groups"},
    ]);
    let tokens = ready(jwt).await;
    let of = async |more: Value| {
        let mut claims = idp
            .claims(json!({"level": 3, "roles": "x,y", "oid": "u", "tenant": "t", "hd": "example.org", "aud": "us"}));
        more.as_object().unwrap().iter().for_each(|(claim, value)| claims[claim] = value.clone());
        judge(&tokens, &key.sign(&claims)).await
    };
    let user = of(json!({})).await.unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("joe:3", "u"));
    assert_eq!(user.groups, ["x", "y", "system:authenticated"]);
    assert_eq!(user.extra.len(), 1);
    assert_eq!(user.extra["example.org/tenant"], ["t"]);
    let now = jiff::Timestamp::now().as_second();
    for (more, expect) in [
        (json!({"hd": "evil.org"}), "oidc: required claim hd value does not match. Got = evil.org, want = example.org"),
        (json!({"exp": now + 90_000}), "claims.exp - claims.iat <= 3600' failed: it lives too long"),
        (json!({"sub": "system:admin"}), "failed: system names are not theirs"),
        (json!({"roles": "x,system:masters"}), "failed: nor system groups"),
        (json!({"oid": 7}), "oidc: error evaluating uid claim expression: uid claim expression must return a string"),
        (
            json!({"tenant": [1]}),
            "oidc: error evaluating extra claim expression: claims.tenant: expression must return",
        ),
        (json!({"aud": "other"}), "oidc: expected audience in [\"me\" \"us\"] got [\"other\"]"),
    ] {
        let error = of(more).await.unwrap_err();
        assert!(error.contains(expect), "{error}");
    }
}

#[tokio::test]
async fn keys_change_and_are_fetched_once_for_all() {
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    let idp = Idp::start(&[&old]).await;
    let tokens = ready(idp.jwt()).await;
    let claims = idp.claims(json!({}));
    let (old_token, new_token) = (old.sign(&claims), new.sign(&claims));
    assert!(judge(&tokens, &old_token).await.is_ok());
    assert!(judge(&tokens, &new_token).await.is_err());
    *idp.state.keys.lock() = vec![old.jwk(), new.jwk()];
    let before = idp.fetches();
    let all = futures_util::future::join_all((0..50).map(|_| judge(&tokens, &new_token))).await;
    assert!(all.iter().all(Result::is_ok), "{:?}", all[0]);
    assert_eq!(idp.fetches(), before + 1, "all wait for one fetch");
    // The issuer is away: what is known stays good, and what is not is an error.
    idp.state.away.store(true, Ordering::Relaxed);
    assert!(judge(&tokens, &old_token).await.is_ok() && judge(&tokens, &new_token).await.is_ok());
    let error = judge(&tokens, &Key::p256("third").sign(&claims)).await.unwrap_err();
    assert!(error.contains("fetching keys oidc: get keys failed: 503"), "{error}");
    // One that is gone is no good any more, once the others were fetched.
    idp.state.away.store(false, Ordering::Relaxed);
    *idp.state.keys.lock() = vec![new.jwk()];
    assert!(judge(&tokens, &Key::p256("third").sign(&claims)).await.is_err());
    assert!(judge(&tokens, &old_token).await.is_err());
    assert!(judge(&tokens, &new_token).await.is_ok());
}

#[tokio::test]
async fn attack_unknown_keys_make_no_flood_of_fetches() {
    let key = Key::p256("a");
    let idp = Idp::start(&[&key]).await;
    let tokens = ready(idp.jwt()).await;
    let good = key.sign(&idp.claims(json!({})));
    assert!(judge(&tokens, &good).await.is_ok());
    let started = Instant::now();
    let before = idp.fetches();
    let stranger = Key::p256("b");
    let bad = stranger.sign(&idp.claims(json!({})));
    let flood = futures_util::future::join_all((0..10).map(|_| async {
        while started.elapsed() < Duration::from_millis(2500) {
            assert!(judge(&tokens, &bad).await.is_err());
        }
    }));
    let others = async {
        while started.elapsed() < Duration::from_millis(2000) {
            let asked = Instant::now();
            assert!(judge(&tokens, &good).await.is_ok());
            assert!(asked.elapsed() < Duration::from_millis(800), "good tokens do not wait: {:?}", asked.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(flood, others);
    let fetched = idp.fetches() - before;
    let bound = started.elapsed().as_secs() as usize + 2;
    assert!(fetched <= bound, "{fetched} fetches in {:?}", started.elapsed());
}

#[tokio::test]
async fn an_issuer_that_is_away_keeps_no_others_waiting_and_counts_once_it_is_there() {
    let (here, away) = (Key::p256("a"), Key::p256("a"));
    let (there, gone) = (Idp::start(&[&here]).await, Idp::start(&[&away]).await);
    gone.state.away.store(true, Ordering::Relaxed);
    let (list, tokens) = authenticators(vec![gone.jwt(), there.jwt()]).await;
    list[1].ready().await;
    let started = Instant::now();
    assert!(judge(&tokens, &here.sign(&there.claims(json!({})))).await.is_ok());
    let token = away.sign(&gone.claims(json!({})));
    assert_eq!(judge(&tokens, &token).await, Err("oidc: authenticator not initialized".to_owned()));
    assert!(started.elapsed() < Duration::from_secs(5), "nobody waits");
    // By the key of the other issuer, too.
    let confused = here.sign(&gone.claims(json!({})));
    assert!(judge(&tokens, &confused).await.is_err());
    let health = list[0].health().unwrap_err();
    assert!(health.contains("is not healthy: ") && health.contains("503"), "{health}");
    gone.state.away.store(false, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(30), list[0].ready()).await.expect("it is tried again");
    assert!(judge(&tokens, &token).await.is_ok());
    assert!(judge(&tokens, &confused).await.unwrap_err().contains("failed to verify id token signature"));
}

#[tokio::test]
async fn a_document_elsewhere_and_one_of_another_issuer() {
    let key = Key::p256("a");
    let (idp, other) = (Idp::start(&[&key]).await, Idp::start(&[&key]).await);
    // As issuers that cannot be reached by their name are.
    let mut jwt = idp.jwt();
    jwt["issuer"]["discoveryURL"] = format!("{}/elsewhere", idp.server.url()).into();
    assert!(judge(&ready(jwt).await, &key.sign(&idp.claims(json!({})))).await.is_ok());
    let mut jwt = idp.jwt();
    jwt["issuer"]["discoveryURL"] = format!("{}/elsewhere", other.server.url()).into();
    jwt["issuer"]["certificateAuthority"] = other.ca.pem.clone().into();
    let (list, tokens) = authenticators(vec![jwt]).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if list[0].health().unwrap_err().contains("did not match") {
            break;
        }
    }
    let health = list[0].health().unwrap_err();
    assert!(health.contains("oidc: issuer did not match the issuer returned by provider, expected"), "{health}");
    assert!(judge(&tokens, &key.sign(&idp.claims(json!({})))).await.is_err());
    // An authority of somebody else's.
    let mut jwt = idp.jwt();
    jwt["issuer"]["certificateAuthority"] = other.ca.pem.clone().into();
    let (list, _) = authenticators(vec![jwt]).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if list[0].health().unwrap_err().contains("certificate") {
            return;
        }
    }
    panic!("{}", list[0].health().unwrap_err());
}

#[tokio::test]
async fn groups_may_be_elsewhere() {
    let (key, theirs) = (Key::p256("a"), Key::p256("b"));
    let ca = TestCa::new("idp");
    let idp = Idp::start_with(&[&key], ca).await;
    let tokens = ready(idp.jwt()).await;
    let token = |source: Value| {
        key.sign(&idp.claims(json!({"_claim_names": {"groups": "src"}, "_claim_sources": {"src": source}})))
    };
    let endpoint = format!("{}/groups", idp.server.url());
    let good = token(json!({"endpoint": endpoint, "access_token": "let-me"}));
    *idp.state.groups.lock() = key.sign(&idp.claims(json!({"groups": ["far", "away"]})));
    let user = judge(&tokens, &good).await.unwrap();
    assert_eq!(user.groups, ["oidc:far", "oidc:away", "system:authenticated"]);
    let failed = "oidc: could not expand distributed claims: ";
    for (what, answer, token, expect) in [
        (
            "no access",
            String::new(),
            token(json!({"endpoint": endpoint})),
            "error while getting distributed claim JWT: 401",
        ),
        ("no token", "nonsense".to_owned(), good.clone(), "getting untrusted issuer from endpoint"),
        (
            "by another",
            theirs.sign(&idp.claims(json!({"groups": ["x"]}))),
            good.clone(),
            "verify distributed claim token",
        ),
        ("expired", key.sign(&idp.claims(json!({"groups": ["x"], "exp": 1}))), good.clone(), "token is expired"),
        (
            "for another",
            key.sign(&idp.claims(json!({"groups": ["x"], "aud": "you"}))),
            good.clone(),
            "expected audience",
        ),
        ("without the claim", key.sign(&idp.claims(json!({}))), good.clone(), "did not contain claim: groups"),
        (
            "of an issuer that is nowhere",
            key.sign(&json!({"iss": "https://127.0.0.1:1", "groups": ["x"]})),
            good.clone(),
            "verifying untrusted issuer https://127.0.0.1:1 failed",
        ),
        (
            "no source",
            String::new(),
            key.sign(&idp.claims(json!({"_claim_names": {"groups": "src"}, "_claim_sources": {}}))),
            "contained a source src missing in _claims_sources",
        ),
        (
            "not over TLS",
            String::new(),
            token(json!({"endpoint": "http://127.0.0.1:1/groups"})),
            "its scheme is not https",
        ),
    ] {
        *idp.state.groups.lock() = answer;
        let error = judge(&tokens, &token).await.expect_err(what);
        assert!(error.starts_with(failed) && error.contains(expect), "{what}: {error}");
    }
    // What the token says itself counts.
    let both =
        idp.claims(json!({"groups": ["here"], "_claim_names": {"groups": "src"}, "_claim_sources": {"src": {}}}));
    assert_eq!(judge(&tokens, &key.sign(&both)).await.unwrap().groups, ["oidc:here", "system:authenticated"]);
}
