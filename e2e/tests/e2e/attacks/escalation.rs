//! Somebody with some rights who wants more: by roles, bindings, aggregation, impersonation, tokens, certificates.

use std::process::Command;

use kybern_e2e::{Cluster, Namespace};
use serde_json::{Value, json};

use super::caller::Caller;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";

/// A ClusterRole of the test's own, removed with its binding when the test ends.
struct Granted<'a>(&'a Namespace);

impl<'a> Granted<'a> {
    /// A service account with `rules` in the whole cluster.
    fn everywhere(namespace: &'a Namespace, account: &str, rules: Value) -> (Self, Caller) {
        let caller = Caller::account(namespace, account);
        let name = &namespace.name;
        let admin = Caller::administrator();
        admin.makes(&format!("{RBAC}/clusterroles"), &json!({"metadata": {"name": name}, "rules": rules}));
        let subject = json!({"kind": "ServiceAccount", "namespace": name, "name": account});
        let binding = json!({"metadata": {"name": name}, "subjects": [subject],
            "roleRef": {"kind": "ClusterRole", "name": name, "apiGroup": GROUP}});
        admin.makes(&format!("{RBAC}/clusterrolebindings"), &binding);
        (Self(namespace), caller)
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        let name = &self.0.name;
        let own = format!("kybern-e2e-of={name}");
        let _ = self.0.run(&["delete", "clusterrolebinding,clusterrole", name]);
        let _ = self.0.run(&["delete", "clusterrolebindings,clusterroles", "-l", &own]);
    }
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

#[test]
fn nobody_grants_what_they_lack() {
    let namespace = Cluster::get().namespace("owner");
    let name = &namespace.name;
    // Who administers a namespace may write its roles and bindings.
    let owner = Caller::with_role(&namespace, "owner", "admin");
    let below = |what: &str| format!("{RBAC}/namespaces/{name}/{what}");
    let role = |role: &str, rules: Value| json!({"metadata": {"name": role}, "rules": rules});
    let binding = |binding: &str, kind: &str, role: &str| {
        json!({"metadata": {"name": binding}, "subjects": [{"kind": "Group", "name": "system:authenticated", "apiGroup": GROUP}],
            "roleRef": {"kind": kind, "name": role, "apiGroup": GROUP}})
    };
    owner.makes(&below("roles"), &role("fair", json!([rule(&["get"], "", &["pods"])])));
    owner.makes(&below("rolebindings"), &binding("fair", "Role", "fair"));
    for rules in [
        json!([rule(&["*"], "*", &["*"])]),
        json!([rule(&["get"], "", &["nodes"])]),
        json!([rule(&["escalate", "bind"], GROUP, &["roles", "clusterroles"])]),
        json!([rule(&["impersonate"], "", &["users", "groups"])]),
        json!([rule(&["get"], "example.com", &["things"])]),
        json!([rule(&["get"], "", &["pods"]), rule(&["approve"], "certificates.k8s.io", &["signers"])]),
    ] {
        let text = owner.refused("POST", &below("roles"), &role("more", rules.clone()), &[403]);
        assert!(text.contains("is attempting to grant RBAC permissions not currently held"), "{text}");
        owner.refused("PATCH", &below("roles/fair"), &json!({"rules": rules}), &[403]);
    }
    for (kind, role) in
        [("ClusterRole", "cluster-admin"), ("ClusterRole", "system:node"), ("ClusterRole", "not-there-yet")]
    {
        owner.refused("POST", &below("rolebindings"), &binding("more", kind, role), &[403, 404]);
    }
    let other = json!({"roleRef": {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": GROUP}});
    owner.refused("PATCH", &below("rolebindings/fair"), &other, &[403, 422]);
    for path in [format!("{RBAC}/namespaces/kube-system/rolebindings"), format!("{RBAC}/clusterrolebindings")] {
        owner.refused("POST", &path, &binding("more", "ClusterRole", "view"), &[403]);
    }
    owner.refused("POST", &format!("{RBAC}/clusterroles"), &role("more", json!([])), &[403]);
}

#[test]
fn aggregation_gathers_nothing_for_others() {
    let namespace = Cluster::get().namespace("gatherer");
    let name = &namespace.name;
    let rules = json!([rule(&["*"], GROUP, &["clusterroles"]), rule(&["get"], "", &["pods"])]);
    // `*` holds `escalate`; without it the verbs are named.
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete"];
    let mut named = rules.clone();
    named[0]["verbs"] = json!(verbs);
    let (_granted, maker) = Granted::everywhere(&namespace, "maker", named);
    let all = format!("{RBAC}/clusterroles");
    let made = |suffix: &str, labels: Value, more: Value| {
        let mut labels = labels;
        labels["kybern-e2e-of"] = json!(name);
        let mut role = json!({"metadata": {"name": format!("{name}-{suffix}"), "labels": labels}});
        for (field, value) in more.as_object().unwrap() {
            role[field] = value.clone();
        }
        role
    };
    let pods = json!({"rules": [rule(&["get"], "", &["pods"])]});
    let secrets = json!({"rules": [rule(&["get", "list"], "", &["secrets"])]});
    let everything = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {}}]}});
    maker.makes(&all, &made("fair", json!({}), pods));
    for (labels, more) in [
        (json!({}), everything.clone()),
        (json!({}), json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}})),
        (json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"}), secrets.clone()),
        (json!({}), secrets.clone()),
    ] {
        maker.refused("POST", &all, &made("more", labels, more), &[403]);
    }
    for (role, patch) in [
        (format!("{name}-fair"), everything.clone()),
        (format!("{name}-fair"), secrets),
        (name.clone(), everything),
        ("view".to_owned(), json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}})),
        ("view".to_owned(), json!({"rules": []})),
        ("edit".to_owned(), json!({"metadata": {"labels": {"x": "y"}}})),
        (
            "cluster-admin".to_owned(),
            json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}}),
        ),
    ] {
        maker.refused("PATCH", &format!("{all}/{role}"), &patch, &[403]);
    }
}

