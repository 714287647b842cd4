//! `endpointslice`: the pods behind a Service, as EndpointSlices (`pkg/controller/endpointslice`,
//! `staging/src/k8s.io/endpointslice`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kybern_api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use kybern_api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::{IntOrString, Object, owner};
use kybern_client::Change;

use crate::controller::{Context, Controller, Op, Plan};
use crate::metrics::{ENDPOINTS_ADDED, ENDPOINTS_REMOVED, SLICE_CHANGES, SLICE_SYNCS, SLICES_CHANGED};
use crate::pods;
use crate::slices::{self, SERVICE_NAME};
use crate::snapshot::{LABEL, SELECTOR, SERVICE, Snapshot, label_in};
use crate::watches::Watches;

pub const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The annotation that was there before `trafficDistribution`, by both its names.
const TOPOLOGY: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub struct EndpointSliceController {
    /// Endpoints of one slice, at most.
    pub max_endpoints: usize,
}

impl Default for EndpointSliceController {
    fn default() -> Self {
        Self { max_endpoints: slices::MAX_ENDPOINTS }
    }
}

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn component(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.services);
        watches.on(&snapshot.pods, services_of_pod);
        watches.on(&snapshot.endpoint_slices, |change, _| {
            let slice = change.object();
            let ours = slices::is_managed_by(slice, MANAGED_BY);
            slices::service_key(slice).filter(|_| ours).into_iter().collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(service) = snapshot.services.get(key) else { return Plan::idle() };
        let Some(spec) = service.spec.as_ref() else { return Plan::idle() };
        if service.is_deleting()
            || spec.selector.as_ref().is_none_or(BTreeMap::is_empty)
            || spec.type_.as_deref() == Some("ExternalName")
        {
            return Plan::idle();
        }
        let pods = selected_pods(&service, snapshot);
        let existing: Vec<Arc<EndpointSlice>> = snapshot.endpoint_slices.by_index(SERVICE, key);
        let existing: Vec<_> =
            existing.into_iter().filter(|s| slices::is_managed_by(s, MANAGED_BY) && !s.is_deleting()).collect();
        let mut desired: BTreeMap<slices::Group, Vec<Endpoint>> = BTreeMap::new();
        for family in families(&service) {
            // A service without ready pods still has a slice: it says that nobody is there.
            let mut any = false;
            for pod in &pods {
                let Some(address) = address(pod, family) else { continue };
                let ports = resolved_ports(&service, pod);
                let group = slices::Group::new(family.as_str(), ports);
                desired.entry(group).or_default().push(endpoint(&service, pod, address, snapshot));
                any = true;
            }
            if !any {
                desired.entry(slices::Group::new(family.as_str(), Vec::new())).or_default();
            }
        }
        let trigger =
            pods.iter().filter_map(|pod| pods::ready_since(pod)).chain([pods::created(&service.metadata)]).max();
        let make = |group: &slices::Group| new_slice(&service, group, trigger);
        let labels = slice_labels(&service);
        measured(slices::reconcile(&existing, desired, &make, &labels, self.max_endpoints), &service)
    }
}

/// Counts what is written.
fn measured(writes: slices::Writes, service: &Service) -> Plan {
    let mut plan = Plan::of(writes.ops);
    let operation = |op: &Op| match op {
        Op::Create { .. } => "create",
        Op::Delete { .. } => "delete",
        _ => "update",
    };
    for operation in plan.ops.iter().map(operation).collect::<Vec<_>>() {
        plan.count(&SLICE_CHANGES, [operation]);
    }
    let (topology, distribution) = match traffic(service) {
        _ if is_auto(service) => ("Auto", ""),
        wanted => ("Disabled", wanted.unwrap_or("")),
    };
    plan.count(&SLICE_SYNCS, ["success"]);
    plan.measure(&SLICES_CHANGED, [topology, distribution], plan.ops.len() as f64);
    plan.measure(&ENDPOINTS_ADDED, [], writes.added as f64);
    plan.measure(&ENDPOINTS_REMOVED, [], writes.removed as f64);
    plan
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// A slice's `addressType`, and a Service's `ipFamilies` entry.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, address: &str) -> bool {
        address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (self == Self::V4))
    }
}

fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|s| s.ip_families.as_ref()).into_iter().flatten();
    let found: Vec<Family> = named.map(|f| if f == "IPv6" { Family::V6 } else { Family::V4 }).collect();
    if !found.is_empty() {
        return found;
    }
    let v6 = spec.and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| Family::V6.has(ip));
    vec![if v6 { Family::V6 } else { Family::V4 }]
}

