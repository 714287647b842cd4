use kybern_api::core::v1::{Node, Service};
use kybern_api::discovery::v1::EndpointSlice;

use super::*;
use crate::testing::{World, at};

fn from_json<K: Object>(value: Value) -> K {
    K::from_json(value.to_string().as_bytes()).unwrap()
}

fn world(nodes: &[(&str, &str, bool)]) -> World {
    let world = World::new();
    for (name, ip, is_ready) in nodes {
        world.writers.nodes.upsert(from_json::<Node>(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ip}, {"type": "InternalIP", "address": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": if *is_ready { "True" } else { "False" }}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            },
        })));
    }
    world
}

fn service(name: &str, port: u16, spec: Value) -> Service {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": at(1000).to_string()},
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": port, "protocol": "TCP"}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    from_json(service)
}

fn controller() -> ServiceLoadBalancerController {
    ServiceLoadBalancerController { provider: Arc::new(NodeAddresses::default()) }
}

/// What is written, and the reason and text of the event.
fn decided(world: &World, name: &str) -> (Option<Vec<String>>, String) {
    let plan = world.reconcile(&controller(), &format!("default/{name}"));
    let mut written = None;
    let mut said = String::new();
    for op in &plan.ops {
        match op {
            Op::Patch { patch: Patch::Merge(patch), subresource: Some("status"), .. } => {
                let list = patch["status"]["loadBalancer"]["ingress"].as_array().unwrap();
                written = Some(list.iter().map(|e| e["ip"].as_str().unwrap().to_owned()).collect());
            }
            Op::Event { reason, message, .. } => said = format!("{reason}: {message}"),
            other => panic!("{other:?}"),
        }
    }
    (written, said)
}

