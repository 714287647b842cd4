//! `service-lb`: Services of type LoadBalancer get addresses from a provider
//! (`staging/src/k8s.io/cloud-provider/controllers/service`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use kybern_api::core::v1::{Node, Service};
use kybern_api::discovery::v1::EndpointSlice;
use kybern_api::{Object, condition};
use kybern_apimachinery::{Value, json};
use kybern_client::{Change, Patch};

use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::{NODE_PORT, SERVICE, Snapshot};
use crate::watches::Watches;

mod node_addresses;

pub use node_addresses::NodeAddresses;

const BALANCED: &str = "LoadBalancer";

/// Where load balancers come from. It only decides: what it needs to know is in the snapshot.
pub trait Provider: Send + Sync + 'static {
    /// The `loadBalancerClass` of the Services that ask for this provider by name; those without a class are its, too.
    fn class(&self) -> &'static str;

    /// Where a Service is reached, in order; or why nowhere.
    fn ensure(&self, service: &Service, snapshot: &Snapshot) -> Result<Vec<IpAddr>, String>;
}

pub struct ServiceLoadBalancerController {
    pub provider: Arc<dyn Provider>,
}

impl Controller for ServiceLoadBalancerController {
    fn name(&self) -> &'static str {
        "service-lb-controller"
    }

    fn component(&self) -> &'static str {
        "service-controller"
    }

    fn account(&self) -> &'static str {
        "service-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.when_missed(&snapshot.services);
        watches.on(&snapshot.services, of_service);
        watches.on(&snapshot.nodes, |change, snapshot| match (&change.old, &change.new) {
            (Some(old), Some(new)) if of_interest(old) == of_interest(new) => Vec::new(),
            _ => all(snapshot),
        });
        watches.on(&snapshot.endpoint_slices, of_slice);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(service) = snapshot.services.get(key).filter(|service| !service.is_deleting()) else {
            return Plan::idle();
        };
        let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
        if !is_balanced(&service) || class.is_some_and(|class| class != self.provider.class()) {
            // The API server takes the addresses of one that is of another type now.
            return Plan::idle();
        }
        let given = addresses(&service);
        match self.provider.ensure(&service, snapshot) {
            Ok(wanted) if wanted == given => Plan::idle(),
            Ok(wanted) => {
                let event = if given.is_empty() {
                    Op::normal(&*service, "EnsuredLoadBalancer", "Ensured load balancer")
                } else {
                    Op::normal(&*service, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
                };
                Plan::of(vec![write(&service, &wanted), event])
            }
            Err(why) => {
                let said =
                    Op::warning(&*service, "SyncLoadBalancerFailed", format!("Error syncing load balancer: {why}"));
                let mut plan = Plan::of(vec![said]);
                if !given.is_empty() {
                    plan.ops.insert(0, write(&service, &[]));
                }
                plan
            }
        }
    }
}

pub(super) fn is_balanced(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some(BALANCED))
}

/// The ports of nodes that a Service wants, `80/TCP`, in the index [`NODE_PORT`].
pub fn node_ports(service: &Service) -> Vec<String> {
    let ports = service.spec.iter().filter(|_| is_balanced(service)).flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP"))).collect()
}

fn all(snapshot: &Snapshot) -> Vec<String> {
    snapshot.services.list().into_iter().filter(|service| is_balanced(service)).map(|service| service.key()).collect()
}

/// The Service, and those that wait for ports that it has given up: not all that want the same, of which there may be many.
fn of_service(change: &Change<Service>, snapshot: &Snapshot) -> Vec<String> {
    let ports = |service: &Option<Arc<Service>>| service.as_deref().map(node_ports).unwrap_or_default();
    let kept = ports(&change.new);
    let freed = ports(&change.old).into_iter().filter(|port| !kept.contains(port));
    let waiting = freed.flat_map(|port| snapshot.services.by_index(NODE_PORT, &port));
    let keys: BTreeSet<String> = waiting.map(|service| service.key()).chain([change.object().key()]).collect();
    keys.into_iter().collect()
}

/// Services whose traffic goes only to nodes that have endpoints.
fn of_slice(change: &Change<EndpointSlice>, snapshot: &Snapshot) -> Vec<String> {
    let slice = change.object();
    let name = slice.labels().and_then(|labels| labels.get("kubernetes.io/service-name"));
    let key = name.map(|name| format!("{}/{name}", slice.namespace()));
    let service = key.and_then(|key| snapshot.services.get(&key));
    service
        .filter(|service| is_balanced(service) && is_local(service))
        .map(|service| service.key())
        .into_iter()
        .collect()
}

pub(super) fn is_local(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"))
}

/// What Services have by their status.
pub(super) fn addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    status.into_iter().flatten().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

fn write(service: &Service, addresses: &[IpAddr]) -> Op {
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
    let status = json!({"loadBalancer": {"ingress": ingress}});
    Op::patch_status(service, Patch::Merge(json!({"metadata": {"uid": service.uid()}, "status": status})))
}

/// What of a node decides whether it takes traffic, and where.
fn of_interest(node: &Node) -> (bool, Vec<IpAddr>) {
    (takes_traffic(node), node_addresses::of_node(node))
}

/// Upstream's `nodeEligible…` predicates.
pub(super) fn takes_traffic(node: &Node) -> bool {
    const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
    const GOING: &str = "ToBeDeletedByClusterAutoscaler";
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    node.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, "Ready"))
        && !node.is_deleting()
        && !node.labels().is_some_and(|labels| labels.contains_key(EXCLUDED))
        && !taints.into_iter().flatten().any(|taint| taint.key == GOING)
}

/// The nodes that have endpoints of a Service that serve.
pub(super) fn nodes_with_endpoints(service: &Service, snapshot: &Snapshot) -> BTreeSet<String> {
    let slices = snapshot.endpoint_slices.by_index(SERVICE, &service.key());
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false)));
    ready.filter_map(|endpoint| endpoint.node_name.clone()).collect()
}

/// The order in which Services are served that want the same: who has it, then the oldest.
pub(super) fn comes_before(a: &Service, b: &Service) -> bool {
    let rank = |s: &Service| (addresses(s).is_empty(), pods::created(&s.metadata), s.key());
    rank(a) < rank(b)
}

#[cfg(test)]
mod tests;
