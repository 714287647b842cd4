//! What the audit log says, and that nothing that becomes of it harms a request.

use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::audit::{Audit, Backend, Event, FileOptions, Format, Mode, Policy, Sink};
use kybern_apiserver::{Options, Server, body};
use kybern_storage::memory::Memory;
use parking_lot::Mutex;

use crate::fixture::*;

/// Keeps what it is given.
#[derive(Default)]
struct Kept {
    events: Mutex<Vec<Value>>,
    fails: bool,
}
impl Sink for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }
    fn send(&self, events: &[Arc<Event>]) -> Result<(), String> {
        self.events.lock().extend(events.iter().map(|event| serde_json::to_value(&**event).unwrap()));
        if self.fails { Err("the disk is full".to_owned()) } else { Ok(()) }
    }
}

impl Kept {
    /// What was recorded since the last call.
    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.events.lock())
    }
}

pub(crate) async fn audited(rules: &str, backend: Backend) -> Client {
    let policy = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
    let mut options = Options::new(Arc::new(Memory::default()));
    options.resources = rows();
    options.authorizers = vec![Arc::new(Rules)];
    options.audit = Some(Audit::new(Policy::parse(policy.as_bytes()).unwrap(), vec![backend]));
    Client { server: Server::start(options).await.unwrap(), user: "admin" }
}

async fn kept(rules: &str) -> (Client, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    (audited(rules, Backend::new(kept.clone(), Mode::Blocking, None).unwrap()).await, kept)
}

