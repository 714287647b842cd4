use std::collections::BTreeMap;
use std::time::Duration;

use kybern_linux::nft::trace::{Outcome, Packet, Tracer, each_choice};

use super::*;
use crate::names::ServicePortName;
use crate::service::Protocol;

const NODE: &str = "192.168.7.1";
const POD: &str = "10.244.0.9";
const OUTSIDER: &str = "192.168.7.99";
const VIP: &str = "10.96.0.10";
const EXTERNAL: &str = "1.2.3.4";
const BALANCER: &str = "5.6.7.8";
const MARK: u32 = 1 << 14;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings() -> Settings {
    Settings {
        node_port_addresses: NodePortAddresses::Only(vec![ip(NODE), ip("fd07::1")]),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10::/64".parse().unwrap()],
        masquerade_all: false,
        masquerade_mark: MARK,
    }
}

fn service() -> ServicePort {
    ServicePort {
        name: ServicePortName { namespace: "ns".into(), name: "web".into(), port: "http".into() },
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ips: vec![ip(VIP), ip("fd96::10")],
        external_ips: vec![ip(EXTERNAL)],
        load_balancer_ips: vec![ip(BALANCER)],
        source_ranges: Vec::new(),
        node_port: Some(30080),
        affinity: None,
        external_local: false,
        internal_local: false,
        health_check_node_port: None,
    }
}

/// `r`eady, `s`erving, `t`erminating, `l`ocal.
fn endpoint(address: &str, flags: &str) -> Endpoint {
    Endpoint {
        ip: ip(address),
        port: 8080,
        ready: flags.contains('r'),
        serving: flags.contains('s'),
        terminating: flags.contains('t'),
        is_local: flags.contains('l'),
        for_node: None,
        for_zone: None,
    }
}

fn table(service: &ServicePort, endpoints: &[Endpoint]) -> Table {
    let endpoints = BTreeMap::from([(service.name.clone(), endpoints.to_vec())]);
    plan(Family::Ip, std::slice::from_ref(service), &endpoints, &settings())
}

/// Where a connection ends up, and whether its source is hidden: `10.244.0.2`, `10.244.0.2 masqueraded`, `Rejected`, …
fn send(table: &mut Table, from: &str, to: &str, port: u16, random: &mut dyn FnMut(u32) -> u32) -> String {
    let local = [ip(NODE)];
    let mut packet = Packet::new(6, ip(from), ip(to), port);
    let mut tracer = Tracer { table, local: &local, random, masqueraded: false };
    let is_local = |address: IpAddr| local.contains(&address) || address.is_loopback();
    let hooks: &[Hook] = if is_local(packet.source) { &[Hook::Output] } else { &[Hook::Prerouting] };
    let mut outcome = Outcome::Accepted;
    for hook in hooks {
        outcome = tracer.hook(*hook, &mut packet);
    }
    let from_here = is_local(packet.source);
    let to_here = is_local(packet.destination);
    if outcome == Outcome::Accepted && (!from_here || to_here) {
        outcome = tracer.hook(if to_here { Hook::Input } else { Hook::Forward }, &mut packet);
    }
    if outcome != Outcome::Accepted {
        return format!("{outcome:?}");
    }
    if !to_here {
        tracer.hook(Hook::Postrouting, &mut packet);
    }
    if packet.destination == ip(to) {
        return "untouched".into();
    }
    assert_eq!(packet.destination_port, 8080);
    format!("{}{}", packet.destination, if tracer.masqueraded { " masqueraded" } else { "" })
}

/// Every end that the random choice leads to.
fn ends(table: &Table, from: &str, to: &str, port: u16) -> Vec<String> {
    each_choice(|random| send(&mut table.clone(), from, to, port, random)).into_keys().collect()
}

fn check(table: &Table, cases: &[(&str, &str, u16, &[&str])]) {
    for (from, to, port, expect) in cases {
        assert_eq!(ends(table, from, to, *port), *expect, "from {from} to {to}:{port}");
    }
}

const A: &str = "10.244.0.2";
const B: &str = "10.244.1.3";

