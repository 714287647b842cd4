//! What lists, watches and creates may ask for, and how upstream refuses the rest.

use http::Method;
use kybern_apimachinery::{Value, json, object};

use crate::harness::Cluster;

async fn get(cluster: &Cluster, path: &str) -> (u16, Value) {
    cluster.ask(Method::GET, path, None).await
}

async fn names(cluster: &Cluster, path: &str) -> Vec<String> {
    let (code, list) = get(cluster, path).await;
    assert_eq!(code, 200, "{path}: {list}");
    list["items"].as_array().unwrap().iter().map(|item| object::name(item).to_owned()).collect()
}

#[tokio::test]
async fn events_are_selected_by_either_groups_names() {
    let cluster = Cluster::start().await;
    let event = |name: &str, source: Value, controller: &str| {
        json!({"metadata": {"name": name}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "source": source, "reportingComponent": controller, "type": "Normal"})
    };
    let events = "/api/v1/namespaces/default/events";
    cluster.create(events, event("old", json!({"component": "kubelet"}), "")).await;
    cluster.create(events, event("new", json!({}), "kubelet")).await;
    let selected = async |path: &str| names(&cluster, path).await;
    assert_eq!(selected(&format!("{events}?fieldSelector=source%3Dkubelet")).await, ["new", "old"]);
    assert_eq!(selected(&format!("{events}?fieldSelector=reportingComponent%3Dkubelet")).await, ["new"]);
    let both = "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=regarding.name%3Dp,reportingController%3Dkubelet";
    assert_eq!(selected(both).await, ["new"]);
}

#[tokio::test]
async fn fields_that_are_not_known_are_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    for (path, text) in [
        ("/api/v1/pods?fieldSelector=spec.x%3D1", "field label not supported: spec.x"),
        ("/api/v1/nodes?fieldSelector=metadata.namespace%3Da", "field label not supported: metadata.namespace"),
        (
            "/apis/apps/v1/replicasets?fieldSelector=status.replicas%3D0",
            r#""status.replicas" is not a known field selector: only "metadata.name", "metadata.namespace""#,
        ),
        ("/apis/batch/v1/jobs?fieldSelector=spec.x%3D1", r#"field label "spec.x" not supported for Job"#),
        (
            "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.x%3D1",
            "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.x",
        ),
    ] {
        for path in [path.to_owned(), format!("{path}&watch=true")] {
            let (code, status) = get(&cluster, &path).await;
            assert_eq!((code, status["message"].as_str()), (400, Some(text)), "{path}");
        }
    }
    // Kinds without fields of their own take the namespace whatever their scope; pods the name of a field that is not read.
    assert!(
        !names(&cluster, "/apis/rbac.authorization.k8s.io/v1/clusterroles?fieldSelector=metadata.namespace%3D")
            .await
            .is_empty()
    );
    assert!(
        names(&cluster, "/apis/storage.k8s.io/v1/storageclasses?fieldSelector=metadata.namespace%3Da").await.is_empty()
    );
    assert!(names(&cluster, "/api/v1/pods?fieldSelector=status.podIPs%3D10.0.0.1").await.is_empty());
    assert!(names(&cluster, "/api/v1/pods?fieldSelector=spec.host%3Dn").await.is_empty());
}

#[tokio::test]
async fn what_a_list_may_not_say() {
    let cluster = Cluster::start().await;
    for (path, code, text) in [
        (
            "/api/v1/pods?labelSelector=n%3Ex",
            400,
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        ("/api/v1/pods?timeoutSeconds=x", 400, ""),
        ("/api/v1/pods?limit=x", 400, ""),
        ("/api/v1/pods?watch=true&resourceVersion=x", 400, ""),
        ("/api/v1/pods?continue=x", 400, ""),
    ] {
        let (got, status) = get(&cluster, path).await;
        println!("{path}: {got} {}", status["message"]);
        assert!(got == code && (text.is_empty() || status["message"] == text), "{path}: {got} {status}");
    }
}

#[tokio::test]
async fn any_state_comes_whole() {
    let cluster = Cluster::start().await;
    let all = names(&cluster, "/api/v1/namespaces").await;
    assert!(all.len() > 2);
    // Without a revision to hold on to there are no pages.
    let (_, list) = get(&cluster, "/api/v1/namespaces?resourceVersion=0&limit=2").await;
    assert_eq!((list["items"].as_array().unwrap().len(), list["metadata"].get("continue")), (all.len(), None));
    assert_eq!(names(&cluster, "/api/v1/namespaces?limit=2").await.len(), 2);
}

#[tokio::test]
async fn a_new_object_has_no_revision_yet() {
    let cluster = Cluster::start().await;
    let map = json!({"metadata": {"name": "a", "resourceVersion": "5"}});
    let text = cluster.refusal(Method::POST, "/api/v1/namespaces/default/configmaps", Some(map), 400).await;
    assert_eq!(text, "resourceVersion should not be set on objects to be created");
}
