//! `portmap`: host ports that lead to containers (`hostPort`), in one nftables table per family. Every rule's comment is its
//! container's id, by which a deletion finds it.

use std::net::IpAddr;

use ipnet::IpNet;
use kybern_linux::conntrack::Conntrack;
use kybern_linux::netlink::NetlinkError;
use kybern_linux::nft::rule::family_of;
use kybern_linux::nft::{BaseChain, CT_STATUS_DNAT, ChainKind, CmpOp, Family, Hook, Rule, Table, Verdict, priority};
use kybern_linux::sysctl;
use serde::Deserialize;
use serde_json::Value;

use super::{parse, tables};
use crate::PortMapping;
use crate::error::{PluginError, code};
use crate::exec::{Call, Command};
use crate::result::CniResult;

/// Name of the table, in the families `ip` and `ip6`.
pub(crate) const TABLE: &str = "kybern-cni-hostport";
const UDP: u8 = 17;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    #[serde(default)]
    runtime_config: RuntimeConfig,
    prev_result: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    port_mappings: Vec<PortMapping>,
}

pub(super) fn run(call: &Call<'_>, raw: &Value) -> Result<Option<Value>, PluginError> {
    let input: Input = parse(raw)?;
    let mappings: Vec<_> = input.runtime_config.port_mappings.into_iter().filter(|m| m.host_port != 0).collect();
    match call.command {
        Command::Del => {
            for family in [Family::Ip, Family::Ip6] {
                change(family, call.container_id, |_| {})?;
            }
            Ok(None)
        }
        Command::Check => Ok(None),
        Command::Add => {
            let raw_prev = input
                .prev_result
                .ok_or_else(|| PluginError::new(code::INVALID_NETWORK_CONFIG, "must be called as chained plugin"))?;
            if !mappings.is_empty() {
                let prev: CniResult = parse(&raw_prev)?;
                add(call, &prev, &mappings)?;
            }
            Ok(Some(raw_prev))
        }
    }
}

fn add(call: &Call<'_>, prev: &CniResult, mappings: &[PortMapping]) -> Result<(), PluginError> {
    for family in [Family::Ip, Family::Ip6] {
        let Some(pod) = prev.container_ips().find(|ip| family_of(*ip) == family) else { continue };
        let mappings: Vec<_> = mappings
            .iter()
            .filter(|m| m.host_ip.is_none_or(|ip| ip.is_unspecified() || family_of(ip) == family))
            .collect();
        let rules =
            mappings.iter().map(|mapping| host_port_rule(mapping, pod)).collect::<Result<Vec<_>, PluginError>>()?;
        change(family, call.container_id, |table| {
            table.chain("hostports").rules.extend(rules.into_iter().map(|rule| rule.comment(call.container_id)));
            let masquerade = &mut table.chain("masquerading").rules;
            masquerade.extend(masquerade_rules(pod).into_iter().map(|rule| rule.comment(call.container_id)));
        })?;
        if family == Family::Ip {
            // Lets `127.0.0.1:hostPort` on the node reach the pod; the table's own guard keeps others from using it.
            if let Some(bridge) = prev.interfaces.iter().find(|i| i.sandbox.is_empty()) {
                sysctl::set(&format!("net/ipv4/conf/{}/route_localnet", bridge.name), "1")?;
            }
        }
        for mapping in mappings.iter().filter(|m| m.protocol.eq_ignore_ascii_case("udp")) {
            forget_udp(family, mapping.host_port, pod)?;
        }
    }
    Ok(())
}

/// Replaces the container's rules by those that `add` adds; makes no table where there is nothing to put in.
fn change(family: Family, container_id: &str, add: impl FnOnce(&mut Table)) -> Result<(), NetlinkError> {
    tables::change(family, TABLE, |actual| {
        let mut desired = actual.cloned().unwrap_or_else(|| base_table(family));
        for chain in desired.chains.values_mut() {
            chain.rules.retain(|rule| rule.comment.as_deref() != Some(container_id));
        }
        let without = desired.clone();
        add(&mut desired);
        (actual.is_some() || desired != without).then_some(desired)
    })
}

fn base_table(family: Family) -> Table {
    let mut table = Table::new(family, TABLE);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let chain = table.chain(name);
        chain.base = Some(BaseChain { kind: ChainKind::Nat, hook, priority: priority::DSTNAT });
        chain.rules.push(Rule::new().daddr_is_local().jump("hostports"));
    }
    table.chain("hostports");
    let chain = table.chain("masquerading");
    chain.base = Some(BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: priority::SRCNAT });
    if family == Family::Ip {
        let chain = table.chain("localnet-guard");
        chain.base = Some(BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -300 });
        let guard = Rule::new().not_from_interface("lo").daddr_in(localnet(), CmpOp::Eq).verdict(Verdict::Drop);
        chain.rules.push(guard.comment("route_localnet must not open loopback to others"));
    }
    table
}

fn localnet() -> IpNet {
    "127.0.0.0/8".parse().expect("constant")
}

fn host_port_rule(mapping: &PortMapping, pod: IpAddr) -> Result<Rule, PluginError> {
    let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
        "tcp" => 6,
        "udp" => UDP,
        "sctp" => 132,
        other => {
            let msg = format!("Invalid host port protocol {other:?}: must be tcp, udp or sctp");
            return Err(PluginError::new(code::INVALID_NETWORK_CONFIG, msg));
        }
    };
    let rule = Rule::new();
    let rule = match mapping.host_ip {
        Some(ip) if !ip.is_unspecified() => rule.daddr(ip),
        _ => rule,
    };
    Ok(rule.l4proto(protocol).dport(mapping.host_port).dnat(pod, Some(mapping.container_port)))
}

/// A pod that calls its own host port, and the node's loopback, must see replies come back through the translation.
fn masquerade_rules(pod: IpAddr) -> Vec<Rule> {
    let mut rules = vec![Rule::new().ct_status(CT_STATUS_DNAT).saddr(pod).daddr(pod).masquerade(false)];
    if pod.is_ipv4() {
        let local = Rule::new().ct_status(CT_STATUS_DNAT).saddr_in(localnet(), CmpOp::Eq).daddr(pod);
        rules.push(local.masquerade(false));
    }
    rules
}

/// A UDP client that has been sending to the port before keeps its old translation until that is forgotten.
fn forget_udp(family: Family, host_port: u16, pod: IpAddr) -> Result<(), NetlinkError> {
    let mut conntrack = Conntrack::open()?;
    let stale = conntrack.flows(family, |original, reply| {
        original.protocol == UDP && original.destination_port == host_port && reply.source != pod
    })?;
    stale.iter().try_for_each(|flow| conntrack.delete(flow))
}
