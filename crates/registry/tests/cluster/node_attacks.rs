//! What the holder of a kubelet's certificate may try, each refused as upstream refuses it. The requests are data, so that
//! they can be sent to a whole cluster, too.

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::{Cluster, node, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

/// Nodes `a` and `b`, each with a pod named after it, and a Secret that neither uses.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        let object = json!({"metadata": {"name": name}});
        let (code, made) = cluster.as_user(node(name), Method::POST, "/api/v1/nodes", Some(object)).await;
        assert_eq!(code, 201, "{made}");
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = name.into();
        cluster.create(PODS, pod).await;
    }
    let secret = json!({"metadata": {"name": "crown"}, "data": {"jewels": "eA=="}});
    cluster.create("/api/v1/namespaces/kube-system/secrets", secret).await;
    cluster
}

impl Cluster {
    /// A request as kubelet `a`, and the text of its refusal.
    async fn attack(&self, method: Method, path: &str, media: &str, body: Value, expect: u16) -> String {
        let (code, answer) = self.send(node("a"), method.clone(), path, media, Some(body)).await;
        assert_eq!(code, expect, "{method} {path}: {answer}");
        answer["message"].as_str().unwrap_or("").to_owned()
    }

    async fn uid(&self, path: &str) -> Value {
        self.get(path).await["metadata"]["uid"].clone()
    }
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

#[tokio::test]
async fn attack_a_mirror_pod_opens_no_secret() {
    let cluster = cluster().await;
    let uid = cluster.uid("/api/v1/nodes/a").await;
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid, "controller": true}]);
    let mirror = |owners: &Value, spec: Value| {
        let mut pod = json!({"metadata": {"name": "m", "ownerReferences": owners,
                "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
        for (field, value) in spec.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = "v".into();
        json!({"volumes": [volume]})
    };
    let secrets = "/api/v1/namespaces/kube-system/pods";
    for (owners, spec, refusal) in [
        (&owner, volume(json!({"secret": {"secretName": "crown"}})), "a mirror pod may not reference secrets"),
        (
            &owner,
            volume(json!({"configMap": {"name": "x"}})),
            "node \"a\" can not create pods that reference configmaps",
        ),
        (&owner, volume(json!({"persistentVolumeClaim": {"claimName": "x"}})), "that reference persistentvolumeclaims"),
        (&owner, volume(json!({"csi": {"driver": "x"}})), "that reference csidrivers (via CSI volumes)"),
        (&owner, json!({"serviceAccountName": "default"}), "that reference serviceaccounts"),
        (&owner, json!({"imagePullSecrets": [{"name": "crown"}]}), "secrets"),
        (&owner, json!({"nodeName": "b"}), "node \"a\" can only create pods with spec.nodeName set to itself"),
        (&json!([]), json!({}), "node \"a\" can only create pods with an owner reference set to itself"),
        (
            &json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "other", "controller": true}]),
            json!({}),
            "node a UID mismatch: expected other got",
        ),
        (
            &json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid}]),
            json!({}),
            "with a controller owner reference set to itself",
        ),
    ] {
        let text = cluster.attack(Method::POST, secrets, JSON, mirror(owners, spec.clone()), 403).await;
        // The account's plugin and the node's both refuse: which comes first is of no account.
        let known = [refusal, "can not create pods that reference", "a mirror pod may not"];
        assert!(known.iter().any(|known| text.contains(known)), "{spec}: {text}");
    }
    let no_mirror = json!({"metadata": {"name": "m", "ownerReferences": owner}, "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    let text = cluster.attack(Method::POST, PODS, JSON, no_mirror, 403).await;
    assert!(text.contains("can only create mirror pods"), "{text}");
    // One that names nothing is made, and gives no right.
    let (code, made) = cluster.as_user(node("a"), Method::POST, PODS, Some(mirror(&owner, json!({})))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"].get("serviceAccountName"), None);
    for path in ["secrets/crown", "secrets", "secrets?fieldSelector=metadata.name%3Dcrown"] {
        let path = format!("/api/v1/namespaces/kube-system/{path}");
        assert_eq!(cluster.as_user(node("a"), Method::GET, &path, None).await.0, 403, "{path}");
    }
}

#[tokio::test]
async fn attack_a_node_makes_itself_a_control_plane() {
    let cluster = cluster().await;
    for label in ["node-role.kubernetes.io/control-plane", "node-restriction.kubernetes.io/tier", "kubernetes.io/role"]
    {
        let object = |name: &str| json!({"metadata": {"name": name, "labels": {label: "x"}}});
        for path in ["/api/v1/nodes/a", "/api/v1/nodes/a/status"] {
            let text = cluster.attack(Method::PATCH, path, MERGE, object("a"), 403).await;
            assert!(text.ends_with(&format!("is not allowed to modify labels: {label}")), "{text}");
        }
        cluster.ask(Method::DELETE, "/api/v1/nodes/a", None).await;
        let text = cluster.attack(Method::POST, "/api/v1/nodes", JSON, object("a"), 403).await;
        assert!(text.ends_with(&format!("node \"a\" is not allowed to set the following labels: {label}")), "{text}");
        let plain = json!({"metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "a", "mine": "x"}}});
        assert_eq!(cluster.as_user(node("a"), Method::POST, "/api/v1/nodes", Some(plain)).await.0, 201);
    }
    for (patch, refusal) in [
        (json!({"spec": {"taints": []}}), "node \"a\" is not allowed to modify taints"),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "b", "uid": "x"}]}}),
            "node \"a\" is not allowed to modify ownerReferences",
        ),
        (
            json!({"spec": {"configSource": {"configMap": {"namespace": "kube-system", "name": "x", "kubeletConfigKey": "k"}}}}),
            "configSource",
        ),
    ] {
        let text = cluster.attack(Method::PATCH, "/api/v1/nodes/a", MERGE, patch, 403).await;
        assert!(text.contains(refusal), "{text}");
    }
    let text =
        cluster.attack(Method::PATCH, "/api/v1/nodes/b", MERGE, json!({"spec": {"unschedulable": true}}), 403).await;
    assert!(text.ends_with("node \"a\" is not allowed to modify node \"b\""), "{text}");
    let text =
        cluster.attack(Method::POST, "/api/v1/nodes", JSON, json!({"metadata": {"generateName": "a"}}), 403).await;
    assert!(text.contains("is not allowed to modify node"), "{text}");
    for method in [Method::DELETE, Method::GET] {
        cluster.attack(method, "/api/v1/nodes/b", JSON, json!({}), 403).await;
    }
}

