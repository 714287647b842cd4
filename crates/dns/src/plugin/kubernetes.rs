//! `kubernetes`: the cluster's own names (Kubernetes DNS-Based Service Discovery, version 1.1.0).

use std::net::IpAddr;
use std::sync::Arc;

use super::{Fallthrough, Outcome, Plugin, find_zone};
use crate::message::{Answer, CLASS_IN, Owner, Query, RData, Record, rcode, rtype};
use crate::name::{Name, labels, parse_reverse, strip_zone};
use crate::zone::{Cluster, Endpoint, Port, ServiceKind, Tables};

/// Version of the specification, under `dns-version`.
const DNS_VERSION: &str = "1.1.0";

/// `pods MODE`: names such as `10-244-0-2.default.pod.cluster.local`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodsMode {
    #[default]
    Disabled,
    /// Any address is answered by itself.
    Insecure,
    /// Only addresses that a pod of the namespace has.
    Verified,
}

/// The plugin's options.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first that is not a reverse zone is the cluster's domain.
    pub zones: Vec<Name>,
    /// Seconds, from 0 to 3600.
    pub ttl: u32,
    pub pods: PodsMode,
    pub fallthrough: Fallthrough,
    /// `endpoint_pod_names`.
    pub pod_names: bool,
    /// `namespaces`: only these, if any.
    pub namespaces: Vec<String>,
}

pub struct Kubernetes {
    options: Options,
    primary: Name,
    cluster: Arc<Cluster>,
}

/// What a name stands for.
enum Found {
    /// No such name.
    Nothing,
    /// The name exists; these are its records of the asked type, if any.
    Records(Vec<Record>, Vec<Record>),
}

impl Kubernetes {
    pub fn new(options: Options, cluster: Arc<Cluster>) -> Self {
        let is_reverse = |zone: &&Name| {
            ["in-addr.arpa", "ip6.arpa"]
                .iter()
                .any(|top| strip_zone(zone.as_wire(), Name::parse(top).expect("constant").as_wire()).is_some())
        };
        let primary = options.zones.iter().find(|zone| !is_reverse(zone)).cloned();
        let primary = primary.unwrap_or_else(|| Name::parse("cluster.local").expect("constant"));
        Self { options, primary, cluster }
    }

    fn serves_namespace(&self, namespace: &str) -> bool {
        self.options.namespaces.is_empty() || self.options.namespaces.iter().any(|n| n == namespace)
    }

    fn record(&self, data: RData) -> Record {
        Record { owner: Owner::Question, ttl: self.options.ttl, data }
    }

    fn addresses(&self, ips: impl Iterator<Item = IpAddr>, qtype: u16) -> Vec<Record> {
        ips.map(|ip| self.record(RData::Ip(ip))).filter(|record| record.data.kind() == qtype).collect()
    }

    fn soa(&self, zone: &Name) -> Record {
        let below = |label: &[u8]| Name::from_labels(&[label], zone).unwrap_or_else(|| zone.clone());
        let primary = Name::from_labels(&[b"ns", b"dns"], zone).unwrap_or_else(|| zone.clone());
        Record {
            owner: Owner::Name(zone.clone()),
            ttl: self.options.ttl,
            data: RData::Soa {
                primary,
                mailbox: below(b"hostmaster"),
                serial: self.cluster.serial(),
                refresh: 7200,
                retry: 1800,
                expire: 86400,
                minimum: self.options.ttl,
            },
        }
    }

    fn lookup(&self, name: &[u8], zone: &Name, query: &Query) -> Found {
        let rest = strip_zone(name, zone.as_wire()).unwrap_or(&[]);
        let mut parts: [&[u8]; 8] = [&[]; 8];
        let mut count = 0;
        for label in labels(rest) {
            if count == parts.len() {
                return Found::Nothing;
            }
            parts[count] = label;
            count += 1;
        }
        let tables = self.cluster.read();
        let exists = |records: Vec<Record>| Found::Records(records, Vec::new());
        match &parts[..count] {
            [] => exists(self.apex(zone, query.qtype)),
            [b"dns-version"] => {
                let txt = (query.qtype == rtype::TXT).then(|| self.record(RData::Txt(DNS_VERSION.into())));
                exists(txt.into_iter().collect())
            }
            [b"dns"] | [b"svc"] => exists(Vec::new()),
            [b"pod"] if self.options.pods != PodsMode::Disabled => exists(Vec::new()),
            [b"ns", b"dns"] => exists(self.addresses(name_server(&tables).into_iter(), query.qtype)),
            [namespace, b"svc"] => match text(namespace) {
                Some(namespace) if self.serves_namespace(namespace) && tables.namespaces.contains(namespace) => {
                    exists(Vec::new())
                }
                _ => Found::Nothing,
            },
            [before @ .., namespace, b"svc"] => self.service(&tables, before, namespace, zone, query.qtype),
            [namespace, b"pod"] if self.options.pods != PodsMode::Disabled => match text(namespace) {
                Some(namespace) if tables.namespaces.contains(namespace) => exists(Vec::new()),
                _ => Found::Nothing,
            },
            [address, namespace, b"pod"] => self.pod(&tables, address, namespace, query.qtype),
            _ => Found::Nothing,
        }
    }

