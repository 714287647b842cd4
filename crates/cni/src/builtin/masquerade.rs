//! `ipMasq`: traffic from a pod subnet to anywhere else leaves with the node's address. One nftables table per family, one
//! rule per subnet.

use ipnet::IpNet;
use kybern_linux::netlink::NetlinkError;
use kybern_linux::nft::rule::family_of;
use kybern_linux::nft::{BaseChain, CT_STATUS_DNAT, ChainKind, CmpOp, Family, Hook, Rule, Table, priority};
use kybern_linux::sysctl;

use super::tables;

/// Name of the table, in the families `ip` and `ip6`.
pub(crate) const TABLE: &str = "kybern-cni-masquerade";
const CHAIN: &str = "postrouting";

/// Adds the rules of a subnet unless they are there.
pub(super) fn ensure(network: &str, subnet: IpNet) -> Result<(), NetlinkError> {
    let family = family_of(subnet.addr());
    let key =
        if family == Family::Ip { "net/bridge/bridge-nf-call-iptables" } else { "net/bridge/bridge-nf-call-ip6tables" };
    let bridged_pass_netfilter = sysctl::get(key).is_ok_and(|value| value == "1");
    tables::change(family, TABLE, |actual| {
        let mut desired = actual.cloned().unwrap_or_else(|| Table::new(family, TABLE));
        set(&mut desired, network, subnet.trunc(), bridged_pass_netfilter);
        Some(desired)
    })
}

fn set(table: &mut Table, network: &str, subnet: IpNet, bridged_pass_netfilter: bool) {
    let multicast: IpNet =
        if table.family == Family::Ip6 { "ff00::/8" } else { "224.0.0.0/4" }.parse().expect("constant");
    let comment = format!("network {network} {subnet}");
    let chain = table.chain(CHAIN);
    chain.base = Some(BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: priority::SRCNAT });
    let mut rules = vec![
        Rule::new()
            .saddr_in(subnet, CmpOp::Eq)
            .daddr_in(subnet, CmpOp::Neq)
            .daddr_in(multicast, CmpOp::Neq)
            .masquerade(true),
    ];
    if !bridged_pass_netfilter {
        // Then a pod's reply to another pod of the bridge is not translated back, unless it has to come by the node: what
        // went through a Service or a host port is made to.
        let translated = Rule::new().ct_status(CT_STATUS_DNAT);
        rules.push(translated.saddr_in(subnet, CmpOp::Eq).daddr_in(subnet, CmpOp::Eq).masquerade(true));
    }
    let rules: Vec<Rule> = rules.into_iter().map(|rule| rule.comment(comment.as_str())).collect();
    if chain.rules.iter().filter(|rule| rule.comment.as_deref() == Some(&comment)).ne(&rules) {
        chain.rules.retain(|rule| rule.comment.as_deref() != Some(&comment));
        chain.rules.extend(rules);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_its_rules_once() {
        let mut table = Table::new(Family::Ip, TABLE);
        for (subnet, bridged, expect) in [
            ("10.244.0.0/24", true, 1),
            ("10.244.0.0/24", true, 1),
            ("10.244.1.0/24", true, 2),
            ("10.244.0.0/24", false, 3),
            ("10.244.0.0/24", true, 2),
        ] {
            set(&mut table, "n", subnet.parse().unwrap(), bridged);
            assert_eq!(table.chains[CHAIN].rules.len(), expect, "{subnet} {bridged}");
        }
    }
}
