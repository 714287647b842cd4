//! The driver against a scripted server.

use http::{Method, Request, Response};
use kybern_client::{Body, BoxFuture, Transport, TransportError, body};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;

/// Answers the first watch of nodes and of pods with what there is, refuses bindings as told, and passes on all writes.
struct Server {
    nodes: Mutex<Option<Vec<Value>>>,
    pods: Mutex<Option<Vec<Value>>>,
    refuse_bindings: Mutex<u32>,
    seen: Mutex<HashSet<String>>,
    writes: mpsc::UnboundedSender<(Method, String, Value)>,
}

fn initial_events(objects: Vec<Value>) -> String {
    let end = json!({"metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}});
    let mut lines: Vec<String> = objects.iter().map(|o| json!({"type": "ADDED", "object": o}).to_string()).collect();
    lines.push(json!({"type": "BOOKMARK", "object": end}).to_string());
    lines.join("\n") + "\n"
}

impl Transport for Server {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let path = request.uri().path().to_owned();
        let listed = match path.as_str() {
            "/api/v1/nodes" => self.nodes.lock().take(),
            "/api/v1/pods" => self.pods.lock().take(),
            // Of everything else there is none.
            other => self.seen.lock().insert(other.to_owned()).then(Vec::new),
        };
        let refused = path.ends_with("/binding") && {
            let mut left = self.refuse_bindings.lock();
            let refused = *left > 0;
            *left = left.saturating_sub(1);
            refused
        };
        let writes = self.writes.clone();
        Box::pin(async move {
            if request.method() == Method::GET {
                return match listed {
                    Some(objects) => Ok(Response::new(body::full(initial_events(objects)))),
                    None => std::future::pending().await,
                };
            }
            let method = request.method().clone();
            let bytes = body::collect(request.into_body(), 1 << 20).await.unwrap();
            let sent: Value = serde_json::from_slice(&bytes).unwrap();
            let _ = writes.send((method, path, sent));
            let (code, answer) = match refused {
                true => (500, json!({"kind": "Status", "status": "Failure", "message": "no", "code": 500})),
                false => (201, json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}, "status": {}})),
            };
            Ok(Response::builder().status(code).body(body::full(answer.to_string())).unwrap())
        })
    }
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "3"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    })
}

/// Runs the scheduler on one node with two cores until `wanted` writes of interest were made.
async fn writes(pods: Vec<Value>, refuse_bindings: u32, wanted: usize) -> Vec<(Method, String, Value)> {
    run_with(Config::default(), pods, refuse_bindings, wanted).await
}

async fn run_with(
    config: Config,
    pods: Vec<Value>,
    refuse_bindings: u32,
    wanted: usize,
) -> Vec<(Method, String, Value)> {
    let node = json!({"metadata": {"name": "n1", "resourceVersion": "1"}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "9"}}});
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let server = Server {
        nodes: Mutex::new(Some(vec![node])),
        pods: Mutex::new(Some(pods)),
        refuse_bindings: Mutex::new(refuse_bindings),
        seen: Mutex::default(),
        writes: sender,
    };
    let client = Client::new(Arc::new(server));
    let mut seen = Vec::new();
    let collect = async {
        while seen.len() < wanted {
            seen.extend(receiver.recv().await);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), run(config, client, collect)).await.expect("the writes are made");
    seen.sort_by_key(|(_, path, _)| path.clone());
    seen
}

#[tokio::test]
async fn pods_are_bound_or_told_why_not() {
    let seen = writes(vec![pod("fits", "1"), pod("large", "3")], 0, 4).await;
    let paths: Vec<&str> = seen.iter().map(|(_, path, _)| path.as_str()).collect();
    let events = "/api/v1/namespaces/default/events";
    let binding = "/api/v1/namespaces/default/pods/fits/binding";
    assert_eq!(paths, [events, events, binding, "/api/v1/namespaces/default/pods/large/status"]);
    assert_eq!(seen[2].2["target"]["name"], "n1");
    assert_eq!(seen[2].2["metadata"]["uid"], "uid-fits");
    let condition = &seen[3].2["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable"))
    );
    let text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(condition["message"], text);
    let mut messages: Vec<(&str, &str)> =
        seen[..2].iter().map(|(_, _, e)| (e["reason"].as_str().unwrap(), e["message"].as_str().unwrap())).collect();
    messages.sort_unstable();
    assert_eq!(messages, [("FailedScheduling", text), ("Scheduled", "Successfully assigned default/fits to n1")]);
    assert_eq!(seen[0].2["source"]["component"], "default-scheduler");
}

