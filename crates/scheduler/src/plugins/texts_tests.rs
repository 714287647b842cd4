//! What `FailedScheduling` says for each reason that a node can have, word for word as upstream.

use std::sync::Arc;

use kybern_apimachinery::{Value, json};

use crate::cache::Cluster;
use crate::chain::Chain;
use crate::cycle::{self, Position};
use crate::fixture;

/// The message about a pod where there is one node with one other pod.
fn message(labels: Value, spec: Value, mut node: Value, other: Value) -> String {
    node["metadata"]["name"] = "n".into();
    if node["status"].is_null() {
        node["status"]["allocatable"] =
            json!({"cpu": "2", "memory": "2Gi", "ephemeral-storage": "2Gi", "example.com/gpu": "2", "pods": "9"});
    }
    let mut cluster = Cluster::default();
    cluster.set_node(Arc::new(fixture::node(node)));
    let mut running = fixture::labelled("other", json!({"app": "other"}), other);
    running.node = "n".into();
    cluster.set_bound(Arc::new(running));
    cluster.refresh_order();
    let pod = fixture::labelled("p", labels, spec);
    let diagnosis = cycle::schedule(&Chain::default(), &pod, &cluster, 0, &mut Position::default(), None);
    cycle::message(&diagnosis.expect_err("no node takes it"), "")
}

#[test]
fn reasons_are_upstreams() {
    let plain = || json!({});
    let check = |spec: Value, node: Value, other: Value, reasons: &str| {
        let expect = format!("0/1 nodes are available: {reasons}.");
        assert_eq!(message(json!({"app": "p"}), spec, node, other), expect);
    };
    let requests = |amounts: Value| json!({"containers": [{"name": "c", "resources": {"requests": amounts}}]});
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    check(plain(), cordoned, plain(), "1 node(s) were unschedulable");
    check(plain(), tainted, plain(), "1 node(s) had untolerated taint {k: v}");
    check(json!({"nodeSelector": {"a": "b"}}), plain(), plain(), "1 node(s) didn't match Pod's node affinity/selector");
    check(port.clone(), plain(), port, "1 node(s) didn't have free ports for the requested pod ports");
    let full = json!({"status": {"allocatable": {"pods": "1"}}});
    check(plain(), full, plain(), "1 Too many pods");
    for resource in ["cpu", "memory", "ephemeral-storage", "example.com/gpu"] {
        let want = requests(json!({resource: "3Gi"}));
        check(want, plain(), plain(), &format!("1 Insufficient {resource}"));
    }
    let most = requests(json!({"cpu": "2", "memory": "2Gi"}));
    check(most.clone(), plain(), most, "1 Insufficient cpu, 1 Insufficient memory");
    let spread = |key: &str| {
        let selector = json!({"matchLabels": {"app": "other"}});
        let constraint = json!({"maxSkew": 1, "minDomains": 2, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector});
        json!({"topologySpreadConstraints": [constraint]})
    };
    let missing = "1 node(s) didn't match pod topology spread constraints (missing required label)";
    check(spread("zone"), plain(), plain(), missing);
    let labelled = || json!({"metadata": {"labels": {"zone": "a", "kubernetes.io/hostname": "n"}}});
    let mut twice = spread("zone");
    twice["topologySpreadConstraints"][0]["labelSelector"] =
        json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
    check(twice, labelled(), plain(), "1 node(s) didn't match pod topology spread constraints");
    let term = |app: &str| {
        let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"});
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]})
    };
    let near = json!({"affinity": {"podAffinity": term("nobody")}});
    check(near, labelled(), plain(), "1 node(s) didn't match pod affinity rules");
    let far = |app: &str| json!({"affinity": {"podAntiAffinity": term(app)}});
    check(far("other"), labelled(), plain(), "1 node(s) didn't match pod anti-affinity rules");
    check(plain(), labelled(), far("p"), "1 node(s) didn't satisfy existing pods anti-affinity rules");
}
