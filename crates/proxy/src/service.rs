//! What the planner needs of Services and EndpointSlices, and how it is read from them. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use kybern_api::core::v1::Service;
use kybern_api::discovery::v1::EndpointSlice;

use crate::names::ServicePortName;

/// Label of a slice that names its service.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

/// One port of one service, with the addresses of both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: ServicePortName,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses that this node handles itself (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer addresses; everyone when empty.
    pub source_ranges: Vec<IpNet>,
    pub node_port: Option<u16>,
    /// `sessionAffinity: ClientIP` and its timeout.
    pub affinity: Option<Duration>,
    pub external_local: bool,
    pub internal_local: bool,
    pub health_check_node_port: Option<u16>,
}

impl ServicePort {
    /// Whether traffic from outside the cluster has an address to come in by.
    pub fn is_externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Whether any traffic may go to endpoints on other nodes.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || (self.is_externally_accessible() && !self.external_local)
    }

    /// Whether any traffic stays with this node's endpoints.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.is_externally_accessible() && self.external_local)
    }
}

/// An address and port behind a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// On this node.
    pub is_local: bool,
    /// Whether its hints name this node, and this node's zone; `None` where it has no such hints.
    pub for_node: Option<bool>,
    pub for_zone: Option<bool>,
}

/// Where this proxy is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub node: &'a str,
    pub zone: &'a str,
}

/// The endpoints of every service port.
pub type Endpoints = BTreeMap<ServicePortName, Vec<Endpoint>>;

/// The ports of a service; none for a headless or `ExternalName` one.
pub fn service_ports(service: &Service) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or("");
    if spec.type_.as_deref() == Some("ExternalName") || matches!(cluster_ip, "" | "None") {
        return Vec::new();
    }
    let parse_ips = |ips: Option<&Vec<String>>| -> Vec<IpAddr> {
        ips.into_iter().flatten().filter_map(|ip| ip.parse().ok()).collect()
    };
    let mut cluster_ips = parse_ips(spec.cluster_ips.as_ref());
    if cluster_ips.is_empty() {
        cluster_ips.extend(cluster_ip.parse::<IpAddr>().ok());
    }
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let load_balancer_ips = ingress
        .into_iter()
        .flatten()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect::<Vec<_>>();
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        Duration::from_secs(config.and_then(|c| c.timeout_seconds).and_then(|s| s.try_into().ok()).unwrap_or(10800))
    });
    let port_number = |port: Option<i32>| port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    let template = ServicePort {
        name: ServicePortName {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            name: service.metadata.name.clone().unwrap_or_default(),
            port: String::new(),
        },
        protocol: Protocol::Tcp,
        port: 0,
        cluster_ips,
        external_ips: parse_ips(spec.external_ips.as_ref()),
        load_balancer_ips,
        source_ranges: ranges.filter_map(|range| range.trim().parse().ok()).collect(),
        node_port: None,
        affinity,
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        health_check_node_port: port_number(spec.health_check_node_port),
    };
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(ServicePort {
            name: ServicePortName { port: port.name.clone().unwrap_or_default(), ..template.name.clone() },
            protocol: Protocol::parse(port.protocol.as_deref())?,
            port: port_number(Some(port.port))?,
            node_port: port_number(port.node_port),
            ..template.clone()
        })
    });
    ports.collect()
}

/// Adds the endpoints of a slice. An address that is there already (slices may overlap while they are rewritten) is taken
/// as ready if either says so.
pub fn add_slice(endpoints: &mut Endpoints, slice: &EndpointSlice, place: Place<'_>) {
    let labels = slice.metadata.labels.as_ref();
    let Some(service) = labels.and_then(|labels| labels.get(LABEL_SERVICE_NAME)) else { return };
    if slice.metadata.deletion_timestamp.is_some() {
        return;
    }
    for port in slice.ports.iter().flatten() {
        let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0) else { continue };
        let name = ServicePortName {
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            name: service.clone(),
            port: port.name.clone().unwrap_or_default(),
        };
        let list = endpoints.entry(name).or_default();
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()) else { continue };
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let hints = endpoint.hints.as_ref();
            let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).filter(|nodes| !nodes.is_empty());
            let zones = hints.and_then(|hints| hints.for_zones.as_ref()).filter(|zones| !zones.is_empty());
            let new = Endpoint {
                ip,
                port: number,
                ready,
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                is_local: endpoint.node_name.as_deref() == Some(place.node),
                for_node: nodes.map(|nodes| nodes.iter().any(|node| node.name == place.node)),
                for_zone: zones.map(|zones| zones.iter().any(|zone| zone.name == place.zone)),
            };
            match list.iter_mut().find(|old| old.ip == new.ip && old.port == new.port) {
                None => list.push(new),
                Some(old) => {
                    if new.ready && !old.ready {
                        *old = new;
                    }
                }
            }
        }
    }
}

