//! Ends that overtake starts: at each step of a start, nothing of the pod stays.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kybern_apimachinery::{Value, json};
use kybern_client::{Body, BoxFuture, Transport, TransportError};

use super::TestNode;
use crate::fake_api::Wire;
use crate::fake_cri::FakeCri;

/// The way to the API server, where requests for tokens can be held up: that is a step of making volumes.
pub(crate) struct HeldWire(pub(crate) Wire, pub(crate) Arc<FakeCri>);

impl Transport for HeldWire {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let cri = request.uri().path().ends_with("/token").then(|| self.1.clone());
        let answer = self.0.call(request);
        Box::pin(async move {
            if let Some(cri) = cri {
                cri.at("token").await;
            }
            answer.await
        })
    }
}

impl TestNode {
    async fn until_nothing_is_left(&self, pod: &str) {
        for _ in 0..1000 {
            let places = ["kubelet/pods", "pod-logs", "container-logs"];
            let left = places.iter().any(|place| {
                let entries = std::fs::read_dir(self.dir.path().join(place)).into_iter().flatten().flatten();
                entries.into_iter().any(|entry| entry.file_name().to_string_lossy().contains(pod))
            });
            if self.cri.is_empty() && !left {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("of {pod} something is left; runtime empty: {}", self.cri.is_empty());
    }
}

/// A pod whose start has every kind of step: a token and other volumes, an image to pull, a hook, probes.
fn everything(pod: &mut Value) {
    let exec = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1});
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = "public/app:1".into();
    container["lifecycle"] = json!({"postStart": exec("hook")});
    container["startupProbe"] = exec("startup");
    container["readinessProbe"] = exec("readiness");
    container["livenessProbe"] = exec("liveness");
    let mounts = ["token", "scratch"].map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
    container["volumeMounts"] = json!(mounts);
    let token = json!({"serviceAccountToken": {"path": "token"}});
    pod["spec"]["volumes"] =
        json!([{"name": "token", "projected": {"sources": [token]}}, {"name": "scratch", "emptyDir": {}}]);
}

#[tokio::test]
async fn an_end_overtakes_each_step_of_a_start() {
    let steps = [
        "token",
        "before sandbox",
        "after sandbox",
        "before pull",
        "after pull",
        "before create",
        "after create",
        "before start",
        "after start",
        "hook",
        "startup",
        "readiness",
        "liveness",
    ];
    for (i, step) in steps.iter().enumerate() {
        for (j, end) in ["force", "grace 0", "grace 1", "restart"].iter().enumerate() {
            let mut node = TestNode::new();
            let name = format!("p{i}{j}");
            node.cri.hold(step);
            node.create(&name, everything);
            node.cri.reached.notified().await;
            let key = format!("default/{name}");
            match *end {
                "grace 0" => node.api.delete_gracefully(&key, 0),
                "grace 1" => node.api.delete_gracefully(&key, 1),
                _ => drop(node.api.remove("pods", &key)),
            }
            if *end == "restart" {
                node.kill().await;
                node.cri.release();
                // As a process that ends, the kubelet before does nothing any more when the next one starts.
                tokio::time::sleep(Duration::from_millis(50)).await;
                node.start(node.config());
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                node.cri.release();
                node.until_gone(&name).await;
            }
            node.until_nothing_is_left(&name).await;
            // Nothing that comes late brings anything back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            node.until_nothing_is_left(&name).await;
        }
    }
}

/// A start that waits for what does not come has its end, too.
#[tokio::test]
async fn an_end_overtakes_what_a_start_waits_for() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 4] = [
        ("FailedMount", |pod| pod["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "absent"}}])),
        ("FailedCreatePodSandBox", |pod| pod["spec"]["runtimeClassName"] = "absent".into()),
        ("BackOff", |pod| pod["spec"]["containers"][0]["image"] = "missing:1".into()),
        ("Failed", |pod| {
            pod["spec"]["containers"][0]["env"] =
                json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "a"}}}]);
        }),
    ];
    for (i, (event, change)) in cases.into_iter().enumerate() {
        for grace in [None, Some(0), Some(1)] {
            let node = TestNode::new();
            let name = format!("w{i}");
            node.create(&name, change);
            node.api.until_event(event).await;
            let key = format!("default/{name}");
            match grace {
                Some(grace) => node.api.delete_gracefully(&key, grace),
                None => drop(node.api.remove("pods", &key)),
            }
            node.until_gone(&name).await;
            node.until_nothing_is_left(&name).await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_removed_is_tried_again_and_told_of() {
    let mut node = TestNode::new();
    node.running("p", |_| {}).await;
    node.kill().await;
    node.api.remove("pods", "default/p");
    node.cri.fail_stops(2);
    node.start(node.config());
    node.api.until_event("FailedPodCleanup: cannot remove what is left of a pod (p-uid): ").await;
    node.until_nothing_is_left("p").await;

    let node = TestNode::new();
    node.running("q", |_| {}).await;
    node.cri.fail_stops(2);
    node.api.remove("pods", "default/q");
    node.api.until_event("FailedKillPod: error killing pod: ").await;
    node.until_nothing_is_left("q").await;
}
