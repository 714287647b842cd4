//! What is not about objects: authorization, discovery, health, errors.

use kybern_apimachinery::{Gvk, Map, Value, json};

use crate::fixture::*;
use crate::watches::Watch;

#[tokio::test]
async fn who_may_not_is_told_so() {
    let client = Client { user: "nobody", ..Client::new().await };
    let check = async |path: &str, expect: &str| {
        let (code, text) = client.get(path).await.status();
        assert_eq!((code, text.as_str()), (403, expect), "{path}");
    };
    check(
        PODS,
        "pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"ns\"",
    )
    .await;
    check(
        "/apis/apps/v1/namespaces/ns/deployments/d/scale",
        "deployments.apps \"d\" is forbidden: User \"nobody\" cannot get resource \"deployments/scale\" in API group \"apps\" in the namespace \"ns\"",
    )
    .await;
    check("/metrics", "forbidden: User \"nobody\" cannot get path \"/metrics\"").await;
}

#[tokio::test]
async fn impersonation() {
    let client = Client::new().await;
    let headers = [("impersonate-user", "nobody")];
    assert_eq!(client.send("GET", PODS, &headers, "").await.code, 403);
    assert_eq!(client.send("GET", PODS, &[("impersonate-group", "g")], "").await.code, 500);
    let client = Client { user: "nobody", ..client };
    let (code, text) = client.send("GET", PODS, &[("impersonate-user", "admin")], "").await.status();
    assert_eq!(code, 403);
    assert!(
        text.starts_with("users \"admin\" is forbidden: User \"nobody\" cannot impersonate resource \"users\""),
        "{text}"
    );
}

#[tokio::test]
async fn without_credentials_nobody_gets_in() {
    let client = Client::new().await;
    let request = http::Request::get(PODS).body(kybern_apiserver::body::empty()).unwrap();
    assert_eq!(client.server.handle(request).await.status(), 401);
}

#[tokio::test]
async fn paths_that_are_not_there() {
    let client = Client::new().await;
    let gone = "the server could not find the requested resource".to_owned();
    for path in [
        "/api/v1/namespaces/ns/nonsense",
        "/apis/none/v1/things",
        "/api/v1/namespaces/ns/pods/a/nonsense",
        "/apis/none",
    ] {
        assert_eq!(client.get(path).await.status(), (404, gone.clone()), "{path}");
    }
    let answer = client.get("/nonsense").await;
    assert_eq!((answer.code.as_u16(), &answer.bytes[..]), (404, &b"404 page not found\n"[..]));
    assert_eq!(client.post(&format!("{PODS}/a"), json!({})).await.code, 405);
    assert_eq!(client.post("/api/v1/pods", pod("a", "")).await.code, 405);
}

#[tokio::test]
async fn methods_and_names_that_do_not_fit() {
    let client = Client::new().await;
    let refused = (405, "the server does not allow this method on the requested resource".to_owned());
    for (method, path) in [
        ("PUT", PODS),
        ("HEAD", PODS),
        ("POST", "/apis"),
        ("DELETE", "/version"),
        ("POST", "/api/v1/namespaces/ns/pods/a"),
        ("DELETE", "/apis/apps/v1/namespaces/ns/deployments/d/scale"),
    ] {
        let answer = client.send(method, path, &[], "").await;
        assert_eq!(answer.code, 405, "{method} {path}");
        if method != "HEAD" {
            assert_eq!(answer.status(), refused, "{method} {path}");
        }
    }
    assert_eq!(client.send("POST", "/healthz", &[], "").await.code, 200);
    let dots = client.get(&format!("{PODS}/..")).await.status();
    assert_eq!(dots, (400, "Name parameter invalid: \"..\": may not be '..'".to_owned()));
    let percent = client.get(&format!("{PODS}/a%25b")).await.status();
    assert_eq!(percent, (400, "Name parameter invalid: \"a%b\": may not contain '%'".to_owned()));
    assert_eq!(client.get(&format!("{PODS}/a%2Fb")).await.code, 404);
}

#[tokio::test]
async fn health_checks_are_indicators() {
    let client = Client::new().await;
    client.get("/readyz").await;
    client.get("/readyz").await;
    let text = String::from_utf8(client.get("/metrics/slis").await.bytes.to_vec()).unwrap();
    assert!(text.contains("kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1\n"), "{text}");
    assert!(
        text.contains("kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 2\n"),
        "{text}"
    );
}

