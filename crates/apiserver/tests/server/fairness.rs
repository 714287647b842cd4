//! Flows, levels and seats, through the server's entry.

use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::{ApiError, Value, json, object};
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest};
use kybern_apiserver::strategy::Plain;
use kybern_apiserver::{BoxFuture, Options, Server, body};
use kybern_storage::memory::Memory;
use tokio::sync::Semaphore;

use crate::fixture::*;

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// Holds every write of ConfigMaps up until it is let on.
struct Gate(Arc<Semaphore>);
impl AdmissionPlugin for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }
    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        _: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async {
            if request.resource.gvr.resource == "configmaps" {
                self.0.acquire().await.unwrap().forget();
            }
            Ok(())
        })
    }
}

/// A server with so many seats.
async fn fair(seats: usize) -> (Client, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let mut options = Options::new(Arc::new(Memory::default()));
    options.resources = rows();
    for kind in ["FlowSchema", "PriorityLevelConfiguration"] {
        options.resources.push(row("flowcontrol.apiserver.k8s.io", "v1", kind, false, Arc::new(Plain)));
    }
    options.authorizers = vec![Arc::new(Rules)];
    options.admission = vec![Arc::new(Gate(gate.clone()))];
    (options.max_requests_in_flight, options.max_mutating_requests_in_flight) = (seats, 0);
    options.priority_and_fairness = true;
    let server = Server::start(options).await.unwrap();
    server.keep_flow_conditions();
    (Client { server, user: "admin" }, gate)
}

fn level(name: &str, shares: u32, response: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": name},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "limitResponse": response}},
    })
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
    });
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 500, "rules": [rule],
            "distinguisherMethod": {"type": "ByUser"}},
    })
}

async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn number(metrics: &str, line: &str) -> u64 {
    let found = metrics.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in {metrics}")).parse().unwrap()
}

