//! ResourceQuotas: what they refuse, what they hold, and that no number of servers and clients exceeds them.

use std::sync::Arc;

use http::Method;
use kybern_apimachinery::{Value, json};
use kybern_storage::Storage;
use kybern_storage::memory::Memory;
use kybern_storage::sqlite::Sqlite;

use crate::harness::{Cluster, pod};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A quota as it is once its controller has counted.
async fn quota(cluster: &Cluster, name: &str, spec: Value, used: Value) -> Value {
    cluster.create(QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await;
    let status = json!({"status": {"hard": spec["hard"], "used": used}});
    let (code, quota) = cluster.patch(&format!("{QUOTAS}/{name}/status"), status).await;
    assert_eq!(code, 200, "{quota}");
    quota
}

async fn used(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&format!("{QUOTAS}/{name}")).await["status"]["used"].clone()
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

pub(crate) async fn two_servers_share_a_quota(storage: Arc<dyn Storage>, other: Arc<dyn Storage>) {
    let range = "10.96.0.0/24";
    let servers = [Cluster::beside(storage, range).await, Cluster::beside(other, range).await];
    let hard = json!({"hard": {"configmaps": "50", "count/configmaps": "60"}});
    quota(&servers[0], "maps", hard, json!({"configmaps": "0", "count/configmaps": "0"})).await;
    // The other server has read of it.
    servers[1].get(&format!("{QUOTAS}/maps")).await;
    let create = |i: usize| {
        let server = &servers[i % 2];
        async move { server.ask(Method::POST, MAPS, Some(map(&format!("m{i}")))).await }
    };
    let answers = futures_util::future::join_all((0..200).map(create)).await;
    assert_eq!(answers.iter().filter(|(code, _)| *code == 201).count(), 50);
    for (_, refusal) in answers.iter().filter(|(code, _)| *code != 201) {
        let text = refusal["message"].as_str().unwrap();
        assert!(text.contains("is forbidden: exceeded quota: maps, requested: configmaps=1, used: configmaps=50, limited: configmaps=50"), "{text}");
    }
    let full = json!({"configmaps": "50", "count/configmaps": "50"});
    for server in &servers {
        assert_eq!(used(server, "maps").await, full);
        assert_eq!(server.get(MAPS).await["items"].as_array().unwrap().len(), 50);
    }
    let kept = servers[0].get(&format!("{QUOTAS}/maps")).await;
    let managers = kept["metadata"]["managedFields"].as_array().unwrap();
    let charged = managers.iter().find(|m| m["manager"] == "kube-apiserver").unwrap();
    assert_eq!((&charged["subresource"], &charged["operation"]), (&json!("status"), &json!("Update")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_exceed_a_quota_in_memory() {
    let storage = Arc::new(Memory::default());
    two_servers_share_a_quota(storage.clone(), storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_exceed_a_quota_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Default::default()).unwrap());
    two_servers_share_a_quota(storage.clone(), storage).await;
}

#[tokio::test]
async fn only_what_is_written_is_charged() {
    let cluster = Cluster::start().await;
    quota(&cluster, "maps", json!({"hard": {"configmaps": "3"}}), json!({"configmaps": "0"})).await;
    cluster.create(MAPS, map("a")).await;
    assert_eq!(used(&cluster, "maps").await, json!({"configmaps": "1"}));
    // What is there already, what is invalid, and what is a rehearsal.
    cluster.refusal(Method::POST, MAPS, Some(map("a")), 409).await;
    cluster.refusal(Method::POST, MAPS, Some(map("A!")), 422).await;
    let dry = format!("{MAPS}?dryRun=All");
    cluster.create(&dry, map("dry")).await;
    let (code, _) = cluster.patch(&format!("{MAPS}/a"), json!({"data": {"x": "y"}})).await;
    assert_eq!(code, 200);
    assert_eq!(used(&cluster, "maps").await, json!({"configmaps": "1"}));
    let generated = json!({"metadata": {"generateName": "g-"}});
    cluster.create(MAPS, generated.clone()).await;
    cluster.create(MAPS, generated.clone()).await;
    let text = cluster.refusal(Method::POST, MAPS, Some(generated.clone()), 403).await;
    let cause = "exceeded quota: maps, requested: configmaps=1, used: configmaps=3, limited: configmaps=3";
    assert!(text.starts_with("configmaps \"g-") && text.ends_with(&format!("\" is forbidden: {cause}")), "{text}");
    assert_eq!(
        cluster.refusal(Method::POST, &dry, Some(map("dry")), 403).await,
        format!("configmaps \"dry\" is forbidden: {cause}")
    );
    let status = json!({"status": {"used": {"configmaps": "2"}}});
    cluster.patch(&format!("{QUOTAS}/maps/status"), status).await;
    cluster.create(MAPS, generated).await;
    let (code, _) = cluster.ask(Method::DELETE, &format!("{QUOTAS}/maps"), None).await;
    assert_eq!(code, 200);
    cluster.create(MAPS, map("free")).await;
}

#[tokio::test]
async fn pods_services_and_claims_are_measured() {
    let cluster = Cluster::start().await;
    let none = json!({"pods": "0", "limits.cpu": "0", "requests.memory": "0", "count/pods": "0"});
    let hard = json!({"pods": "5", "limits.cpu": "2", "requests.memory": "1Gi", "count/pods": "5"});
    quota(&cluster, "compute", json!({"hard": hard}), none).await;
    cluster.create(PODS, pod("a")).await;
    let after = json!({"pods": "1", "limits.cpu": "1", "requests.memory": "64Mi", "count/pods": "1"});
    assert_eq!(used(&cluster, "compute").await, after);
    let mut plain = pod("plain");
    plain["spec"]["containers"][0]["resources"] = json!({});
    let text = cluster.refusal(Method::POST, PODS, Some(plain.clone()), 403).await;
    let cause = "failed quota: compute: must specify limits.cpu for: c; requests.memory for: c";
    assert_eq!(text, format!("pods \"plain\" is forbidden: {cause}"));
    let mut large = pod("large");
    large["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1500m", "memory": "1Gi"}});
    let text = cluster.refusal(Method::POST, PODS, Some(large), 403).await;
    let cause = "exceeded quota: compute, requested: limits.cpu=1500m,requests.memory=1Gi, used: limits.cpu=1,requests.memory=64Mi, \
                 limited: limits.cpu=2,requests.memory=1Gi";
    assert_eq!(text, format!("pods \"large\" is forbidden: {cause}"));

    let resize = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "64Mi"}}}]}});
    let path = format!("{PODS}/a/resize");
    let media = "application/strategic-merge-patch+json";
    let send = async |resize: &Value| {
        cluster.send(crate::harness::admin(), Method::PATCH, &path, media, Some(resize.clone())).await
    };
    let (code, resized) = send(&resize).await;
    assert_eq!(code, 200, "{resized}");
    assert_eq!(used(&cluster, "compute").await["limits.cpu"], "2");
    let mut more = resize.clone();
    for part in ["requests", "limits"] {
        more["spec"]["containers"][0]["resources"][part]["cpu"] = "3".into();
    }
    let (code, refusal) = send(&more).await;
    assert_eq!(code, 403, "{refusal}");
    assert!(
        refusal["message"]
            .as_str()
            .unwrap()
            .ends_with("requested: limits.cpu=1, used: limits.cpu=2, limited: limits.cpu=2"),
        "{refusal}"
    );

    quota(&cluster, "ends", json!({"hard": {"pods": "0"}, "scopes": ["Terminating"]}), json!({"pods": "0"})).await;
    let (code, refusal) = cluster.patch(&format!("{PODS}/a"), json!({"spec": {"activeDeadlineSeconds": 100}})).await;
    assert_eq!(code, 403, "{refusal}");

    let none = json!({"services.nodeports": "0", "services.loadbalancers": "0", "services": "0"});
    let hard = json!({"services.nodeports": "2", "services.loadbalancers": "0", "services": "5"});
    quota(&cluster, "services", json!({"hard": hard}), none).await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}});
    cluster.create(services, service("a", "ClusterIP")).await;
    cluster.refusal(Method::POST, services, Some(service("b", "LoadBalancer")), 403).await;
    let (code, _) = cluster.patch(&format!("{services}/a"), json!({"spec": {"type": "NodePort"}})).await;
    assert_eq!(code, 200);
    assert_eq!(used(&cluster, "services").await["services.nodeports"], "2");
    cluster.refusal(Method::POST, services, Some(service("c", "NodePort")), 403).await;
    assert_eq!(used(&cluster, "services").await["services"], "1");

    let hard = json!({"gold.storageclass.storage.k8s.io/requests.storage": "1Gi"});
    quota(&cluster, "gold", json!({"hard": hard}), json!({"gold.storageclass.storage.k8s.io/requests.storage": "0"}))
        .await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, class: &str, size: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": size}}}});
    cluster.create(claims, claim("large", "tin", "5Gi")).await;
    cluster.create(claims, claim("a", "gold", "600Mi")).await;
    let text = cluster.refusal(Method::POST, claims, Some(claim("b", "gold", "600Mi")), 403).await;
    assert!(text.ends_with("gold.storageclass.storage.k8s.io/requests.storage=600Mi, limited: gold.storageclass.storage.k8s.io/requests.storage=1Gi"), "{text}");
}
