//! `endpointslicemirroring`: hand-written Endpoints of Services without selector, as EndpointSlices, which is what kube-proxy
//! and DNS read (`pkg/controller/endpointslicemirroring`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kybern_api::core::v1::{EndpointAddress, Endpoints, Service};
use kybern_api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::{Object, owner};

use crate::controller::{Context, Controller, Op, Plan};
use crate::slices::{self, SERVICE_NAME};
use crate::snapshot::{SERVICE, Snapshot};
use crate::watches::Watches;

pub const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// The most addresses that are mirrored of one subset.
const MAX_PER_SUBSET: usize = 1000;
const NOT_COPIED: [&str; 3] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "endpoints.kubernetes.io/over-capacity",
];

pub struct EndpointSliceMirroringController;

impl Controller for EndpointSliceMirroringController {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    fn component(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn account(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.endpoints);
        watches.on(&snapshot.services, |change, _| vec![change.object().key()]);
        watches.on(&snapshot.endpoint_slices, |change, _| {
            let slice = change.object();
            let ours = slices::is_managed_by(slice, MANAGED_BY);
            slices::service_key(slice).filter(|_| ours).into_iter().collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let existing: Vec<Arc<EndpointSlice>> = snapshot.endpoint_slices.by_index(SERVICE, key);
        let existing: Vec<_> =
            existing.into_iter().filter(|s| slices::is_managed_by(s, MANAGED_BY) && !s.is_deleting()).collect();
        let endpoints = snapshot.endpoints.get(key).filter(|e| is_mirrored(e, snapshot.services.get(key).as_deref()));
        let Some(endpoints) = endpoints else {
            return Plan::of(existing.iter().map(|slice| Op::delete(&**slice)).collect());
        };
        let labels = labels(&endpoints);
        let make = |group: &slices::Group| new_slice(&endpoints, group, &labels);
        Plan::of(slices::reconcile(&existing, desired(&endpoints), &make, &labels))
    }
}

/// Whether the Endpoints are written by hand, for a Service that selects no pods.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skipped = endpoints.labels().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    let elected = endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let selects = |s: &Service| s.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    !skipped && !elected && !endpoints.is_deleting() && service.is_some_and(|s| !selects(s) && !s.is_deleting())
}

fn desired(endpoints: &Endpoints) -> BTreeMap<slices::Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<slices::Group, Vec<Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(unready).take(MAX_PER_SUBSET) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            groups.entry(slices::Group::new(family, ports.clone())).or_default().push(endpoint(address, ready));
        }
    }
    groups
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(ready), terminating: None }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
    labels.insert(slices::MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
    labels
}

fn new_slice(endpoints: &Endpoints, group: &slices::Group, labels: &BTreeMap<String, String>) -> EndpointSlice {
    let annotations =
        endpoints.metadata.annotations.iter().flatten().filter(|(k, _)| !NOT_COPIED.contains(&k.as_str()));
    let annotations: BTreeMap<String, String> = annotations.map(|(k, v)| (k.clone(), v.clone())).collect();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", endpoints.name())),
        namespace: Some(endpoints.namespace().to_owned()),
        labels: Some(labels.clone()),
        annotations: Some(annotations).filter(|a| !a.is_empty()),
        owner_references: Some(vec![owner::controller_ref(endpoints)]),
        ..ObjectMeta::default()
    };
    EndpointSlice {
        metadata,
        address_type: group.address_type.clone(),
        endpoints: Vec::new(),
        ports: Some(group.ports()),
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{EndpointSubset, ServiceSpec};

    use super::*;
    use crate::testing::{World, created, deleted, labels, meta};

    fn world(endpoints_labels: &[(&str, &str)], selector: Option<BTreeMap<String, String>>) -> World {
        let world = World::new();
        let spec = ServiceSpec { selector, ..ServiceSpec::default() };
        world.writers.services.upsert(Service { metadata: meta("db"), spec: Some(spec), status: None });
        let address = |ip: &str| EndpointAddress { ip: ip.into(), ..EndpointAddress::default() };
        let subset = EndpointSubset {
            addresses: Some(vec![address("192.0.2.1"), address("2001:db8::1")]),
            not_ready_addresses: Some(vec![address("192.0.2.2")]),
            ports: Some(vec![kybern_api::core::v1::EndpointPort { port: 5432, ..Default::default() }]),
        };
        let metadata = ObjectMeta { labels: Some(labels(endpoints_labels)), ..meta("db") };
        world.writers.endpoints.upsert(Endpoints { metadata, subsets: Some(vec![subset]) });
        world
    }

    fn run(world: &World) -> Plan {
        world.reconcile(&EndpointSliceMirroringController, "default/db")
    }

    #[test]
    fn hand_written_endpoints_are_mirrored_by_family() {
        let world = world(&[], None);
        let made: Vec<EndpointSlice> = created(&run(&world));
        let seen: Vec<_> = made
            .iter()
            .map(|s| (s.address_type.as_str(), s.endpoints.len(), s.ports.as_ref().unwrap()[0].port))
            .collect();
        assert_eq!(seen, [("IPv4", 2, Some(5432)), ("IPv6", 1, Some(5432))]);
        assert_eq!(owner::controller_of(&made[0].metadata).unwrap().kind, "Endpoints");
        for (i, mut slice) in made.into_iter().enumerate() {
            slice.metadata.name = Some(format!("db-{i}"));
            world.writers.endpoint_slices.upsert(slice);
        }
        assert!(run(&world).ops.is_empty());
        world.writers.endpoints.remove("default/db", "9");
        assert_eq!(deleted(&run(&world)), ["db-0", "db-1"]);
    }

    #[test]
    fn others_are_not() {
        assert!(run(&world(&[(SKIP, "true")], None)).ops.is_empty());
        assert!(run(&world(&[], Some(labels(&[("app", "db")])))).ops.is_empty());
    }
}