#[tokio::test]
async fn attack_a_node_asks_for_tokens_that_are_not_its_pods() {
    let cluster = cluster().await;
    let (own, other) = (cluster.uid(&format!("{PODS}/a")).await, cluster.uid(&format!("{PODS}/b")).await);
    let request = |reference: Value, audiences: Value| {
        let spec = json!({"boundObjectRef": reference, "audiences": audiences, "expirationSeconds": 600});
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
    };
    let bound = |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    let (code, token) =
        cluster.as_user(node("a"), Method::POST, TOKEN, Some(request(bound("a", &own), json!([])))).await;
    assert_eq!(code, 201, "{token}");
    let account = cluster.uid("/api/v1/namespaces/default/serviceaccounts/default").await;
    assert_eq!(token["metadata"]["uid"], account);
    for (reference, audiences, refusal) in [
        (Value::Null, json!([]), "node requested token not bound to a pod"),
        (
            json!({"apiVersion": "v1", "kind": "Node", "name": "a"}),
            json!([]),
            "node requested token not bound to a pod",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "name": "a"}),
            json!([]),
            "node requested token with a pod binding without a uid",
        ),
        (bound("a", &other), json!([]), "does not match the UID in record"),
        (bound("b", &other), json!([]), "node requested token bound to a pod scheduled on a different node"),
        (
            bound("a", &own),
            json!(["vault"]),
            "audience \"vault\" not found in pod spec volume, system:node:a is not authorized to request tokens for this audience",
        ),
        (bound("a", &own), json!(["vault", "other"]), "node may only request 0 or 1 audiences"),
    ] {
        let text = cluster.attack(Method::POST, TOKEN, JSON, request(reference, audiences), 403).await;
        assert!(text.contains(refusal), "{text}");
    }
    let mut long = request(bound("a", &own), json!([]));
    long["spec"]["expirationSeconds"] = (1u64 << 33).into();
    cluster.attack(Method::POST, TOKEN, JSON, long, 422).await;
    // An account of no pod of its own.
    cluster.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "x"}})).await;
    let path = TOKEN.replace("/default/token", "/x/token");
    cluster.attack(Method::POST, &path, JSON, request(bound("a", &own), json!([])), 403).await;
    // What the administrator allows beside the pods' own.
    let role = json!({"metadata": {"name": "audience"}, "rules": [
        {"verbs": ["request-serviceaccounts-token-audience"], "apiGroups": [""], "resources": ["vault"]}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let binding = json!({"metadata": {"name": "audience"}, "roleRef": {"kind": "ClusterRole", "name": "audience", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "User", "name": "system:node:a", "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let allowed = request(bound("a", &own), json!(["vault"]));
    assert_eq!(cluster.as_user(node("a"), Method::POST, TOKEN, Some(allowed)).await.0, 201);
    // It ends with the pod.
    cluster.ask(Method::DELETE, &format!("{PODS}/a"), Some(json!({"gracePeriodSeconds": 0}))).await;
    cluster.attack(Method::POST, TOKEN, JSON, request(bound("a", &own), json!([])), 403).await;
}

#[tokio::test]
async fn attack_a_node_meddles_with_what_is_others() {
    let cluster = cluster().await;
    let evict = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": "a"}});
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.example", "nodeName": "b",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}});
    for (method, path, body) in [
        (Method::POST, format!("{PODS}/b/eviction"), evict("b")),
        (Method::DELETE, format!("{PODS}/b"), json!({})),
        (Method::PATCH, format!("{PODS}/b/status"), json!({"status": {"phase": "Failed"}})),
        (Method::PATCH, format!("{PODS}/a"), json!({"metadata": {"labels": {"app": "b"}}})),
        (Method::PATCH, format!("{PODS}/a/status"), json!({"metadata": {"labels": {"app": "b"}}})),
        (
            Method::PATCH,
            format!("{PODS}/a/status"),
            json!({"status": {"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "y"}]}}),
        ),
        (
            Method::PATCH,
            format!("{PODS}/a/ephemeralcontainers"),
            json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}}),
        ),
        (Method::POST, format!("{PODS}/a/binding"), json!({"metadata": {"name": "a"}, "target": {"name": "b"}})),
        (Method::POST, format!("{PODS}/b/exec?command=sh"), json!({})),
        (Method::POST, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".to_owned(), lease("b")),
        (
            Method::POST,
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases".to_owned(),
            lease("kube-scheduler"),
        ),
        (
            Method::POST,
            "/apis/storage.k8s.io/v1/csinodes".to_owned(),
            json!({"metadata": {"name": "b"}, "spec": {"drivers": []}}),
        ),
        (Method::POST, "/apis/resource.k8s.io/v1/resourceslices".to_owned(), slice),
        (Method::PATCH, "/api/v1/namespaces/default/persistentvolumeclaims/c".to_owned(), json!({})),
    ] {
        let media = if method == Method::PATCH { MERGE } else { JSON };
        cluster.attack(method, &path, media, body, 403).await;
    }
    let (code, answer) =
        cluster.as_user(node("a"), Method::POST, &format!("{PODS}/a/eviction"), Some(evict("a"))).await;
    assert_eq!(code, 201, "its own pod: {answer}");
    cluster.get(&format!("{PODS}/b")).await;
}

#[tokio::test]
async fn attack_the_right_to_read_does_not_act() {
    let cluster = cluster().await;
    let rules = json!([{"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": ["*"]}]);
    cluster
        .create(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({"metadata": {"name": "reader"}, "rules": rules}),
        )
        .await;
    let binding = json!({"metadata": {"name": "reader"}, "subjects": [{"kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    cluster.create(PODS, pod("loose")).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    let bind = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "loose"}, "target": {"kind": "Node", "name": "a"}});
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let joe = || crate::harness::user("joe", &[]);
    let paths =
        [(TOKEN.to_owned(), token), (format!("{PODS}/a/eviction"), eviction), (format!("{PODS}/loose/binding"), bind)];
    for (path, body) in paths {
        for query in ["", "?watch=true"] {
            let (code, answer) =
                cluster.as_user(joe(), Method::GET, &format!("{path}{query}"), Some(body.clone())).await;
            assert_eq!(code, 405, "GET {path}{query}: {answer}");
        }
        for method in [Method::PUT, Method::DELETE, Method::PATCH] {
            let (code, answer) = cluster.ask(method.clone(), &path, Some(body.clone())).await;
            assert_eq!(code, 405, "{method} {path}: {answer}");
        }
        assert_eq!(cluster.as_user(joe(), Method::POST, &path, Some(body.clone())).await.0, 403);
        // All is checked, nothing is done.
        let (code, answer) = cluster.ask(Method::POST, &format!("{path}?dryRun=All"), Some(body.clone())).await;
        assert_eq!(code, 201, "{path}: {answer}");
        assert_eq!(cluster.ask(Method::POST, &format!("{path}?dryRun=Some"), Some(body)).await.0, 422);
    }
    assert_eq!(cluster.get(&format!("{PODS}/a")).await["metadata"].get("deletionTimestamp"), None);
    assert_eq!(cluster.get(&format!("{PODS}/loose")).await["spec"].get("nodeName"), None);
    let all = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "loose", "namespace": "default"}, "target": {"name": "a"}});
    let (code, answer) = cluster.ask(Method::POST, "/api/v1/namespaces/default/bindings?dryRun=All", Some(all)).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(cluster.get(&format!("{PODS}/loose")).await["spec"].get("nodeName"), None);
}
