//! What a kubelet does when it joins.

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::{Cluster, node};

#[tokio::test]
async fn a_kubelet_registers_and_keeps_to_itself() {
    let cluster = Cluster::start().await;
    let object = |name: &str| -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"nodeInfo": {"kubeletVersion": "v1.35.0"},
            "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    let (code, made) = cluster.as_user(node("a"), Method::POST, "/api/v1/nodes", Some(object("a"))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
    assert_eq!(made["status"]["nodeInfo"]["kubeletVersion"], "v1.35.0", "a kubelet registers with its status");
    let (code, refused) = cluster.as_user(node("a"), Method::POST, "/api/v1/nodes", Some(object("b"))).await;
    assert_eq!(
        (code, &refused["message"]),
        (403, &json!("nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\""))
    );
    let row = &cluster.table("/api/v1/nodes").await[0];
    assert_eq!(Value::from(row[..3].to_vec()), json!(["a", "Ready", "<none>"]));

    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
    assert_eq!(cluster.as_user(node("a"), Method::POST, leases, Some(lease("a"))).await.0, 201);
    assert_eq!(cluster.as_user(node("a"), Method::POST, leases, Some(lease("b"))).await.0, 403);
    assert_eq!(cluster.as_user(node("a"), Method::GET, "/api/v1/namespaces/kube-system/secrets/x", None).await.0, 403);
}

#[tokio::test]
async fn a_kubelet_reads_its_own_node_and_pods() {
    let cluster = Cluster::start().await;
    for (query, refusal) in [
        ("pods?fieldSelector=spec.nodeName%3Da", ""),
        ("pods?watch=1&timeoutSeconds=0&fieldSelector=spec.nodeName%3Da", ""),
        (
            "pods?fieldSelector=spec.nodeName%3Db",
            "pods is forbidden: User \"system:node:a\" cannot list resource \"pods\" in API group \"\" at the cluster scope: can only list/watch pods with spec.nodeName field selector",
        ),
        ("pods", "can only list/watch pods with spec.nodeName field selector"),
        ("nodes?fieldSelector=metadata.name%3Da", ""),
        ("nodes?fieldSelector=metadata.name%3Db", "node 'a' cannot read 'b', only its own Node object"),
        ("nodes", "node 'a' cannot read all nodes, only its own Node object"),
        ("services", ""),
    ] {
        let (code, answer) = cluster.as_user(node("a"), Method::GET, &format!("/api/v1/{query}"), None).await;
        let text = answer["message"].as_str().unwrap_or("");
        assert!(
            if refusal.is_empty() { code == 200 } else { code == 403 && text.ends_with(refusal) },
            "{query}: {answer}"
        );
    }
}