#[tokio::test(start_paused = true)]
async fn a_refused_binding_is_tried_again() {
    let seen = writes(vec![pod("p", "1")], 1, 5).await;
    let bindings = seen.iter().filter(|(_, path, _)| path.ends_with("/binding")).count();
    assert_eq!(bindings, 2, "{seen:?}");
    assert!(seen.iter().any(|(_, _, sent)| sent["message"] == "running Bind plugin \"DefaultBinder\": no"));
    assert!(seen.iter().any(|(_, _, sent)| sent["status"]["conditions"][0]["reason"] == "SchedulerError"));
}

#[tokio::test]
async fn what_others_own_is_left_alone() {
    let mut gated = pod("gated", "1");
    gated["spec"]["schedulingGates"] = json!([{"name": "wait"}]);
    let mut foreign = pod("foreign", "1");
    foreign["spec"]["schedulerName"] = "other".into();
    let mut bound = pod("bound", "1500m");
    bound["spec"]["nodeName"] = "n1".into();
    // Half a core is left: one of these fits.
    let seen = writes(vec![gated, foreign, bound, pod("a", "500m")], 0, 2).await;
    let paths: Vec<&str> = seen.iter().map(|(_, path, _)| path.as_str()).collect();
    assert_eq!(paths, ["/api/v1/namespaces/default/events", "/api/v1/namespaces/default/pods/a/binding"]);
}

#[tokio::test]
async fn victims_are_told_and_deleted() {
    let mut low = pod("low", "2");
    low["spec"]["nodeName"] = "n1".into();
    let mut high = pod("high", "1");
    high["spec"]["priority"] = 10.into();
    let seen = writes(vec![low, high], 0, 5).await;
    let calls: Vec<String> = seen.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(
        calls,
        [
            "POST /api/v1/namespaces/default/events",
            "POST /api/v1/namespaces/default/events",
            "PATCH /api/v1/namespaces/default/pods/high/status",
            "DELETE /api/v1/namespaces/default/pods/low",
            "PATCH /api/v1/namespaces/default/pods/low/status",
        ]
    );
    assert_eq!(seen[2].2["status"]["nominatedNodeName"], "n1");
    assert_eq!(seen[3].2["preconditions"]["uid"], "uid-low");
    let condition = &seen[4].2["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("DisruptionTarget"), &json!("PreemptionByScheduler"))
    );
    assert_eq!(condition["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    let preempted = seen[..2].iter().find(|(_, _, event)| event["reason"] == "Preempted").expect("an event");
    assert_eq!(preempted.2["message"], "Preempted by pod uid-high on node n1");
    assert_eq!(preempted.2["involvedObject"]["name"], "low");
}

#[tokio::test(start_paused = true)]
async fn metrics_have_upstreams_names() {
    let config = Config::default();
    let mut registry = prometheus_client::registry::Registry::default();
    config.metrics.register(&mut registry);
    let mut gated = pod("gated", "1");
    gated["spec"]["schedulingGates"] = json!([{"name": "wait"}]);
    run_with(config, vec![pod("p", "1"), gated], 1, 5).await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for expect in [
        "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"default-scheduler\"} 1\n",
        "scheduler_schedule_attempts_total{result=\"error\",profile=\"default-scheduler\"} 1\n",
        "scheduler_scheduling_attempt_duration_seconds_count{result=\"scheduled\",profile=\"default-scheduler\"} 1\n",
        "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"2\"} 1\n",
        "scheduler_pod_scheduling_attempts_sum 2.0\n",
        "scheduler_pending_pods{queue=\"unschedulable\"} 0\n",
        "scheduler_pending_pods{queue=\"gated\"} 1\n",
        "scheduler_cache_size{type=\"nodes\"} 1\n",
        "scheduler_cache_size{type=\"assumed_pods\"} 1\n",
        "scheduler_preemption_attempts_total 0\n",
        "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",status=\"Success\",profile=\"default-scheduler\"} 2\n",
        "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Bind\",status=\"Error\",profile=\"default-scheduler\"} 1\n",
        "scheduler_plugin_evaluation_total{plugin=\"NodeResourcesFit\",extension_point=\"Filter\",profile=\"default-scheduler\"} 2\n",
        "scheduler_plugin_evaluation_total{plugin=\"NodeResourcesFit\",extension_point=\"PreFilter\",profile=\"default-scheduler\"} 2\n",
        "scheduler_goroutines{operation=\"binding\"} 0\n",
    ] {
        assert!(text.contains(expect), "{expect} is not in\n{text}");
    }
}