/// The endpoints that take traffic, among those `wanted`: the ready ones; failing that, those that still serve while they
/// terminate, so that a rolling update has no moment without any.
pub fn usable(endpoints: &[Endpoint], wanted: impl Fn(&Endpoint) -> bool) -> Vec<&Endpoint> {
    let ready: Vec<_> = endpoints.iter().filter(|e| wanted(e) && e.ready).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.iter().filter(|e| wanted(e) && e.serving && e.terminating).collect()
}

/// The endpoints for traffic that may leave the node: those whose hints ask for it here, the node's before the zone's. Hints
/// count only if every ready endpoint has them and some name this place (`CategorizeEndpoints`).
pub fn usable_anywhere(endpoints: &[Endpoint]) -> Vec<&Endpoint> {
    let hints: [fn(&Endpoint) -> Option<bool>; 2] = [|e| e.for_node, |e| e.for_zone];
    let mut ready = endpoints.iter().filter(|e| e.ready).peekable();
    if ready.peek().is_some() {
        let counts = |hint: &fn(&Endpoint) -> Option<bool>| {
            ready.clone().all(|e| hint(e).is_some()) && ready.clone().any(|e| hint(e) == Some(true))
        };
        if let Some(hint) = hints.into_iter().find(counts) {
            return usable(endpoints, |e| hint(e) == Some(true));
        }
    }
    usable(endpoints, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_api::Object;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Vec<ServicePort> {
        let object = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.5", "ipMode": "Proxy"}]}}});
        service_ports(&Service::from_json(object.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn only_services_with_an_address_have_ports() {
        assert_eq!(service(json!({"clusterIP": "None", "ports": [{"port": 80}]})), []);
        assert_eq!(service(json!({"type": "ExternalName", "externalName": "x", "ports": [{"port": 80}]})), []);
        let ports = service(json!({
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"], "type": "LoadBalancer",
            "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100,
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "ports": [{"port": 80, "nodePort": 30080, "name": "a"}, {"port": 53, "protocol": "UDP", "name": "b"}]}));
        assert_eq!(ports.len(), 2);
        assert_eq!(ports[0].name.to_string(), "n/s:a");
        assert_eq!(
            (ports[0].cluster_ips.len(), ports[0].node_port, ports[0].protocol),
            (2, Some(30080), Protocol::Tcp)
        );
        assert_eq!((ports[1].node_port, ports[1].protocol), (None, Protocol::Udp));
        assert_eq!(ports[0].load_balancer_ips, ["1.2.3.4".parse::<IpAddr>().unwrap()]);
        assert_eq!(ports[0].affinity, Some(Duration::from_secs(10800)));
        assert!(ports[0].external_local && !ports[0].internal_local && ports[0].uses_cluster_endpoints());
    }

    fn endpoint(ip: &str, conditions: &str) -> Endpoint {
        Endpoint {
            ip: ip.parse().unwrap(),
            port: 1,
            ready: conditions.contains('r'),
            serving: conditions.contains('s'),
            terminating: conditions.contains('t'),
            is_local: conditions.contains('l'),
            for_node: None,
            for_zone: None,
        }
    }

    #[test]
    fn hints_keep_traffic_near_where_all_agree() {
        // Conditions, nodes and zones of the hints, of endpoints 0, 1, …; which are used on node `me` in zone `here`.
        type Hinted = (&'static str, &'static [&'static str], &'static [&'static str]);
        let table: [(&[Hinted], &[usize]); 9] = [
            (&[("rs", &["me"], &["here"]), ("rs", &["you"], &["here"])], &[0]),
            (&[("rs", &["it"], &["here"]), ("rs", &["you"], &["there"])], &[0]),
            (&[("rs", &["it"], &["afar"]), ("rs", &["you"], &["there"])], &[0, 1]),
            (&[("rs", &["me"], &["here"]), ("rs", &[], &["there"])], &[0]),
            (&[("rs", &[], &["here"]), ("rs", &[], &[])], &[0, 1]),
            (&[("rs", &[], &["there", "here"]), ("rs", &[], &["there"])], &[0]),
            (&[("", &[], &[]), ("rs", &[], &["here"]), ("rs", &[], &["there"])], &[1]),
            (&[("st", &["me"], &["here"]), ("st", &["you"], &["there"])], &[0, 1]),
            (&[], &[]),
        ];
        let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        for (hinted, expect) in table {
            let endpoint = |(i, (conditions, nodes, zones)): (usize, &Hinted)| {
                let is = |condition: char| conditions.contains(condition);
                json!({
                    "addresses": [format!("10.0.0.{i}")],
                    "conditions": {"ready": is('r'), "serving": is('s'), "terminating": is('t')},
                    "hints": {"forNodes": named(nodes), "forZones": named(zones)},
                })
            };
            let list: Vec<Value> = hinted.iter().enumerate().map(endpoint).collect();
            let slice = json!({"metadata": {"namespace": "n", "labels": {LABEL_SERVICE_NAME: "s"}}, "addressType": "IPv4",
                "ports": [{"port": 80}], "endpoints": list});
            let mut endpoints = Endpoints::new();
            let slice = EndpointSlice::from_json(slice.to_string().as_bytes()).unwrap();
            add_slice(&mut endpoints, &slice, Place { node: "me", zone: "here" });
            let all = endpoints.into_values().next().unwrap_or_default();
            let used: Vec<String> = usable_anywhere(&all).iter().map(|e| e.ip.to_string()).collect();
            let expect: Vec<String> = expect.iter().map(|i| format!("10.0.0.{i}")).collect();
            assert_eq!(used, expect, "{hinted:?}");
        }
    }

    #[test]
    fn terminating_endpoints_serve_only_when_nothing_else_does() {
        let check = |endpoints: &[Endpoint], local: bool, expect: &[&str]| {
            let used: Vec<String> =
                usable(endpoints, |e| !local || e.is_local).into_iter().map(|e| e.ip.to_string()).collect();
            assert_eq!(used, expect);
        };
        let all = [
            endpoint("10.0.0.1", "rs"),
            endpoint("10.0.0.2", "stl"),
            endpoint("10.0.0.3", ""),
            endpoint("10.0.0.4", "t"),
        ];
        check(&all, false, &["10.0.0.1"]);
        check(&all[1..], false, &["10.0.0.2"]);
        check(&all, true, &["10.0.0.2"]);
        check(&all[2..], false, &[]);
    }

    #[test]
    fn slices_add_up() {
        let slice = |ready: bool, ip: &str| {
            let object = json!({"metadata": {"namespace": "n", "labels": {LABEL_SERVICE_NAME: "s"}}, "addressType": "IPv4",
                "ports": [{"name": "a", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [ip], "nodeName": "me", "conditions": {"ready": ready}}]});
            EndpointSlice::from_json(object.to_string().as_bytes()).unwrap()
        };
        let mut endpoints = Endpoints::new();
        for (ready, ip) in [(false, "10.0.0.1"), (true, "10.0.0.1"), (false, "10.0.0.1"), (true, "10.0.0.2")] {
            add_slice(&mut endpoints, &slice(ready, ip), Place { node: "me", zone: "" });
        }
        let name = ServicePortName { namespace: "n".into(), name: "s".into(), port: "a".into() };
        assert_eq!(endpoints[&name].iter().filter(|e| e.ready && e.is_local && e.port == 8080).count(), 2);
    }
}
