//! Webhooks that say who somebody is and what he may: good ones, bad ones, and those that are away.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use kybern_apiserver::access::{Attributes, Authorizer, Decision, UserInfo};
use kybern_auth::authn::{BearerTokens, TokenAuthenticator, TokenWebhook, TokenWebhookSettings};
use kybern_auth::authz::{AccessConditions, AccessWebhook, AccessWebhookSettings};
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa};
use kybern_webhook::{Backoff, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};

const QUICK: Backoff = Backoff { initial: Duration::from_millis(5), factor: 1.5, jitter: 0.2, steps: 5 };

/// A webhook, and what it was asked.
struct Hook {
    server: HttpsServer,
    client: Option<Client>,
    asked: Arc<Mutex<Vec<Value>>>,
    _directory: tempfile::TempDir,
}

impl Hook {
    fn asked(&self) -> usize {
        self.asked.lock().len()
    }

    fn client(&mut self) -> Client {
        self.client.take().unwrap()
    }
}

/// Answers each question as `answer` does: a code and a body.
async fn hook(answer: impl Fn(&Value) -> (u16, Value) + Send + Sync + 'static) -> Hook {
    let ca = TestCa::new("hooks");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let server = HttpsServer::start(HttpsOptions::new(&ca.issue(&["127.0.0.1"])), move |request: Request<Bytes>| {
        let question: Value = serde_json::from_slice(request.body()).unwrap();
        let (code, body) = answer(&question);
        heard.lock().push(question);
        let body = if let Value::String(text) = body { text } else { body.to_string() };
        let response = Response::builder().status(code).body(Bytes::from(body)).unwrap();
        async move {
            if code == 299 {
                std::future::pending::<()>().await;
            }
            response
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), &ca.pem).unwrap();
    let config = directory.path().join("config");
    let text = format!(
        "{{kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: s, user: ''}}}}], \
         clusters: [{{name: s, cluster: {{server: '{}/review', certificate-authority: ca.pem}}}}]}}",
        server.url()
    );
    std::fs::write(&config, text).unwrap();
    let client = Some(Client::from_kubeconfig(&config, "test").unwrap());
    Hook { server, client, asked, _directory: directory }
}

fn tokens(hook: &mut Hook, v1: bool, ttl: u64) -> TokenWebhook {
    TokenWebhook::new(hook.client(), TokenWebhookSettings { v1, ttl: Duration::from_secs(ttl), backoff: QUICK })
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn review(status: Value) -> (u16, Value) {
    (200, json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}))
}

#[tokio::test]
async fn a_token_is_judged_and_the_answer_kept() {
    let mut hook = hook(|question| {
        let good = question["spec"]["token"] == "good";
        let user = json!({"username": "joe", "uid": "7", "groups": ["dev"], "extra": {"a/b": ["c"]}});
        review(if good { json!({"authenticated": true, "user": user}) } else { json!({"authenticated": false}) })
    })
    .await;
    let tokens = Arc::new(tokens(&mut hook, true, 60));
    let bearer = BearerTokens::new(vec![tokens.clone()], strings(&["api"]));
    for _ in 0..3 {
        let (user, audiences) = bearer.judge("good", &[]).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str(), &user.groups[..]), ("joe", "7", &strings(&["dev"])[..]));
        assert_eq!((&user.extra["a/b"], audiences), (&strings(&["c"]), strings(&["api"])));
        assert_eq!(bearer.judge("bad", &[]).await, Ok(None));
    }
    assert_eq!(hook.asked(), 2, "answers are kept, bad ones too");
    let asked = hook.asked.lock()[0].clone();
    assert_eq!(
        (&asked["kind"], &asked["apiVersion"], &asked["spec"]),
        (&json!("TokenReview"), &json!("authentication.k8s.io/v1"), &json!({"token": "good", "audiences": ["api"]}))
    );
    // It knows no audiences, hence its tokens are good for the server alone.
    assert_eq!(bearer.judge("good", &strings(&["vault"])).await, Ok(None));
    assert!(bearer.judge(&"x".repeat(100_000), &[]).await.unwrap_err().contains("too long"));
}

#[tokio::test]
async fn audiences_are_the_webhooks_word() {
    let mut hook =
        hook(|_| review(json!({"authenticated": true, "user": {"username": "joe"}, "audiences": ["vault", "other"]})))
            .await;
    let bearer = BearerTokens::new(vec![Arc::new(tokens(&mut hook, false, 60))], strings(&["api"]));
    assert_eq!(bearer.judge("t", &[]).await, Ok(None));
    let (_, audiences) = bearer.judge("t", &strings(&["api", "vault"])).await.unwrap().unwrap();
    assert_eq!(audiences, ["vault"]);
    assert_eq!(hook.asked.lock()[0]["apiVersion"], "authentication.k8s.io/v1beta1");
}

