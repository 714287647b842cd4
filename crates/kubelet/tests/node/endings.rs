//! Ends that overtake starts: at each step of a start, nothing of the pod stays.

use std::time::Duration;

use super::TestNode;

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

#[tokio::test]
async fn an_end_overtakes_each_step_of_a_start() {
    let steps = ["before sandbox", "after sandbox", "before create", "after create", "before start", "after start"];
    for (i, step) in steps.iter().enumerate() {
        for (j, end) in ["force", "grace 0", "grace 1", "restart"].iter().enumerate() {
            let mut node = TestNode::new();
            let name = format!("p{i}{j}");
            node.cri.hold(step);
            node.create(&name, |_| {});
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
