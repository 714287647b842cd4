//! What one write of a Service claims.

use std::net::IpAddr;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, json, object};
use kybern_apiserver::transaction::Transaction;
use kybern_storage::{Guard, Write};

use super::node_ports::PortStep;
use super::{PoolError, ServiceAllocators, ServiceClaims};

const GROUP: &str = "networking.k8s.io";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGER_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";
const FIRST_SHOWN: i64 = 32768;

/// Keeps other writes of this server off what it has taken, until it is dropped.
pub struct Claiming {
    allocators: Arc<ServiceAllocators>,
    taken: ServiceClaims,
    /// The ports that a dry run was given or has shown without claiming them.
    shown: Vec<i64>,
    dry_run: bool,
}

impl Claiming {
    pub(super) fn new(allocators: Arc<ServiceAllocators>, dry_run: bool) -> Self {
        Self { allocators, taken: ServiceClaims::default(), shown: Vec::new(), dry_run }
    }

    /// A given address; the error is upstream's reason.
    pub fn ip(&mut self, ip: IpAddr) -> Result<(), String> {
        let mut state = self.allocators.state.lock();
        if !self.allocators.ranges(&state, ip.is_ipv4()).iter().any(|range| range.contains(ip)) {
            let range = self.allocators.shown_range(&state, ip);
            return Err(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"));
        }
        if state.is_taken(ip) {
            return Err("provided IP is already allocated".to_owned());
        }
        state.claimed.insert(ip);
        self.taken.ips.push(ip);
        Ok(())
    }

    /// Any free address of a family.
    pub fn any_ip(&mut self, family: &str) -> Result<IpAddr, String> {
        let mut state = self.allocators.state.lock();
        let ranges = self.allocators.ranges(&state, family == "IPv4");
        let free = ranges.iter().find_map(|range| range.pick(random(), |ip| state.is_taken(ip)));
        let ip = free.ok_or("range is full")?;
        state.claimed.insert(ip);
        self.taken.ips.push(ip);
        Ok(ip)
    }

    /// A given node port. A dry run takes one out of range, as upstream's does.
    pub fn port(&mut self, port: i64) -> Result<(), String> {
        let (start, end) = (self.allocators.ports.start(), self.allocators.ports.end());
        let outside = || format!("provided port is not in the valid range. The range of valid ports is {start}-{end}");
        let number = u16::try_from(port).ok().filter(|port| self.allocators.ports.contains(port));
        if self.dry_run {
            let again = self.shown.contains(&port);
            self.shown.push(port);
            if again {
                return Err("provided port is already allocated".to_owned());
            }
            if number.is_none() {
                return Ok(());
            }
        }
        let port = number.ok_or_else(outside)?;
        let offset = self.allocators.port_offset(port).ok_or_else(outside)?;
        match self.allocators.state.lock().ports.claim(offset) {
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
    pub fn any_port(&mut self) -> Result<i64, String> {
        if self.dry_run {
            let port = self.shown.iter().copied().max().unwrap_or(FIRST_SHOWN).max(0) + 1;
            self.shown.push(port);
            return Ok(port);
        }
        let full = || "range is full".to_owned();
        let offset = self.allocators.state.lock().ports.pick(random() as u32).map_err(|_| full())?;
        let port = u16::try_from(u32::from(*self.allocators.ports.start()) + offset).map_err(|_| full())?;
        self.taken.ports.push(port);
        Ok(port.into())
    }

    /// Adds to the transaction that writes the Service what makes these claims its own, and frees what it gives up.
    pub async fn add_to(self, service: &Value, old: Option<&Value>, transaction: &Transaction) -> Result<(), ApiError> {
        if !self.dry_run {
            let freed = old.map(ServiceClaims::of).unwrap_or_default().without(&ServiceClaims::of(service));
            for ip in &self.taken.ips {
                let objects = self.allocators.objects.get()?;
                let made = objects.made(GROUP, "ipaddresses", address_of(*ip, service)).await?;
                transaction.guard(Guard::Absent(made.key.clone()));
                transaction.write(Write::Put(made.key, made.value));
            }
            free(&self.allocators, service, freed, self.taken.ports.clone(), transaction).await?;
        }
        transaction.hold(self);
        Ok(())
    }
}

/// The IPAddress of a Service's address.
pub(crate) fn address_of(ip: IpAddr, service: &Value) -> Value {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "metadata": {"name": ip.to_string(), "labels": {FAMILY_LABEL: family, MANAGER_LABEL: MANAGER}},
        "spec": {"parentRef": {
            "resource": "services", "namespace": object::namespace(service), "name": object::name(service),
        }},
    })
}

/// Whether an IPAddress says that it is a Service's, and was made for one.
pub(crate) fn is_of(address: &Value, service: &Value) -> bool {
    let parent = &address["spec"]["parentRef"];
    parent["resource"] == "services"
        && parent["namespace"] == object::namespace(service)
        && parent["name"] == object::name(service)
}

/// Frees what a Service held, and takes node ports in the same step: they are all in one object.
pub(crate) async fn free(
    allocators: &Arc<ServiceAllocators>,
    service: &Value,
    freed: ServiceClaims,
    take: Vec<u16>,
    transaction: &Transaction,
) -> Result<(), ApiError> {
    for ip in &freed.ips {
        let found = allocators.objects.get()?.current(GROUP, "ipaddresses", "", &ip.to_string()).await?;
        if let Some((_, stored)) = found.filter(|(address, _)| is_of(address, service)) {
            transaction.guard(Guard::At(stored.key.clone(), stored.revision));
            transaction.write(Write::Delete(stored.key));
        }
    }
    if !take.is_empty() || !freed.ports.is_empty() {
        let allocators = allocators.clone();
        transaction.at_commit(PortStep { allocators, take, free: freed.ports, turn: None });
    }
    Ok(())
}

fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}

