//! Services and endpoints to the table `kube-proxy` of one family. Pure.
//!
//! Maps do the dispatch, so a packet's cost does not grow with the number of services:
//!
//! ```text
//! nat-prerouting, nat-output → services: address . protocol . port → service-… or external-…
//!                                        protocol . port (node ports)  → external-…
//! external-… → (mark) → service-… or local-… → endpoint-…: dnat
//! nat-postrouting → masquerading: what is marked
//! filter-*: services without endpoints are refused, source ranges kept, unused cluster IPs refused
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use kybern_linux::nft::rule::{family_of, ip_bytes};
use kybern_linux::nft::{
    BaseChain, ChainKind, CmpOp, Datatype, DynsetOp, Element, Expr, Family, Hook, Rule, Set, SetKind, Table, Verdict,
    concat_key, ct_state, priority,
};

use crate::service::{Endpoint, Endpoints, ServicePort, usable, usable_anywhere};

/// Name of the tables.
pub const TABLE: &str = "kube-proxy";

const CLUSTER_IPS: &str = "cluster-ips";
const NODEPORT_IPS: &str = "nodeport-ips";
const SERVICE_IPS: &str = "service-ips";
const SERVICE_NODEPORTS: &str = "service-nodeports";
const NO_ENDPOINT_SERVICES: &str = "no-endpoint-services";
const NO_ENDPOINT_NODEPORTS: &str = "no-endpoint-nodeports";
const FIREWALL_IPS: &str = "firewall-ips";

const SERVICES: &str = "services";
const MARK_FOR_MASQUERADE: &str = "mark-for-masquerade";
const MASQUERADING: &str = "masquerading";
const REJECT: &str = "reject-chain";
const SERVICE_ENDPOINTS_CHECK: &str = "service-endpoints-check";
const NODEPORT_ENDPOINTS_CHECK: &str = "nodeport-endpoints-check";
const FIREWALL_CHECK: &str = "firewall-check";
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";

/// What the plan depends on besides the API's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Node addresses that take node-port traffic.
    pub node_port_addresses: NodePortAddresses,
    /// Pod addresses: traffic from anywhere else to a cluster IP is masqueraded. No detection when empty.
    pub cluster_cidrs: Vec<IpNet>,
    /// Masquerade all Service traffic.
    pub masquerade_all: bool,
    /// The bit of the packet mark that asks for masquerading.
    pub masquerade_mark: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every address of the machine but loopback.
    All,
    Only(Vec<IpAddr>),
}

/// The table of one family (`Ip` or `Ip6`).
pub fn plan(family: Family, services: &[ServicePort], endpoints: &Endpoints, settings: &Settings) -> Table {
    let mut planner = Planner { family, settings, table: skeleton(family, settings) };
    for service in services {
        planner.service(service, endpoints.get(&service.name).map_or(&[][..], Vec::as_slice));
    }
    planner.table
}

fn address_type(family: Family) -> Datatype {
    if family == Family::Ip6 { Datatype::Ipv6Addr } else { Datatype::Ipv4Addr }
}