#[test]
fn every_address_of_a_service_leads_to_all_endpoints() {
    let table = table(&service(), &[endpoint(A, "rsl"), endpoint(B, "rs")]);
    let masqueraded: &[&str] = &["10.244.0.2 masqueraded", "10.244.1.3 masqueraded"];
    check(
        &table,
        &[
            (POD, VIP, 80, &[A, B]),
            (NODE, VIP, 80, masqueraded),
            (OUTSIDER, VIP, 80, masqueraded),
            (A, VIP, 80, &["10.244.0.2 masqueraded", B]),
            (OUTSIDER, NODE, 30080, masqueraded),
            (NODE, NODE, 30080, masqueraded),
            (POD, NODE, 30080, masqueraded),
            (OUTSIDER, EXTERNAL, 80, masqueraded),
            (OUTSIDER, BALANCER, 80, masqueraded),
            // What is not the service's is left alone, but an unused port of a cluster IP is refused.
            (POD, VIP, 81, &["Rejected"]),
            (NODE, VIP, 81, &["Rejected"]),
            (POD, "10.96.0.11", 80, &["untouched"]),
            (OUTSIDER, NODE, 22, &["untouched"]),
            (NODE, "127.0.0.1", 30080, &["untouched"]),
            (OUTSIDER, OUTSIDER, 30080, &["untouched"]),
        ],
    );
}

#[test]
fn the_choice_is_even() {
    let endpoints: Vec<_> = (1..=5).map(|i| endpoint(&format!("10.244.2.{i}"), "rs")).collect();
    let table = table(&service(), &endpoints);
    let seen = each_choice(|random| send(&mut table.clone(), POD, VIP, 80, random));
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [1; 5]);
}

#[test]
fn without_endpoints_connections_are_refused() {
    let check_none = |endpoints: &[Endpoint]| {
        let rejected: &[&str] = &["Rejected"];
        check(
            &table(&service(), endpoints),
            &[
                (POD, VIP, 80, rejected),
                (NODE, VIP, 80, rejected),
                (OUTSIDER, NODE, 30080, rejected),
                (NODE, NODE, 30080, rejected),
                (POD, EXTERNAL, 80, rejected),
            ],
        );
    };
    check_none(&[]);
    check_none(&[endpoint(A, "l"), endpoint(B, "t")]);
}

#[test]
fn a_rolling_update_always_has_an_end() {
    check(&table(&service(), &[endpoint(A, "stl"), endpoint(B, "rs")]), &[(POD, VIP, 80, &[B])]);
    check(&table(&service(), &[endpoint(A, "stl"), endpoint(B, "")]), &[(POD, VIP, 80, &[A])]);
}

#[test]
fn local_policies_keep_traffic_on_the_node() {
    let both = [endpoint(A, "rsl"), endpoint(B, "rs")];
    let mut internal = service();
    internal.internal_local = true;
    check(
        &table(&internal, &both),
        &[(POD, VIP, 80, &[A]), (OUTSIDER, NODE, 30080, &["10.244.0.2 masqueraded", "10.244.1.3 masqueraded"])],
    );
    // Somebody answers elsewhere: dropped. Nobody anywhere: refused.
    check(&table(&internal, &both[1..]), &[(POD, VIP, 80, &["Dropped"]), (NODE, VIP, 80, &["Dropped"])]);
    check(&table(&internal, &[]), &[(POD, VIP, 80, &["Rejected"])]);

    let mut external = service();
    external.external_local = true;
    check(
        &table(&external, &both),
        &[
            (OUTSIDER, NODE, 30080, &[A]),
            (OUTSIDER, BALANCER, 80, &[A]),
            (POD, VIP, 80, &[A, B]),
            (POD, EXTERNAL, 80, &[A, B]),
            (NODE, EXTERNAL, 80, &["10.244.0.2 masqueraded", "10.244.1.3 masqueraded"]),
        ],
    );
    check(
        &table(&external, &both[1..]),
        &[
            (OUTSIDER, NODE, 30080, &["Dropped"]),
            (OUTSIDER, EXTERNAL, 80, &["Dropped"]),
            (POD, EXTERNAL, 80, &[B]),
            (NODE, EXTERNAL, 80, &["10.244.1.3 masqueraded"]),
            (POD, VIP, 80, &[B]),
        ],
    );
}

