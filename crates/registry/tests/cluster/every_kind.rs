//! Every resource of discovery answers.

use http::Method;
use kybern_apimachinery::json;

use crate::harness::Cluster;
use crate::minimal::minimal;

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

#[tokio::test]
async fn every_kind_lives_its_life() {
    let cluster = Cluster::start().await;
    for row in
        kybern_schema::builtin().resources().iter().filter(|r| r.verbs.contains(&"create") && r.verbs.contains(&"get"))
    {
        let root = if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
        let place = if row.namespaced { "/namespaces/default" } else { "" };
        let resource = format!("{root}/{}{place}/{}", row.version, row.resource);
        let version =
            if row.group.is_empty() { row.version.to_owned() } else { format!("{}/{}", row.group, row.version) };
        let mut object = minimal(row.kind);
        object["metadata"] = json!({"name": "x.example"});
        if matches!(row.kind, "Service" | "Namespace") {
            object["metadata"]["name"] = "x".into();
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let path = format!("{resource}/{name}");
        let made = cluster.create(&resource, object).await;
        assert_eq!((&made["kind"], &made["apiVersion"]), (&json!(row.kind), &json!(version)), "{path}");

        let (code, labelled) = cluster.patch(&path, json!({"metadata": {"labels": {"l": "1"}}})).await;
        assert_eq!((code, &labelled["metadata"]["labels"]["l"]), (200, &json!("1")), "{path}: {labelled}");
        let mut read = cluster.get(&path).await;
        read["metadata"]["labels"]["l"] = "2".into();
        let (code, written) = cluster.ask(Method::PUT, &path, Some(read.clone())).await;
        assert_eq!(code, 200, "{path}: {written}");
        let (code, stale) = cluster.ask(Method::PUT, &path, Some(read)).await;
        assert_eq!(code, 409, "{path}: {stale}");
        for sub in row.subresources.iter().filter(|s| s.name == "status") {
            let (code, status) =
                cluster.patch(&format!("{path}/{}", sub.name), json!({"metadata": {"annotations": {"s": "1"}}})).await;
            assert_eq!(code, 200, "{path}/status: {status}");
        }
        let (code, gone) = cluster.ask(Method::DELETE, &path, Some(json!({"propagationPolicy": "Background"}))).await;
        assert_eq!(code, 200, "{path}: {gone}");
        let (code, _) = cluster.ask(Method::GET, &path, None).await;
        assert_eq!(code, if row.kind == "Namespace" { 200 } else { 404 }, "{path}");
    }
}
