//! `endpoints`: the pods behind a Service in the old form, which `kubectl get endpoints` and old clients read
//! (`pkg/controller/endpoint`).

use std::collections::BTreeMap;

use kybern_api::Object;
use kybern_api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use kybern_api::meta::v1::ObjectMeta;

use super::endpoint_slice::{Family, address, is_headless, pod_reference, selected_pods, services_of_pod, target_port};
use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The most addresses in one object.
const CAPACITY: usize = 1000;

type Ports = Vec<(String, i32, String, Option<String>)>;

pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoints-controller"
    }

    fn component(&self) -> &'static str {
        "endpoint-controller"
    }

    fn account(&self) -> &'static str {
        "endpoint-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.services);
        watches.on(&snapshot.pods, services_of_pod);
        watches.on(&snapshot.endpoints, |change, _| vec![change.object().key()]);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let current = snapshot.endpoints.get(key);
        let Some(service) = snapshot.services.get(key).filter(|s| !s.is_deleting()) else {
            // Only what this controller made goes with the Service; hand-written Endpoints are the garbage collector's.
            let ours = current.filter(|e| e.labels().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER));
            return Plan::of(ours.iter().map(|e| Op::delete(&**e)).collect());
        };
        if service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_none_or(BTreeMap::is_empty) {
            return Plan::idle();
        }
        let pods = selected_pods(&service, snapshot);
        let (subsets, over) = subsets(&service, &pods);
        let labels = labels(&service);
        let subsets = Some(subsets).filter(|s| !s.is_empty());
        match current {
            Some(old) if old.subsets == subsets && old.labels() == Some(&labels) => Plan::idle(),
            Some(old) => {
                let mut new = (*old).clone();
                new.subsets = subsets;
                new.metadata.labels = Some(labels);
                annotate(&mut new, over);
                Plan::of(vec![Op::update(&new)])
            }
            None => {
                let (name, namespace) = (Some(service.name().to_owned()), Some(service.namespace().to_owned()));
                let metadata = ObjectMeta { name, namespace, labels: Some(labels), ..ObjectMeta::default() };
                let mut new = Endpoints { metadata, subsets };
                annotate(&mut new, over);
                Plan::of(vec![Op::create(&new)])
            }
        }
    }
}

fn annotate(endpoints: &mut Endpoints, over: bool) {
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if over {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        endpoints.metadata.annotations = None;
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// Addresses grouped by their ports, ready and not ready apart; whether some were left out.
fn subsets(service: &Service, pods: &[std::sync::Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let publish = spec.and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let v6 = spec.and_then(|s| s.ip_families.as_ref()?.first()).is_some_and(|f| f == "IPv6");
    let family = if v6 { Family::V6 } else { Family::V4 };
    let mut groups: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let serving = |pod: &&std::sync::Arc<Pod>| publish || !pod.is_deleting();
    let all: Vec<_> = pods.iter().filter(serving).filter_map(|pod| Some((pod, address(pod, family)?))).collect();
    for (pod, ip) in all.iter().take(CAPACITY) {
        let ports = ports(service, pod);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let (ready, unready) = groups.entry(ports).or_default();
        let list = if publish || pods::is_ready(pod) { ready } else { unready };
        let pod_spec = pod.spec.as_ref();
        let in_subdomain = pod_spec.and_then(|s| s.subdomain.as_deref()) == Some(service.name());
        list.push(EndpointAddress {
            ip: ip.clone(),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty()),
            hostname: pod_spec.and_then(|s| s.hostname.clone()).filter(|h| in_subdomain && !h.is_empty()),
            target_ref: Some(pod_reference(pod)),
        });
    }
    let some = |mut list: Vec<EndpointAddress>| {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
        Some(list).filter(|l| !l.is_empty())
    };
    let subset = |(ports, (ready, unready)): (Ports, (Vec<_>, Vec<_>))| EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(unready),
        ports: Some(ports.into_iter().map(port).collect()).filter(|p: &Vec<_>| !p.is_empty()),
    };
    (groups.into_iter().map(subset).collect(), all.len() > CAPACITY)
}

fn port((name, port, protocol, app_protocol): (String, i32, String, Option<String>)) -> EndpointPort {
    EndpointPort { name: Some(name).filter(|n| !n.is_empty()), port, protocol: Some(protocol), app_protocol }
}

fn ports(service: &Service, pod: &Pod) -> Ports {
    let all = service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
    let resolved = all.filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some((port.name.clone().unwrap_or_default(), target_port(port, pod)?, protocol, port.app_protocol.clone()))
    });
    let mut ports: Ports = resolved.collect();
    ports.sort();
    ports
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{ServicePort, ServiceSpec};

    use super::*;
    use crate::testing::{self, NOW, World, created, deleted, meta, pod, updated};

    fn service() -> Service {
        let port = ServicePort { port: 80, ..ServicePort::default() };
        let selector = Some(testing::labels(&[("app", "web")]));
        Service {
            metadata: meta("web"),
            spec: Some(ServiceSpec { selector, ports: Some(vec![port]), ..ServiceSpec::default() }),
            status: None,
        }
    }

    fn run(world: &World) -> Plan {
        world.reconcile(&EndpointsController, "default/web")
    }

    fn ips(list: Option<&Vec<EndpointAddress>>) -> Vec<&str> {
        list.into_iter().flatten().map(|a| a.ip.as_str()).collect()
    }

    #[test]
    fn ready_and_unready_addresses_are_apart() {
        let world = World::new();
        world.writers.services.upsert(service());
        let ready = |name, ip| pod(name).label("app", "web").ip(ip).ready_at(NOW - 5);
        world.writers.pods.upsert(ready("a", "10.0.0.2").build());
        world.writers.pods.upsert(ready("b", "10.0.0.3").not_ready().build());
        world.writers.pods.upsert(ready("c", "10.0.0.4").deleting().build());
        let mut endpoints: Endpoints = created(&run(&world)).remove(0);
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(ips(subset.addresses.as_ref()), ["10.0.0.2"]);
        assert_eq!(ips(subset.not_ready_addresses.as_ref()), ["10.0.0.3"]);
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 80);
        endpoints.metadata.resource_version = Some("4".into());
        world.writers.endpoints.upsert(endpoints);
        assert!(run(&world).ops.is_empty());
        world.writers.pods.upsert(ready("b", "10.0.0.3").build());
        let endpoints: Endpoints = updated(&run(&world)).remove(0);
        assert_eq!(ips(endpoints.subsets.unwrap()[0].addresses.as_ref()), ["10.0.0.2", "10.0.0.3"]);
        world.writers.services.remove("default/web", "9");
        assert_eq!(deleted(&run(&world)), ["web"]);
    }

    #[test]
    fn hand_written_endpoints_are_left_alone() {
        let world = World::new();
        let mut selectorless = service();
        selectorless.spec.as_mut().unwrap().selector = None;
        world.writers.services.upsert(selectorless);
        world.writers.endpoints.upsert(Endpoints { metadata: meta("web"), subsets: None });
        assert!(run(&world).ops.is_empty());
        world.writers.services.remove("default/web", "9");
        assert!(run(&world).ops.is_empty());
    }
}
