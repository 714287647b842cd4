//! What the cluster's names are made of: Services, endpoints, namespaces and, if wanted, pods, in tables that are changed
//! object by object and read by every query.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kybern_api::core::v1::Service;
use kybern_api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;

use crate::name::Name;

/// A named port of a service or of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Empty where unnamed.
    pub name: Box<str>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    pub number: u16,
}

/// A service as DNS sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// With cluster IPs.
    Cluster { ips: Box<[IpAddr]>, ports: Box<[Port]> },
    /// Without: its endpoints are looked up.
    Headless,
    /// `ExternalName`.
    External(Name),
}

/// One address behind a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    /// Its name below the service: `hostname`, or the address with dashes.
    pub hostname: Box<str>,
    pub ports: Box<[Port]>,
}

/// Who has an address, for reverse lookups: `namespace/service`, and a hostname below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReverseOwner {
    pub service: Box<str>,
    pub hostname: Option<Box<str>>,
}

#[derive(Default)]
pub struct Tables {
    pub services: HashMap<Box<str>, ServiceKind>,
    /// Of headless services.
    pub endpoints: HashMap<Box<str>, Box<[Endpoint]>>,
    pub reverse: HashMap<IpAddr, Vec<ReverseOwner>>,
    pub namespaces: HashSet<Box<str>>,
    /// `namespace` and address of every pod, where pods are followed.
    pub pods: HashSet<(Box<str>, IpAddr)>,
}

/// The tables, shared by all queries.
#[derive(Default)]
pub struct Cluster {
    tables: RwLock<Tables>,
    synced: AtomicBool,
    serial: AtomicU32,
}

impl Cluster {
    pub fn read(&self) -> parking_lot::RwLockReadGuard<'_, Tables> {
        self.tables.read()
    }

    /// Whether the first lists are in.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// The zone's serial: counts changes.
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Starts counting at a number that grows over restarts (seconds since the epoch).
    pub fn start_serial(&self, serial: u32) {
        self.serial.store(serial, Ordering::Relaxed);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let result = change(&mut self.tables.write());
        self.serial.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Puts or removes (`None`) the service `namespace/name`.
    pub fn set_service(&self, key: &str, service: Option<ServiceKind>) {
        self.change(|tables| {
            if let Some(ServiceKind::Cluster { ips, .. }) = tables.services.get(key) {
                let ips = ips.clone();
                tables.forget_reverse(&ips, key);
            }
            match service {
                None => {
                    tables.services.remove(key);
                }
                Some(service) => {
                    if let ServiceKind::Cluster { ips, .. } = &service {
                        for ip in ips {
                            let owner = ReverseOwner { service: key.into(), hostname: None };
                            tables.reverse.entry(*ip).or_default().push(owner);
                        }
                    }
                    tables.services.insert(key.into(), service);
                }
            }
        });
    }

    /// Replaces the endpoints of the service `namespace/name`.
    pub fn set_endpoints(&self, key: &str, endpoints: Vec<Endpoint>) {
        self.change(|tables| {
            if let Some(old) = tables.endpoints.remove(key) {
                let ips: Vec<IpAddr> = old.iter().map(|endpoint| endpoint.ip).collect();
                tables.forget_reverse(&ips, key);
            }
            for endpoint in &endpoints {
                let owner = ReverseOwner { service: key.into(), hostname: Some(endpoint.hostname.clone()) };
                tables.reverse.entry(endpoint.ip).or_default().push(owner);
            }
            if !endpoints.is_empty() {
                tables.endpoints.insert(key.into(), endpoints.into());
            }
        });
    }

    pub fn set_namespace(&self, name: &str, exists: bool) {
        self.change(|tables| {
            if exists {
                tables.namespaces.insert(name.into())
            } else {
                tables.namespaces.remove(name)
            };
        });
    }

    pub fn set_pod(&self, namespace: &str, ip: IpAddr, exists: bool) {
        self.change(|tables| {
            let key = (namespace.into(), ip);
            if exists {
                tables.pods.insert(key)
            } else {
                tables.pods.remove(&key)
            };
        });
    }
}

impl Tables {
    fn forget_reverse(&mut self, ips: &[IpAddr], service: &str) {
        for ip in ips {
            if let Some(owners) = self.reverse.get_mut(ip) {
                owners.retain(|owner| &*owner.service != service);
                if owners.is_empty() {
                    self.reverse.remove(ip);
                }
            }
        }
    }
}

fn protocol(text: Option<&str>) -> &'static str {
    match text {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        _ => "tcp",
    }
}

/// What DNS needs of a Service; `None` for one that has no names.
pub fn service_kind(service: &Service) -> Option<ServiceKind> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(ServiceKind::External(Name::parse(spec.external_name.as_deref()?)?));
    }
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or("");
    if cluster_ip == "None" {
        return Some(ServiceKind::Headless);
    }
    let mut ips: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        ips.push(cluster_ip.parse().ok()?);
    }
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.as_deref().unwrap_or("").to_ascii_lowercase().into(),
            protocol: protocol(port.protocol.as_deref()),
            number: port.port.try_into().ok()?,
        })
    });
    Some(ServiceKind::Cluster { ips: ips.into(), ports: ports.collect() })
}

/// The ready endpoints of slices of one service. With `pod_names`, a pod without hostname is called by its own name.
pub fn endpoints<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, pod_names: bool) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    for slice in slices {
        let ports: Box<[Port]> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.as_deref().unwrap_or("").to_ascii_lowercase().into(),
                    protocol: protocol(port.protocol.as_deref()),
                    number: port.port?.try_into().ok()?,
                })
            })
            .collect();
        for endpoint in &slice.endpoints {
            if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                let pod = endpoint.target_ref.as_ref().filter(|_| pod_names).and_then(|target| target.name.as_deref());
                let hostname = match endpoint.hostname.as_deref().or(pod).filter(|name| !name.is_empty()) {
                    Some(name) => name.to_ascii_lowercase(),
                    None => ip.to_string().replace(['.', ':'], "-"),
                };
                if !found.iter().any(|old| old.ip == ip && *old.hostname == *hostname && old.ports == ports) {
                    found.push(Endpoint { ip, hostname: hostname.into(), ports: ports.clone() });
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_owners_come_and_go() {
        let cluster = Cluster::default();
        let ip: IpAddr = "10.96.0.1".parse().unwrap();
        let service = |ip| Some(ServiceKind::Cluster { ips: [ip].into(), ports: [].into() });
        cluster.set_service("a/x", service(ip));
        cluster.set_service("b/y", service(ip));
        cluster.set_endpoints("c/z", vec![Endpoint { ip, hostname: "h".into(), ports: [].into() }]);
        assert_eq!(cluster.read().reverse[&ip].len(), 3);
        cluster.set_service("a/x", service("10.96.0.2".parse().unwrap()));
        cluster.set_endpoints("c/z", Vec::new());
        assert_eq!(cluster.read().reverse[&ip].len(), 1);
        cluster.set_service("b/y", Some(ServiceKind::Headless));
        assert!(!cluster.read().reverse.contains_key(&ip));
        assert_eq!(cluster.serial(), 6);
    }
}
