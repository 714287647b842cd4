//! The holder of a kubelet's certificate: it reaches its own pods' matters, and nothing else.

use kybern_e2e::{Cluster, Namespace};
use serde_json::{Value, json};

use super::caller::Caller;

const NODE: &str = "kybern-e2e";
const NODES: &str = "/api/v1/nodes";

/// A node without a machine, and a pod bound to it that uses a Secret.
struct Elsewhere {
    name: String,
    namespace: Namespace,
}

impl Elsewhere {
    fn new(purpose: &str) -> Self {
        let namespace = Cluster::get().namespace(purpose);
        let elsewhere = Self { name: namespace.name.clone(), namespace };
        let name = &elsewhere.name;
        let admin = Caller::administrator();
        admin.makes(NODES, &json!({"metadata": {"name": name}}));
        let secret = json!({"metadata": {"name": "crown"}, "data": {"jewels": "eA=="}});
        admin.makes(&format!("/api/v1/namespaces/{name}/secrets"), &secret);
        let pod = json!({"metadata": {"name": "guard"}, "spec": {"nodeName": name, "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "secret": {"secretName": "crown"}}]}});
        kybern_e2e::eventually("the default account is there", || {
            let made = admin.create(&elsewhere.path("pods"), &pod);
            if made.code == 201 { Ok(()) } else { Err(made.body.to_string()) }
        });
        elsewhere
    }

    fn path(&self, what: &str) -> String {
        format!("/api/v1/namespaces/{}/{what}", self.name)
    }

    fn uid(&self, what: &str) -> Value {
        Caller::administrator().reads(&self.path(what))["metadata"]["uid"].clone()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.namespace.run(&["delete", "pod", "guard", "--grace-period=0", "--force"]);
        let _ = self.namespace.run(&["delete", "node", &self.name]);
    }
}

fn kubelet(name: &str) -> Caller {
    Caller::certified(&format!("system:node:{name}"), "system:nodes")
}

#[test]
fn a_node_reads_no_secret_of_others() {
    let elsewhere = Elsewhere::new("crown");
    let node = kubelet(NODE);
    let secret = elsewhere.path("secrets/crown");
    // The node whose pod uses it may read it: a refusal is about whose pod it is.
    kubelet(&elsewhere.name).reads(&secret);
    for path in [
        secret.clone(),
        elsewhere.path("secrets"),
        elsewhere.path("secrets?fieldSelector=metadata.name%3Dcrown"),
        elsewhere.path("secrets?watch=true&fieldSelector=metadata.name%3Dcrown"),
        "/api/v1/secrets".to_owned(),
        "/api/v1/namespaces/kube-system/secrets".to_owned(),
    ] {
        assert_eq!(node.get(&path).code, 403, "{path}");
    }

    // A mirror pod would bring the Secret to this node.
    let uid = Caller::administrator().reads(&format!("{NODES}/{NODE}"))["metadata"]["uid"].clone();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": uid, "controller": true}]);
    let mirror = |spec: Value| {
        let mut pod = json!({"metadata": {"name": "mirror", "ownerReferences": owner,
                "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}});
        for (field, value) in spec.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    for spec in [
        json!({"volumes": [{"name": "v", "secret": {"secretName": "crown"}}]}),
        json!({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "crown"}}]}}]}),
        json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
        json!({"volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "crown"}}}]}),
        json!({"containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "crown"}}]}]}),
        json!({"containers": [{"name": "c", "image": "i",
            "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "crown", "key": "jewels"}}}]}]}),
        json!({"initContainers": [{"name": "n", "image": "i", "envFrom": [{"secretRef": {"name": "crown"}}]}]}),
        json!({"imagePullSecrets": [{"name": "crown"}]}),
        json!({"serviceAccountName": "default"}),
        json!({"nodeName": elsewhere.name}),
    ] {
        node.refused("POST", &elsewhere.path("pods"), &mirror(spec), &[403, 422]);
        assert_eq!(node.get(&secret).code, 403);
    }
    let mut plain = mirror(json!({}));
    plain["metadata"]["annotations"] = json!({});
    node.refused("POST", &elsewhere.path("pods"), &plain, &[403]);
    // Nor does it get at the pod itself.
    for (method, what, body) in [
        ("DELETE", "pods/guard", json!({})),
        ("PATCH", "pods/guard/status", json!({"status": {"phase": "Failed"}})),
        ("PATCH", "pods/guard", json!({"metadata": {"labels": {"x": "y"}}})),
        ("POST", "pods/guard/eviction", json!({"metadata": {"name": "guard"}})),
        ("POST", "pods/guard/binding", json!({"metadata": {"name": "guard"}, "target": {"name": NODE}})),
    ] {
        node.refused(method, &elsewhere.path(what), &body, &[403]);
    }
}

#[test]
fn a_node_stays_what_it_is() {
    let elsewhere = Elsewhere::new("ranks");
    let node = kubelet(NODE);
    let own = format!("{NODES}/{NODE}");
    for label in [
        "node-role.kubernetes.io/control-plane",
        "node-restriction.kubernetes.io/tier",
        "kubernetes.io/role",
        "x.k8s.io/y",
    ] {
        let object = json!({"metadata": {"labels": {label: "x"}}});
        for path in [own.clone(), format!("{own}/status")] {
            let text = node.refused("PATCH", &path, &object, &[403]);
            assert!(text.contains("is not allowed to modify labels"), "{text}");
        }
        let made = json!({"metadata": {"name": "forged", "labels": {label: "x"}}});
        node.refused("POST", NODES, &made, &[403]);
    }
    let taint = json!({"spec": {"taints": [{"key": "example.com/x", "effect": "PreferNoSchedule"}]}});
    let text = node.refused("PATCH", &own, &taint, &[403]);
    assert!(text.contains("is not allowed to modify taints"), "{text}");
    let other = format!("{NODES}/{}", elsewhere.name);
    for (method, path, body) in [
        ("PATCH", other.clone(), json!({"metadata": {"labels": {"x": "y"}}})),
        ("PATCH", format!("{other}/status"), json!({"status": {"addresses": []}})),
        ("DELETE", other.clone(), json!({})),
        ("POST", NODES.to_owned(), json!({"metadata": {"name": "forged"}})),
        (
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".to_owned(),
            json!({"metadata": {"name": elsewhere.name}, "spec": {"holderIdentity": NODE}}),
        ),
        (
            "PATCH",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager".to_owned(),
            json!({"spec": {"holderIdentity": NODE}}),
        ),
        (
            "POST",
            "/apis/storage.k8s.io/v1/csinodes".to_owned(),
            json!({"metadata": {"name": elsewhere.name}, "spec": {"drivers": []}}),
        ),
    ] {
        node.refused(method, &path, &body, &[403]);
    }
    // Somebody in the group of nodes whose name is no node's has no rights at all.
    let strange = Caller::certified("strange", "system:nodes");
    assert_eq!(strange.get(&own).code, 403);
    assert_eq!(strange.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dkybern-e2e").code, 403);
}

#[test]
fn a_node_gets_tokens_for_its_own_pods_alone() {
    let elsewhere = Elsewhere::new("tokens");
    let guard = elsewhere.uid("pods/guard");
    // Its own pod, in the same namespace and with the same account.
    elsewhere.namespace.apply(&crate::manifests::shell_pod("own", "sleep 3600"));
    elsewhere.namespace.wait("pod/own", "condition=Ready");
    let own = elsewhere.uid("pods/own");
    let token = elsewhere.path("serviceaccounts/default/token");
    let request = |reference: Value, seconds: i64, audiences: Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": reference, "expirationSeconds": seconds, "audiences": audiences}})
    };
    let bound = |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    let node = kubelet(NODE);
    node.makes(&token, &request(bound("own", &own), 600, json!([])));
    for (reference, seconds, audiences, codes) in [
        (Value::Null, 600, json!([]), [403, 403]),
        (json!({"apiVersion": "v1", "kind": "Node", "name": NODE}), 600, json!([]), [403, 403]),
        (json!({"apiVersion": "v1", "kind": "Secret", "name": "crown"}), 600, json!([]), [403, 403]),
        (json!({"apiVersion": "v1", "kind": "Pod", "name": "own"}), 600, json!([]), [403, 403]),
        (bound("own", &guard), 600, json!([]), [403, 409]),
        (bound("guard", &guard), 600, json!([]), [403, 403]),
        (bound("own", &own), 600, json!(["vault"]), [403, 403]),
        (bound("own", &own), (1 << 32) + 1, json!([]), [422, 422]),
        (Value::Null, 1 << 32, json!([]), [403, 403]),
    ] {
        node.refused("POST", &token, &request(reference, seconds, audiences), &codes);
    }
    // As long as upstream lets it: the cap is a flag's, and a pod's end is the token's.
    let long = node.makes(&token, &request(bound("own", &own), 1 << 32, json!([])));
    let long = Caller::bearer(long["status"]["token"].as_str().expect("a token"));
    assert_eq!(long.get("/api").code, 200);
    elsewhere.namespace.run(&["delete", "pod", "own", "--grace-period=0", "--force"]).ok();
    assert_eq!(long.get("/api").code, 401, "the pod is gone, and with it its tokens");
    node.refused("POST", &token, &request(bound("own", &own), 600, json!([])), &[403]);
    let system = "/api/v1/namespaces/kube-system/serviceaccounts/default/token";
    node.refused("POST", system, &request(bound("guard", &guard), 600, json!([])), &[403]);
}
