use bytes::Bytes;
use kybern_apimachinery::json;

use super::*;

/// Commits objects one by one and answers the first complaint.
fn check(objects: &[(&str, Value)], expect: Option<&str>) {
    let mut model = Model::new(Faults::default());
    for (n, (key, object)) in objects.iter().enumerate() {
        let value = Bytes::from(object.to_string());
        model.commit(n as u64 + 2, &[Write::Put((*key).into(), value)], Duration::from_secs(n as u64));
    }
    assert_eq!(model.violation(), expect);
}

fn pod(name: &str, node: &str, cpu: &str) -> (String, Value) {
    let spec = json!({"nodeName": node, "containers": [{"resources": {"requests": {"cpu": cpu}}}]});
    let metadata = json!({"name": name, "namespace": "d", "uid": name});
    (format!("/registry/pods/d/{name}"), json!({"metadata": metadata, "spec": spec}))
}

fn node() -> (&'static str, Value) {
    let size = json!({"cpu": "1", "pods": "2"});
    ("/registry/minions/n", json!({"metadata": {"name": "n"}, "status": {"allocatable": size}}))
}

#[test]
fn bindings() {
    let ((a, small), (_, elsewhere), (b, large)) = (pod("a", "n", "500m"), pod("a", "m", "1"), pod("b", "n", "600m"));
    check(&[node(), (&a, small.clone())], None);
    check(&[(&a, small.clone())], Some("pod /registry/pods/d/a was bound to \"n\", which does not exist"));
    check(
        &[node(), (&a, small.clone()), (&a, elsewhere)],
        Some("pod /registry/pods/d/a was bound to n and then to \"m\""),
    );
    let text = "binding pod /registry/pods/d/b to n made it hold 2 pods with 1100m CPU; it has 2 and 1000m";
    check(&[node(), (&a, small), (&b, large)], Some(text));
}

#[test]
fn services() {
    let service = |name: &str, ip: &str, port: i64| {
        let spec = json!({"clusterIPs": [ip], "ports": [{"nodePort": port}]});
        json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})
    };
    let (a, b) = ("/registry/services/specs/d/a", "/registry/services/specs/d/b");
    check(&[(a, service("a", "10.0.0.1", 30000)), (b, service("b", "10.0.0.2", 30001))], None);
    check(
        &[(a, service("a", "10.0.0.1", 30000)), (b, service("b", "10.0.0.1", 30001))],
        Some("services d/a and d/b both have 10.0.0.1"),
    );
    check(
        &[(a, service("a", "None", 30000)), (b, service("b", "None", 30000))],
        Some("services d/a and d/b both have node port 30000"),
    );
}

#[test]
fn sizes() {
    let deployment = |replicas: i64| {
        let strategy = json!({"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
        let spec = json!({"replicas": replicas, "strategy": strategy});
        json!({"metadata": {"name": "web", "namespace": "d", "uid": "web"}, "spec": spec})
    };
    let set = |name: &str, replicas: i64| {
        let metadata = json!({"name": name, "namespace": "d", "uid": name,
            "ownerReferences": [{"uid": "web", "controller": true}]});
        json!({"metadata": metadata, "spec": {"replicas": replicas}})
    };
    let (web, one, two) = ("/registry/deployments/d/web", "/registry/replicasets/d/1", "/registry/replicasets/d/2");
    check(&[(web, deployment(4)), (one, set("1", 4)), (two, set("2", 1))], None);
    check(
        &[(web, deployment(4)), (one, set("1", 4)), (two, set("2", 2))],
        Some("the ReplicaSets of d/web were sized 6 together, more than 5"),
    );
}

#[test]
fn revisions() {
    let mut model = Model::new(Faults::default());
    model.commit(2, &[], Duration::ZERO);
    model.commit(2, &[], Duration::ZERO);
    assert_eq!(model.violation(), Some("revision 2 was given out after 2"));
}
