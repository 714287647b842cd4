//! What the scheduler says of its decisions.

use kybern_e2e::{Cluster, Finished, eventually};

use crate::manifests::shell_pod;

#[test]
fn a_decision_is_explained_to_administrators() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("explain");
    namespace.apply(&shell_pod("small", "sleep 3600"));
    let huge =
        r#"{"spec": {"containers": [{"name": "c", "image": "busybox", "resources": {"requests": {"cpu": "4000"}}}]}}"#;
    namespace.run(&["run", "huge", "--image=busybox", "--overrides", huge]).ok();
    namespace.wait("pod/small", "condition=Ready");
    let explain = |pod: &str, more: &[&str]| {
        let mut command = cluster.on_node(&cluster.kybern.display().to_string());
        command.args(["explain-scheduling", pod, "-n", &namespace.name]).args(more);
        command.env("KUBECONFIG", &cluster.kubeconfig);
        Finished::new("kybern explain-scheduling".to_owned(), command.output().expect("it starts"))
    };
    let node = namespace.jsonpath(&["pod", "small"], "{.spec.nodeName}");
    let text = explain("small", &[]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains(&format!("default-scheduler chose {node}")), "{text}");
    assert!(lines[2].starts_with(&node) && lines[2].contains("the only one that fits"), "{text}");
    let text = eventually("the decision is made", || {
        let finished = explain("huge", &[]);
        if finished.code == Some(0) { Ok(finished.stdout) } else { Err(finished.to_string()) }
    });
    assert!(text.contains("found no node: 0/1 nodes are available: 1 Insufficient cpu"), "{text}");
    assert!(text.contains("NodeResourcesFit: Insufficient cpu"), "{text}");
    let metrics = namespace.run(&["get", "--raw", "/metrics"]).ok();
    let shown = |name: &str| metrics.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"));
    assert!(shown("scheduler_schedule_attempts_total{") && shown("workqueue_adds_total{"), "{metrics}");
    let json = explain("huge", &["--all", "-o", "json"]).ok();
    assert!(json.contains("\"reasons\""), "{json}");
    assert!(explain("absent", &[]).fails().contains("remembers no decision about pod absent"));
    let path = format!("/debug/scheduling/{}/small", namespace.name);
    let refused = namespace.run(&["get", "--raw", &path, "--as", "jane"]).fails();
    assert!(refused.contains("cannot get path"), "{refused}");
}