/// All that is there without any service.
fn skeleton(family: Family, settings: &Settings) -> Table {
    let mut table = Table::new(family, TABLE);
    let address = address_type(family);
    let service = [address, Datatype::InetProto, Datatype::InetService];
    let node_port = [Datatype::InetProto, Datatype::InetService];
    for (name, set) in [
        (CLUSTER_IPS, Set::new(&[address], SetKind::Set)),
        (NODEPORT_IPS, Set::new(&[address], SetKind::Set)),
        (SERVICE_IPS, Set::new(&service, SetKind::Verdicts)),
        (SERVICE_NODEPORTS, Set::new(&node_port, SetKind::Verdicts)),
        (NO_ENDPOINT_SERVICES, Set::new(&service, SetKind::Verdicts)),
        (NO_ENDPOINT_NODEPORTS, Set::new(&node_port, SetKind::Verdicts)),
        (FIREWALL_IPS, Set::new(&service, SetKind::Verdicts)),
    ] {
        table.sets.insert(name.into(), set);
    }
    if let NodePortAddresses::Only(ips) = &settings.node_port_addresses {
        let set = table.sets.get_mut(NODEPORT_IPS).expect("inserted above");
        set.elements.extend(ips.iter().filter(|ip| family_of(**ip) == family).map(|ip| (ip_bytes(*ip), Element::None)));
    }

    let new = || Rule::new().ct_state(ct_state::NEW);
    let before_dnat = priority::DSTNAT - 10;
    for (name, kind, hook, at, rules) in [
        ("filter-prerouting", ChainKind::Filter, Hook::Prerouting, before_dnat, vec![new().jump(FIREWALL_CHECK)]),
        (
            "filter-input",
            ChainKind::Filter,
            Hook::Input,
            before_dnat,
            vec![new().jump(NODEPORT_ENDPOINTS_CHECK), new().jump(SERVICE_ENDPOINTS_CHECK)],
        ),
        (
            "filter-forward",
            ChainKind::Filter,
            Hook::Forward,
            before_dnat,
            vec![new().jump(SERVICE_ENDPOINTS_CHECK), new().jump(CLUSTER_IPS_CHECK)],
        ),
        ("filter-output", ChainKind::Filter, Hook::Output, before_dnat, vec![new().jump(FIREWALL_CHECK)]),
        (
            "filter-output-post-dnat",
            ChainKind::Filter,
            Hook::Output,
            priority::DSTNAT + 10,
            // After the translation, so that what this node may short-circuit past a Local policy is not refused.
            vec![new().jump(SERVICE_ENDPOINTS_CHECK), new().jump(CLUSTER_IPS_CHECK)],
        ),
        ("nat-prerouting", ChainKind::Nat, Hook::Prerouting, priority::DSTNAT, vec![Rule::new().jump(SERVICES)]),
        ("nat-output", ChainKind::Nat, Hook::Output, priority::DSTNAT, vec![Rule::new().jump(SERVICES)]),
        ("nat-postrouting", ChainKind::Nat, Hook::Postrouting, priority::SRCNAT, vec![Rule::new().jump(MASQUERADING)]),
    ] {
        let chain = table.chain(name);
        chain.base = Some(BaseChain { kind, hook, priority: at });
        chain.rules = rules;
    }

    let mark = settings.masquerade_mark;
    table.chain(MARK_FOR_MASQUERADE).rules = vec![Rule::new().change_mark(!mark, mark)];
    table.chain(MASQUERADING).rules = vec![
        Rule::new().mark_bits(mark, CmpOp::Eq).verdict(Verdict::Return),
        Rule::new().change_mark(!0, mark),
        Rule::new().masquerade(true),
    ];
    table.chain(REJECT).rules = vec![Rule::new().reject()];

    let service_key = || {
        let protocol = (address.byte_len() / 4) as u8;
        Rule::new().load_daddr(family, 0).load_l4proto(protocol).load_dport(protocol + 1)
    };
    let node_port_key = |map: &str| {
        match settings.node_port_addresses {
            NodePortAddresses::Only(_) => Rule::new().load_daddr(family, 0).in_set(NODEPORT_IPS),
            NodePortAddresses::All => {
                let loopback = if family == Family::Ip6 { "::1/128" } else { "127.0.0.0/8" }.parse().expect("constant");
                Rule::new().daddr_is_local().daddr_in(loopback, CmpOp::Neq)
            }
        }
        .load_l4proto(0)
        .load_dport(1)
        .vmap(map)
    };
    table.chain(SERVICES).rules = vec![service_key().vmap(SERVICE_IPS), node_port_key(SERVICE_NODEPORTS)];
    table.chain(SERVICE_ENDPOINTS_CHECK).rules = vec![service_key().vmap(NO_ENDPOINT_SERVICES)];
    table.chain(NODEPORT_ENDPOINTS_CHECK).rules = vec![node_port_key(NO_ENDPOINT_NODEPORTS)];
    table.chain(FIREWALL_CHECK).rules = vec![service_key().vmap(FIREWALL_IPS)];
    table.chain(CLUSTER_IPS_CHECK).rules = vec![
        Rule::new()
            .load_daddr(family, 0)
            .in_set(CLUSTER_IPS)
            .reject()
            .comment("Reject traffic to invalid ports of ClusterIPs"),
    ];
    table
}

struct Planner<'a> {
    family: Family,
    settings: &'a Settings,
    table: Table,
}

/// The chains of one service port.
struct Chains {
    /// All usable endpoints of the cluster.
    cluster: String,
    /// This node's.
    local: String,
    external: String,
    firewall: String,
}

