//! UDP has no connections to break: the kernel goes on sending a client's packets to where it sent them first. When an
//! endpoint goes, flows to it must be forgotten, and when a service gets its first endpoint, flows that went nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kybern_linux::conntrack::{Conntrack, Tuple};
use kybern_linux::netlink::NetlinkError;
use kybern_linux::nft::Family;

use crate::service::{Endpoints, Protocol, ServicePort, usable, usable_anywhere};

/// Where UDP flows may lead, by what the client addressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpServices {
    by_address: BTreeMap<(IpAddr, u16), BTreeSet<(IpAddr, u16)>>,
    by_node_port: BTreeMap<u16, BTreeSet<(IpAddr, u16)>>,
}

impl UdpServices {
    pub fn new(services: &[ServicePort], endpoints: &Endpoints) -> Self {
        let mut this = Self::default();
        for service in services.iter().filter(|service| service.protocol == Protocol::Udp) {
            let all = endpoints.get(&service.name).map_or(&[][..], Vec::as_slice);
            let ends: BTreeSet<_> = [usable_anywhere(all), usable(all, |e| e.is_local)]
                .concat()
                .into_iter()
                .map(|e| (e.ip, e.port))
                .collect();
            for ip in service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips) {
                this.by_address.insert((*ip, service.port), ends.clone());
            }
            if let Some(port) = service.node_port {
                this.by_node_port.insert(port, ends);
            }
        }
        this
    }

    /// Whether a flow must be forgotten: it addresses a service and is answered by something that is none of its endpoints.
    pub fn is_stale(&self, original: &Tuple, reply: &Tuple) -> bool {
        if original.protocol != Protocol::Udp.number() {
            return false;
        }
        let answering = (reply.source, reply.source_port);
        let ends = self.by_address.get(&(original.destination, original.destination_port)).or_else(|| {
            // A node port only where the flow was translated: another program may use the number at another address.
            let translated = answering != (original.destination, original.destination_port);
            self.by_node_port.get(&original.destination_port).filter(|_| translated)
        });
        ends.is_some_and(|ends| !ends.is_empty() && !ends.contains(&answering))
    }

    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }
}

/// Forgets the stale flows of a family; answers how many.
pub fn forget_stale(services: &UdpServices, family: Family) -> Result<usize, NetlinkError> {
    let mut conntrack = Conntrack::open()?;
    let stale = conntrack.flows(family, |original, reply| services.is_stale(original, reply))?;
    for flow in &stale {
        conntrack.delete(flow)?;
    }
    Ok(stale.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ServicePortName;
    use crate::service::Endpoint;

    #[test]
    fn only_flows_to_gone_endpoints_are_stale() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let name = ServicePortName { namespace: "kube-system".into(), name: "kube-dns".into(), port: "dns".into() };
        let service = ServicePort {
            name: name.clone(),
            protocol: Protocol::Udp,
            port: 53,
            cluster_ips: vec![ip("10.96.0.10")],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            node_port: Some(30053),
            affinity: None,
            external_local: false,
            internal_local: false,
            health_check_node_port: None,
        };
        let endpoint = Endpoint {
            ip: ip("10.244.0.2"),
            port: 53,
            ready: true,
            serving: true,
            terminating: false,
            is_local: true,
            for_node: None,
            for_zone: None,
        };
        let services = UdpServices::new(std::slice::from_ref(&service), &BTreeMap::from([(name, vec![endpoint])]));
        let check = |to: &str, port: u16, answering: &str, answering_port: u16, expect: bool| {
            let original = Tuple {
                source: ip("10.244.0.9"),
                destination: ip(to),
                protocol: 17,
                source_port: 4000,
                destination_port: port,
            };
            let reply = Tuple {
                source: ip(answering),
                destination: original.source,
                protocol: 17,
                source_port: answering_port,
                destination_port: 4000,
            };
            assert_eq!(services.is_stale(&original, &reply), expect, "{to}:{port} answered by {answering}");
            let (tcp, tcp_reply) = (Tuple { protocol: 6, ..original }, Tuple { protocol: 6, ..reply });
            assert!(!services.is_stale(&tcp, &tcp_reply));
        };
        check("10.96.0.10", 53, "10.244.0.2", 53, false);
        check("10.96.0.10", 53, "10.244.0.3", 53, true);
        check("10.96.0.10", 53, "10.96.0.10", 53, true);
        check("10.96.0.10", 54, "10.96.0.10", 54, false);
        check("192.168.7.1", 30053, "10.244.0.3", 53, true);
        check("192.168.7.1", 30053, "192.168.7.1", 30053, false);
        assert!(UdpServices::new(&[], &BTreeMap::new()).is_empty());
        // Without endpoints there is nowhere better to go.
        let services = UdpServices::new(&[service], &BTreeMap::new());
        let flow = |source: &str, destination: &str| Tuple {
            source: ip(source),
            destination: ip(destination),
            protocol: 17,
            source_port: 53,
            destination_port: 53,
        };
        assert!(!services.is_stale(&flow("10.244.0.9", "10.96.0.10"), &flow("10.96.0.10", "10.244.0.9")));
    }
}
