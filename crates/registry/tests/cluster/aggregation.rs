//! Aggregation, with a sample extension server: routes, who the user is to it, availability, discovery and OpenAPI, and what
//! a hostile server or client makes of it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::{Body, body};
use kybern_registry::bootstrap::{self, AuthenticationConfig};
use kybern_storage::memory::Memory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::extension::{Extension, GROUP, Manner};
use crate::harness::{Cluster, admin, user};
use crate::proxied;

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const FLUNDERS: &str = "/apis/wardle.example.com/v1/namespaces/default/flunders";
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that says by what extension servers recognize it, and a server that has read it.
async fn extended(cluster: &Cluster) -> Extension {
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let config = AuthenticationConfig {
        client_ca: cluster.pki.ca.certificate_pem(),
        front_proxy_ca: cluster.pki.front_proxy_ca.certificate_pem(),
        allowed_names: &words(&["front-proxy-client"]),
        username_headers: &words(&["X-Remote-User"]),
        uid_headers: &words(&["X-Remote-Uid"]),
        group_headers: &words(&["X-Remote-Group"]),
        extra_headers_prefix: &words(&["X-Remote-Extra-"]),
    };
    bootstrap::authentication_config(cluster.server.as_ref(), &config).await.unwrap();
    let extension = Extension::start(cluster).await;
    *cluster.extensions.lock() = Some(extension.address);
    extension
}

/// What makes the Service `wardle/api` one that can be called.
async fn service(cluster: &Cluster) {
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "wardle"}})).await;
    let spec = json!({"ports": [{"name": "https", "port": 443}]});
    cluster.create("/api/v1/namespaces/wardle/services", json!({"metadata": {"name": "api"}, "spec": spec})).await;
    endpoints(cluster, true).await;
}

async fn endpoints(cluster: &Cluster, ready: bool) {
    let labels = json!({"kubernetes.io/service-name": "api"});
    let slice = json!({
        "metadata": {"name": "api-1", "labels": labels}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.9"], "conditions": {"ready": ready}}],
        "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
    });
    cluster.create("/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices", slice).await;
}

fn api_service(extension: &Extension, group: &str, changes: Value) -> Value {
    let mut spec = json!({
        "group": group, "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
        "service": {"namespace": "wardle", "name": "api"},
        "caBundle": base64::engine::general_purpose::STANDARD.encode(&extension.ca),
    });
    for (field, value) in changes.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": format!("v1.{group}")}, "spec": spec})
}

fn condition(object: &Value) -> String {
    let condition = &object["status"]["conditions"][0];
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    format!("{} {}: {}", text("status"), text("reason"), text("message"))
}

