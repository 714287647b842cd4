//! Definitions that want to do harm: schemas without end, patterns and rules that take for ever, and very many of them.

use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use kybern_apimachinery::{Map, Value, json};
use kybern_apiserver::body;

use super::{DEFINITIONS, FOOS, define, definition};
use crate::harness::{Cluster, admin};

fn with_spec(plural: &str, kind: &str, spec: Value) -> Value {
    let version = json!({"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}});
    definition(plural, kind, json!([version]))
}

fn foo(spec: Value) -> Value {
    json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": spec})
}

#[tokio::test]
async fn schemas_have_a_bottom_and_a_size() {
    let cluster = Cluster::start().await;
    let mut deep = json!({"type": "string"});
    for _ in 0..52 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    let (code, refused) = cluster.ask(Method::POST, DEFINITIONS, Some(with_spec("foos", "Foo", deep))).await;
    assert!(matches!(code, 400 | 422), "{refused}");
    let fields: Map<String, Value> = (0..20_000).map(|i| (format!("f{i}"), json!({"type": "string"}))).collect();
    define(&cluster, with_spec("foos", "Foo", json!({"type": "object", "properties": fields}))).await;
    cluster.create(FOOS, foo(json!({"f7": "x", "other": 1}))).await;
    assert_eq!(cluster.get(&format!("{FOOS}/a")).await["spec"], json!({"f7": "x"}));
    assert!(document(&cluster, "/openapi/v3/apis/ex.io/v1").await["components"].is_object());
    // A list of so many keys that telling all of them together would take gigabytes.
    let keys: Vec<String> = (0..20_000).map(|i| format!("k{i}")).collect();
    let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
        "items": {"type": "object", "properties": {"a": {"type": "string"}}}});
    let (code, refused) = cluster.ask(Method::POST, DEFINITIONS, Some(with_spec("bars", "Bar", list))).await;
    assert_eq!(code, 422, "{}", refused.to_string().len());
}

#[tokio::test]
async fn patterns_take_linear_time() {
    let cluster = Cluster::start().await;
    let huge = with_spec("foos", "Foo", json!({"type": "string", "pattern": "((((a{100}){100}){100}){100})"}));
    let refused = cluster.refusal(Method::POST, DEFINITIONS, Some(huge), 422).await;
    assert!(refused.contains("must be a valid regular expression"), "{refused}");
    let spec = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"},
        "b": {"type": "string", "maxLength": 100000, "x-kubernetes-validations": [{"rule": "self.matches('^(a|aa)+$')", "message": "no"}]}}});
    define(&cluster, with_spec("foos", "Foo", spec)).await;
    let begin = Instant::now();
    let text = format!("{}!", "a".repeat(50_000));
    let refused = cluster.refusal(Method::POST, FOOS, Some(foo(json!({"a": text, "b": text}))), 422).await;
    assert!(refused.contains("spec.a in body should match '^(a+)+$'"), "{}", &refused[..200]);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn rules_end() {
    let cluster = Cluster::start().await;
    // Each alone may cost what it costs; an object of many has one budget.
    let item = json!({"type": "string", "maxLength": 12000, "x-kubernetes-validations": [{"rule": "self.contains('bbbbbbbbbbbbbbbbbbbb')", "message": "no b"}]});
    let spec = json!({"type": "array", "maxItems": 100, "items": item});
    define(&cluster, with_spec("foos", "Foo", spec)).await;
    let refused = cluster.refusal(Method::POST, FOOS, Some(foo(json!(vec!["a".repeat(12_000); 100]))), 422).await;
    assert!(refused.contains("spec[0]: Invalid value: "), "{}", &refused[..200]);
    // An expression as deep as the parser lets it be, and one too deep.
    for depth in [100, 10_000] {
        let rule = format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
        let plural = format!("bars{depth}");
        let bad = with_spec(
            &plural,
            &format!("Bar{depth}"),
            json!({"type": "string", "x-kubernetes-validations": [{"rule": rule}]}),
        );
        let (code, _) = cluster.ask(Method::POST, DEFINITIONS, Some(bad)).await;
        assert!(matches!(code, 201 | 422), "{depth}: {code}");
    }
}

/// `KYBERN_CRDS=10000` makes it as many as the issue asks for, and prints what it took.
#[tokio::test]
async fn very_many_definitions() {
    let wanted: usize = std::env::var("KYBERN_CRDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let cluster = Cluster::start().await;
    let begin = Instant::now();
    let spec = json!({"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.n < 5", "message": "n"}]});
    for i in 0..wanted {
        let (plural, kind) = (format!("k{i}s"), format!("K{i}"));
        let mut many = with_spec(&plural, &kind, spec.clone());
        let group = format!("g{}.ex.io", i / 20);
        many["metadata"]["name"] = format!("{plural}.{group}").into();
        many["spec"]["group"] = group.as_str().into();
        many["spec"]["names"]["shortNames"] = json!([]);
        cluster.create(DEFINITIONS, many).await;
    }
    let last = format!("/apis/g{}.ex.io/v1/namespaces/default/k{}s", (wanted - 1) / 20, wanted - 1);
    let deadline = Instant::now() + Duration::from_secs(600);
    while cluster.ask(Method::GET, &last, None).await.0 != 200 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let defined = begin.elapsed();
    let begin = Instant::now();
    let groups = document(&cluster, "/apis").await["groups"].as_array().unwrap().len();
    assert!(groups >= wanted / 20);
    let discovery = begin.elapsed();
    let begin = Instant::now();
    let definitions = document(&cluster, "/openapi/v2").await["definitions"].as_object().unwrap().len();
    assert!(definitions > wanted);
    let whole = begin.elapsed();
    let begin = Instant::now();
    assert!(document(&cluster, "/openapi/v3").await["paths"].as_object().unwrap().len() >= wanted / 20);
    let index = begin.elapsed();
    let begin = Instant::now();
    let kind = format!("K{}", wanted - 1);
    let object = json!({"apiVersion": format!("g{}.ex.io/v1", (wanted - 1) / 20), "kind": kind, "metadata": {"name": "a"}, "spec": {"n": 1}});
    cluster.create(&last, object).await;
    println!(
        "{wanted} definitions in {defined:?}; discovery {discovery:?}, OpenAPI v2 {whole:?}, index of v3 {index:?}, a create {:?}; {}",
        begin.elapsed(),
        memory()
    );
}

/// An answer, however long it is.
async fn document(cluster: &Cluster, path: &str) -> Value {
    let mut request = Request::builder().uri(path).body(body::empty()).unwrap();
    request.extensions_mut().insert(admin());
    let response = cluster.server.handle(request).await;
    assert_eq!(response.status(), 200, "{path}");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

/// What this process holds in memory.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("").to_owned()
}
