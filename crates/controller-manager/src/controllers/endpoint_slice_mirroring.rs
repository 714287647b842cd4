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
const NOT_COPIED: [&str; 3] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "endpoints.kubernetes.io/over-capacity",
];

pub struct EndpointSliceMirroringController {
    /// Addresses that are mirrored of one subset, at most.
    pub max_per_subset: usize,
}

impl Default for EndpointSliceMirroringController {
    fn default() -> Self {
        Self { max_per_subset: 1000 }
    }
}

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
        let (groups, told) = desired(&endpoints, self.max_per_subset);
        let writes = slices::reconcile(&existing, groups, &make, &labels, slices::MAX_ENDPOINTS).ops;
        Plan::of(told.into_iter().chain(writes).collect())
    }
}

/// Whether the Endpoints are written by hand, for a Service that selects no pods.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skipped = endpoints.labels().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    let elected = endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let selects = |s: &Service| s.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    !skipped && !elected && !endpoints.is_deleting() && service.is_some_and(|s| !selects(s) && !s.is_deleting())
}

/// The endpoints of the slices, and events about those that are left out.
fn desired(endpoints: &Endpoints, most: usize) -> (BTreeMap<slices::Group, Vec<Endpoint>>, Vec<Op>) {
    let mut groups: BTreeMap<slices::Group, Vec<Endpoint>> = BTreeMap::new();
    // Subsets of the same ports are one; of how many addresses is counted for both families together.
    let mut counts: BTreeMap<slices::Group, usize> = BTreeMap::new();
    let (mut invalid, mut surplus) = (0, 0);
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
        let count = counts.entry(slices::Group::new("", ports.clone())).or_default();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(unready) {
            if *count >= most {
                surplus += 1;
            } else if let Ok(ip) = address.ip.parse::<IpAddr>() {
                let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                groups.entry(slices::Group::new(family, ports.clone())).or_default().push(endpoint(address, ready));
                *count += 1;
            } else {
                invalid += 1;
            }
        }
    }
    let mut told = Vec::new();
    if invalid > 0 {
        let text = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        told.push(Op::warning(endpoints, "InvalidIPAddress", text));
    }
    if surplus > 0 {
        let skipped = surplus + invalid;
        let text = format!(
            "A max of {most} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} \
             addresses were skipped"
        );
        told.push(Op::warning(endpoints, "TooManyAddressesToMirror", text));
    }
    (groups, told)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
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
    use crate::testing::{World, created, deleted, events, labels, meta};

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
        world.reconcile(&EndpointSliceMirroringController::default(), "default/db")
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
    fn what_is_left_out_is_told() {
        let world = world(&[], None);
        let mut endpoints = (*world.snapshot.endpoints.get("default/db").unwrap()).clone();
        let subsets = endpoints.subsets.as_mut().unwrap();
        let address = |ip: String| EndpointAddress { ip, ..EndpointAddress::default() };
        let many = (0..1500).map(|i| address(format!("10.0.{}.{}", i / 250, i % 250)));
        let bad = ["1.2.3", "x"].map(|ip| address(ip.into()));
        // A second subset of the same ports counts with the first, of three addresses.
        let more = EndpointSubset { addresses: Some(bad.into_iter().chain(many).collect()), ..subsets[0].clone() };
        subsets.push(EndpointSubset { not_ready_addresses: None, ..more });
        world.writers.endpoints.upsert(endpoints);
        let plan = run(&world);
        let invalid = "InvalidIPAddress: Skipped 2 invalid IP addresses when mirroring to EndpointSlices";
        let surplus = "TooManyAddressesToMirror: A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints \
                       subset. 505 addresses were skipped";
        assert_eq!(events(&plan), [invalid, surplus]);
        assert_eq!(created::<EndpointSlice>(&plan).iter().map(|slice| slice.endpoints.len()).sum::<usize>(), 1000);
    }

    #[test]
    fn others_are_not() {
        assert!(run(&world(&[(SKIP, "true")], None)).ops.is_empty());
        assert!(run(&world(&[], Some(labels(&[("app", "db")])))).ops.is_empty());
    }
}
