//! Cluster IPs and node ports of Services: which there are, and which are taken.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use kybern_apimachinery::{Value, object};
use kybern_apiserver::connect::{ObjectsSlot, Observer};
use parking_lot::Mutex;

use super::Pool;
use super::claiming::Claiming;
use super::ranges::AddressRange;
use crate::tree::{int, list, text};
use crate::validation::ip;

/// What is known of the stored objects, and what writes that have not ended are about to take.
#[derive(Debug)]
pub(super) struct State {
    /// Of the ServiceCIDRs that addresses may be taken from, by name.
    cidrs: BTreeMap<String, Vec<AddressRange>>,
    /// Whether there is any ServiceCIDR.
    known: HashSet<String>,
    /// The IPAddresses.
    addresses: HashSet<IpAddr>,
    /// Those of Services, with how many there are: whatever their IPAddresses say.
    held: HashMap<IpAddr, u32>,
    pub(super) claimed: HashSet<IpAddr>,
    pub(super) ports: Pool,
    services: HashMap<(String, String), ServiceClaims>,
}

impl State {
    pub(super) fn is_taken(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip) || self.held.contains_key(&ip) || self.claimed.contains(&ip)
    }
}

/// The allocators of one cluster.
pub struct ServiceAllocators {
    /// `--service-cluster-ip-range`: they say which families there are, the first the default one.
    networks: Vec<AddressRange>,
    pub(super) ports: RangeInclusive<u16>,
    pub(super) objects: ObjectsSlot,
    pub(super) state: Mutex<State>,
    /// Whose turn it is to change the node ports.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// What a Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceClaims {
    pub ips: Vec<IpAddr>,
    /// Whatever their protocol: a number belongs to one Service.
    pub ports: Vec<u16>,
}

impl ServiceClaims {
    pub fn of(service: &Value) -> Self {
        let (spec, mut claims) = (&service["spec"], Self::default());
        let kind = text(spec, "type");
        if kind != "ExternalName" {
            let all = list(spec, "clusterIPs").iter().filter_map(Value::as_str).chain([text(spec, "clusterIP")]);
            claims.ips = all.filter_map(ip::parse).collect();
            claims.ips.sort_unstable();
            claims.ips.dedup();
        }
        if matches!(kind, "NodePort" | "LoadBalancer") {
            claims.ports = list(spec, "ports").iter().filter_map(|p| number(p, "nodePort")).collect();
        }
        if kind == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local" {
            claims.ports.extend(number(spec, "healthCheckNodePort"));
        }
        claims.ports.sort_unstable();
        claims.ports.dedup();
        claims
    }

    /// What is not in `kept`.
    pub fn without(mut self, kept: &Self) -> Self {
        self.ips.retain(|ip| !kept.ips.contains(ip));
        self.ports.retain(|port| !kept.ports.contains(port));
        self
    }
}

fn number(object: &Value, field: &str) -> Option<u16> {
    int(object, field).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

impl ServiceAllocators {
    /// `--service-cluster-ip-range` and `--service-node-port-range`.
    pub fn new(networks: &[IpNet], ports: RangeInclusive<u16>, objects: ObjectsSlot) -> Self {
        let count = u32::from(*ports.end()).saturating_sub(u32::from(*ports.start())) + 1;
        let state = State {
            cidrs: BTreeMap::new(),
            known: HashSet::new(),
            addresses: HashSet::new(),
            held: HashMap::new(),
            claimed: HashSet::new(),
            // The size of upstream's static band.
            ports: Pool::new(count, if count < 16 { 0 } else { (count / 32).clamp(16, 128) }),
            services: HashMap::new(),
        };
        let networks = networks.iter().copied().map(AddressRange::new).collect();
        Self { networks, ports, objects, state: Mutex::new(state), turn: Arc::default() }
    }

    /// `IPv4`, `IPv6` or both, the default one first.
    pub fn families(&self) -> Vec<&'static str> {
        self.networks.iter().map(|network| family(network.is_ipv4())).collect()
    }

    /// The ranges of a family that addresses may be taken from. Before the first ServiceCIDR is there, those of the flag.
    pub(super) fn ranges(&self, state: &State, v4: bool) -> Vec<AddressRange> {
        let all = if state.known.is_empty() {
            self.networks.clone()
        } else {
            state.cidrs.values().flatten().copied().collect()
        };
        all.into_iter().filter(|range| range.is_ipv4() == v4).collect()
    }

    /// The range that a refusal names.
    pub(super) fn shown_range(&self, state: &State, ip: IpAddr) -> String {
        let ranges = self.ranges(state, ip.is_ipv4());
        let near = ranges.iter().find(|range| range.network.contains(&ip)).or(ranges.first());
        near.or(self.networks.first()).map_or_else(String::new, |range| range.network.to_string())
    }

    pub(super) fn port_offset(&self, port: u16) -> Option<u32> {
        port.checked_sub(*self.ports.start()).map(u32::from)
    }

    /// The offsets of the ports that stored Services have.
    pub(super) fn ports_of_services(&self) -> BTreeSet<u32> {
        let state = self.state.lock();
        let size = u32::from(*self.ports.end()).saturating_sub(u32::from(*self.ports.start()));
        let all = state.services.values().flat_map(|claims| &claims.ports);
        all.filter_map(|port| self.port_offset(*port)).filter(|offset| *offset <= size).collect()
    }

    /// Opens a set of claims, which lasts until it is dropped.
    pub fn begin(self: &Arc<Self>, dry_run: bool) -> Claiming {
        Claiming::new(self.clone(), dry_run)
    }

    fn service(&self, namespace: &str, name: &str, object: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut state = self.state.lock();
        let held = object.map(ServiceClaims::of).unwrap_or_default();
        for ip in &held.ips {
            *state.held.entry(*ip).or_default() += 1;
        }
        for offset in held.ports.iter().filter_map(|port| self.port_offset(*port)) {
            state.ports.store(offset);
        }
        let before = if object.is_some() { state.services.insert(key, held) } else { state.services.remove(&key) };
        let before = before.unwrap_or_default();
        for ip in before.ips {
            if let Some(count) = state.held.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(&ip);
                }
            }
        }
        for offset in before.ports.iter().filter_map(|port| self.port_offset(*port)) {
            state.ports.free(offset);
        }
    }

    fn service_cidr(&self, name: &str, object: Option<&Value>) {
        let mut state = self.state.lock();
        let Some(object) = object else {
            state.cidrs.remove(name);
            state.known.remove(name);
            return;
        };
        state.known.insert(name.to_owned());
        // Without a condition there is nobody to set one.
        let ready = list(&object["status"], "conditions").iter().find(|c| text(c, "type") == "Ready");
        let usable = ready.is_none_or(|c| text(c, "status") == "True") && !object::is_deleting(object);
        let cidrs = list(&object["spec"], "cidrs").iter().filter_map(|cidr| ip::parse_cidr(cidr.as_str()?));
        let ranges = cidrs.map(|(_, network)| AddressRange::new(network)).filter(|_| usable).collect();
        state.cidrs.insert(name.to_owned(), ranges);
    }
}

impl Observer for ServiceAllocators {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "services"), ("networking.k8s.io", "ipaddresses"), ("networking.k8s.io", "servicecidrs")]
    }

    fn changed(&self, _group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        match resource {
            "services" => self.service(namespace, name, object),
            "servicecidrs" => self.service_cidr(name, object),
            _ => {
                let Some(ip) = ip::parse(name) else { return };
                let mut state = self.state.lock();
                if object.is_some() {
                    state.addresses.insert(ip)
                } else {
                    state.addresses.remove(&ip)
                };
            }
        }
    }
}
