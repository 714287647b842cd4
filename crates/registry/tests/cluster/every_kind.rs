//! Every resource of discovery answers.

use http::Method;
use kybern_apimachinery::json;

use crate::harness::Cluster;

#[tokio::test]
async fn every_stored_resource_lists_and_tabulates() {
    let cluster = Cluster::start().await;
    for row in kybern_schema::builtin().resources().iter().filter(|r| r.verbs.contains(&"list")) {
        let root = if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
        let path = format!("{root}/{}/{}", row.version, row.resource);
        let list = cluster.get(&path).await;
        assert_eq!(list["kind"], format!("{}List", row.kind), "{path}");
        if row.resource != "componentstatuses" {
            cluster.table(&path).await;
        }
    }
}

#[tokio::test]
async fn every_subresource_has_a_handler() {
    let cluster = Cluster::start().await;
    for row in kybern_schema::builtin().resources() {
        let root = if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
        let place = if row.namespaced { "/namespaces/default" } else { "" };
        for sub in row.subresources.iter().filter(|s| s.verbs.contains(&"get")) {
            let path = format!("{root}/{}{place}/{}/missing/{}", row.version, row.resource, sub.name);
            let (code, status) = cluster.ask(Method::GET, &path, None).await;
            let named = status["message"].as_str().is_some_and(|m| m.contains("\"missing\" not found"));
            assert!(code == 404 && named || (code == 400 && sub.name != "status"), "{path}: {code} {status}");
        }
    }
}

#[tokio::test]
async fn the_first_objects_are_there() {
    let cluster = Cluster::start().await;
    let names = |list: &kybern_apimachinery::Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let namespaces = names(&cluster.get("/api/v1/namespaces").await);
    assert_eq!(namespaces, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let roles = names(&cluster.get("/apis/rbac.authorization.k8s.io/v1/clusterroles").await);
    for role in [
        "cluster-admin",
        "admin",
        "edit",
        "view",
        "system:node",
        "system:kube-scheduler",
        "system:controller:deployment-controller",
    ] {
        assert!(roles.iter().any(|r| r == role), "{role}");
    }
    let class = cluster.get("/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical").await;
    assert_eq!(class["value"], json!(2_000_001_000));
}