#[tokio::test]
async fn attack_a_webhook_that_lies_or_breaks_lets_nobody_in() {
    for (answer, attempts, expect) in [
        ((200, json!("garbage")), 1, "the webhook's answer is no TokenReview: "),
        ((200, json!({"kind": "Pod", "status": {"authenticated": true}})), 1, "but of kind \"Pod\""),
        (review(json!({"authenticated": "true", "user": {"username": "x"}})), 1, "nobody"),
        (review(json!({"authenticated": false, "error": "no such token"})), 1, "no such token"),
        ((500, json!("down")), 5, "an error on the server (\"down\") has prevented the request from succeeding"),
        ((401, json!("")), 1, "the server has asked for the client to provide credentials"),
        ((200, json!("x".repeat(10 << 20))), 1, "is longer than 8388608 bytes"),
    ] {
        let mut hook = hook(move |_| answer.clone()).await;
        let tokens = tokens(&mut hook, true, 0);
        let told = match tokens.authenticate_token("t", &[]).await {
            Ok(None) => "nobody".to_owned(),
            Ok(Some(user)) => panic!("{user:?}"),
            Err(error) => error,
        };
        assert!(told.contains(expect), "{told}");
        assert_eq!(hook.asked(), attempts, "{told}");
    }
}

#[tokio::test]
async fn attack_ten_thousand_bad_tokens_push_out_no_good_one() {
    let mut hook = hook(|question| {
        let good = question["spec"]["token"] == "good";
        review(json!({"authenticated": good, "user": {"username": "joe"}}))
    })
    .await;
    let tokens = Arc::new(tokens(&mut hook, true, 600));
    assert!(tokens.authenticate_token("good", &[]).await.unwrap().is_some());
    let mut attackers = tokio::task::JoinSet::new();
    for attacker in 0..20 {
        let tokens = tokens.clone();
        attackers.spawn(async move {
            for n in 0..500 {
                assert_eq!(tokens.authenticate_token(&format!("bad-{attacker}-{n}"), &[]).await, Ok(None));
            }
        });
    }
    while let Some(ended) = attackers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(hook.asked(), 10_001);
    assert!(tokens.kept() <= 8192 + 1, "{}", tokens.kept());
    assert!(tokens.authenticate_token("good", &[]).await.unwrap().is_some());
    assert_eq!(hook.asked(), 10_001, "it was still known");
}

#[tokio::test]
async fn who_asks_the_same_at_once_waits_for_one_answer() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let mut hook = hook(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
        review(json!({"authenticated": true, "user": {"username": "joe"}}))
    })
    .await;
    let tokens = Arc::new(tokens(&mut hook, true, 600));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let tokens = tokens.clone();
        callers.spawn(async move { tokens.authenticate_token("t", &[]).await.unwrap().unwrap().user.name });
    }
    let names: HashSet<String> = callers.join_all().await.into_iter().collect();
    assert_eq!((names.len(), calls.load(Ordering::Relaxed)), (1, 1));
}

fn pods(verb: &str) -> Attributes {
    Attributes {
        user: UserInfo { name: "joe".into(), groups: strings(&["dev"]), ..UserInfo::default() },
        verb: verb.into(),
        resource_request: true,
        version: "v1".into(),
        resource: "pods".into(),
        namespace: "a".into(),
        ..Attributes::default()
    }
}

fn access(hook: &mut Hook, deny_on_error: bool, v1: bool) -> AccessWebhook {
    let timeout = Duration::from_millis(500);
    let settings = AccessWebhookSettings { deny_on_error, v1, timeout, backoff: QUICK, ..Default::default() };
    AccessWebhook::new(hook.client(), settings, Arc::default())
}

async fn decide(authorizer: &dyn Authorizer, attributes: &Attributes) -> Decision {
    authorizer.decide(attributes).await
}

