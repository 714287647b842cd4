//! Admission webhooks: what they are sent, what they may change, and those that hang, lie or are away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, Response};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::body;
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa};
use parking_lot::Mutex;

use crate::harness::{Cluster, admin, user};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// A webhook: what it was asked, and where it is.
struct Hook {
    server: HttpsServer,
    ca: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Hook {
    /// `answer` makes the response of an AdmissionReview from the path that was called and the request.
    async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let ca = TestCa::new("hooks");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let server = HttpsServer::start(HttpsOptions::new(&ca.issue(&["127.0.0.1"])), move |call: Request<Bytes>| {
            let review: Value = serde_json::from_slice(call.body()).unwrap();
            let path = call.uri().path().to_owned();
            let mut response = answer(&path, &review["request"]);
            heard.lock().push((path.clone(), review.clone()));
            async move {
                match path.as_str() {
                    "/hang" => std::future::pending::<()>().await,
                    "/slow" => tokio::time::sleep(Duration::from_millis(500)).await,
                    "/garbage" => return Response::new(Bytes::from_static(b"garbage")),
                    "/big" => return Response::new(Bytes::from(vec![b' '; 10 << 20])),
                    "/broken" => return Response::builder().status(500).body(Bytes::from_static(b"oops")).unwrap(),
                    _ => {}
                }
                if response["uid"].is_null() {
                    response["uid"] = review["request"]["uid"].clone();
                }
                let answer = json!({
                    "kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response,
                });
                Response::new(Bytes::from(answer.to_string()))
            }
        })
        .await;
        Self { server, ca: ca.pem, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().iter().map(|(path, _)| path.clone()).collect()
    }

    fn request(&self, number: usize) -> Value {
        self.asked.lock()[number].1["request"].clone()
    }

    /// A webhook of ConfigMaps at a path of the server's, with changes.
    fn hook(&self, path: &str, changes: Value) -> Value {
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca);
        let mut hook = json!({
            "name": format!("{}.example.com", path.trim_start_matches('/')),
            "clientConfig": {"url": format!("{}{path}", self.server.url()), "caBundle": ca},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
        });
        for (field, value) in changes.as_object().unwrap() {
            hook[field] = value.clone();
        }
        hook
    }
}

async fn configure(cluster: &Cluster, kind: &str, name: &str, hooks: Vec<Value>) {
    let path = format!("{CONFIGURATIONS}/{kind}webhookconfigurations");
    cluster.create(&path, json!({"metadata": {"name": name}, "webhooks": hooks})).await;
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn allow() -> Value {
    json!({"allowed": true})
}

fn patch(operations: Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

#[tokio::test]
async fn a_webhook_is_shown_the_request() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    configure(&cluster, "validating", "v", vec![hook.hook("/v", json!({}))]).await;
    cluster.create(CONFIG_MAPS, config_map("x")).await;
    let path = format!("{CONFIG_MAPS}/x");
    cluster.patch(&path, json!({"data": {"b": "2"}})).await;
    assert_eq!(cluster.ask(Method::DELETE, &path, None).await.0, 200);
    let (create, update, delete) = (hook.request(0), hook.request(1), hook.request(2));
    assert_eq!(create["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(create["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(
        (&create["operation"], &create["namespace"], &create["name"]),
        (&json!("CREATE"), &json!("default"), &json!("x"))
    );
    assert_eq!(create["userInfo"]["username"], "admin");
    assert_eq!(
        (&create["object"]["kind"], &create["oldObject"], &create["dryRun"]),
        (&json!("ConfigMap"), &Value::Null, &json!(false))
    );
    assert_eq!(create["options"]["kind"], "CreateOptions");
    assert_eq!((&update["operation"], &update["object"]["data"]["b"]), (&json!("UPDATE"), &json!("2")));
    assert_eq!((&update["oldObject"]["data"]["b"], &update["oldObject"]["data"]["a"]), (&Value::Null, &json!("1")));
    assert_eq!(
        (&delete["operation"], &delete["object"], &delete["oldObject"]["data"]["b"]),
        (&json!("DELETE"), &Value::Null, &json!("2"))
    );
    // What says who looks at requests is nobody's business.
    let everything =
        json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]});
    configure(&cluster, "validating", "all", vec![hook.hook("/hang", everything)]).await;
    let all = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/all");
    assert_eq!(cluster.ask(Method::DELETE, &all, None).await.0, 200);
    cluster.create(CONFIG_MAPS, config_map("free")).await;
}

