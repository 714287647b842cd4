//! Plugins that are off by default, turned on.

use http::Method;
use kybern_apimachinery::{Value, json};
use kybern_registry::AdmissionConfiguration;

use crate::harness::{Cluster, pod, user};

async fn with(enabled: &[&str]) -> Cluster {
    let enabled = enabled.iter().map(|name| (*name).to_owned()).collect();
    let cluster = Cluster::told(AdmissionConfiguration::default().with_enabled(enabled).unwrap()).await;
    cluster.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    cluster
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn off_means_off() {
    let cluster = with(&[]).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}], "externalIPs": ["192.0.2.1"]}});
    cluster.create("/api/v1/namespaces/default/services", service).await;
    let made = cluster.create(PODS, pod("a")).await;
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    cluster
        .refusal(Method::POST, "/api/v1/namespaces/new/configmaps", Some(json!({"metadata": {"name": "a"}})), 404)
        .await;
}

#[tokio::test]
async fn pods_are_changed_and_refused() {
    let cluster = with(&[
        "AlwaysPullImages",
        "ExtendedResourceToleration",
        "LimitPodHardAntiAffinityTopology",
        "PodTolerationRestriction",
        "DenyServiceExternalIPs",
    ])
    .await;
    let mut object = pod("a");
    object["spec"]["containers"][0]["resources"]["limits"]["example.com/gpu"] = "1".into();
    let made = cluster.create(PODS, object).await;
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    let keys: Vec<&Value> = made["spec"]["tolerations"].as_array().unwrap().iter().map(|t| &t["key"]).collect();
    assert!(
        keys.contains(&&json!("example.com/gpu")) && keys.contains(&&json!("node.kubernetes.io/memory-pressure")),
        "{keys:?}"
    );
    let mut wide = pod("wide");
    let terms = json!([{"topologyKey": "zone", "labelSelector": {}}]);
    wide["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    let text = cluster.refusal(Method::POST, PODS, Some(wide), 403).await;
    assert!(text.ends_with("has TopologyKey zone but only key kubernetes.io/hostname is allowed"), "{text}");
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}], "externalIPs": ["192.0.2.1"]}});
    let text = cluster.refusal(Method::POST, "/api/v1/namespaces/default/services", Some(service), 403).await;
    assert_eq!(text, "services \"s\" is forbidden: Use of external IPs is denied by admission control");
    let whitelist = json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/tolerationsWhitelist": "[{\"key\":\"a\",\"operator\":\"Exists\"}]"}}});
    cluster.patch("/api/v1/namespaces/default", whitelist).await;
    let text = cluster.refusal(Method::POST, PODS, Some(pod("b")), 500).await;
    assert!(text.contains("conflict with its namespace whitelist"), "{text}");
}

#[tokio::test]
async fn pods_run_where_their_namespace_says() {
    let selectors = [("clusterDefaultNodeSelector", "pool=a"), ("default", "pool=a,zone=b")];
    let mut configuration = AdmissionConfiguration::default();
    configuration.enabled.push("PodNodeSelector".to_owned());
    configuration.node_selectors = selectors.map(|(name, selector)| (name.to_owned(), selector.to_owned())).into();
    let cluster = Cluster::told(configuration).await;
    cluster.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let on = |name: &str, selector: Value| {
        let mut pod = pod(name);
        pod["spec"]["nodeSelector"] = selector;
        pod
    };
    assert_eq!(cluster.create(PODS, pod("a")).await["spec"]["nodeSelector"], json!({"pool": "a"}));
    let both = cluster.create(PODS, on("b", json!({"zone": "b"}))).await;
    assert_eq!(both["spec"]["nodeSelector"], json!({"pool": "a", "zone": "b"}));
    let text = cluster.refusal(Method::POST, PODS, Some(on("c", json!({"pool": "b"}))), 403).await;
    assert!(text.ends_with("pod node label selector conflicts with its namespace node label selector"), "{text}");
    let text = cluster.refusal(Method::POST, PODS, Some(on("d", json!({"disk": "fast"}))), 403).await;
    assert!(text.ends_with("pod node label selector labels conflict with its namespace whitelist"), "{text}");
}

#[tokio::test]
async fn namespaces_are_made_when_they_are_used() {
    let cluster = with(&["NamespaceAutoProvision", "NamespaceExists"]).await;
    let map = json!({"metadata": {"name": "a"}});
    cluster.create("/api/v1/namespaces/new/configmaps", map.clone()).await;
    cluster.get("/api/v1/namespaces/new").await;
    cluster.refusal(Method::POST, "/api/v1/namespaces/dry/configmaps?dryRun=All", Some(map), 404).await;
}

#[tokio::test]
async fn owners_are_named_by_who_may_delete() {
    let cluster = with(&["OwnerReferencesPermissionEnforcement"]).await;
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get", "update", "patch"]});
    let role = json!({"metadata": {"name": "maps"}, "rules": [rule]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await;
    let binding = json!({"metadata": {"name": "maps"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maps"},
        "subjects": [{"kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let owned = |name: &str, blocks: bool| {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1", "blockOwnerDeletion": blocks});
        json!({"metadata": {"name": name, "ownerReferences": [owner]}})
    };
    let joe = async |method: Method, path: &str, object: Value| {
        let (code, answer) = cluster.as_user(user("joe", &[]), method, path, Some(object)).await;
        (code, answer["message"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(joe(Method::POST, maps, owned("a", false)).await.0, 201, "who makes it may leave it");
    let (code, text) = joe(Method::POST, maps, owned("b", true)).await;
    assert_eq!(code, 403, "{text}");
    assert!(
        text.contains(
            "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
        ),
        "{text}"
    );
    let (code, text) = joe(Method::PUT, &format!("{maps}/a"), json!({"metadata": {"name": "a"}})).await;
    assert_eq!(code, 403, "{text}");
    assert!(text.contains("cannot set an ownerRef on a resource you can't delete"), "{text}");
    cluster.create(maps, owned("c", true)).await;
}