pub(crate) fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["stage"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_write_is_recorded_with_its_objects() {
    let (client, kept) = kept("rules: [{level: RequestResponse, omitManagedFields: true}]").await;
    let headers = [("user-agent", "test/1"), ("audit-id", "mine"), ("x-forwarded-for", "192.0.2.7")];
    client
        .send("POST", &format!("{CONFIG_MAPS}?fieldManager=m"), &headers, config_map("a", "1").to_string())
        .await
        .ok();
    let events = kept.take();
    assert_eq!(stages(&events), ["RequestReceived", "ResponseComplete"]);
    let (first, last) = (&events[0], &events[1]);
    assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!(first["stageTimestamp"], first["requestReceivedTimestamp"]);
    assert!(first.get("responseStatus").is_none() && first.get("requestObject").is_none());
    assert_eq!(last["auditID"], "mine");
    assert_eq!(last["requestURI"], format!("{CONFIG_MAPS}?fieldManager=m"));
    assert_eq!(last["user"], json!({"username": "admin"}));
    assert_eq!((&last["verb"], &last["userAgent"]), (&json!("create"), &json!("test/1")));
    assert_eq!(last["sourceIPs"], json!(["192.0.2.7"]));
    let reference = json!({"resource": "configmaps", "namespace": "ns", "name": "a", "apiVersion": "v1"});
    assert_eq!(last["objectRef"], reference);
    assert_eq!(last["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!((&last["requestObject"]["data"]["k"], &last["responseObject"]["data"]["k"]), (&json!("1"), &json!("1")));
    assert!(last["responseObject"]["metadata"]["uid"].is_string());
    assert!(last["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(
        last["annotations"],
        json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""})
    );

    let patch = json!({"data": {"k": "2"}});
    client.patch(&format!("{CONFIG_MAPS}/a"), "application/merge-patch+json", patch.clone()).await.ok();
    assert_eq!(kept.take()[1]["requestObject"], patch);
    // Whatever form the client takes.
    for accept in ["application/yaml", "application/vnd.kubernetes.protobuf"] {
        client.send("GET", CONFIG_MAPS, &[("accept", accept)], "").await;
        assert_eq!(kept.take()[1]["responseObject"]["items"][0]["data"]["k"], "2", "{accept}");
    }
    client.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    let status = &kept.take()[1]["responseStatus"];
    assert_eq!(
        (&status["status"], &status["code"], &status["details"]["name"]),
        (&json!("Success"), &json!(200), &json!("a"))
    );
}

#[tokio::test]
async fn levels_and_stages() {
    let rules = "omitStages: [RequestReceived]\nrules: [{level: None, verbs: [list]}, {level: Metadata, verbs: [delete]}, \
                 {level: Request}]";
    let (client, kept) = kept(rules).await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let events = kept.take();
    assert_eq!(stages(&events), ["ResponseComplete"]);
    assert!(events[0].get("responseObject").is_none() && events[0]["requestObject"].is_object());
    client.get(CONFIG_MAPS).await.ok();
    assert_eq!(kept.take(), [Value::Null; 0]);
    client.send("DELETE", &format!("{CONFIG_MAPS}/a"), &[], json!({"kind": "DeleteOptions"}).to_string()).await.ok();
    assert!(kept.take()[0].get("requestObject").is_none());
    let metrics = String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap();
    for line in [
        "apiserver_audit_event_total 2\n",
        "apiserver_audit_level_total{level=\"None\"} 1",
        "apiserver_audit_level_total{level=\"Request\"} 2\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn refusals_are_recorded() {
    let (client, kept) = kept("rules: [{level: Metadata}]").await;
    client.get(&format!("{CONFIG_MAPS}/none")).await;
    let status = json!({
        "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404, "message": "configmaps \"none\" not found",
        "details": {"name": "none", "kind": "configmaps"},
    });
    assert_eq!(kept.take()[1]["responseStatus"], status);
    // Whoever speaks for someone else is recorded as both.
    client.send("GET", CONFIG_MAPS, &[("impersonate-user", "nobody"), ("impersonate-group", "g")], "").await;
    let last = kept.take().pop().unwrap();
    assert_eq!((&last["user"]["username"], &last["responseStatus"]["code"]), (&json!("admin"), &json!(403)));
    assert_eq!(last["impersonatedUser"], json!({"username": "nobody", "groups": ["g", "system:authenticated"]}));
    assert_eq!(last["annotations"]["authorization.k8s.io/decision"], "forbid");
    // Nobody vouches for this one.
    let request = Request::get(PODS).header("authorization", "Bearer x").body(body::empty()).unwrap();
    assert_eq!(client.server.handle(request).await.status(), 401);
    let events = kept.take();
    assert_eq!(stages(&events), ["ResponseStarted"]);
    let text = "Authentication failed, attempted: bearer";
    assert_eq!(events[0]["responseStatus"], json!({"metadata": {}, "message": text, "code": 401}));
    assert_eq!(client.get(&format!("{PODS}?timeout=x")).await.code, 400);
    assert_eq!(kept.take()[0]["responseStatus"]["code"], 400);
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let (client, kept) = kept("rules: [{level: RequestResponse}]").await;
    let watch = client.raw("GET", &format!("{CONFIG_MAPS}?watch=true"), &[], body::empty()).await;
    assert_eq!(stages(&kept.take()), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    assert_eq!(stages(&kept.take()), ["ResponseComplete"]);
    // Who goes before there is an answer leaves a trace nevertheless.
    let gone = client.raw("GET", CONFIG_MAPS, &[], body::empty());
    drop(tokio::time::timeout(std::time::Duration::ZERO, gone).await);
    assert_eq!(kept.take().last().unwrap()["stage"], "ResponseComplete");
    let list = client.raw("GET", CONFIG_MAPS, &[], body::empty()).await;
    list.into_body().collect().await.unwrap();
    assert_eq!(kept.take()[1]["responseObject"]["kind"], "ConfigMapList");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_harms_no_request_unless_that_is_wanted() {
    let failing = || Arc::new(Kept { fails: true, ..Kept::default() });
    let lenient = audited("rules: [{level: Metadata}]", Backend::new(failing(), Mode::Blocking, None).unwrap()).await;
    lenient.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let metrics = String::from_utf8(lenient.get("/metrics").await.bytes.to_vec()).unwrap();
    assert!(metrics.contains("apiserver_audit_error_total{plugin=\"kept\"} 3"), "{metrics}");
    let strict =
        audited("rules: [{level: Metadata}]", Backend::new(failing(), Mode::BlockingStrict, None).unwrap()).await;
    let refused = strict.post(CONFIG_MAPS, config_map("a", "1")).await.status();
    assert_eq!(refused, (500, "Internal error occurred: failed to store audit event".to_owned()));
}

#[tokio::test]
async fn the_file_has_a_line_for_each_event() {
    let directory = tempfile::tempdir().unwrap();
    let at = |format: Format, name: &str| {
        let path = directory.path().join(name);
        let options = FileOptions { path, max_age: 0, max_backups: 0, max_size: 1 << 20, compress: false };
        Backend::file(options, format, Mode::Blocking, None).unwrap()
    };
    let client = audited("rules: [{level: Metadata}]", at(Format::Json, "json.log")).await;
    client.get(CONFIG_MAPS).await.ok();
    let text = std::fs::read_to_string(directory.path().join("json.log")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(stages(&lines), ["RequestReceived", "ResponseComplete"]);
    assert!(
        text.starts_with(r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":""#),
        "{text}"
    );
    let client = audited("rules: [{level: Metadata}]", at(Format::Legacy, "legacy.log")).await;
    client.get(CONFIG_MAPS).await.ok();
    let text = std::fs::read_to_string(directory.path().join("legacy.log")).unwrap();
    assert!(text.contains(" AUDIT: id=\"") && text.lines().count() == 2, "{text}");
    let expect = "stage=\"ResponseComplete\" ip=\"<unknown>\" method=\"list\" user=\"admin\" groups=\"<none>\" as=\"<self>\" \
                  asgroups=\"<lookup>\" user-agent=\"\" namespace=\"ns\" uri=\"/api/v1/namespaces/ns/configmaps\" response=\"200\"";
    assert!(text.contains(expect), "{text}");
}