#[tokio::test]
async fn a_refusal_is_the_webhooks() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| {
        let status = json!({"message": "not today", "code": 418, "reason": "TooRainy"});
        json!({"allowed": false, "status": status, "warnings": ["mind the \"gap\""]})
    })
    .await;
    configure(&cluster, "validating", "v", vec![hook.hook("/v", json!({}))]).await;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(CONFIG_MAPS)
        .header("content-type", "application/json")
        .body(body::full(config_map("x").to_string()))
        .unwrap();
    request.extensions_mut().insert(admin());
    let response = cluster.server.handle(request).await;
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()["warning"], "299 - \"mind the \\\"gap\\\"\"");
    let status: Value = serde_json::from_slice(&body::read(response.into_body()).await.unwrap()).unwrap();
    assert_eq!(status["message"], "admission webhook \"v.example.com\" denied the request: not today");
    assert_eq!((&status["reason"], &status["code"]), (&json!("TooRainy"), &json!(418)));
}

#[tokio::test]
async fn webhooks_change_objects_one_after_the_other_and_again_if_they_want() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, request| {
        let data = &request["object"]["data"];
        match path {
            // Wants its mark to be the number of what there is.
            "/count" => {
                let count = data.as_object().map_or(0, |d| d.keys().filter(|k| *k != "count").count());
                patch(json!([{"op": "add", "path": "/data/count", "value": count.to_string()}]))
            }
            "/late" => patch(json!([{"op": "add", "path": "/data/late", "value": "1"}])),
            _ => allow(),
        }
    })
    .await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    // In the order of the configurations' names, not of their creation.
    configure(&cluster, "mutating", "b", vec![hook.hook("/late", json!({}))]).await;
    configure(&cluster, "mutating", "a", vec![hook.hook("/count", again), hook.hook("/other", json!({}))]).await;
    let made = cluster.create(CONFIG_MAPS, config_map("x")).await;
    assert_eq!(made["data"], json!({"a": "1", "count": "2", "late": "1"}));
    assert_eq!(hook.asked(), ["/count", "/other", "/late", "/count"]);
}

#[tokio::test]
async fn what_is_about_to_be_written_is_chosen_by_selectors_and_conditions() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let labels = json!({"matchLabels": {"look": "yes"}});
    let expression = |text: &str| json!([{"name": "c", "expression": text}]);
    configure(
        &cluster,
        "validating",
        "v",
        vec![
            hook.hook("/object", json!({"objectSelector": labels})),
            hook.hook("/namespace", json!({"namespaceSelector": labels})),
            hook.hook("/condition", json!({"matchConditions": expression("object.metadata.name.startsWith('good')")})),
            hook.hook("/who", json!({"matchConditions": expression("request.userInfo.username != 'admin'")})),
            hook.hook(
                "/may",
                json!({"matchConditions": expression(
                "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()")}),
            ),
        ],
    )
    .await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "seen", "labels": {"look": "yes"}}})).await;
    cluster.create(CONFIG_MAPS, config_map("plain")).await;
    assert_eq!(hook.asked(), ["/may"]);
    let mut labelled = config_map("good");
    labelled["metadata"]["labels"] = json!({"look": "yes"});
    hook.asked.lock().clear();
    cluster.create("/api/v1/namespaces/seen/configmaps", labelled).await;
    let mut asked = hook.asked();
    asked.sort();
    assert_eq!(asked, ["/condition", "/may", "/namespace", "/object"]);
    // A condition that cannot be evaluated refuses, or leaves its webhook out.
    let bad =
        |policy: &str| json!({"matchConditions": expression("object.data.missing == 'x'"), "failurePolicy": policy});
    configure(&cluster, "mutating", "m", vec![hook.hook("/ignored", bad("Ignore"))]).await;
    cluster.create(CONFIG_MAPS, config_map("y")).await;
    assert!(!hook.asked().contains(&"/ignored".to_owned()));
    configure(&cluster, "mutating", "n", vec![hook.hook("/refused", bad("Fail"))]).await;
    let told = cluster.refusal(Method::POST, CONFIG_MAPS, Some(config_map("z")), 403).await;
    assert!(told.contains("expression 'object.data.missing == 'x'' resulted in error: no such key: missing"), "{told}");
}

