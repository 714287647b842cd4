//! Services and the addresses they claim.

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::Cluster;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn the_first_service_is_kubernetes() {
    let cluster = Cluster::start().await;
    let kubernetes = cluster.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
    let mut thief = service("thief", "ClusterIP");
    thief["spec"]["clusterIP"] = "10.96.0.1".into();
    let text = cluster.refusal(Method::POST, SERVICES, Some(thief), 422).await;
    assert!(text.ends_with("failed to allocate IP 10.96.0.1: provided IP is already allocated"), "{text}");
}

#[tokio::test]
async fn claims_follow_the_services_life() {
    let cluster = Cluster::start().await;
    let mut wanted = service("a", "NodePort");
    wanted["spec"]["ports"][0]["nodePort"] = 30080.into();
    let made = cluster.create(SERVICES, wanted.clone()).await;
    let spec = &made["spec"];
    assert_eq!((&spec["ports"][0]["targetPort"], &spec["internalTrafficPolicy"]), (&json!(80), &json!("Cluster")));
    assert_eq!((&spec["ipFamilies"], &spec["clusterIPs"][0]), (&json!(["IPv4"]), &spec["clusterIP"]));
    let cells = &cluster.table(SERVICES).await[0];
    assert_eq!(Value::from(cells[..5].to_vec()), json!(["a", "NodePort", spec["clusterIP"], "<none>", "80:30080/TCP"]));

    // A write that fails holds nothing, and a dry run neither.
    let mut other = wanted.clone();
    other["metadata"]["name"] = "b".into();
    let text = cluster.refusal(Method::POST, SERVICES, Some(other.clone()), 422).await;
    assert_eq!(
        text,
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    let (code, _) =
        cluster.patch(&format!("{SERVICES}/a?dryRun=All"), json!({"spec": {"type": "ClusterIP", "ports": null}})).await;
    assert!(code == 200 || code == 422);
    cluster.refusal(Method::POST, SERVICES, Some(other.clone()), 422).await;

    let (code, plain) = cluster.patch(&format!("{SERVICES}/a"), json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(code, 200, "{plain}");
    assert_eq!((plain["spec"]["ports"][0].get("nodePort"), &plain["spec"]["clusterIP"]), (None, &spec["clusterIP"]));
    cluster.create(SERVICES, other).await;
    cluster.ask(Method::DELETE, &format!("{SERVICES}/b"), None).await;
    let mut again = wanted;
    again["metadata"]["name"] = "c".into();
    cluster.create(SERVICES, again).await;
}

#[tokio::test]
async fn a_restarted_server_knows_what_is_held() {
    let storage = std::sync::Arc::new(kybern_storage::memory::Memory::default());
    let first = Cluster::on(storage.clone()).await;
    let mut wanted = service("a", "NodePort");
    wanted["spec"]["ports"][0]["nodePort"] = 30080.into();
    let made = first.create(SERVICES, wanted).await;
    drop(first);
    let second = Cluster::on(storage).await;
    for (field, value) in
        [("clusterIP", made["spec"]["clusterIP"].clone()), ("ports", json!([{"port": 1, "nodePort": 30080}]))]
    {
        let mut thief = service("thief", "NodePort");
        thief["spec"][field] = value;
        let text = second.refusal(Method::POST, SERVICES, Some(thief), 422).await;
        assert!(text.ends_with("is already allocated"), "{text}");
    }
}

#[tokio::test]
async fn the_address_cannot_be_changed() {
    let cluster = Cluster::start().await;
    cluster.create(SERVICES, service("a", "ClusterIP")).await;
    let change = json!({"spec": {"clusterIP": "10.96.9.9"}});
    let (code, status) = cluster.patch(&format!("{SERVICES}/a"), change).await;
    let text = "Service \"a\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.96.9.9\"]: may not change once set";
    assert_eq!((code, &status["message"]), (422, &json!(text)));
}

#[tokio::test]
async fn a_dry_run_has_no_revision() {
    let cluster = Cluster::start().await;
    let made = cluster.create(&format!("{SERVICES}?dryRun=All"), service("a", "ClusterIP")).await;
    assert_eq!((made["metadata"].get("resourceVersion"), made["metadata"]["uid"].is_string()), (None, true));
}

#[tokio::test]
async fn component_statuses_are_shown_as_a_table() {
    let cluster = Cluster::start().await;
    let rows = cluster.table("/api/v1/componentstatuses").await;
    assert_eq!(rows[1], [json!("etcd-0"), json!("Healthy"), json!("ok"), json!("")]);
}