async fn metrics(client: &Client) -> String {
    String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_with_thousands_of_requests_keeps_nobody_else_out() {
    let (client, gate) = fair(30).await;
    let queue = json!({"type": "Queue", "queuing": {"queues": 16, "handSize": 4, "queueLengthLimit": 50}});
    for name in ["noisy", "others"] {
        client.post(&format!("{FLOW}/prioritylevelconfigurations"), level(name, 30, queue.clone())).await.ok();
    }
    client.post(&format!("{FLOW}/flowschemas"), schema("noisy", "noisy", "noisy")).await.ok();
    client.post(&format!("{FLOW}/flowschemas"), schema("others", "others", "quiet")).await.ok();
    let noisy = Arc::new(Client { server: client.server.clone(), user: "noisy" });
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..10_000 {
        let noisy = noisy.clone();
        tasks.spawn(async move { noisy.post(CONFIG_MAPS, config_map(&format!("a{i}"), "")).await.code.as_u16() });
    }
    settle().await;
    let quiet = Client { server: client.server.clone(), user: "quiet" };
    for i in 0..20 {
        quiet.post(PODS, pod(&format!("p{i}"), "")).await.ok();
        quiet.get(PODS).await.ok();
    }
    let text = metrics(&client).await;
    let executing = number(&text, "apiserver_flowcontrol_current_executing_requests{priority_level=\"noisy\"}");
    let waiting = number(&text, "apiserver_flowcontrol_current_inqueue_requests{priority_level=\"noisy\"}");
    assert!((10..30).contains(&executing), "{executing}");
    assert!(waiting <= 200, "a hand of 4 queues of 50: {waiting}");
    // Those who wait do so for a quarter of a request's time at most.
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(
        number(&metrics(&client).await, "apiserver_flowcontrol_current_inqueue_requests{priority_level=\"noisy\"}"),
        0
    );
    gate.add_permits(10_000);
    let mut codes = std::collections::BTreeMap::new();
    while let Some(code) = tasks.join_next().await {
        *codes.entry(code.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(codes.keys().copied().collect::<Vec<_>>(), [201, 429], "{codes:?}");
    assert_eq!(codes[&201], executing);
    let text = metrics(&client).await;
    let rejected = |reason: &str| {
        let of = format!("priority_level=\"noisy\",flow_schema=\"noisy\",reason=\"{reason}\"");
        number(&text, &format!("apiserver_flowcontrol_rejected_requests_total{{{of}}}"))
    };
    assert_eq!((rejected("time-out"), rejected("queue-full")), (waiting, 10_000 - executing - waiting));
    let noisy = Client { server: client.server.clone(), user: "noisy" };
    noisy.post(CONFIG_MAPS, config_map("after", "")).await.ok();
}

/// Within one level, too, each flow has its turn: not behind all that another has sent before.
#[tokio::test(start_paused = true)]
async fn who_shares_a_level_with_the_noisy_waits_for_one_turn_only() {
    let (client, gate) = fair(30).await;
    let queue = json!({"type": "Queue", "queuing": {"queues": 128, "handSize": 6, "queueLengthLimit": 50}});
    client.post(&format!("{FLOW}/prioritylevelconfigurations"), level("shared", 30, queue)).await.ok();
    for user in ["noisy", "quiet"] {
        client.post(&format!("{FLOW}/flowschemas"), schema(user, "shared", user)).await.ok();
    }
    let post = |user: &'static str, name: String| {
        let client = Client { server: client.server.clone(), user };
        tokio::spawn(async move { client.post(CONFIG_MAPS, config_map(&name, "")).await.code.as_u16() })
    };
    let noisy: Vec<_> = (0..1_000).map(|i| post("noisy", format!("a{i}"))).collect();
    settle().await;
    let state = async |what: &str| {
        let line = format!("apiserver_flowcontrol_current_{what}_requests{{priority_level=\"shared\"}}");
        number(&metrics(&client).await, &line)
    };
    let executing = state("executing").await;
    assert_eq!(state("inqueue").await, 300, "a hand of 6 queues of 50");
    let quiet = post("quiet", "q".to_owned());
    settle().await;
    gate.add_permits(executing as usize + 10);
    assert_eq!(quiet.await.unwrap(), 201);
    assert!(state("inqueue").await > 250);
    noisy.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn requests_are_told_their_schema_and_level_and_objects_count_at_once() {
    let (client, gate) = fair(100).await;
    let uids = |answer: &Answer| {
        ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"]
            .map(|name| answer.headers[name].to_str().unwrap().to_owned())
    };
    // Nobody has made anything: what catches all has no object.
    assert_eq!(uids(&client.get(PODS).await), ["", ""]);
    let made = client
        .post(&format!("{FLOW}/prioritylevelconfigurations"), level("l", 1, json!({"type": "Reject"})))
        .await
        .ok();
    let schema_made = client.post(&format!("{FLOW}/flowschemas"), schema("s", "l", "admin")).await.ok();
    let expect = [object::uid(&schema_made).to_owned(), object::uid(&made).to_owned()];
    assert_eq!(uids(&client.get(PODS).await), expect);
    // Refusals say so, too.
    assert_eq!(uids(&client.get(&format!("{PODS}/none")).await), expect);
    // The level has a sixth of 100 seats, 17, and cannot borrow more than there are.
    let mut held = Vec::new();
    for i in 0..200 {
        let client = Client { server: client.server.clone(), user: "admin" };
        held.push(tokio::spawn(async move { client.post(CONFIG_MAPS, config_map(&format!("a{i}"), "")).await }));
    }
    settle().await;
    let refused = client.get(PODS).await;
    assert_eq!(refused.status(), (429, "Too many requests, please try again later.".to_owned()));
    assert_eq!(uids(&refused), expect);
    // It grows with the seconds that refusals go on.
    let wait: u32 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=8).contains(&wait), "{wait}");
    let other = Client { server: client.server.clone(), user: "other" };
    other.get(PODS).await.ok();
    let dump = |name: &'static str| {
        let other = &other;
        async move {
            String::from_utf8(other.get(&format!("/debug/api_priority_and_fairness/{name}")).await.bytes.to_vec())
                .unwrap()
        }
    };
    let levels = dump("dump_priority_levels").await;
    assert!(levels.starts_with("PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, "), "{levels}");
    assert!(levels.lines().any(|line| line.starts_with("l,") && line.contains("false,")), "{levels}");
    let requests = dump("dump_requests?includeRequestDetails=1").await;
    assert!(requests.contains("/api/v1/namespaces/ns/configmaps"), "{requests}");
    assert!(dump("dump_queues").await.starts_with("PriorityLevelName, Index,"));
    assert_eq!(other.get("/debug/api_priority_and_fairness/nonsense").await.code, 404);
    // The schema goes, and with it all that held its user back.
    let boss = Client { server: client.server.clone(), user: "boss" };
    boss.delete(&format!("{FLOW}/flowschemas/s")).await.ok();
    assert_eq!(uids(&client.get(PODS).await), ["", ""]);
    boss.delete(&format!("{FLOW}/prioritylevelconfigurations/l")).await.ok();
    assert!(dump("dump_priority_levels").await.lines().any(|line| line.starts_with("l,") && line.contains("true,")));
    gate.add_permits(200);
    for held in held {
        let code = held.await.unwrap().code.as_u16();
        assert!([201, 429].contains(&code), "{code}");
    }
    assert!(!dump("dump_priority_levels").await.contains("\nl,"), "the last of its requests has gone");
}

#[tokio::test]
async fn a_schema_without_its_level_says_so_and_catches_nothing() {
    let (client, _) = fair(100).await;
    let path = format!("{FLOW}/flowschemas");
    client.post(&path, schema("s", "l", "admin")).await.ok();
    let condition = async || {
        settle().await;
        client.get(&format!("{path}/s")).await.ok()["status"]["conditions"][0].clone()
    };
    let dangling = condition().await;
    assert_eq!(
        (&dangling["type"], &dangling["status"], &dangling["reason"]),
        (&json!("Dangling"), &json!("True"), &json!("NotFound"))
    );
    let text =
        "This FlowSchema references the PriorityLevelConfiguration object named \"l\" but there is no such object";
    assert_eq!(dangling["message"], text);
    assert_eq!(client.get(PODS).await.headers["x-kubernetes-pf-flowschema-uid"], "");
    client.post(&format!("{FLOW}/prioritylevelconfigurations"), level("l", 1, json!({"type": "Reject"}))).await.ok();
    let found = condition().await;
    assert_eq!((&found["status"], &found["reason"]), (&json!("False"), &json!("Found")));
    assert_ne!(client.get(PODS).await.headers["x-kubernetes-pf-flowschema-uid"], "");
}

#[tokio::test]
async fn watches_and_streams_hold_no_seat_once_they_have_begun() {
    let (client, _) = fair(2).await;
    let mut watches = Vec::new();
    for _ in 0..50 {
        let watch = client.raw("GET", &format!("{CONFIG_MAPS}?watch=true"), &[], body::empty()).await;
        assert_eq!(watch.status(), 200);
        watches.push(watch);
    }
    client.get(PODS).await.ok();
}