#[tokio::test]
async fn an_equivalent_version_is_shown_where_the_rule_names_it() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, request| {
        if request["kind"]["version"] == "v1" {
            patch(json!([{"op": "add", "path": "/spec/maxReplicas", "value": 7}]))
        } else {
            allow()
        }
    })
    .await;
    let rules = json!([{
        "operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"],
    }]);
    configure(
        &cluster,
        "mutating",
        "m",
        vec![
            hook.hook("/equivalent", json!({"rules": rules})),
            hook.hook("/exact", json!({"rules": rules, "matchPolicy": "Exact"})),
        ],
    )
    .await;
    let scaler = json!({"metadata": {"name": "h"}, "spec": {
        "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
    }});
    let made = cluster.create("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", scaler).await;
    assert_eq!((&made["apiVersion"], &made["spec"]["maxReplicas"]), (&json!("autoscaling/v2"), &json!(7)));
    assert_eq!(hook.asked(), ["/equivalent"]);
    let asked = hook.request(0);
    assert_eq!((&asked["kind"]["version"], &asked["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(asked["object"]["apiVersion"], "autoscaling/v1");
}

#[tokio::test]
async fn what_is_not_going_to_be_written_has_no_side_effects() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    configure(&cluster, "validating", "v", vec![hook.hook("/v", json!({"sideEffects": "NoneOnDryRun"}))]).await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    assert_eq!(cluster.ask(Method::POST, &dry, Some(config_map("x"))).await.0, 201);
    assert_eq!(hook.request(0)["dryRun"], true);
    // Only v1beta1 configurations could still say `Some`; what one says that nobody knows counts as that.
    let old = hook.hook("/old", json!({"admissionReviewVersions": ["v9", "v1beta1"]}));
    configure(&cluster, "validating", "w", vec![old]).await;
    cluster.create(CONFIG_MAPS, config_map("y")).await;
    let versions: Vec<String> =
        hook.asked.lock().iter().map(|(path, review)| format!("{path} {}", review["apiVersion"])).collect();
    assert!(versions.contains(&"/old \"admission.k8s.io/v1beta1\"".to_owned()), "{versions:?}");
}

#[tokio::test]
async fn attack_a_webhook_that_hangs_lies_or_breaks() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, _| match path {
        "/uid" => json!({"uid": "another", "allowed": true}),
        "/true" => json!({"allowed": "true"}),
        "/patches" => patch(json!([])),
        "/nonsense" => json!({"allowed": true, "patchType": "JSONPatch", "patch": "bm9uc2Vuc2U="}),
        "/missing" => patch(json!([{"op": "replace", "path": "/spec/x", "value": 1}])),
        "/type" => patch(json!([{"op": "replace", "path": "/data", "value": 1}])),
        _ => allow(),
    })
    .await;
    let failed = |path: &str, cause: &str| format!("failed calling webhook \"{path}.example.com\": {cause}");
    let url = hook.server.url();
    for (kind, path, code, expect) in [
        (
            "validating",
            "hang",
            500,
            failed(
                "hang",
                &format!("failed to call webhook: Post \"{url}/hang?timeout=1s\": context deadline exceeded"),
            ),
        ),
        (
            "mutating",
            "hang",
            500,
            failed(
                "hang",
                &format!("failed to call webhook: Post \"{url}/hang?timeout=1s\": context deadline exceeded"),
            ),
        ),
        ("validating", "garbage", 500, failed("garbage", "received invalid webhook response: it is no JSON: ")),
        (
            "mutating",
            "big",
            500,
            failed("big", &format!("failed to call webhook: the response of {url}/big is longer than 8388608 bytes")),
        ),
        (
            "validating",
            "broken",
            500,
            failed(
                "broken",
                "failed to call webhook: an error on the server (\"oops\") has prevented the request from succeeding",
            ),
        ),
        ("validating", "uid", 500, failed("uid", "received invalid webhook response: expected response.uid=")),
        (
            "validating",
            "patches",
            500,
            failed("patches", "received invalid webhook response: validating webhook may not return response.patch"),
        ),
        (
            "validating",
            "true",
            400,
            "admission webhook \"true.example.com\" denied the request without explanation".to_owned(),
        ),
        ("mutating", "nonsense", 500, failed("nonsense", "received undecodable patch in webhook response: ")),
        (
            "mutating",
            "missing",
            500,
            "replace operation does not apply: doc is missing path: /spec/x: missing value".to_owned(),
        ),
        ("mutating", "type", 500, "data".to_owned()),
    ] {
        let seconds = if path == "hang" { 1 } else { 10 };
        let timeout = json!({"timeoutSeconds": seconds});
        configure(&cluster, kind, path, vec![hook.hook(&format!("/{path}"), timeout)]).await;
        let start = Instant::now();
        let told = cluster.refusal(Method::POST, CONFIG_MAPS, Some(config_map("x")), code).await;
        assert!(told.contains(&expect), "{path}: {told}");
        assert!(code == 400 || told.starts_with("Internal error occurred: "), "{told}");
        assert!(path != "hang" || start.elapsed() < Duration::from_secs(5), "{path}");
        let configuration = format!("{CONFIGURATIONS}/{kind}webhookconfigurations/{path}");
        assert_eq!(cluster.ask(Method::DELETE, &configuration, None).await.0, 200);
        // Where failures are ignored, the request goes on; a refusal and what the server itself refuses are none.
        if told.contains("failed calling webhook") && path != "hang" {
            let ignore = json!({"failurePolicy": "Ignore", "timeoutSeconds": 10});
            configure(&cluster, kind, path, vec![hook.hook(&format!("/{path}"), ignore)]).await;
            cluster.create(CONFIG_MAPS, config_map(&format!("open-{kind}-{path}"))).await;
            assert_eq!(cluster.ask(Method::DELETE, &configuration, None).await.0, 200);
        }
    }
}