fn given(world: &World, name: &str, ip: &str) {
    let mut service = (*world.snapshot.services.get(&format!("default/{name}")).unwrap()).clone();
    let status = json!({"apiVersion": "v1", "kind": "Service", "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
    service.status = from_json::<Service>(status).status;
    world.writers.services.upsert(service);
}

#[test]
fn a_service_is_at_the_nodes_that_take_traffic() {
    let world = world(&[("a", "192.0.2.1", true), ("b", "192.0.2.2", false), ("c", "192.0.2.3", true)]);
    world.writers.services.upsert(service("web", 80, json!({})));
    let ensured = "EnsuredLoadBalancer: Ensured load balancer";
    assert_eq!(decided(&world, "web"), (Some(vec!["192.0.2.1".into(), "192.0.2.3".into()]), ensured.into()));
    given(&world, "web", "192.0.2.1");
    let updated = "UpdatedLoadBalancer: Updated load balancer with new hosts";
    assert_eq!(decided(&world, "web").1, updated);
    // A node that is excluded, or leaves, takes none.
    let mut node = (*world.snapshot.nodes.get("c").unwrap()).clone();
    let label = ("node.kubernetes.io/exclude-from-external-load-balancers".to_owned(), String::new());
    node.metadata.labels = Some([label].into());
    world.writers.nodes.upsert(node);
    assert_eq!(decided(&world, "web"), (None, String::new()));
}

#[test]
fn families_addresses_and_classes_that_are_asked_for_count() {
    let world = world(&[("a", "192.0.2.1", true), ("c", "192.0.2.3", true)]);
    let table: [(Value, Option<&[&str]>, &str); 6] = [
        (json!({"ipFamilies": ["IPv6"]}), Some(&["fd00::1", "fd00::1"]), "Ensured"),
        (json!({"loadBalancerIP": "192.0.2.3"}), Some(&["192.0.2.3"]), "Ensured"),
        (
            json!({"loadBalancerIP": "192.0.2.9"}),
            None,
            "SyncLoadBalancerFailed: Error syncing load balancer: spec.loadBalancerIP 192.0.2.9",
        ),
        (json!({"loadBalancerClass": "example.com/other"}), None, ""),
        (json!({"loadBalancerClass": "kybern.io/node-addresses"}), Some(&["192.0.2.1", "192.0.2.3"]), "Ensured"),
        (json!({"type": "NodePort"}), None, ""),
    ];
    for (spec, expect, event) in table {
        world.writers.services.upsert(service("web", 80, spec.clone()));
        let (written, said) = decided(&world, "web");
        let expect = expect.map(|list| list.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>());
        assert_eq!(written, expect, "{spec}");
        assert!(said.starts_with(event) && said.is_empty() == event.is_empty(), "{spec}: {said}");
    }
}

#[test]
fn a_port_of_the_nodes_is_one_services() {
    let world = world(&[("a", "192.0.2.1", true)]);
    world.writers.services.upsert(service("web", 80, json!({})));
    world.writers.services.upsert(service("win", 80, json!({})));
    let taken = "port 80/TCP of the nodes is that of the Service default/web";
    assert!(decided(&world, "win").1.contains(taken), "{:?}", decided(&world, "win"));
    assert_eq!(decided(&world, "web").0, Some(vec!["192.0.2.1".into()]));
    // Who has it keeps it, whatever its name; another protocol is another port.
    given(&world, "win", "192.0.2.1");
    assert!(decided(&world, "web").1.contains("that of the Service default/win"));
    assert_eq!(decided(&world, "win"), (None, String::new()));
    world.writers.services.upsert(service("udp", 80, json!({"ports": [{"port": 80, "protocol": "UDP"}]})));
    assert!(decided(&world, "udp").0.is_some());
    // Once it has gone, the other gets it.
    world.writers.services.remove("default/win", "9");
    assert!(decided(&world, "web").0.is_some());
}

#[test]
fn only_ports_that_are_given_up_wake_those_who_wait() {
    let world = world(&[("a", "192.0.2.1", true)]);
    let [first, second, other] = [("first", 80), ("second", 80), ("other", 81)].map(|(name, port)| {
        let service = service(name, port, json!({}));
        world.writers.services.upsert(service.clone());
        Some(Arc::new(service))
    });
    let woken = |old: &Option<Arc<Service>>, new: &Option<Arc<Service>>| {
        of_service(&Change { old: old.clone(), new: new.clone() }, &world.snapshot)
    };
    assert_eq!(woken(&None, &second), ["default/second"]);
    assert_eq!(woken(&second, &second), ["default/second"]);
    world.writers.services.remove("default/first", "9");
    assert_eq!(woken(&first, &None), ["default/first", "default/second"]);
    let moved = Some(Arc::new(service("first", 81, json!({}))));
    assert_eq!(woken(&first, &moved), ["default/first", "default/second"]);
    assert_eq!(woken(&other, &None), ["default/other"]);
}

#[test]
fn what_nodes_listen_on_is_given_to_nobody() {
    let world = world(&[("a", "192.0.2.1", true)]);
    world.writers.endpoint_slices.upsert(from_json::<EndpointSlice>(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "ports": [{"port": 6443}],
    })));
    for port in [22, 2379, 6443, 10250, 10256] {
        world.writers.services.upsert(service("web", port, json!({})));
        let (written, said) = decided(&world, "web");
        assert!(written.is_none() && said.contains("in use by the nodes themselves"), "{port}: {said}");
    }
    let vxlan = json!({"ports": [{"port": 8472, "protocol": "UDP"}]});
    world.writers.services.upsert(service("web", 80, vxlan));
    assert!(decided(&world, "web").1.contains("port 8472/UDP of the nodes is in use by the nodes themselves"));
    // An address from before the rule is taken back.
    given(&world, "web", "192.0.2.1");
    assert_eq!(decided(&world, "web").0, Some(Vec::new()));
}

#[test]
fn local_traffic_goes_to_nodes_with_endpoints() {
    let world = world(&[("a", "192.0.2.1", true), ("b", "192.0.2.2", true)]);
    world.writers.services.upsert(service("web", 80, json!({"externalTrafficPolicy": "Local"})));
    let none = decided(&world, "web");
    assert_eq!(none, (None, String::new()), "nothing leads anywhere yet");
    let endpoint =
        |node: &str, ready: bool| json!({"addresses": ["10.0.0.1"], "nodeName": node, "conditions": {"ready": ready}});
    let slice = from_json::<EndpointSlice>(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [endpoint("b", true), endpoint("a", false)],
    }));
    world.writers.endpoint_slices.upsert(slice.clone());
    assert_eq!(decided(&world, "web").0, Some(vec!["192.0.2.2".into()]));
    let change = Change { old: None, new: Some(Arc::new(slice)) };
    assert_eq!(of_slice(&change, &world.snapshot), ["default/web"]);
}