impl Planner<'_> {
    fn service(&mut self, service: &ServicePort, endpoints: &[Endpoint]) {
        let family = self.family;
        let of_family =
            |ips: &[IpAddr]| -> Vec<IpAddr> { ips.iter().copied().filter(|ip| family_of(*ip) == family).collect() };
        let cluster_ips = of_family(&service.cluster_ips);
        if cluster_ips.is_empty() {
            return;
        }
        let external: Vec<IpAddr> = [of_family(&service.external_ips), of_family(&service.load_balancer_ips)].concat();
        let base = service.name.chain_base(service.protocol.name());
        let chains = Chains {
            cluster: format!("service-{base}"),
            local: format!("local-{base}"),
            external: format!("external-{base}"),
            firewall: format!("firewall-{base}"),
        };
        let endpoints: Vec<Endpoint> = endpoints.iter().filter(|e| family_of(e.ip) == family).cloned().collect();
        let everywhere = usable_anywhere(&endpoints);
        let here = usable(&endpoints, |e| e.is_local);

        for ip in &cluster_ips {
            self.set(CLUSTER_IPS, ip_bytes(*ip), Element::None);
        }
        // Nobody to answer: refused at once. Somebody, but not where the policy asks: dropped, as another node may answer.
        let nobody = if everywhere.is_empty() { Verdict::Goto(REJECT.into()) } else { Verdict::Drop };
        let inside = if service.internal_local { &here } else { &everywhere };
        let outside = if service.external_local { &here } else { &everywhere };
        let inside_chain = if service.internal_local { &chains.local } else { &chains.cluster };
        for ip in &cluster_ips {
            let (map, verdict) = if inside.is_empty() {
                (NO_ENDPOINT_SERVICES, nobody.clone())
            } else {
                (SERVICE_IPS, Verdict::Goto(inside_chain.clone()))
            };
            self.set(map, service_key(*ip, service), Element::Verdict(verdict));
        }
        if !inside.is_empty() {
            self.mark_from_outside(service, inside_chain, &cluster_ips);
        }
        if service.is_externally_accessible() {
            // Clients inside the cluster may use an external address even when this node has no endpoint of its own.
            let has_path = !outside.is_empty() || (service.external_local && !everywhere.is_empty());
            let to_external = || Element::Verdict(Verdict::Goto(chains.external.clone()));
            for ip in &external {
                if has_path {
                    self.set(SERVICE_IPS, service_key(*ip, service), to_external());
                }
                if outside.is_empty() {
                    self.set(NO_ENDPOINT_SERVICES, service_key(*ip, service), Element::Verdict(nobody.clone()));
                }
            }
            if let Some(port) = service.node_port {
                let key = concat_key(&[&[service.protocol.number()], &port.to_be_bytes()]);
                if has_path {
                    self.set(SERVICE_NODEPORTS, key.clone(), to_external());
                }
                if outside.is_empty() {
                    self.set(NO_ENDPOINT_NODEPORTS, key, Element::Verdict(nobody.clone()));
                }
            }
            if has_path {
                self.external_chain(service, &chains, !here.is_empty());
            }
            self.firewall(service, &chains.firewall, &of_family(&service.load_balancer_ips));
        }

        let uses_cluster =
            service.uses_cluster_endpoints() || (service.is_externally_accessible() && service.external_local);
        let mut made: Vec<&Endpoint> = Vec::new();
        for (wanted, chain, list) in
            [(uses_cluster, &chains.cluster, &everywhere), (service.uses_local_endpoints(), &chains.local, &here)]
        {
            if wanted && !list.is_empty() {
                self.balance(service, chain, list);
                made.extend(
                    list.iter().filter(|e| !made.iter().any(|m| m.ip == e.ip && m.port == e.port)).collect::<Vec<_>>(),
                );
            }
        }
        for endpoint in made {
            self.endpoint(service, endpoint);
        }
    }

    fn set(&mut self, set: &str, key: Vec<u8>, element: Element) {
        // Two services with one external address and port: the first, by name, has it.
        self.table.sets.get_mut(set).expect("part of the skeleton").elements.entry(key).or_insert(element);
    }

    /// Traffic to the cluster IP that does not come from a pod must come back through this node.
    fn mark_from_outside(&mut self, service: &ServicePort, chain: &str, cluster_ips: &[IpAddr]) {
        let family = self.family;
        for ip in cluster_ips {
            let to_service = || Rule::new().daddr(*ip).l4proto(service.protocol.number()).dport(service.port);
            let rules = &mut self.table.chains.entry(chain.to_owned()).or_default().rules;
            if self.settings.masquerade_all {
                rules.push(to_service().jump(MARK_FOR_MASQUERADE));
                continue;
            }
            let mut cidrs = self.settings.cluster_cidrs.iter().filter(|net| family_of(net.addr()) == family).peekable();
            if cidrs.peek().is_some() {
                let not_from_pods = cidrs.fold(to_service(), |rule, net| rule.saddr_in(*net, CmpOp::Neq));
                rules.push(not_from_pods.jump(MARK_FOR_MASQUERADE));
            }
        }
    }

    fn external_chain(&mut self, service: &ServicePort, chains: &Chains, has_local: bool) {
        let family = self.family;
        let chain = self.table.chain(chains.external.as_str());
        if !service.external_local {
            chain.rules = vec![Rule::new().jump(MARK_FOR_MASQUERADE), Rule::new().goto(chains.cluster.as_str())];
            return;
        }
        // Pods and this node are inside: for them the policy keeps nothing local, and pods keep their address.
        for net in self.settings.cluster_cidrs.iter().filter(|net| family_of(net.addr()) == family) {
            let from_pod = Rule::new().saddr_in(*net, CmpOp::Eq).goto(chains.cluster.as_str());
            chain.rules.push(from_pod.comment("short-circuit pod traffic"));
        }
        chain.rules.push(Rule::new().saddr_is_local().jump(MARK_FOR_MASQUERADE).comment("masquerade local traffic"));
        let from_node = Rule::new().saddr_is_local().goto(chains.cluster.as_str());
        chain.rules.push(from_node.comment("short-circuit local traffic"));
        if has_local {
            chain.rules.push(Rule::new().goto(chains.local.as_str()));
        }
    }

    fn firewall(&mut self, service: &ServicePort, chain: &str, ips: &[IpAddr]) {
        if service.source_ranges.is_empty() || ips.is_empty() {
            return;
        }
        for ip in ips {
            self.set(FIREWALL_IPS, service_key(*ip, service), Element::Verdict(Verdict::Goto(chain.to_owned())));
        }
        let family = self.family;
        let mut rules: Vec<Rule> = service
            .source_ranges
            .iter()
            .filter(|net| family_of(net.addr()) == family)
            .map(|net| Rule::new().saddr_in(*net, CmpOp::Eq).verdict(Verdict::Return))
            .collect();
        // A node that is also the load balancer talks to itself from the address.
        rules.extend(ips.iter().map(|ip| Rule::new().saddr(*ip).saddr_is_local().verdict(Verdict::Return)));
        rules.push(Rule::new().verdict(Verdict::Drop));
        self.table.chain(chain).rules = rules;
    }

    /// Picks one of the endpoints: the one that the client had last, or any.
    fn balance(&mut self, service: &ServicePort, chain: &str, endpoints: &[&Endpoint]) {
        let family = self.family;
        let bases: Vec<String> = endpoints.iter().map(|e| endpoint_base(service, e)).collect();
        let names: Vec<String> = bases.iter().map(|base| format!("endpoint-{base}")).collect();
        let rules = &mut self.table.chain(chain).rules;
        if service.affinity.is_some() {
            for (base, name) in bases.iter().zip(&names) {
                rules.push(Rule::new().load_saddr(family, 0).in_set(format!("affinity-{base}")).goto(name.as_str()));
            }
        }
        rules.push(Rule::new().random_goto(names.iter().map(String::as_str)));
    }

    fn endpoint(&mut self, service: &ServicePort, endpoint: &Endpoint) {
        let base = endpoint_base(service, endpoint);
        let family = self.family;
        let mut rules = vec![
            // A pod that reaches itself must see the reply come from the service.
            Rule::new().saddr(endpoint.ip).jump(MARK_FOR_MASQUERADE).comment("masquerade hairpin traffic"),
        ];
        if let Some(timeout) = service.affinity {
            let name = format!("affinity-{base}");
            let mut set = Set::new(&[address_type(family)], SetKind::Set);
            set.timeout = Some(timeout);
            let update = Expr::Dynset { op: DynsetOp::Update, set: name.clone(), src: 0 };
            self.table.sets.insert(name, set);
            rules.push(Rule::new().load_saddr(family, 0).expr(update));
        }
        rules.push(Rule::new().l4proto(service.protocol.number()).dnat(endpoint.ip, Some(endpoint.port)));
        self.table.chain(format!("endpoint-{base}")).rules = rules;
    }
}

fn endpoint_base(service: &ServicePort, endpoint: &Endpoint) -> String {
    service.name.endpoint_base(service.protocol.name(), endpoint.ip, endpoint.port)
}

fn service_key(ip: IpAddr, service: &ServicePort) -> Vec<u8> {
    concat_key(&[&ip_bytes(ip), &[service.protocol.number()], &service.port.to_be_bytes()])
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
