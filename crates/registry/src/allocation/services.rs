//! Cluster IPs and node ports of Services.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use kybern_apimachinery::Value;
use kybern_apiserver::connect::Observer;
use parking_lot::Mutex;

use super::{Pool, PoolError};
use crate::tree::{int, list, text};
use crate::validation::ip;

#[derive(Debug)]
struct Pools {
    /// Offsets count from the network's first host address.
    ips: Pool,
    ports: Pool,
}

/// The allocators of one cluster.
#[derive(Debug)]
pub struct ServiceAllocators {
    network: IpNet,
    ports: RangeInclusive<u16>,
    pools: Mutex<Pools>,
    /// By namespace and name.
    stored: Mutex<HashMap<(String, String), ServiceClaims>>,
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
}

fn number(object: &Value, field: &str) -> Option<u16> {
    int(object, field).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

impl ServiceAllocators {
    /// `--service-cluster-ip-range` and `--service-node-port-range`.
    pub fn new(network: IpNet, ports: RangeInclusive<u16>) -> Self {
        let bits = u32::from(network.max_prefix_len() - network.prefix_len());
        // Without the first address, and in IPv4 without the last; upstream caps IPv6 ranges at 64 Ki addresses.
        let size = match network {
            IpNet::V4(_) => 1u64.checked_shl(bits).unwrap_or(0).saturating_sub(2),
            IpNet::V6(_) => (1u64 << bits.min(16)) - 1,
        };
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let port_count = u32::from(*ports.end()).saturating_sub(u32::from(*ports.start())) + 1;
        // The sizes of upstream's static bands.
        let ips = Pool::new(size, if size < 16 { 0 } else { (size / 16).clamp(16, 256) });
        let node_ports = Pool::new(port_count, if port_count < 16 { 0 } else { (port_count / 32).clamp(16, 128) });
        Self { network, ports, pools: Mutex::new(Pools { ips, ports: node_ports }), stored: Mutex::default() }
    }

    pub fn network(&self) -> IpNet {
        self.network
    }

    /// The address of the Service `kubernetes`.
    pub fn first_ip(&self) -> IpAddr {
        self.nth_ip(0)
    }

    fn nth_ip(&self, offset: u32) -> IpAddr {
        match self.network.network() {
            IpAddr::V4(base) => (u32::from(base) + 1 + offset).to_be_bytes().into(),
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + 1 + u128::from(offset)).into(),
        }
    }

    fn ip_offset(&self, ip: IpAddr) -> Option<u32> {
        match (ip, self.first_ip()) {
            (IpAddr::V4(ip), IpAddr::V4(first)) => u32::from(ip).checked_sub(u32::from(first)),
            (IpAddr::V6(ip), IpAddr::V6(first)) => {
                u128::from(ip).checked_sub(u128::from(first)).and_then(|o| u32::try_from(o).ok())
            }
            _ => None,
        }
    }

    /// `IPv4` or `IPv6`: the one family that Services have here.
    pub fn family(&self) -> &'static str {
        if self.network.addr().is_ipv4() { "IPv4" } else { "IPv6" }
    }

    fn port_offset(&self, port: u16) -> Option<u32> {
        port.checked_sub(*self.ports.start()).map(u32::from)
    }

    fn each(&self, claims: &ServiceClaims, act: impl Fn(&mut Pool, u32)) {
        let mut pools = self.pools.lock();
        for offset in claims.ips.iter().filter_map(|ip| self.ip_offset(*ip)) {
            act(&mut pools.ips, offset);
        }
        for offset in claims.ports.iter().filter_map(|port| self.port_offset(*port)) {
            act(&mut pools.ports, offset);
        }
    }

    /// Opens a set of claims, which lasts until it is dropped.
    pub fn begin(self: &Arc<Self>, dry_run: bool) -> Claiming {
        Claiming { allocators: self.clone(), taken: ServiceClaims::default(), shown: None, dry_run }
    }
}

/// Knows what the stored Services hold.
impl Observer for ServiceAllocators {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "services")]
    }

    fn changed(&self, _group: &str, _resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut stored = self.stored.lock();
        let held = object.map(ServiceClaims::of).unwrap_or_default();
        self.each(&held, Pool::store);
        let before = if object.is_some() { stored.insert(key, held) } else { stored.remove(&key) };
        self.each(&before.unwrap_or_default(), Pool::free);
    }
}

/// Claims of one write.
pub struct Claiming {
    allocators: Arc<ServiceAllocators>,
    taken: ServiceClaims,
    /// The last port that a dry run has shown without claiming it.
    shown: Option<u16>,
    dry_run: bool,
}

const FIRST_SHOWN: u16 = 32768;