#[tokio::test]
async fn discovery() {
    let client = Client::new().await;
    let core = client.get("/api/v1").await.ok();
    let row = |name: &str| core["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap();
    assert_eq!((&row("pods")["kind"], &row("pods")["namespaced"]), (&json!("Pod"), &json!(true)));
    assert_eq!(row("pods/status")["verbs"], json!(["get", "patch", "update"]));
    assert_eq!(client.get("/api").await.ok()["versions"], json!(["v1"]));
    assert_eq!(client.get("/apis").await.ok()["groups"][0]["preferredVersion"]["groupVersion"], "apps/v1");
    let apps = client.get("/apis/apps/v1").await.ok();
    let scale =
        apps["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").cloned().unwrap();
    assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
    assert!(client.get("/").await.ok()["paths"].as_array().unwrap().contains(&json!("/apis/apps/v1")));

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let answer = client.send("GET", "/apis", &[("accept", accept)], "").await;
    assert_eq!(answer.headers["content-type"], "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    assert_eq!(answer.ok()["items"][0]["versions"][0]["resources"][0]["resource"], "deployments");
    let etag = answer.headers["etag"].to_str().unwrap();
    let again = client.send("GET", "/apis", &[("accept", accept), ("if-none-match", etag)], "").await;
    assert_eq!((again.code.as_u16(), again.bytes.len()), (304, 0));
}

/// Documents in protobuf say what they say in JSON.
#[tokio::test]
async fn discovery_in_protobuf() {
    let client = Client::new().await;
    let media = "application/vnd.kubernetes.protobuf";
    let aggregated =
        |media: &str, version: &str| format!("{media};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let mut cases = Vec::new();
    for (path, kind) in [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/api/v1", "APIResourceList"),
        ("/apis/apps/v1", "APIResourceList"),
    ] {
        cases.push((path, Gvk::new("", "v1", kind), media.to_owned(), "application/json".to_owned()));
    }
    for (path, version) in [("/api", "v2"), ("/apis", "v2"), ("/apis", "v2beta1")] {
        let kind = Gvk::new("apidiscovery.k8s.io", version, "APIGroupDiscoveryList");
        cases.push((path, kind, aggregated(media, version), aggregated("application/json", version)));
    }
    for (path, kind, protobuf, json) in cases {
        let plain = client.send("GET", path, &[("accept", &json)], "").await;
        // client-go lists what it falls back to.
        let accept = format!("{protobuf},{json};q=0.9,application/json;q=0.8");
        let answer = client.send("GET", path, &[("accept", &accept)], "").await;
        assert_eq!(
            (answer.code.as_u16(), answer.headers["content-type"].to_str().unwrap()),
            (200, &*protobuf),
            "{path}"
        );
        assert_eq!(answer.headers.get("etag"), plain.headers.get("etag"), "{path}");
        let ty = kybern_schema::builtin().kind(&kind).unwrap();
        let mut decoded = kybern_schema::proto::decode(&ty, &answer.bytes).unwrap();
        // The oldest of them has no version in JSON.
        if kind.kind == "APIVersions" {
            decoded.as_object_mut().unwrap().remove("apiVersion");
        }
        assert_eq!(without_empty(decoded), without_empty(plain.ok()), "{path}");
    }
}

/// Without what protobuf cannot tell from absence.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, without_empty(value)));
            let empty = [json!(null), json!(""), json!([]), json!({}), json!(false)];
            fields.filter(|(_, value)| !empty.contains(value)).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(without_empty).collect(),
        other => other,
    }
}

#[tokio::test]
async fn health_version_and_metrics() {
    let client = Client::new().await;
    assert_eq!(client.get("/readyz").await.bytes, "ok");
    assert_eq!(client.get("/version").await.ok()["gitVersion"], "v1.35.0");
    client.server.checks().fail("poststarthook/bootstrap", "not yet".to_owned());
    let ready = client.get("/readyz").await;
    let text = String::from_utf8(ready.bytes.to_vec()).unwrap();
    assert_eq!(ready.code, 500);
    assert!(
        text.contains("[-]poststarthook/bootstrap failed: reason withheld\n") && !text.contains("not yet"),
        "{text}"
    );
    assert_eq!(client.get("/livez").await.code, 200);
    let alive = client.get("/livez?verbose").await;
    assert!(String::from_utf8_lossy(&alive.bytes).contains("[+]poststarthook/bootstrap ok\n"));
    client.server.checks().pass("poststarthook/bootstrap");
    let verbose = client.get("/readyz?verbose").await;
    assert!(String::from_utf8_lossy(&verbose.bytes).ends_with("readyz check passed\n"));
    client.get(PODS).await.ok();
    client.get("/apis/made.up/v1/namespaces/ns/inventions/x").await;
    let metrics = String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap();
    let of = |verb: &str| {
        format!(
            r#"verb="{verb}",group="",version="v1",resource="pods",subresource="",scope="namespace",component="apiserver""#
        )
    };
    let line = format!("apiserver_request_total{{{},dry_run=\"\",code=\"200\"}} 1", of("LIST"));
    assert!(metrics.contains(&line), "{metrics}");
    let watches = || async {
        let metrics = String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap();
        let name = format!("apiserver_longrunning_requests{{{}}} ", of("WATCH"));
        metrics.lines().find_map(|line| line.strip_prefix(&*name).map(str::to_owned))
    };
    let watch = Watch::open(&client, &format!("{PODS}?watch=true")).await;
    assert_eq!(watches().await.as_deref(), Some("1"));
    drop(watch);
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while watches().await.as_deref() != Some("0") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a watch that has ended is not counted");
    assert!(!metrics.contains("inventions"), "labels come from what is served only");
}

#[tokio::test]
async fn every_answer_has_an_audit_id() {
    let client = Client::new().await;
    assert_eq!(client.get("/nonsense").await.headers["audit-id"].len(), 36);
    let given = client.send("GET", PODS, &[("audit-id", "mine")], "").await;
    assert_eq!(given.headers["audit-id"], "mine");
    assert_eq!(given.headers["cache-control"], "no-cache, private");
}

#[tokio::test]
async fn openapi() {
    let client = Client::new().await;
    let index = client.get("/openapi/v3").await.ok();
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let apps = client.get(&address).await;
    assert_eq!(apps.headers["cache-control"], "public, immutable");
    assert!(apps.ok()["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    assert_eq!(client.get("/openapi/v3/apis/none/v1").await.code, 404);
    let v2 = client.get("/openapi/v2").await;
    let etag = v2.headers["etag"].to_str().unwrap().to_owned();
    assert!(v2.ok()["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    assert_eq!(client.send("GET", "/openapi/v2", &[("if-none-match", &etag)], "").await.code, 304);
    let accept =
        [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"), ("accept-encoding", "gzip")];
    let protobuf = client.send("GET", "/openapi/v2", &accept, "").await;
    assert_eq!(protobuf.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert_eq!(protobuf.headers["content-encoding"], "gzip");
}

#[tokio::test]
async fn refusals_have_the_form_that_was_asked_for() {
    let client = Client::new().await;
    let missing = format!("{CONFIG_MAPS}/missing");
    let ask = async |accept: &str| client.send("GET", &missing, &[("accept", accept)], "").await;
    let media = |answer: &Answer| answer.headers["content-type"].to_str().unwrap().to_owned();
    let yaml = ask("application/yaml").await;
    assert_eq!((yaml.code.as_u16(), media(&yaml).as_str()), (404, "application/yaml"));
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("reason: NotFound"));
    let protobuf = ask("application/vnd.kubernetes.protobuf,application/json").await;
    assert_eq!((protobuf.code.as_u16(), media(&protobuf).as_str()), (404, "application/vnd.kubernetes.protobuf"));
    assert!(protobuf.bytes.starts_with(b"k8s\0"));
    for json in ["application/json;as=Table;v=v1;g=meta.k8s.io", "text/html", "application/yaml;q=0.1,*/*"] {
        assert_eq!(media(&ask(json).await), "application/json", "{json}");
    }
    let (code, text) = client.get(&format!("{CONFIG_MAPS}?timeout=x")).await.status();
    assert!(code == 400 && text.starts_with("invalid timeout specified in the request URL - "), "{text}");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (code, text) = client.send("GET", &format!("{CONFIG_MAPS}?includeObject=Zap"), &table, "").await.status();
    assert_eq!(code, 400);
    assert!(
        text.ends_with("includeObject: Invalid value: \"Zap\": must be 'Metadata', 'Object', 'None', or empty"),
        "{text}"
    );
}