/// Waits until something is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = std::time::Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if started.elapsed() > PATIENCE => panic!("{what}: still {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn until_condition(cluster: &Cluster, name: &str, expect: &str) {
    until(expect, async || {
        let seen = condition(&cluster.get(&format!("{API_SERVICES}/{name}")).await);
        if seen.starts_with(expect) { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn send(cluster: &Cluster, user: UserInfo, path: &str, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body::empty()).unwrap();
    request.extensions_mut().insert(user);
    cluster.server.handle(request).await
}

/// Code and text.
async fn answer(cluster: &Cluster, path: &str) -> (u16, String) {
    let response = send(cluster, admin(), path, &[]).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

/// What aggregated discovery says of a group's version `v1`.
async fn discovered(cluster: &Cluster, group: &str) -> Option<Value> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let response = send(cluster, admin(), "/apis", &[("accept", accept)]).await;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&bytes).unwrap();
    let groups = list["items"].as_array().unwrap();
    let found = groups.iter().find(|g| g["metadata"]["name"] == group)?;
    found["versions"].as_array().unwrap().iter().find(|v| v["version"] == "v1").cloned()
}

async fn until_discovered(cluster: &Cluster, expect: &str) {
    until(expect, async || {
        let seen = discovered(cluster, GROUP).await.unwrap_or_default();
        if seen["freshness"] == expect { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
}

async fn available() -> (Cluster, Extension) {
    let cluster = Cluster::start().await;
    let extension = extended(&cluster).await;
    service(&cluster).await;
    cluster.create(API_SERVICES, api_service(&extension, GROUP, json!({}))).await;
    until_condition(&cluster, &format!("v1.{GROUP}"), "True Passed: all checks passed").await;
    (cluster, extension)
}

#[tokio::test]
async fn an_extension_server_is_part_of_the_cluster() {
    let (cluster, _extension) = available().await;
    until_discovered(&cluster, "Current").await;
    let entry = discovered(&cluster, GROUP).await.unwrap();
    assert_eq!(entry["resources"][0]["resource"], "flunders");
    // The older form, in order: after what is built in, before custom resources.
    let groups = cluster.get("/apis").await;
    let names: Vec<&str> = groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[1], *names.last().unwrap()), ("apiregistration.k8s.io", "apps", GROUP), "{names:?}");
    assert_eq!(cluster.get("/apis/wardle.example.com").await["preferredVersion"]["version"], "v1");
    assert_eq!(cluster.get("/apis/wardle.example.com/v1").await["resources"][0]["name"], "flunders");
    let paths = cluster.get("/").await;
    assert!(paths["paths"].as_array().unwrap().contains(&json!("/apis/wardle.example.com/v1")), "{paths}");
    // OpenAPI.
    until("openapi", async || {
        let document = cluster.get("/openapi/v2").await;
        let index = cluster.get("/openapi/v3").await;
        let url = &index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"];
        let path = &document["paths"]["/apis/wardle.example.com/v1/flunders"];
        if url.is_string() && path.is_object() { Ok(()) } else { Err(format!("{url} {path}")) }
    })
    .await;
    let document = cluster.get("/openapi/v2").await;
    assert_eq!(document["definitions"]["com.example.wardle.v1.Flunder"], json!({"type": "object"}));
    assert_eq!(document["definitions"]["io.k8s.api.core.v1.Pod"]["type"], "object", "ours stays");
    let v3 = cluster.get("/openapi/v3/apis/wardle.example.com/v1?hash=W").await;
    assert_eq!(v3["info"]["title"], "wardle");
    // Requests of every kind, and their bodies.
    let made = cluster.ask(Method::POST, FLUNDERS, Some(json!({"a": 1}))).await;
    assert_eq!((made.0, &made.1["sent"], &made.1["path"]), (200, &json!("{\"a\":1}"), &json!(FLUNDERS)));
    let deleted = cluster.ask(Method::DELETE, &format!("{FLUNDERS}/x"), None).await;
    assert_eq!(deleted.1["method"], "DELETE");
    // When it goes, all of it goes.
    assert_eq!(cluster.ask(Method::DELETE, &format!("{API_SERVICES}/v1.{GROUP}"), None).await.0, 200);
    until("gone", async || match (answer(&cluster, FLUNDERS).await, discovered(&cluster, GROUP).await) {
        ((404, _), None) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    assert_eq!(answer(&cluster, "/apis/wardle.example.com").await.0, 404);
    assert!(cluster.get("/openapi/v3").await["paths"].get("apis/wardle.example.com/v1").is_none());
}

#[tokio::test]
async fn attack_the_user_is_who_this_server_says() {
    let (cluster, extension) = available().await;
    let mut joe = user("joe", &["dev"]);
    joe.uid = "7".to_owned();
    joe.extra.insert("example.com/scopes".to_owned(), vec!["a".to_owned()]);
    // Nobody may who has no right to it: the extension server is not even asked.
    assert_eq!(send(&cluster, joe.clone(), FLUNDERS, &[]).await.status(), 403);
    assert_eq!(extension.seen(FLUNDERS), None);
    let rule = json!({"verbs": ["list", "watch"], "apiGroups": [GROUP], "resources": ["flunders"]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    cluster.create(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "w"}, "rules": [rule]})).await;
    let binding = json!({
        "metadata": {"name": "w"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "w"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "joe"}],
    });
    cluster.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    let smuggled = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x_remote_group", "system:masters"),
        ("x-remote-extra-admin", "yes"),
        ("x-remote-uid", "0"),
        ("authorization", "Bearer secret"),
        ("cookie", "session=secret"),
        ("connection", "close, x-remote-group, x-mine-alone"),
        ("x-mine-alone", "1"),
        ("x-mine", "stays"),
        ("host", "elsewhere.example"),
    ];
    assert_eq!(send(&cluster, joe, FLUNDERS, &smuggled).await.status(), 200);
    let mut seen = extension.seen(FLUNDERS).unwrap();
    assert!(seen.iter().any(|header| header.starts_with("audit-id: ")), "{seen:?}");
    seen.retain(|header| !header.starts_with("audit-id: "));
    seen.retain(|header| !header.starts_with("x-forwarded-") && !header.starts_with("host: 127.0.0.1"));
    seen.sort();
    assert_eq!(
        seen,
        [
            "x-mine: stays",
            "x-remote-extra-example.com%2fscopes: a",
            "x-remote-group: dev",
            "x-remote-group: system:authenticated",
            "x-remote-uid: 7",
            "x-remote-user: joe",
        ]
    );
    // Whoever comes to the extension server itself, without this server's certificate, is nobody.
    let client = unrecognized(&extension).await;
    assert!(client.starts_with("HTTP/1.1 401"), "{client}");
}

/// The answer to one who says in headers that he is an administrator.
async fn unrecognized(extension: &Extension) -> String {
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(extension.ca.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = tokio::net::TcpStream::connect(extension.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("api.wardle.svc").unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let ask = format!("GET {FLUNDERS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Remote-User: root\r\n\r\n");
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn availability_has_upstreams_reasons() {
    let cluster = Cluster::start().await;
    let extension = extended(&cluster).await;
    let name = format!("v1.{GROUP}");
    // Nobody listens there.
    *cluster.extensions.lock() = Some(([127, 0, 0, 1], 1).into());
    cluster.create(API_SERVICES, api_service(&extension, GROUP, json!({}))).await;
    until_condition(&cluster, &name, "False ServiceNotFound: service/api in \"wardle\" is not present").await;
    assert_eq!(answer(&cluster, FLUNDERS).await, (503, "service unavailable\n".to_owned()));
    let cells = cluster.table(&format!("{API_SERVICES}/{name}")).await;
    assert_eq!((&cells[0][1], &cells[0][2]), (&json!("wardle/api"), &json!("False (ServiceNotFound)")));
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "wardle"}})).await;
    let services = "/api/v1/namespaces/wardle/services";
    let spec = json!({"ports": [{"name": "https", "port": 8443}]});
    cluster.create(services, json!({"metadata": {"name": "api"}, "spec": spec})).await;
    until_condition(&cluster, &name, "False ServicePortError: service/api in \"wardle\" is not listening on port 443")
        .await;
    let (code, _) =
        cluster.patch(&format!("{services}/api"), json!({"spec": {"ports": [{"name": "https", "port": 443}]}})).await;
    assert_eq!(code, 200);
    until_condition(
        &cluster,
        &name,
        "False EndpointsNotFound: cannot find endpointslices for service/api in \"wardle\"",
    )
    .await;
    endpoints(&cluster, false).await;
    let missing = "False MissingEndpoints: endpointslices for service/api in \"wardle\" have no addresses with port name \"https\"";
    until_condition(&cluster, &name, missing).await;
    let slice = "/apis/discovery.k8s.io/v1/namespaces/wardle/endpointslices/api-1";
    let ready = json!({"endpoints": [{"addresses": ["192.0.2.9"], "conditions": {"ready": true}}]});
    assert_eq!(cluster.patch(slice, ready).await.0, 200);
    let url = "https://127.0.0.1:1/apis/wardle.example.com/v1";
    let refused = format!(
        "False FailedDiscoveryCheck: failing or missing response from {url}: Get \"{url}\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
    until_condition(&cluster, &name, &refused).await;
    // Discovery says that the group is there and that nothing is known of it.
    until_discovered(&cluster, "Stale").await;
    assert!(cluster.get("/apis").await.to_string().contains(GROUP));
    // It is looked for again without being told of anything.
    *cluster.extensions.lock() = Some(extension.address);
    until_condition(&cluster, &name, "True Passed: all checks passed").await;
    until_discovered(&cluster, "Current").await;
    assert_eq!(answer(&cluster, FLUNDERS).await.0, 200);
    // Somebody overwrites what is known: it is found out again.
    let lie = json!({"status": {"conditions": [{"type": "Available", "status": "False", "reason": "Lie", "message": "m", "lastTransitionTime": "2026-11-28T00:00:00Z"}]}});
    assert_eq!(cluster.patch(&format!("{API_SERVICES}/{name}/status"), lie).await.0, 200);
    until_condition(&cluster, &name, "True Passed").await;
    // Metrics and readiness tell of it.
    let metrics = answer(&cluster, "/metrics").await.1;
    assert!(metrics.contains(&format!("aggregator_unavailable_apiservice{{name=\"{name}\"}} 0")), "{metrics}");
    let counted = format!("aggregator_unavailable_apiservice_total{{name=\"{name}\",reason=\"ServiceNotFound\"}} 1");
    assert!(metrics.contains(&counted), "{metrics}");
    let ready = answer(&cluster, "/readyz?verbose").await.1;
    for check in ["autoregister-completion", "poststarthook/start-kube-aggregator-informers"] {
        assert!(ready.contains(&format!("[+]{check} ok\n")), "{check}: {ready}");
    }
}

#[tokio::test]
async fn attack_a_server_that_is_not_the_one_that_is_meant_gets_nothing() {
    let (cluster, extension) = available().await;
    // Its certificate is of another authority: it is there, and nothing is sent to it.
    let other = kybern_testbed::https::TestCa::new("other");
    let bundle = base64::engine::general_purpose::STANDARD.encode(&other.pem);
    let path = format!("{API_SERVICES}/v1.{GROUP}");
    let seen = extension.seen(FLUNDERS);
    assert_eq!(cluster.patch(&path, json!({"spec": {"caBundle": bundle}})).await.0, 200);
    let expect = "error trying to reach service: tls: failed to verify certificate: x509: certificate signed by unknown authority\n";
    until("refused", async || match answer(&cluster, FLUNDERS).await {
        (503, text) if text == expect => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    assert_eq!(extension.seen(FLUNDERS).is_some(), seen.is_some());
    until_discovered(&cluster, "Stale").await;
    // Whoever wants it so is sent to anybody.
    let insecure = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    assert_eq!(cluster.patch(&path, insecure).await.0, 200);
    until_discovered(&cluster, "Current").await;
    assert_eq!(answer(&cluster, FLUNDERS).await.0, 200);
}

#[tokio::test]
async fn attack_a_hostile_server_harms_nobody_else() {
    let (cluster, extension) = available().await;
    until_discovered(&cluster, "Current").await;
    extension.behave(Manner::Redirects);
    let refused = "the backend attempted to redirect this request, which is not permitted";
    assert_eq!(answer(&cluster, FLUNDERS).await, (502, refused.to_owned()));
    extension.behave(Manner::Broken);
    assert_eq!(answer(&cluster, FLUNDERS).await, (500, "broken\n".to_owned()));
    // Whatever it claims, it has the version that it is registered for.
    extension.behave(Manner::Lies);
    let path = format!("{API_SERVICES}/v1.{GROUP}");
    assert_eq!(cluster.patch(&path, json!({"spec": {"versionPriority": 11}})).await.0, 200);
    until("documents", async || match cluster.get("/openapi/v3").await["paths"].get("apis/wardle.example.com/v1") {
        Some(_) => Ok(()),
        None => Err("none".to_owned()),
    })
    .await;
    let apps = discovered(&cluster, "apps").await.unwrap();
    assert!(apps["resources"].as_array().unwrap().iter().all(|r| r["resource"] != "flunders"), "{apps}");
    assert!(discovered(&cluster, "").await.is_none());
    let document = cluster.get("/openapi/v2").await;
    for path in ["/apis/apps/v1/deployments", "/api/v1/pods"] {
        assert!(!document["paths"][path].to_string().contains("wardle"), "{path}");
    }
    let index = cluster.get("/openapi/v3").await["paths"]["apis/apps/v1"]["serverRelativeURL"].to_string();
    assert!(index.contains("/openapi/v3/apis/apps/v1?hash="), "{index}");
    // Ten megabytes are nothing that is known of it, and the server goes on.
    extension.behave(Manner::Huge);
    assert_eq!(cluster.patch(&path, json!({"spec": {"versionPriority": 12}})).await.0, 200);
    until_discovered(&cluster, "Stale").await;
    // One that knows the older form only is known by it.
    extension.behave(Manner::Old);
    assert_eq!(cluster.patch(&path, json!({"spec": {"versionPriority": 13}})).await.0, 200);
    until_discovered(&cluster, "Current").await;
    assert_eq!(discovered(&cluster, GROUP).await.unwrap()["resources"][0]["singularResource"], "flunder");
    // One that hangs keeps nobody but its own clients, and those of its discovery for 5 s.
    extension.behave(Manner::Hangs);
    let started = std::time::Instant::now();
    let hanging = answer(&cluster, "/apis/wardle.example.com/v1");
    let others = async {
        cluster.get("/apis").await;
        cluster.get("/api/v1/namespaces").await;
        started.elapsed()
    };
    let (hung, others) = tokio::join!(hanging, others);
    assert_eq!(hung, (503, "error trying to reach service: context deadline exceeded\n".to_owned()));
    assert!(others < Duration::from_secs(5), "{others:?}");
}

#[tokio::test]
async fn watches_and_switched_protocols_are_passed_through() {
    let (cluster, extension) = available().await;
    let mut watch = send(&cluster, admin(), &format!("{FLUNDERS}?watch=true"), &[]).await;
    assert_eq!((watch.status().as_u16(), &watch.headers()[CONTENT_TYPE]), (200, &"application/json".parse().unwrap()));
    until("a watcher", async || if extension.tell("one") == 1 { Ok(()) } else { Err("none".to_owned()) }).await;
    let event = watch.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&event).contains("\"name\":\"one\""));
    // A protocol of its own, over a connection as clients have it.
    let mut client = proxied::connection(&cluster).await;
    let token = "Authorization: Bearer eve-token\r\n";
    let ask =
        format!("GET {FLUNDERS}/x/console HTTP/1.1\r\nHost: a\r\n{token}Connection: Upgrade\r\nUpgrade: chat\r\n\r\n");
    client.write_all(ask.as_bytes()).await.unwrap();
    assert!(proxied::head(&mut client).await.starts_with("HTTP/1.1 403"), "eve may not");
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    let eve = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"});
    let binding = json!({"metadata": {"name": "eve"}, "roleRef": role, "subjects": [eve]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let mut client = proxied::connection(&cluster).await;
    client.write_all(ask.as_bytes()).await.unwrap();
    let head = proxied::head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for (said, heard) in [(b"abcd", b"dcba"), (b"1234", b"4321")] {
        client.write_all(said).await.unwrap();
        let mut four = [0; 4];
        client.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, heard);
    }
    let seen = extension.seen(&format!("{FLUNDERS}/x/console")).unwrap();
    assert!(
        seen.contains(&"x-remote-user: eve".to_owned()) && !seen.iter().any(|h| h.contains("eve-token")),
        "{seen:?}"
    );
    // The server is killed: its watches and streams end, and what comes next is told so.
    drop(extension);
    let ended = tokio::time::timeout(PATIENCE, watch.body_mut().frame()).await.expect("an end");
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
    let mut one = [0; 1];
    let ended = tokio::time::timeout(PATIENCE, client.read(&mut one)).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let (code, text) = answer(&cluster, FLUNDERS).await;
    assert!(code == 503 && text.starts_with("error trying to reach service: dial tcp 127.0.0.1:"), "{code} {text}");
}

#[tokio::test]
async fn what_this_server_has_registers_itself() {
    let storage = Arc::new(Memory::default());
    let cluster = Cluster::on(storage.clone()).await;
    let get = async |name: &str| cluster.get(&format!("{API_SERVICES}/{name}")).await;
    const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
    for (name, group, version) in [("v1.", 18_000, 1), ("v1.apps", 17_800, 15), ("v2.autoscaling", 17_500, 30)] {
        let found = get(name).await;
        let spec = (&found["spec"]["groupPriorityMinimum"], &found["spec"]["versionPriority"]);
        assert_eq!(spec, (&json!(group), &json!(version)), "{name}");
        assert_eq!(object::label(&found, MANAGED), Some("onstart"), "{name}");
        assert_eq!(condition(&found), "True Local: Local APIServices are always available");
    }
    assert_eq!(cluster.ask(Method::GET, &format!("{API_SERVICES}/v1.apiregistration.k8s.io"), None).await.0, 404);
    // Custom resources', for as long as there are any.
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let version = |name: &str| json!({"name": name, "served": true, "storage": name == "v1", "schema": schema});
    let names = json!({"plural": "toys", "singular": "toy", "kind": "Toy", "listKind": "ToyList"});
    let spec = json!({"group": "play.example.com", "scope": "Cluster", "names": names, "versions": [version("v1"), version("v2")]});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.create(definitions, json!({"metadata": {"name": "toys.play.example.com"}, "spec": spec})).await;
    let path = |name: &str| format!("{API_SERVICES}/{name}.play.example.com");
    let until_there = async |name: &str, there: bool| {
        until(name, async || {
            let code = cluster.ask(Method::GET, &path(name), None).await.0;
            if (code == 200) == there { Ok(()) } else { Err(code.to_string()) }
        })
        .await;
    };
    until_there("v1", true).await;
    until_there("v2", true).await;
    let toys = cluster.get(&path("v1")).await;
    assert_eq!((&toys["spec"]["groupPriorityMinimum"], &toys["spec"]["versionPriority"]), (&json!(1000), &json!(100)));
    assert_eq!(object::label(&toys, MANAGED), Some("true"));
    // What is changed or removed of them is put right.
    assert_eq!(cluster.patch(&path("v1"), json!({"spec": {"versionPriority": 1}})).await.0, 200);
    until("right", async || {
        let seen = cluster.get(&path("v1")).await["spec"]["versionPriority"].clone();
        if seen == 100 { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
    assert_eq!(cluster.ask(Method::DELETE, &path("v2"), None).await.0, 200);
    until_there("v2", true).await;
    // A version that is served no longer.
    let unserved = json!({"spec": {"versions": [version("v1"), {"name": "v2", "served": false, "storage": false, "schema": schema}]}});
    assert_eq!(cluster.patch(&format!("{definitions}/toys.play.example.com"), unserved).await.0, 200);
    until_there("v2", false).await;
    assert_eq!(cluster.ask(Method::DELETE, &format!("{definitions}/toys.play.example.com"), None).await.0, 200);
    until_there("v1", false).await;
    // A built-in group's comes again with the next start, and is served meanwhile.
    assert_eq!(cluster.ask(Method::DELETE, &format!("{API_SERVICES}/v1.batch"), None).await.0, 200);
    assert_eq!(answer(&cluster, "/apis/batch/v1/jobs").await.0, 200);
    drop(cluster);
    let again = Cluster::on(storage).await;
    again.get(&format!("{API_SERVICES}/v1.batch")).await;
}

#[tokio::test]
async fn attack_who_may_register_may_shadow_all_but_what_registers() {
    let storage = Arc::new(Memory::default());
    let cluster = Cluster::on(storage.clone()).await;
    let extension = extended(&cluster).await;
    service(&cluster).await;
    // Nobody may who has no right to APIServices.
    let registered = api_service(&extension, "apps", json!({"groupPriorityMinimum": 17_800, "versionPriority": 15}));
    assert_eq!(cluster.as_user(user("joe", &[]), Method::POST, API_SERVICES, Some(registered.clone())).await.0, 403);
    let change = json!({"spec": registered["spec"]});
    assert_eq!(cluster.patch(&format!("{API_SERVICES}/v1.apps"), change.clone()).await.0, 200);
    // As upstream: whoever may write APIServices may have everything.
    until_condition(&cluster, "v1.apps", "True Passed").await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(cluster.get(deployments).await["kind"], "Echo");
    let mut core = change.clone();
    core["spec"]["group"] = "".into();
    assert_eq!(cluster.patch(&format!("{API_SERVICES}/v1."), core).await.0, 200);
    until_condition(&cluster, "v1.", "True Passed").await;
    assert_eq!(cluster.get("/api/v1/namespaces").await["kind"], "Echo");
    // What registers is out of reach: there is always a way back.
    cluster.create(API_SERVICES, api_service(&extension, "apiregistration.k8s.io", json!({}))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.get(API_SERVICES).await["kind"], "APIServiceList");
    // The next start brings the built-in ones back.
    drop(cluster);
    let again = Cluster::on(storage).await;
    assert_eq!(again.get(deployments).await["kind"], "DeploymentList");
    assert_eq!(again.get("/api/v1/namespaces").await["kind"], "NamespaceList");
    until_condition(&again, "v1.apps", "True Local").await;
    // And where it is put right by hand, at once.
    assert_eq!(again.patch(&format!("{API_SERVICES}/v1.apps"), change).await.0, 200);
    let local = json!({"spec": {"service": null, "caBundle": null}});
    assert_eq!(again.patch(&format!("{API_SERVICES}/v1.apps"), local).await.0, 200);
    until_condition(&again, "v1.apps", "True Local").await;
    assert_eq!(again.get(deployments).await["kind"], "DeploymentList");
}
