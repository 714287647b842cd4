//! The provider of clusters that have nothing else: a Service is reached at its ports of the nodes' own addresses, as
//! kube-proxy serves whatever address a Service's status names. A port of the nodes is one Service's at a time, and none
//! that nodes themselves listen on is given away.

use std::net::IpAddr;

use kybern_api::Object;
use kybern_api::core::v1::{Node, Service};

use super::{Provider, comes_before, is_local, node_ports, nodes_with_endpoints, takes_traffic};
use crate::snapshot::{NODE_PORT, SERVICE, Snapshot};

/// See the module.
pub struct NodeAddresses {
    /// Ports of the nodes that no Service gets, beside those of the API server and the kubelets: whoever may make a Service
    /// would be handed what is meant for them.
    pub reserved: Vec<&'static str>,
}

impl Default for NodeAddresses {
    /// SSH; BGP; etcd; kube-proxy, controller manager and scheduler; VXLAN (by number and as Flannel does); WireGuard.
    fn default() -> Self {
        let tcp = ["22/TCP", "179/TCP", "2379/TCP", "2380/TCP", "10249/TCP", "10256/TCP", "10257/TCP", "10259/TCP"];
        Self { reserved: tcp.into_iter().chain(["4789/UDP", "8472/UDP", "51820/UDP", "51821/UDP"]).collect() }
    }
}

impl Provider for NodeAddresses {
    fn class(&self) -> &'static str {
        "kybern.io/node-addresses"
    }

    fn ensure(&self, service: &Service, snapshot: &Snapshot) -> Result<Vec<IpAddr>, String> {
        if let Some(port) = node_ports(service).into_iter().find(|port| self.is_reserved(port, snapshot)) {
            return Err(format!("port {port} of the nodes is in use by the nodes themselves: choose another port"));
        }
        if let Some((port, holder)) = conflict(service, self.class(), snapshot) {
            return Err(format!(
                "port {port} of the nodes is that of the Service {holder}: choose another port, or wait until it is free"
            ));
        }
        let families = families(service);
        let local = is_local(service).then(|| nodes_with_endpoints(service, snapshot));
        let mut nodes = snapshot.nodes.list();
        nodes.retain(|node| takes_traffic(node) && local.as_ref().is_none_or(|names| names.contains(node.name())));
        nodes.sort_by(|a, b| a.name().cmp(b.name()));
        let mut found: Vec<IpAddr> = nodes.iter().flat_map(|node| of_node(node)).collect();
        found.retain(|ip| families.contains(&family(ip)));
        if found.is_empty() {
            // A Service without endpoints waits for them; upstream's balancers have their address already, but here it
            // would lead nowhere.
            return if local.is_some() {
                Ok(found)
            } else {
                Err("There are no available nodes for LoadBalancer".into())
            };
        }
        let wanted =
            service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|ip| !ip.is_empty());
        if let Some(wanted) = wanted {
            found.retain(|ip| wanted.parse() == Ok(*ip));
            if found.is_empty() {
                return Err(format!("spec.loadBalancerIP {wanted} is not the address of a node that takes traffic"));
            }
        }
        Ok(found)
    }
}

impl NodeAddresses {
    fn is_reserved(&self, port: &str, snapshot: &Snapshot) -> bool {
        let is = |number: Option<i32>| number.is_some_and(|number| port == format!("{number}/TCP"));
        self.reserved.contains(&port)
            || snapshot.nodes.list().iter().any(|node| {
                let endpoints = node.status.as_ref().and_then(|status| status.daemon_endpoints.as_ref());
                is(endpoints.and_then(|e| e.kubelet_endpoint.as_ref()).map(|kubelet| kubelet.port))
            })
            || snapshot
                .endpoint_slices
                .by_index(SERVICE, "default/kubernetes")
                .iter()
                .any(|slice| slice.ports.iter().flatten().any(|own| is(own.port)))
    }
}

/// The addresses that clients outside use: the external ones, where a node has any.
pub(super) fn of_node(node: &Node) -> Vec<IpAddr> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let of = |kind: &str| -> Vec<IpAddr> {
        let wanted = all.into_iter().flatten().filter(|address| address.type_ == kind);
        wanted.filter_map(|address| address.address.parse().ok()).collect()
    };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn families(service: &Service) -> Vec<&str> {
    service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten()).map(String::as_str).collect()
}

/// A port of a Service that another has or comes before it for, and that one.
fn conflict(service: &Service, class: &str, snapshot: &Snapshot) -> Option<(String, String)> {
    let is_ours = |other: &Service| {
        let spec = other.spec.as_ref();
        spec.and_then(|spec| spec.load_balancer_class.as_deref()).is_none_or(|c| c == class)
    };
    node_ports(service).into_iter().find_map(|port| {
        let rivals = snapshot.services.by_index(NODE_PORT, &port);
        let first = rivals
            .iter()
            .find(|other| other.uid() != service.uid() && is_ours(other) && comes_before(other, service))?;
        Some((port, first.key()))
    })
}