#[tokio::test]
async fn five_webhooks_cost_one_round_trip_and_a_hanging_one_holds_up_nobody_else() {
    let cluster = Arc::new(Cluster::start().await);
    let hook = Hook::start(|_, _| allow()).await;
    let slow = |n: usize| hook.hook("/slow", json!({"name": format!("n{n}.example.com"), "timeoutSeconds": 10}));
    configure(&cluster, "validating", "v", (0..5).map(slow).collect()).await;
    cluster.create(CONFIG_MAPS, config_map("warm")).await;
    let start = Instant::now();
    cluster.create(CONFIG_MAPS, config_map("x")).await;
    let took = start.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_millis(1500)).contains(&took), "{took:?}");
    // Others are not held up by those who wait for one that hangs.
    let pods = json!({
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"]}],
        "timeoutSeconds": 5,
    });
    configure(&cluster, "mutating", "m", vec![hook.hook("/hang", pods)]).await;
    let waiting = cluster.clone();
    let task = tokio::spawn(async move {
        let secret = json!({"metadata": {"name": "s"}});
        waiting.refusal(Method::POST, "/api/v1/namespaces/default/secrets", Some(secret), 500).await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    cluster.create(CONFIG_MAPS, config_map("y")).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!task.is_finished());
    assert!(task.await.unwrap().ends_with("context deadline exceeded"));
}