#[test]
fn source_ranges_guard_the_load_balancer_only() {
    let mut service = service();
    service.source_ranges = vec!["192.168.7.96/28".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let table = table(&service, &[endpoint(A, "rs")]);
    check(
        &table,
        &[
            (OUTSIDER, BALANCER, 80, &["10.244.0.2 masqueraded"]),
            ("192.168.7.50", BALANCER, 80, &["Dropped"]),
            (NODE, BALANCER, 80, &["Dropped"]),
            ("192.168.7.50", EXTERNAL, 80, &["10.244.0.2 masqueraded"]),
            ("192.168.7.50", NODE, 30080, &["10.244.0.2 masqueraded"]),
        ],
    );
}

#[test]
fn affinity_brings_a_client_back() {
    let mut service = service();
    service.affinity = Some(Duration::from_secs(60));
    let mut table = table(&service, &[endpoint(A, "rs"), endpoint(B, "rs")]);
    let mut at = |choice: u32, from: &str| send(&mut table, from, VIP, 80, &mut |_| choice);
    assert_eq!(at(1, POD), B);
    assert_eq!(at(0, POD), B, "the second time the client is known");
    assert_eq!(at(0, "10.244.0.8"), A);
    let affinity: Vec<_> = table.sets.values().filter(|set| set.timeout == Some(Duration::from_secs(60))).collect();
    assert_eq!(affinity.len(), 2);
}

#[test]
fn node_ports_can_be_on_every_address() {
    let mut settings = settings();
    settings.node_port_addresses = NodePortAddresses::All;
    let service = service();
    let endpoints = BTreeMap::from([(service.name.clone(), vec![endpoint(A, "rs")])]);
    let table = plan(Family::Ip, &[service], &endpoints, &settings);
    check(&table, &[(OUTSIDER, NODE, 30080, &["10.244.0.2 masqueraded"]), (NODE, "127.0.0.1", 30080, &["untouched"])]);
}

#[test]
fn families_are_kept_apart() {
    let service = service();
    let endpoints = BTreeMap::from([(service.name.clone(), vec![endpoint(A, "rs"), endpoint("fd00:10::2", "rs")])]);
    let mut table = plan(Family::Ip6, &[service], &endpoints, &settings());
    let mut packet = Packet::new(6, ip("fd00:10::9"), ip("fd96::10"), 80);
    let mut tracer = Tracer { table: &mut table, local: &[], random: &mut |_| 0, masqueraded: false };
    assert_eq!(tracer.hook(Hook::Prerouting, &mut packet), Outcome::Accepted);
    assert_eq!(packet.destination, ip("fd00:10::2"));
    assert!(table.chains.keys().all(|name| !name.contains("10.244.")));
}

#[test]
fn a_plan_does_not_depend_on_order_and_names_nothing_that_is_missing() {
    let services: Vec<ServicePort> = (0..4)
        .map(|i| {
            let mut service = service();
            service.name.name = format!("s{i}");
            service.cluster_ips = vec![ip(&format!("10.96.0.{i}"))];
            service.node_port = Some(30000 + i);
            service.external_local = i % 2 == 0;
            service.internal_local = i == 3;
            service.affinity = (i == 1).then_some(Duration::from_secs(1));
            service
        })
        .collect();
    let endpoints: Endpoints =
        services.iter().map(|s| (s.name.clone(), vec![endpoint(A, "rsl"), endpoint(B, "rs")])).collect();
    let table = plan(Family::Ip, &services, &endpoints, &settings());
    for chain in table.chains.values() {
        for set in chain.sets() {
            assert!(table.sets.contains_key(set), "{set}");
        }
        for expr in chain.rules.iter().flat_map(|rule| &rule.exprs) {
            if let Expr::Verdict(verdict) = expr {
                assert!(verdict.chain().is_none_or(|chain| table.chains.contains_key(chain)), "{verdict:?}");
            }
        }
    }
    let mut reversed = services;
    reversed.reverse();
    for service in &mut reversed {
        service.external_ips.clear();
        service.load_balancer_ips.clear();
    }
    let mut sorted = reversed.clone();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(
        plan(Family::Ip, &sorted, &endpoints, &settings()),
        plan(Family::Ip, &reversed, &endpoints, &settings())
    );
}