fn access_review(status: Value) -> (u16, Value) {
    (200, json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": status}))
}

#[tokio::test]
async fn access_is_asked_for_in_upstreams_form() {
    let mut hook = hook(|question| {
        access_review(match question["spec"]["resourceAttributes"]["verb"].as_str() {
            Some("list") => json!({"allowed": true, "reason": "because"}),
            Some("delete") => json!({"allowed": false, "denied": true, "reason": "never"}),
            Some("get") => json!({"allowed": false, "reason": "I do not know"}),
            Some("watch") => json!({"allowed": true, "denied": true}),
            _ => json!({"allowed": question["spec"]["nonResourceAttributes"]["path"] == "/healthz"}),
        })
    })
    .await;
    let webhook = access(&mut hook, false, true);
    let mut list = pods("list");
    list.field_selector = FieldSelector::parse("spec.nodeName=n,status.phase!=Failed").unwrap();
    list.label_selector = LabelSelector::parse("app in (a,b),!old,size>3").unwrap();
    let path =
        |path: &str| Attributes { path: path.into(), resource_request: false, resource: String::new(), ..pods("get") };
    let contradiction = "webhook subject access review returned both allow and deny response".to_owned();
    for _ in 0..2 {
        for (attributes, expect) in [
            (&list, Decision::Allow(Some("because".into()))),
            (&pods("delete"), Decision::Deny("never".into())),
            (&pods("get"), Decision::NoOpinion("I do not know".into())),
            (&pods("watch"), Decision::Error { text: contradiction.clone(), deny: true }),
            (&path("/healthz"), Decision::Allow(None)),
            (&path("/metrics"), Decision::NoOpinion(String::new())),
        ] {
            assert_eq!(decide(&webhook, attributes).await, expect, "{attributes:?}");
        }
    }
    assert_eq!((hook.asked(), webhook.kept()), (6, 6));
    let spec = hook.asked.lock()[0]["spec"].clone();
    let expect = json!({
        "user": "joe", "groups": ["dev"],
        "resourceAttributes": {
            "namespace": "a", "verb": "list", "version": "v1", "resource": "pods",
            "fieldSelector": {"requirements": [
                {"key": "spec.nodeName", "operator": "In", "values": ["n"]},
                {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]},
            ]},
            "labelSelector": {"requirements": [
                {"key": "app", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
            ]},
        },
    });
    assert_eq!(spec, expect);
}

#[tokio::test]
async fn the_old_version_calls_groups_by_their_old_name() {
    let mut hook = hook(|_| access_review(json!({"allowed": true}))).await;
    let webhook = access(&mut hook, false, false);
    assert_eq!(decide(&webhook, &pods("get")).await, Decision::Allow(None));
    let asked = hook.asked.lock()[0].clone();
    assert_eq!(asked["apiVersion"], "authorization.k8s.io/v1beta1");
    assert_eq!((&asked["spec"]["group"], &asked["spec"]["groups"]), (&json!(["dev"]), &Value::Null));
}

#[tokio::test]
async fn attack_who_cannot_be_asked_allows_nothing() {
    for (answer, expect) in [
        ((200, json!("garbage")), "the webhook's answer is no SubjectAccessReview: "),
        ((200, json!({"kind": "Status", "status": {"allowed": true}})), "but of kind \"Status\""),
        ((500, json!("down")), "an error on the server (\"down\") has prevented the request from succeeding"),
        ((299, json!("")), "context deadline exceeded"),
    ] {
        for deny in [false, true] {
            let answer = answer.clone();
            let mut hook = hook(move |_| answer.clone()).await;
            let webhook = access(&mut hook, deny, true);
            let start = Instant::now();
            match decide(&webhook, &pods("get")).await {
                Decision::Error { text, deny: denied } if text.contains(expect) => assert_eq!(denied, deny),
                other => panic!("{other:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(4));
            assert_eq!(webhook.kept(), 0, "errors are not kept");
        }
    }
    let mut hook = hook(|_| access_review(json!({"allowed": "true"}))).await;
    let webhook = access(&mut hook, false, true);
    assert_eq!(decide(&webhook, &pods("get")).await, Decision::NoOpinion(String::new()));
    // One that is gone.
    let webhook = access(&mut self::hook(|_| access_review(json!({"allowed": true}))).await, false, true);
    match decide(&webhook, &pods("get")).await {
        Decision::Error { text, .. } => assert!(text.contains("connection refused") || text.contains("EOF"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn attack_long_questions_fill_no_memory() {
    let mut hook = hook(|_| access_review(json!({"allowed": false}))).await;
    let webhook = access(&mut hook, false, true);
    for n in 0..20 {
        let attributes = Attributes { name: format!("{n}{}", "x".repeat(10_000)), ..pods("get") };
        assert_eq!(decide(&webhook, &attributes).await, Decision::NoOpinion(String::new()));
    }
    assert_eq!((hook.asked(), webhook.kept()), (20, 0));
    assert!(hook.server.connections() <= 2);
}

#[tokio::test]
async fn only_what_meets_the_conditions_is_asked() {
    let mut hook = hook(|_| access_review(json!({"allowed": true}))).await;
    let mut conditions = AccessConditions::default();
    conditions.add("request.resourceAttributes.verb != 'get'").unwrap();
    let settings = AccessWebhookSettings { deny_on_error: true, v1: true, backoff: QUICK, ..Default::default() };
    let webhook = AccessWebhook::named("one", hook.client(), settings, conditions, Arc::default());
    assert_eq!(decide(&webhook, &pods("get")).await, Decision::NoOpinion(String::new()));
    assert_eq!(hook.asked(), 0);
    assert_eq!(decide(&webhook, &pods("list")).await, Decision::Allow(None));
    let path = Attributes { path: "/healthz".into(), resource_request: false, ..pods("list") };
    match decide(&webhook, &path).await {
        Decision::Error { text, deny: true } => assert!(text.contains("no such key: resourceAttributes"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(hook.asked(), 1);
}