#[tokio::test]
async fn attack_a_webhook_may_call_the_api_server_while_it_is_asked() {
    let cluster = Arc::new(Cluster::start().await);
    let (server, inner) = (cluster.clone(), tokio::runtime::Handle::current());
    let hook = Hook::start(move |_, request| {
        // A write of its own, which is shown to it as well.
        if request["name"] == "outer" {
            let server = server.clone();
            inner.spawn(async move {
                let object = Some(config_map("inner"));
                server.as_user(user("hook", &["system:masters"]), Method::POST, CONFIG_MAPS, object).await
            });
        }
        allow()
    })
    .await;
    configure(&cluster, "validating", "v", vec![hook.hook("/v", json!({}))]).await;
    cluster.create(CONFIG_MAPS, config_map("outer")).await;
    for _ in 0..100 {
        if hook.asked().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(hook.request(1)["userInfo"]["username"], "hook");
}

/// Who owns which field is not for a webhook to garble; to forget it all is.
#[tokio::test]
async fn attack_a_webhook_that_breaks_managed_fields() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|path, _| match path {
        "/operation" => {
            patch(json!([{"op": "replace", "path": "/metadata/managedFields/0/operation", "value": "Own"}]))
        }
        "/fields" => {
            patch(json!([{"op": "add", "path": "/metadata/managedFields/0/fieldsV1", "value": {"f:data": {"x": {}}}}]))
        }
        "/none" => patch(json!([{"op": "remove", "path": "/metadata/managedFields"}])),
        _ => allow(),
    })
    .await;
    let before = cluster.create(CONFIG_MAPS, config_map("x")).await["metadata"]["managedFields"].clone();
    for (path, cause) in
        [("operation", "operation must be `Apply` or `Update`"), ("fields", "error decoding set"), ("none", "")]
    {
        configure(&cluster, "mutating", path, vec![hook.hook(&format!("/{path}"), json!({}))]).await;
        let mut request = Request::post(CONFIG_MAPS)
            .header("content-type", "application/json")
            .body(body::full(config_map(path).to_string()))
            .unwrap();
        request.extensions_mut().insert(admin());
        let response = cluster.server.handle(request).await;
        assert_eq!(response.status(), 201, "{path}");
        let warnings: Vec<_> =
            response.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
        let made = cluster.get(&format!("{CONFIG_MAPS}/{path}")).await;
        let fields = &made["metadata"]["managedFields"];
        if cause.is_empty() {
            assert_eq!((fields, warnings.len()), (&Value::Null, 0));
        } else {
            assert_eq!((&fields[0]["operation"], &fields[0]["fieldsV1"]), (&json!("Update"), &before[0]["fieldsV1"]));
            let told = ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated \
                        mutating admission controller; please fix your requests: ";
            assert!(warnings.len() == 1 && warnings[0].contains(told) && warnings[0].contains(cause), "{warnings:?}");
        }
        let configuration = format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/{path}");
        assert_eq!(cluster.ask(Method::DELETE, &configuration, None).await.0, 200);
    }
}

/// What an object is called, where it is and what it is are not a webhook's to change.
#[tokio::test]
async fn attack_a_webhook_that_makes_another_object() {
    let cluster = Cluster::start().await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "elsewhere"}})).await;
    cluster.create(CONFIG_MAPS, config_map("kept")).await;
    let replace = |path: &str, value: &str| patch(json!([{"op": "add", "path": path, "value": value}]));
    let hook = Hook::start(move |path, _| match path {
        "/name" => replace("/metadata/name", "other"),
        "/uid" => replace("/metadata/uid", "5e1f0000-0000-0000-0000-000000000000"),
        "/namespace" => replace("/metadata/namespace", "elsewhere"),
        "/kind" => replace("/kind", "Secret"),
        "/version" => replace("/apiVersion", "apps/v1"),
        _ => allow(),
    })
    .await;
    let kept = format!("{CONFIG_MAPS}/kept");
    let before = cluster.get(&kept).await;
    for path in ["name", "uid", "namespace", "kind", "version"] {
        configure(&cluster, "mutating", path, vec![hook.hook(&format!("/{path}"), json!({}))]).await;
        let (code, answer) = cluster.patch(&kept, json!({"data": {"b": "2"}})).await;
        assert!((400..=500).contains(&code), "an update with another {path}: {code} {answer}");
        if matches!(path, "namespace" | "kind" | "version") {
            let (code, answer) = cluster.ask(Method::POST, CONFIG_MAPS, Some(config_map("made"))).await;
            assert!((400..=500).contains(&code), "a creation with another {path}: {code} {answer}");
        }
        let configuration = format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/{path}");
        assert_eq!(cluster.ask(Method::DELETE, &configuration, None).await.0, 200);
    }
    assert_eq!(cluster.get(&kept).await, before);
    for list in ["/api/v1/namespaces/elsewhere/configmaps", "/api/v1/namespaces/default/secrets"] {
        assert_eq!(cluster.get(list).await["items"], json!([]), "{list}");
    }
    assert_eq!(cluster.get(CONFIG_MAPS).await["items"].as_array().unwrap().len(), 1);
}