impl Claiming {
    /// A given address; the error is upstream's reason.
    pub fn ip(&mut self, ip: IpAddr) -> Result<(), String> {
        let range = self.allocators.network;
        let outside = || format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}");
        let offset = self.allocators.ip_offset(ip).ok_or_else(outside)?;
        match self.allocators.pools.lock().ips.claim(offset) {
            Ok(()) => {
                self.taken.ips.push(ip);
                Ok(())
            }
            Err(PoolError::Taken) => Err("provided IP is already allocated".to_owned()),
            Err(_) => Err(outside()),
        }
    }

    pub fn any_ip(&mut self) -> Result<IpAddr, String> {
        let offset = self.allocators.pools.lock().ips.pick(random()).map_err(|_| "range is full".to_owned())?;
        let ip = self.allocators.nth_ip(offset);
        self.taken.ips.push(ip);
        Ok(ip)
    }

    /// A given node port.
    pub fn port(&mut self, port: i64) -> Result<(), String> {
        let (start, end) = (self.allocators.ports.start(), self.allocators.ports.end());
        let outside = || format!("provided port is not in the valid range. The range of valid ports is {start}-{end}");
        let port = u16::try_from(port).map_err(|_| outside())?;
        let offset = self.allocators.port_offset(port).ok_or_else(outside)?;
        match self.allocators.pools.lock().ports.claim(offset) {
            Ok(()) => {
                self.taken.ports.push(port);
                Ok(())
            }
            Err(PoolError::Taken) => Err("provided port is already allocated".to_owned()),
            Err(_) => Err(outside()),
        }
    }

    /// Any free node port. A dry run shows the number after those that it names, as upstream's does: which one it would be is
    /// decided only when one is taken.
    pub fn any_port(&mut self) -> Result<u16, String> {
        if self.dry_run {
            let port = self.shown.max(self.taken.ports.iter().copied().max()).unwrap_or(FIRST_SHOWN).saturating_add(1);
            self.shown = Some(port);
            return Ok(port);
        }
        let full = || "range is full".to_owned();
        let offset = self.allocators.pools.lock().ports.pick(random()).map_err(|_| full())?;
        let port = u16::try_from(u32::from(*self.allocators.ports.start()) + offset).map_err(|_| full())?;
        self.taken.ports.push(port);
        Ok(port)
    }
}

fn random() -> u32 {
    getrandom::u32().unwrap_or(0)
}

impl Drop for Claiming {
    fn drop(&mut self) {
        self.allocators.each(&self.taken, Pool::end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn allocators() -> Arc<ServiceAllocators> {
        Arc::new(ServiceAllocators::new("10.96.0.0/28".parse().unwrap(), 30000..=30003))
    }

    #[test]
    fn claims_last_as_long_as_they_are_held_or_stored() {
        let allocators = allocators();
        let ip: IpAddr = "10.96.0.10".parse().unwrap();
        let mut first = allocators.begin(false);
        first.ip(ip).unwrap();
        assert_eq!(allocators.begin(false).ip(ip).unwrap_err(), "provided IP is already allocated");
        let service = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["10.96.0.10"]}});
        allocators.changed("", "services", "a", "b", Some(&service));
        drop(first);
        assert!(allocators.begin(false).ip(ip).is_err(), "it is stored");
        allocators.changed("", "services", "a", "b", None);
        assert!(allocators.begin(false).ip(ip).is_ok());
        assert!(allocators.begin(true).ip(ip).is_ok());
    }

    #[test]
    fn ranges_end() {
        let allocators = allocators();
        let mut claims = allocators.begin(false);
        assert!(claims.port(70000).is_err());
        assert!(claims.port(80).unwrap_err().contains("The range of valid ports is 30000-30003"));
        for _ in 0..4 {
            claims.any_port().unwrap();
        }
        assert_eq!(claims.any_port().unwrap_err(), "range is full");
        assert_eq!(allocators.begin(true).any_port(), Ok(32769), "a dry run only shows one");
        assert!(claims.ip("192.0.2.1".parse().unwrap()).is_err());
        assert!(claims.ip("10.96.0.15".parse().unwrap()).is_err(), "the broadcast address");
        assert!(claims.ip("10.96.0.14".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_start_takes_over_what_is_held() {
        let allocators = allocators();
        let service = json!({"metadata": {"name": "a"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.5",
            "clusterIPs": ["10.96.0.5"], "ports": [{"protocol": "TCP", "nodePort": 30001}]}});
        for _ in 0..2 {
            allocators.changed("", "services", "", "a", Some(&service));
        }
        let mut claims = allocators.begin(false);
        assert!(claims.ip("10.96.0.5".parse().unwrap()).is_err() && claims.port(30001).is_err());
        drop(claims);
        allocators.changed("", "services", "", "a", None);
        let mut claims = allocators.begin(false);
        assert!(claims.ip("10.96.0.5".parse().unwrap()).is_ok() && claims.port(30001).is_ok());
    }

    #[test]
    fn both_families_count_alike() {
        let v6 = ServiceAllocators::new("fd00::/108".parse().unwrap(), 30000..=30003);
        assert_eq!(
            (v6.first_ip().to_string(), v6.nth_ip(16).to_string()),
            ("fd00::1".to_owned(), "fd00::11".to_owned())
        );
        assert_eq!(v6.ip_offset("fd00::11".parse().unwrap()), Some(16));
        assert_eq!(v6.family(), "IPv6");
    }
}
