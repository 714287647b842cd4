//! The provider of clusters that have nothing else: a Service is reached at its ports of the nodes' own addresses, as
//! kube-proxy serves whatever address a Service's status names. A port of the nodes is one Service's at a time, and none
//! that nodes themselves listen on is given away.

use std::net::IpAddr;

use kybern_api::Object;
use kybern_api::core::v1::{Node, Service};

use super::{Provider, comes_before, is_balanced, is_local, nodes_with_endpoints, takes_traffic};
use crate::snapshot::{SERVICE, Snapshot};

/// See the module.
pub struct NodeAddresses {
    /// TCP ports of the nodes that no Service gets, beside those of the API server and the kubelets: whoever may make a
    /// Service would be handed what is meant for them.
    pub reserved: Vec<u16>,
}

impl Default for NodeAddresses {
    /// SSH; etcd; kube-proxy, controller manager and scheduler.
    fn default() -> Self {
        Self { reserved: vec![22, 2379, 2380, 10249, 10256, 10257, 10259] }
    }
}

impl Provider for NodeAddresses {
    fn class(&self) -> &'static str {
        "kybern.io/node-addresses"
    }

    fn ensure(&self, service: &Service, snapshot: &Snapshot) -> Result<Vec<IpAddr>, String> {
        for (protocol, port) in ports(service) {
            if protocol == "TCP" && self.is_reserved(port, snapshot) {
                return Err(format!(
                    "port {port}/TCP of the nodes is in use by the nodes themselves: choose another port"
                ));
            }
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
    fn is_reserved(&self, port: u16, snapshot: &Snapshot) -> bool {
        let is = |number: Option<i32>| number == Some(i32::from(port));
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

fn ports(service: &Service) -> Vec<(String, u16)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| Some((port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port.try_into().ok()?)))
        .collect()
}

/// A port of a Service that another has or comes before it for, and that one.
fn conflict(service: &Service, class: &str, snapshot: &Snapshot) -> Option<(String, String)> {
    let own = ports(service);
    let is_ours = |other: &Service| {
        let spec = other.spec.as_ref();
        is_balanced(other) && spec.and_then(|spec| spec.load_balancer_class.as_deref()).is_none_or(|c| c == class)
    };
    let others = snapshot.services.list();
    let rivals = others.iter().filter(|other| other.uid() != service.uid() && is_ours(other));
    rivals.filter(|other| comes_before(other, service)).find_map(|other| {
        let (protocol, port) = ports(other).into_iter().find(|port| own.contains(port))?;
        Some((format!("{port}/{protocol}"), other.key()))
    })
}
