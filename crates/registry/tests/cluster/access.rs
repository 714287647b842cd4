//! Who may do what, over the wire.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::{Cluster, node, pod, user};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

#[tokio::test]
async fn a_binding_counts_from_its_answer_on() {
    let cluster = Cluster::start().await;
    let list = async || cluster.as_user(user("joe", &[]), Method::GET, "/api/v1/namespaces/default/pods", None).await;
    let (code, refused) = list().await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        r#"pods is forbidden: User "joe" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    let binding = json!({"metadata": {"name": "joe"}, "subjects": [{"kind": "User", "name": "joe"}],
        "roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"}});
    cluster.create(&format!("{ROLES}/rolebindings"), binding).await;
    // `view` is made of others by a controller; here it is given its rule by hand.
    let view = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
    let rules = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    assert_eq!(cluster.patch(view, json!({"rules": rules})).await.0, 200);
    assert_eq!(list().await.0, 200);
    cluster.ask(Method::DELETE, &format!("{ROLES}/rolebindings/joe"), None).await;
    assert_eq!(list().await.0, 403);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let cluster = Cluster::start().await;
    let rules = json!([{"verbs": ["create"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    cluster.create(&format!("{ROLES}/roles"), json!({"metadata": {"name": "maker"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "m"}, "subjects": [{"kind": "User", "name": "joe"}], "roleRef": {"kind": "Role", "name": "maker"}});
    cluster.create(&format!("{ROLES}/rolebindings"), binding).await;
    let make = async |name: &str, resource: &str| {
        let role = json!({"metadata": {"name": name}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]});
        cluster.as_user(user("joe", &[]), Method::POST, &format!("{ROLES}/roles"), Some(role)).await
    };
    assert_eq!(make("a", "pods").await.0, 201);
    let (code, refused) = make("b", "secrets").await;
    assert_eq!(code, 403);
    let text = refused["message"].as_str().unwrap();
    assert!(text.contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"), "{text}");
}

/// A label is enough to bring a role's rules into the roles that gather by it.
#[tokio::test]
async fn attack_a_label_or_an_aggregation_gathers_the_rights_of_others() {
    let cluster = Cluster::start().await;
    let all = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let verbs = ["get", "create", "update", "patch"];
    let rules = json!([{"verbs": verbs, "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]}]);
    cluster.create(all, json!({"metadata": {"name": "maker"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "maker"}, "subjects": [{"kind": "User", "name": "joe"}],
        "roleRef": {"kind": "ClusterRole", "name": "maker", "apiGroup": "rbac.authorization.k8s.io"}});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let merge = "application/merge-patch+json";
    let patch = async |name: &str, patch: Value| {
        cluster.send(user("joe", &[]), Method::PATCH, &format!("{all}/{name}"), merge, Some(patch)).await
    };
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    let selectors = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}});
    let privileged = "must have cluster-admin privileges to use the aggregationRule";
    for (name, change, text) in [
        ("cluster-admin", &label, "is attempting to grant RBAC permissions not currently held"),
        ("maker", &selectors, privileged),
        ("view", &json!({"aggregationRule": null}), privileged),
        ("view", &json!({"metadata": {"labels": {"x": "y"}}}), privileged),
    ] {
        let (code, refused) = patch(name, change.clone()).await;
        assert_eq!(code, 403, "{name} {change}: {refused}");
        assert!(refused["message"].as_str().unwrap().contains(text), "{refused}");
    }
    let mut gatherer = selectors;
    gatherer["metadata"] = json!({"name": "gatherer"});
    let (code, refused) = cluster.as_user(user("joe", &[]), Method::POST, all, Some(gatherer)).await;
    assert_eq!(code, 403, "{refused}");
    // What joe holds, joe may label; and what the garbage collector writes needs no rights.
    assert_eq!(patch("maker", label).await.0, 200);
    let (code, answer) = patch("cluster-admin", json!({"metadata": {"finalizers": ["example.com/x"]}})).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn attack_to_read_is_not_enough_to_act_in_a_container() {
    let cluster = Cluster::start().await;
    cluster.create("/api/v1/namespaces/default/pods", pod("a")).await;
    let role = |verbs: &[&str]| {
        json!({"metadata": {"name": "r"}, "rules": [{"verbs": verbs, "apiGroups": [""],
            "resources": ["pods/exec", "pods/attach", "pods/portforward"]}]})
    };
    cluster.create(&format!("{ROLES}/roles"), role(&["get"])).await;
    let binding = json!({"metadata": {"name": "r"}, "subjects": [{"kind": "User", "name": "joe"}], "roleRef": {"kind": "Role", "name": "r"}});
    cluster.create(&format!("{ROLES}/rolebindings"), binding).await;
    // A WebSocket's handshake is a GET.
    let ask = async |what: &str| {
        let path = format!("/api/v1/namespaces/default/pods/a/{what}");
        cluster.as_user(user("joe", &[]), Method::GET, &path, None).await
    };
    let calls = ["exec?command=id&stdout=1", "attach?stdout=1", "portforward?ports=80"];
    for call in calls {
        let (code, refused) = ask(call).await;
        assert_eq!(code, 403, "{call}: {refused}");
        let text = refused["message"].as_str().unwrap();
        assert!(text.contains("cannot create resource \"pods/"), "{call}: {text}");
    }
    let (code, changed) = cluster.patch(&format!("{ROLES}/roles/r"), role(&["get", "create"])).await;
    assert_eq!(code, 200, "{changed}");
    for call in calls {
        assert_eq!(ask(call).await.1["message"], "pod a does not have a host assigned", "{call}");
    }
}

#[tokio::test]
async fn reviews_answer_without_being_stored() {
    let cluster = Cluster::start().await;
    let own = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (code, review) = cluster.as_user(user("joe", &[]), Method::POST, path, Some(own.clone())).await;
    assert_eq!((code, &review["status"]["allowed"]), (201, &json!(false)), "{review}");
    assert_eq!(cluster.create(path, own).await["status"]["allowed"], true);
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who = cluster.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", who).await;
    assert_eq!(who["status"]["userInfo"]["username"], "admin");
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let rules = cluster.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rules).await;
    assert!(
        rules["status"]["resourceRules"]
            .as_array()
            .unwrap()
            .contains(&json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}))
    );
    let parts = cluster.get("/api/v1/componentstatuses").await;
    assert_eq!(parts["items"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_token_lives_as_long_as_its_pod() {
    let cluster = Cluster::start().await;
    let mut bound = pod("a");
    bound["spec"]["nodeName"] = "n".into();
    let made = cluster.create("/api/v1/namespaces/default/pods", bound).await;
    let request = |seconds: i64| {
        let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": made["metadata"]["uid"]});
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": reference}})
    };
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let text = cluster.refusal(Method::POST, path, Some(request(5)), 422).await;
    assert!(text.contains("may not specify a duration less than 10 minutes"), "{text}");
    // The kubelet of the pod's node may ask, another may not.
    assert_eq!(cluster.as_user(node("m"), Method::POST, path, Some(request(600))).await.0, 403);
    let (code, token) = cluster.as_user(node("n"), Method::POST, path, Some(request(600))).await;
    assert_eq!(code, 201, "{token}");
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let (user, _) = cluster.tokens.judge(&token, &[]).await.unwrap().unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:default");
    assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n"]);
    let review = async |token: &str| -> Value {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        cluster.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await["status"].clone()
    };
    assert_eq!(review(&token).await["user"]["username"], "system:serviceaccount:default:default");
    // Other tokens are reviewed, too.
    let known = review("static").await;
    assert_eq!((&known["authenticated"], &known["user"]["username"]), (&json!(true), &json!("joe")), "{known}");
    assert_eq!(known["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    assert_eq!(review("unknown").await.get("authenticated"), None);
    let mut elsewhere = request(600);
    elsewhere["metadata"] = json!({"name": "other"});
    let text = cluster.refusal(Method::POST, path, Some(elsewhere), 422).await;
    assert!(
        text.ends_with("metadata.name: Invalid value: \"other\": must match the service account name if specified"),
        "{text}"
    );
    cluster.ask(Method::DELETE, "/api/v1/namespaces/default/pods/a", Some(json!({"gracePeriodSeconds": 0}))).await;
    assert!(review(&token).await.get("authenticated").is_none());
    assert!(cluster.tokens.judge(&token, &[]).await.unwrap_err().contains("has been deleted"));
}

#[tokio::test]
async fn attack_who_may_approve_is_not_who_may_sign() {
    let cluster = Cluster::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let object = json!({"metadata": {"name": "r"}, "spec": {"request": crate::minimal::CSR, "signerName": "example.com/s", "usages": ["client auth"]}});
    cluster.create(requests, object).await;
    // Joe may write every part of a request, but speaks for another signer.
    let rules = json!([
        {"verbs": ["*"], "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"]},
        {"verbs": ["approve", "sign"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["other.example/*"]}]);
    cluster
        .create("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"metadata": {"name": "csr"}, "rules": rules}))
        .await;
    let binding = json!({"metadata": {"name": "csr"}, "subjects": [{"kind": "User", "name": "joe", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "csr", "apiGroup": "rbac.authorization.k8s.io"}});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let approval =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "x", "message": "x"}]}});
    let merge = "application/merge-patch+json";
    let joe = || user("joe", &[]);
    for (part, body, refusal) in [
        ("approval", approval.clone(), "user not permitted to approve requests with signerName \"example.com/s\""),
        (
            "status",
            json!({"status": {"certificate": STANDARD.encode(cluster.pki.ca.certificate_pem())}}),
            "user not permitted to sign requests with signerName \"example.com/s\"",
        ),
    ] {
        let (code, answer) =
            cluster.send(joe(), Method::PATCH, &format!("{requests}/r/{part}"), merge, Some(body)).await;
        assert_eq!(code, 403, "{part}: {answer}");
        assert!(answer["message"].as_str().unwrap().ends_with(refusal), "{answer}");
    }
    // Nor does the right to write the status, whoever signs, include to approve.
    let path = format!("{requests}/r/status");
    let text =
        cluster.send(user("admin", &["system:masters"]), Method::PATCH, &path, merge, Some(approval.clone())).await;
    assert!(text.0 == 422 && text.1["message"].as_str().unwrap().contains("may not add a condition"), "{text:?}");
    let (code, answer) = cluster.patch(&format!("{requests}/r/approval"), approval).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn classes_are_chosen_for_what_names_none() {
    let cluster = Cluster::start().await;
    let class = |name: &str, annotation: &str| json!({"metadata": {"name": name, "annotations": {annotation: "true"}}});
    let mut storage = class("fast", "storageclass.kubernetes.io/is-default-class");
    storage["provisioner"] = "a.example/p".into();
    let mut ingress = class("edge", "ingressclass.kubernetes.io/is-default-class");
    ingress["spec"] = json!({"controller": "a.example/c"});
    let claim = |name: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let none = cluster.create(claims, claim("before")).await;
    assert!(none["spec"].get("storageClassName").is_none(), "{none}");
    cluster.create("/apis/storage.k8s.io/v1/storageclasses", storage).await;
    cluster.create("/apis/networking.k8s.io/v1/ingressclasses", ingress).await;
    assert_eq!(cluster.create(claims, claim("after")).await["spec"]["storageClassName"], "fast");
    let mut own = claim("own");
    own["spec"]["storageClassName"] = "".into();
    assert_eq!(cluster.create(claims, own).await["spec"]["storageClassName"], "");
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let made = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": backend}});
    let made = cluster.create("/apis/networking.k8s.io/v1/namespaces/default/ingresses", made).await;
    assert_eq!(made["spec"]["ingressClassName"], "edge");
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let (code, refused) = cluster.patch(&format!("{claims}/after"), grow).await;
    assert_eq!(code, 422, "the strategy comes first: {refused}");
}