impl Drop for Claiming {
    fn drop(&mut self) {
        let mut state = self.allocators.state.lock();
        for ip in &self.taken.ips {
            state.claimed.remove(ip);
        }
        for offset in self.taken.ports.iter().filter_map(|port| self.allocators.port_offset(*port)) {
            state.ports.end(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apiserver::connect::Observer;

    fn allocators(networks: &[&str]) -> Arc<ServiceAllocators> {
        let networks: Vec<ipnet::IpNet> = networks.iter().map(|n| n.parse().unwrap()).collect();
        Arc::new(ServiceAllocators::new(&networks, 30000..=30003, Default::default()))
    }

    #[test]
    fn claims_last_as_long_as_they_are_held_or_stored() {
        let allocators = allocators(&["10.96.0.0/28"]);
        let ip: IpAddr = "10.96.0.10".parse().unwrap();
        let mut first = allocators.begin(false);
        first.ip(ip).unwrap();
        assert_eq!(allocators.begin(false).ip(ip).unwrap_err(), "provided IP is already allocated");
        let service =
            json!({"spec": {"type": "NodePort", "clusterIPs": ["10.96.0.10"], "ports": [{"nodePort": 30001}]}});
        for _ in 0..2 {
            allocators.changed("", "services", "a", "b", Some(&service));
        }
        drop(first);
        assert!(
            allocators.begin(false).ip(ip).is_err() && allocators.begin(false).port(30001).is_err(),
            "it is stored"
        );
        allocators.changed("", "services", "a", "b", None);
        assert!(allocators.begin(false).ip(ip).is_ok() && allocators.begin(false).port(30001).is_ok());
        // An IPAddress alone, such as one that somebody made by hand, keeps it too.
        allocators.changed(GROUP, "ipaddresses", "", "10.96.0.10", Some(&json!({})));
        assert!(allocators.begin(true).ip(ip).is_err());
        allocators.changed(GROUP, "ipaddresses", "", "10.96.0.10", None);
        assert!(allocators.begin(true).ip(ip).is_ok());
    }

    #[test]
    fn ranges_end() {
        let allocators = allocators(&["10.96.0.0/28"]);
        let mut claims = allocators.begin(false);
        assert!(claims.port(70000).is_err());
        assert!(claims.port(80).unwrap_err().contains("The range of valid ports is 30000-30003"));
        for _ in 0..4 {
            claims.any_port().unwrap();
        }
        assert_eq!(claims.any_port().unwrap_err(), "range is full");
        let mut dry = allocators.begin(true);
        assert_eq!(dry.any_port(), Ok(32769), "a dry run only shows one");
        assert!(dry.port(70000).is_ok() && dry.port(70000).is_err() && dry.port(30000).is_err());
        assert_eq!(dry.any_port(), Ok(70001));
        let outside = claims.ip("192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(outside.ends_with("The range of valid IPs is 10.96.0.0/28"), "{outside}");
        for _ in 0..14 {
            claims.any_ip("IPv4").unwrap();
        }
        assert_eq!(claims.any_ip("IPv4").unwrap_err(), "range is full");
        assert_eq!(claims.any_ip("IPv6").unwrap_err(), "range is full");
    }

    #[test]
    fn service_cidrs_say_where_addresses_come_from() {
        let allocators = allocators(&["10.96.0.0/30", "fd00::/120"]);
        assert_eq!(allocators.families(), ["IPv4", "IPv6"]);
        let cidr = |cidrs: Value, ready: &str| json!({"spec": {"cidrs": cidrs}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let see =
            |name: &str, object: Option<Value>| allocators.changed(GROUP, "servicecidrs", "", name, object.as_ref());
        see("kubernetes", Some(cidr(json!(["10.96.0.0/30", "fd00::/120"]), "True")));
        let mut claims = allocators.begin(false);
        claims.any_ip("IPv4").unwrap();
        claims.any_ip("IPv4").unwrap();
        assert!(claims.any_ip("IPv6").unwrap().is_ipv6());
        assert_eq!(claims.any_ip("IPv4").unwrap_err(), "range is full");
        see("more", Some(cidr(json!(["10.97.0.0/24"]), "False")));
        assert!(claims.any_ip("IPv4").is_err(), "it is not ready");
        see("more", Some(json!({"spec": {"cidrs": ["10.97.0.0/24"]}})));
        assert!(claims.any_ip("IPv4").unwrap().to_string().starts_with("10.97.0."));
        assert!(claims.ip("10.97.0.4".parse().unwrap()).is_ok());
        see("more", None);
        assert!(claims.any_ip("IPv4").is_err());
    }
}