/// The pods a Service may send to: selected, with an address, not finished.
pub(crate) fn selected_pods(service: &Service, snapshot: &Snapshot) -> Vec<Arc<Pod>> {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).into_iter().flatten();
    let labels: Vec<String> = selector.map(|(key, value)| label_in(service.namespace(), key, value)).collect();
    let mut pods = snapshot.pods.by_index_and(LABEL, &labels);
    pods.retain(|pod| pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).is_some_and(|ip| !ip.is_empty()));
    pods
}

/// The pod's address in a family.
pub(crate) fn address(pod: &Pod, family: Family) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|p| p.ip.as_str()).chain(status.pod_ip.as_deref());
    all.filter(|ip| family.has(ip)).map(str::to_owned).next()
}

/// The number that a Service port means for a pod; `None` for a name that the pod does not have (`FindPort`).
pub(crate) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let restartable =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(restartable).flat_map(|c| c.ports.iter().flatten());
            let named =
                ports.filter(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
            named.map(|p| p.container_port).next()
        }
        Some(IntOrString::Int(number)) if *number != 0 => Some(*number),
        _ => Some(port.port),
    }
}

fn resolved_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pod)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(service: &Service, pod: &Pod, address: String, snapshot: &Snapshot) -> Endpoint {
    let spec = service.spec.as_ref();
    let publish = spec.and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let (serving, terminating) = (publish || pods::is_ready(pod), pod.is_deleting());
    let node_name = Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty());
    let node = node_name.as_ref().and_then(|name| snapshot.nodes.get(name));
    let zone = node.and_then(|n| n.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned());
    let pod_spec = pod.spec.as_ref();
    let ready = publish || (serving && !terminating);
    let in_subdomain = pod_spec.and_then(|s| s.subdomain.as_deref()) == Some(service.name());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod_spec.and_then(|s| s.hostname.clone()).filter(|h| in_subdomain && !h.is_empty()),
        hints: hints(service, &node_name, &zone).filter(|_| ready),
        node_name,
        target_ref: Some(pod_reference(pod)),
        zone,
        ..Endpoint::default()
    }
}

/// Its `trafficDistribution`, if that is a known one.
fn traffic(service: &Service) -> Option<&str> {
    let wanted = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    matches!(wanted, "PreferClose" | "PreferSameNode" | "PreferSameZone").then_some(wanted)
}

fn is_auto(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let is = |key: &&str| annotations.and_then(|a| a.get(*key)).is_some_and(|v| matches!(&**v, "Auto" | "auto"));
    TOPOLOGY.iter().any(is)
}

/// Where the Service's `trafficDistribution` wants an endpoint to be used. Its older annotation takes it over, and does nothing
/// here: hints of processors are not made.
fn hints(service: &Service, node: &Option<String>, zone: &Option<String>) -> Option<EndpointHints> {
    let is_same_node = traffic(service).filter(|_| !is_auto(service))? == "PreferSameNode";
    let for_zones = zone.clone().map(|name| vec![ForZone { name }]);
    let for_nodes = node.clone().filter(|_| is_same_node).map(|name| vec![ForNode { name }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace().to_owned()),
        name: Some(pod.name().to_owned()),
        uid: Some(pod.uid().to_owned()),
        ..ObjectReference::default()
    }
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// The Service's own labels, and those that say what the slice is.
fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(slices::MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
    labels
}

fn new_slice(service: &Service, group: &slices::Group, trigger: Option<jiff::Timestamp>) -> EndpointSlice {
    let annotation = trigger.map(|t| (LAST_CHANGE.to_owned(), kybern_apimachinery::time::to_rfc3339(t)));
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", service.name())),
        namespace: Some(service.namespace().to_owned()),
        labels: Some(slice_labels(service)),
        annotations: annotation.map(|a| BTreeMap::from([a])),
        owner_references: Some(vec![owner::controller_ref(service)]),
        ..ObjectMeta::default()
    };
    EndpointSlice {
        metadata,
        address_type: group.address_type.clone(),
        endpoints: Vec::new(),
        ports: Some(group.ports()),
    }
}