#[test]
fn nobody_speaks_for_others_unasked() {
    let namespace = Cluster::get().namespace("voices");
    let name = &namespace.name;
    let eve = Caller::with_role(&namespace, "eve", "edit");
    namespace.run(&["create", "serviceaccount", "weak"]).ok();
    let pods = format!("/api/v1/namespaces/{name}/pods");
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let user = |name: &str| format!("Impersonate-User: {name}");
    // Who may edit may speak for the namespace's own service accounts, and has then only their rights.
    let weak = user(&format!("system:serviceaccount:{name}:weak"));
    let answer = eve.get_with(&pods, &[&weak]);
    assert_eq!(answer.code, 403);
    assert!(
        answer.message().contains(&format!("User \"system:serviceaccount:{name}:weak\" cannot list")),
        "{answer:?}"
    );
    let masters = "Impersonate-Group: system:masters";
    let controller = user("system:serviceaccount:kube-system:namespace-controller");
    let (root, manager, crooked) =
        (user("root"), user("system:kube-controller-manager"), user("system:serviceaccount:kube-system"));
    for headers in [
        vec![&*root],
        vec![&root, masters],
        vec![&manager],
        vec![&controller],
        vec![&crooked],
        vec![&weak, masters],
        vec![&weak, "Impersonate-Group: system:nodes"],
        vec![&weak, "Impersonate-Uid: 1"],
        vec![&weak, "Impersonate-Extra-scopes: all"],
        vec![masters],
        vec!["Impersonate-Extra-scopes: all"],
    ] {
        let answer = eve.get_with(secrets, &headers);
        assert!(matches!(answer.code, 400 | 403 | 500), "{headers:?}: {answer:?}");
        if headers.len() > 1 || headers[0] != masters {
            assert!(!answer.body["items"].is_array(), "{headers:?}");
        }
    }
    // What a front proxy may say, nobody else may.
    let answer = eve.get_with(secrets, &["X-Remote-User: root", "X-Remote-Group: system:masters"]);
    assert_eq!(answer.code, 403);
    assert!(answer.message().contains(&format!("system:serviceaccount:{name}:eve")), "{answer:?}");
    let answer = Caller::nobody().get_with(secrets, &["X-Remote-User: root", "X-Remote-Group: system:masters"]);
    assert!(matches!(answer.code, 401 | 403), "{answer:?}");
    assert_eq!(Caller::nobody().get("/api/v1/nodes").code, 403);
    assert_eq!(Caller::bearer("nonsense").get("/version").code, 401, "a wrong token is not nobody's");
    // A token of another namespace's account.
    let request = json!({"spec": {"audiences": []}});
    let token =
        |namespace: &str, account: &str| format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    eve.refused("POST", &token("kube-system", "namespace-controller"), &request, &[403]);
    eve.refused("POST", &token("default", "default"), &request, &[403]);
}

/// A request for a certificate of this subject, as the API has it.
fn signing_request(subject: &str) -> String {
    let script = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null -subj \"$1\" 2>/dev/null | base64 -w0";
    let output = Command::new("sh").args(["-c", script, "sh", subject]).output().expect("sh starts");
    String::from_utf8(output.stdout).expect("base64")
}

#[test]
fn a_certificate_makes_nobody_greater() {
    let namespace = Cluster::get().namespace("signer");
    let name = &namespace.name;
    // Every part of a request may be written, but for no signer's sake.
    let parts =
        ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"];
    let (_granted, carol) =
        Granted::everywhere(&namespace, "carol", json!([rule(&["*"], "certificates.k8s.io", &parts)]));
    let all = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let client = "kubernetes.io/kube-apiserver-client";
    let request = |suffix: &str, subject: &str, signer: &str| {
        json!({"metadata": {"name": format!("{name}-{suffix}")}, "spec": {"request": signing_request(subject), "signerName": signer,
            "usages": ["client auth"], "username": "root", "groups": ["system:masters"], "uid": "0"}})
    };
    let text = carol.refused("POST", all, &request("masters", "/O=system:masters/CN=carol", client), &[403]);
    assert!(text.contains("system:masters"), "{text}");
    let made = carol.makes(all, &request("plain", "/O=people/CN=carol", client));
    let asked = &made["spec"];
    assert_eq!(asked["username"], json!(format!("system:serviceaccount:{name}:carol")), "who asks is not who they say");
    assert!(!asked["groups"].to_string().contains("system:masters"), "{asked}");
    let own = format!("{all}/{name}-plain");
    let approval =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "x", "message": "x"}]}});
    let text = carol.refused("PATCH", &format!("{own}/approval"), &approval, &[403]);
    assert!(text.contains("not permitted to approve requests with signerName"), "{text}");
    let text =
        carol.refused("PATCH", &format!("{own}/status"), &json!({"status": {"certificate": "eA=="}}), &[403, 422]);
    assert!(text.contains("not permitted to sign") || text.contains("certificate"), "{text}");
    // Not by the main resource either, which ignores what it does not own.
    carol.patches(&own, &approval);
    let read = carol.reads(&own);
    assert_eq!((read["status"].get("conditions"), read["status"].get("certificate")), (None, None), "{read}");
    carol.send("DELETE", &own, super::caller::JSON, "{}");
}
