//! Pods that are deleted while they start, by the hundred.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use kybern_e2e::{Cluster, Namespace, churn, churn_size, eventually, eventually_within};

const PATIENCE: Duration = Duration::from_secs(300);

fn keepers(namespace: &Namespace) -> String {
    let path = "{range .items[?(@.metadata.labels.app=='keeper')]}{.metadata.name} {.status.containerStatuses[*].containerID} \
                {.status.containerStatuses[*].restartCount} {.status.podIP}\n{end}";
    namespace.jsonpath(&["pods"], path)
}

#[test]
fn the_node_holds_what_its_pods_need() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("churn");
    namespace.run(&["create", "deployment", "keeper", "--image=nginx:1.14", "--replicas=2"]).ok();
    namespace.run(&["rollout", "status", "deployment/keeper", "--timeout=90s"]).ok();
    eventually("what other tests left is gone", || cluster.holds_what_its_pods_need());
    let (before, begun) = (keepers(&namespace), Instant::now());
    let count = churn_size(300);
    assert_eq!(churn(&namespace, count, &AtomicBool::new(false)), count);
    let churned = begun.elapsed();
    eventually_within(PATIENCE, "the API lets go of the pods", || {
        let left = namespace.run(&["get", "pods", "-l", "app=churn", "-o", "name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    eventually_within(PATIENCE, "the node holds what its pods need", || cluster.holds_what_its_pods_need());
    println!("{count} pods in {churned:.1?}, nothing left of them after {:.1?}", begun.elapsed());
    assert_eq!(keepers(&namespace), before, "pods that stay do not notice");
    let events = namespace.run(&["get", "events", "--field-selector", "reason=FailedKillPod"]).ok();
    assert_eq!(events, "", "every removal worked at once");
    let metrics = cluster.kubectl().run(&["get", "--raw", "/api/v1/nodes/kybern-e2e/proxy/metrics"]).ok();
    assert!(metrics.lines().any(|line| line == "kybern_kubelet_leftover_pods 0"), "{metrics}");
}