/// The Services that select the pod, as it is or was.
pub(crate) fn services_of_pod(change: &Change<Pod>, snapshot: &Snapshot) -> Vec<String> {
    let mut keys = Vec::new();
    for pod in [&change.old, &change.new].into_iter().flatten() {
        for (key, value) in pod.labels().into_iter().flatten() {
            for service in snapshot.services.by_index(SELECTOR, &label_in(pod.namespace(), key, value)) {
                let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).into_iter().flatten();
                let mut wanted = selector.map(|(key, value)| pod.labels().is_some_and(|l| l.get(key) == Some(value)));
                if wanted.all(|there| there) && !keys.contains(&service.key()) {
                    keys.push(service.key());
                }
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::ServiceSpec;

    use super::*;
    use crate::testing::{self, NOW, World, created, meta, pod, updated};

    fn service(name: &str) -> Service {
        let port = ServicePort { port: 80, target_port: Some(IntOrString::Int(8080)), ..ServicePort::default() };
        let spec = ServiceSpec {
            selector: Some(testing::labels(&[("app", "web")])),
            ports: Some(vec![port]),
            cluster_ip: Some("10.96.0.9".into()),
            ..ServiceSpec::default()
        };
        Service { metadata: meta(name), spec: Some(spec), status: None }
    }

    fn ready(name: &str, ip: &str) -> testing::PodBuilder {
        pod(name).label("app", "web").node("n1").ip(ip).ready_at(NOW - 5)
    }

    fn run(world: &World) -> Plan {
        world.reconcile(&EndpointSliceController::default(), "default/web")
    }

    fn conditions(slice: &EndpointSlice) -> Vec<(String, bool, bool, bool)> {
        let of = |e: &Endpoint| {
            let c = e.conditions.as_ref().unwrap();
            (e.addresses[0].clone(), c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
        };
        slice.endpoints.iter().map(of).collect()
    }

    #[test]
    fn what_is_written_is_counted() {
        let world = World::new();
        world.writers.services.upsert(service("web"));
        world.writers.pods.upsert(ready("a", "10.0.0.1").build());
        world.writers.pods.upsert(ready("b", "10.0.0.2").build());
        let measured = || {
            run(&world).measures.iter().map(|m| m.shown().replace("endpoint_slice_controller_", "")).collect::<Vec<_>>()
        };
        let expect = |changes: &[&str], slices: u8, added: u8, removed: u8| {
            let mut lines: Vec<String> =
                changes.iter().map(|change| format!("changes{{operation={change}}} 1")).collect();
            lines.extend([
                "syncs{result=success} 1".to_owned(),
                format!("endpointslices_changed_per_sync{{topology=Disabled,traffic_distribution=}} {slices}"),
                format!("endpoints_added_per_sync{{}} {added}"),
                format!("endpoints_removed_per_sync{{}} {removed}"),
            ]);
            lines
        };
        assert_eq!(measured(), expect(&["create"], 1, 2, 0));
        let mut slice = created::<EndpointSlice>(&run(&world)).remove(0);
        (slice.metadata.name, slice.metadata.namespace) = (Some("web-1".into()), Some("default".into()));
        world.writers.endpoint_slices.upsert(slice);
        assert_eq!(measured(), expect(&[], 0, 0, 0));
        world.writers.pods.remove("default/a", "9");
        assert_eq!(measured(), expect(&["update"], 1, 0, 1));
    }

    #[test]
    fn traffic_that_shall_stay_near_is_hinted() {
        // The Service's wish and annotation; the hints' nodes and zones.
        let table = [
            (None, "", None),
            (Some("PreferClose"), "", Some((None, Some("z")))),
            (Some("PreferSameZone"), "", Some((None, Some("z")))),
            (Some("PreferSameNode"), "", Some((Some("n1"), Some("z")))),
            (Some("PreferSameNode"), "Disabled", Some((Some("n1"), Some("z")))),
            (Some("PreferClose"), "Auto", None),
            (Some("Elsewhere"), "", None),
        ];
        for (wish, annotation, expect) in table {
            let world = World::new();
            let mut service = service("web");
            service.spec.as_mut().unwrap().traffic_distribution = wish.map(str::to_owned);
            service.metadata.annotations = Some(testing::labels(&[(TOPOLOGY[0], annotation)]));
            world.writers.services.upsert(service);
            let mut node = kybern_api::core::v1::Node::default();
            node.metadata.name = Some("n1".into());
            node.metadata.labels = Some(testing::labels(&[("topology.kubernetes.io/zone", "z")]));
            world.writers.nodes.upsert(node);
            world.writers.pods.upsert(ready("a", "10.244.0.2").build());
            world.writers.pods.upsert(ready("b", "10.244.0.3").not_ready().build());
            let slice: EndpointSlice = created(&run(&world)).remove(0);
            let of = |e: &Endpoint| {
                let hints = e.hints.clone()?;
                let node = hints.for_nodes.map(|nodes| nodes[0].name.clone());
                Some((node, hints.for_zones.map(|zones| zones[0].name.clone())))
            };
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let found: Vec<_> = slice.endpoints.iter().map(of).collect();
            let expect = expect.map(|(node, zone)| (owned(node), owned(zone)));
            assert_eq!(found, [expect, None], "{wish:?} {annotation}");
        }
    }

    #[test]
    fn pods_become_endpoints() {
        let world = World::new();
        world.writers.services.upsert(service("web"));
        world.writers.pods.upsert(ready("a", "10.244.0.2").build());
        world.writers.pods.upsert(ready("b", "10.244.0.3").not_ready().build());
        world.writers.pods.upsert(ready("c", "10.244.0.4").deleting().build());
        world.writers.pods.upsert(ready("d", "10.244.0.5").phase("Succeeded").build());
        world.writers.pods.upsert(pod("other").ip("10.244.0.6").build());
        let slice: EndpointSlice = created(&run(&world)).remove(0);
        assert_eq!(
            conditions(&slice),
            [
                ("10.244.0.2".into(), true, true, false),
                ("10.244.0.3".into(), false, false, false),
                ("10.244.0.4".into(), false, true, true),
            ]
        );
        let port = &slice.ports.as_ref().unwrap()[0];
        assert_eq!(
            (port.port, port.protocol.as_deref(), slice.address_type.as_str()),
            (Some(8080), Some("TCP"), "IPv4")
        );
        assert_eq!(slice.labels().unwrap()[SERVICE_NAME], "web");
        assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
    }

    #[test]
    fn only_what_changed_is_written() {
        let world = World::new();
        world.writers.services.upsert(service("web"));
        world.writers.pods.upsert(ready("a", "10.244.0.2").build());
        let mut slice: EndpointSlice = created(&run(&world)).remove(0);
        slice.metadata.name = Some("web-x".into());
        slice.metadata.resource_version = Some("7".into());
        world.writers.endpoint_slices.upsert(slice);
        assert!(run(&world).ops.is_empty());
        world.writers.pods.upsert(ready("b", "10.244.0.3").build());
        let plan = run(&world);
        assert_eq!(conditions(&updated::<EndpointSlice>(&plan)[0]).len(), 2);
        world.writers.pods.remove("default/a", "9");
        world.writers.pods.remove("default/b", "9");
        let plan = run(&world);
        assert!(conditions(&updated::<EndpointSlice>(&plan)[0]).is_empty(), "an empty slice stays");
    }

    #[test]
    fn a_hundred_endpoints_fill_a_slice() {
        let world = World::new();
        world.writers.services.upsert(service("web"));
        for i in 0..150 {
            world.writers.pods.upsert(ready(&format!("p{i:03}"), &format!("10.244.1.{i}")).build());
        }
        let sizes: Vec<usize> = created::<EndpointSlice>(&run(&world)).iter().map(|s| s.endpoints.len()).collect();
        assert_eq!(sizes, [100, 50]);
        let plan = world.reconcile(&EndpointSliceController { max_endpoints: 1000 }, "default/web");
        assert_eq!(created::<EndpointSlice>(&plan).len(), 1);
    }

    #[test]
    fn named_ports_differ_by_pod() {
        let world = World::new();
        let mut web = service("web");
        web.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port = Some(IntOrString::String("http".into()));
        world.writers.services.upsert(web);
        for (name, ip, number) in [("a", "10.244.0.2", 8080), ("b", "10.244.0.3", 9090)] {
            let mut pod = ready(name, ip).build();
            let port = kybern_api::core::v1::ContainerPort {
                name: Some("http".into()),
                container_port: number,
                ..Default::default()
            };
            let container = kybern_api::core::v1::Container { ports: Some(vec![port]), ..Default::default() };
            pod.spec.as_mut().unwrap().containers = vec![container];
            world.writers.pods.upsert(pod);
        }
        let ports: Vec<Option<i32>> =
            created::<EndpointSlice>(&run(&world)).iter().map(|s| s.ports.as_ref().unwrap()[0].port).collect();
        assert_eq!(ports, [Some(8080), Some(9090)]);
    }

    #[test]
    fn headless_services_say_so_and_selectorless_ones_are_left_alone() {
        let world = World::new();
        let mut web = service("web");
        web.spec.as_mut().unwrap().cluster_ip = Some("None".into());
        world.writers.services.upsert(web.clone());
        let slice: EndpointSlice = created(&run(&world)).remove(0);
        assert!(slice.labels().unwrap().contains_key(HEADLESS));
        web.spec.as_mut().unwrap().selector = None;
        world.writers.services.upsert(web);
        assert!(run(&world).ops.is_empty());
    }
}