    fn apex(&self, zone: &Name, qtype: u16) -> Vec<Record> {
        match qtype {
            rtype::SOA => vec![self.soa(zone)],
            rtype::NS => {
                Name::from_labels(&[b"ns", b"dns"], zone).map(|n| self.record(RData::Ns(n))).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn pod(&self, tables: &Tables, address: &[u8], namespace: &[u8], qtype: u16) -> Found {
        let (Some(address), Some(namespace)) = (text(address), text(namespace)) else { return Found::Nothing };
        let ip: Option<IpAddr> = if address.matches('-').count() == 3 && !address.contains("--") {
            address.replace('-', ".").parse().ok()
        } else {
            address.replace('-', ":").parse().ok()
        };
        let Some(ip) = ip.filter(|_| self.serves_namespace(namespace)) else { return Found::Nothing };
        let known = match self.options.pods {
            PodsMode::Disabled => false,
            PodsMode::Insecure => tables.namespaces.contains(namespace),
            PodsMode::Verified => tables.pods.contains(&(namespace.into(), ip)),
        };
        if known { Found::Records(self.addresses([ip].into_iter(), qtype), Vec::new()) } else { Found::Nothing }
    }

    /// Names of a service: itself, `_port._protocol` of it, or an endpoint below it.
    fn service(&self, tables: &Tables, before: &[&[u8]], namespace: &[u8], zone: &Name, qtype: u16) -> Found {
        let Some((service, front)) = before.split_last() else { return Found::Nothing };
        let mut buffer = [0; 128];
        let Some(key) = service_key(&mut buffer, namespace, service) else { return Found::Nothing };
        let Some(kind) = tables.services.get(key) else { return Found::Nothing };
        if !text(namespace).is_some_and(|namespace| self.serves_namespace(namespace)) {
            return Found::Nothing;
        }
        let fqdn = || Name::from_labels(&[service, namespace, b"svc"], zone);
        let endpoints = || tables.endpoints.get(key).map_or(&[][..], |list| list);
        match (front, kind) {
            ([], ServiceKind::External(target)) => {
                Found::Records(vec![self.record(RData::Cname(target.clone()))], Vec::new())
            }
            ([], ServiceKind::Cluster { ips, ports }) => match qtype {
                rtype::SRV => self.cluster_srv(ports.iter(), ips, fqdn()),
                _ => Found::Records(self.addresses(ips.iter().copied(), qtype), Vec::new()),
            },
            ([], ServiceKind::Headless) => {
                let endpoints = endpoints();
                if endpoints.is_empty() {
                    // Upstream: a headless service without endpoints has no name.
                    return Found::Nothing;
                }
                match qtype {
                    rtype::SRV => self.endpoint_srv(endpoints, |_| true, fqdn()),
                    _ => {
                        let mut ips: Vec<IpAddr> = endpoints.iter().map(|endpoint| endpoint.ip).collect();
                        ips.dedup();
                        Found::Records(self.addresses(ips.into_iter(), qtype), Vec::new())
                    }
                }
            }
            ([hostname], ServiceKind::Headless | ServiceKind::Cluster { .. }) => {
                let Some(hostname) = text(hostname) else { return Found::Nothing };
                let mut found = endpoints().iter().filter(|endpoint| &*endpoint.hostname == hostname).peekable();
                if found.peek().is_none() {
                    return Found::Nothing;
                }
                let mut ips: Vec<IpAddr> = found.map(|endpoint| endpoint.ip).collect();
                ips.dedup();
                Found::Records(self.addresses(ips.into_iter(), qtype), Vec::new())
            }
            ([port, protocol], ServiceKind::Cluster { ips, ports }) => {
                let matching = ports.iter().filter(|p| is_port(p, port, protocol));
                if matching.clone().next().is_none() {
                    return Found::Nothing;
                }
                match qtype {
                    rtype::SRV => self.cluster_srv(matching, ips, fqdn()),
                    _ => Found::Records(Vec::new(), Vec::new()),
                }
            }
            ([port, protocol], ServiceKind::Headless) => {
                let endpoints = endpoints();
                if !endpoints.iter().flat_map(|e| &e.ports).any(|p| is_port(p, port, protocol)) {
                    return Found::Nothing;
                }
                match qtype {
                    rtype::SRV => self.endpoint_srv(endpoints, |p| is_port(p, port, protocol), fqdn()),
                    _ => Found::Records(Vec::new(), Vec::new()),
                }
            }
            _ => Found::Nothing,
        }
    }

    fn cluster_srv<'a>(&self, ports: impl Iterator<Item = &'a Port>, ips: &[IpAddr], target: Option<Name>) -> Found {
        let Some(target) = target else { return Found::Nothing };
        let ports: Vec<&Port> = ports.collect();
        let weight = weight(ports.len());
        let srv = |port: &&Port| RData::Srv { priority: 0, weight, port: port.number, target: target.clone() };
        let answers = ports.iter().map(|port| self.record(srv(port))).collect();
        let owner = || Owner::Name(target.clone());
        let extra = ips.iter().map(|ip| Record { owner: owner(), ..self.record(RData::Ip(*ip)) }).collect();
        Found::Records(answers, extra)
    }

    fn endpoint_srv(&self, endpoints: &[Endpoint], wanted: impl Fn(&Port) -> bool, service: Option<Name>) -> Found {
        let Some(service) = service else { return Found::Nothing };
        let found: Vec<(&Endpoint, &Port)> = endpoints
            .iter()
            .flat_map(|endpoint| endpoint.ports.iter().filter(|port| wanted(port)).map(move |port| (endpoint, port)))
            .collect();
        let weight = weight(found.len());
        let mut answers = Vec::with_capacity(found.len());
        let mut extra: Vec<Record> = Vec::with_capacity(found.len());
        for (endpoint, port) in found {
            let Some(target) = Name::from_labels(&[endpoint.hostname.as_bytes()], &service) else { continue };
            let address = Record { owner: Owner::Name(target.clone()), ..self.record(RData::Ip(endpoint.ip)) };
            if !extra.contains(&address) {
                extra.push(address);
            }
            answers.push(self.record(RData::Srv { priority: 0, weight, port: port.number, target }));
        }
        Found::Records(answers, extra)
    }

    fn reverse(&self, ip: IpAddr) -> Vec<Record> {
        let tables = self.cluster.read();
        let owners = tables.reverse.get(&ip).map_or(&[][..], Vec::as_slice);
        // A cluster IP belongs to its service, whatever endpoints say.
        let services = owners.iter().filter(|owner| owner.hostname.is_none());
        let chosen: Vec<_> =
            if services.clone().next().is_some() { services.collect() } else { owners.iter().collect() };
        chosen
            .into_iter()
            .filter_map(|owner| {
                let (namespace, service) = owner.service.split_once('/')?;
                let name = Name::from_labels(&[service.as_bytes(), namespace.as_bytes(), b"svc"], &self.primary)?;
                let name = match &owner.hostname {
                    None => name,
                    Some(hostname) => Name::from_labels(&[hostname.as_bytes()], &name)?,
                };
                self.serves_namespace(namespace).then(|| self.record(RData::Ptr(name)))
            })
            .collect()
    }
}

impl Plugin for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn is_ready(&self) -> bool {
        self.cluster.is_synced()
    }

    fn handle(&self, query: &Query) -> Outcome {
        let name = query.name();
        let Some(zone) = find_zone(&self.options.zones, name).filter(|_| query.qclass == CLASS_IN) else {
            return Outcome::Next;
        };
        if !self.cluster.is_synced() {
            return Outcome::Answer(Answer::code(rcode::SERVFAIL));
        }
        let found = match parse_reverse(name) {
            Some(ip) => {
                let records = self.reverse(ip);
                match records.is_empty() {
                    true => Found::Nothing,
                    false => Found::Records(if query.qtype == rtype::PTR { records } else { Vec::new() }, Vec::new()),
                }
            }
            None => self.lookup(name, zone, query),
        };
        let mut answer = Answer { authoritative: true, ..Answer::default() };
        match found {
            Found::Nothing if self.options.fallthrough.covers(name) => return Outcome::Next,
            Found::Nothing => {
                answer.rcode = rcode::NXDOMAIN;
                answer.authority.push(self.soa(zone));
            }
            Found::Records(answers, _) if answers.is_empty() => answer.authority.push(self.soa(zone)),
            Found::Records(answers, extra) => (answer.answers, answer.additional) = (answers, extra),
        }
        Outcome::Answer(answer)
    }
}

/// The address of the DNS service itself.
fn name_server(tables: &Tables) -> Vec<IpAddr> {
    match tables.services.get("kube-system/kube-dns") {
        Some(ServiceKind::Cluster { ips, .. }) => ips.to_vec(),
        _ => Vec::new(),
    }
}

/// SRV weights add up to about 100, as upstream's do.
fn weight(count: usize) -> u16 {
    (100 / count.max(1)).max(1) as u16
}

fn text(label: &[u8]) -> Option<&str> {
    std::str::from_utf8(label).ok()
}

/// Whether `_port` and `_protocol` name a port.
fn is_port(port: &Port, name: &[u8], protocol: &[u8]) -> bool {
    name.strip_prefix(b"_").is_some_and(|name| name == port.name.as_bytes())
        && protocol.strip_prefix(b"_").is_some_and(|protocol| protocol == port.protocol.as_bytes())
}

/// `namespace/service`, without an allocation.
fn service_key<'a>(buffer: &'a mut [u8; 128], namespace: &[u8], service: &[u8]) -> Option<&'a str> {
    // Two labels of at most 63 bytes and a slash.
    let len = namespace.len() + 1 + service.len();
    buffer[..namespace.len()].copy_from_slice(namespace);
    buffer[namespace.len()] = b'/';
    buffer[namespace.len() + 1..len].copy_from_slice(service);
    std::str::from_utf8(&buffer[..len]).ok()
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;
