//! What pods use and what follows from it, and what holds their eviction back.

use std::time::Duration;

use kybern_e2e::{Cluster, Table, eventually, eventually_within};

/// Uses a core until it finds a file, and is scaled by what it uses.
const BURNING: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: burn}
spec:
  selector: {matchLabels: {app: burn}}
  template:
    metadata: {labels: {app: burn}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox
        command: [sh, -c, 'until [ -e /tmp/calm ]; do i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; done; sleep 100000']
        resources: {requests: {cpu: 10m}, limits: {cpu: 100m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: burn}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: burn}
  maxReplicas: 2
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 100}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 0}
";

#[test]
fn load_is_shown_and_makes_more_pods_and_calm_fewer() {
    let namespace = Cluster::get().namespace("load");
    namespace.apply(BURNING);
    let scaled_to = |replicas: &str| {
        eventually_within(Duration::from_secs(180), "the autoscaler acts", || {
            let now = namespace.jsonpath(&["deployment", "burn"], "{.spec.replicas}");
            let status = || namespace.jsonpath(&["hpa", "burn"], "{.status}");
            if now == replicas { Ok(()) } else { Err(status()) }
        });
    };
    scaled_to("2");
    let pods = Table::parse(&namespace.run(&["top", "pods"]).ok());
    assert_eq!(pods.headers(), ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    assert!(pods.cell(0, "NAME").starts_with("burn-") && pods.cell(0, "CPU(cores)") != "0m", "{pods:?}");
    let nodes = Table::parse(&namespace.run(&["top", "nodes"]).ok());
    assert!(nodes.cell(0, "CPU(%)").ends_with('%') && nodes.cell(0, "MEMORY(bytes)").ends_with("Mi"), "{nodes:?}");
    let why = "cpu resource utilization (percentage of request) above target";
    eventually("it says why", || {
        let told = namespace.run(&["describe", "hpa", "burn"]).ok();
        if told.contains(&format!("New size: 2; reason: {why}")) { Ok(()) } else { Err(told) }
    });
    for pod in namespace.jsonpath(&["pods"], "{.items[*].metadata.name}").split_whitespace() {
        namespace.run(&["wait", "--for=condition=Ready", "--timeout=60s", "pod", pod]).ok();
        namespace.run(&["exec", pod, "--", "touch", "/tmp/calm"]).ok();
    }
    scaled_to("1");
}

#[test]
fn a_budget_holds_evictions_back() {
    let namespace = Cluster::get().namespace("budget");
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14", "--replicas=2"]).ok();
    namespace.run(&["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2"]).ok();
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let healthy = || namespace.jsonpath(&["pdb", "web"], "{.status.currentHealthy}/{.status.disruptionsAllowed}");
    let counts = |wanted: &str| {
        eventually("the budget is counted", || if healthy() == wanted { Ok(()) } else { Err(healthy()) });
    };
    counts("2/0");
    let name = namespace.jsonpath(&["pods"], "{.items[0].metadata.name}");
    let evict = || {
        let path = format!("/api/v1/namespaces/{}/pods/{name}/eviction", namespace.name);
        let eviction =
            format!(r#"{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{name}"}}}}"#);
        namespace.run_with_input(&["create", "--raw", &path, "-f", "-"], &eviction)
    };
    let refused = evict().fails();
    assert!(
        refused.contains("(TooManyRequests)") && refused.contains("violate the pod's disruption budget"),
        "{refused}"
    );
    namespace.run(&["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec": {"minAvailable": "50%"}}"#]).ok();
    counts("2/1");
    evict().ok();
    namespace.run(&["wait", "--for=delete", "--timeout=60s", "pod", &name]).ok();
    counts("2/1");
}
