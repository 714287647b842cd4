//! `ipMasq`: traffic from a pod subnet to anywhere else leaves with the node's address. One nftables table per family, one
//! rule per subnet.

use ipnet::IpNet;
use kybern_linux::netlink::NetlinkError;
use kybern_linux::nft::rule::family_of;
use kybern_linux::nft::{BaseChain, ChainKind, CmpOp, Family, Hook, Rule, Table, priority};

use super::tables;

/// Name of the table, in the families `ip` and `ip6`.
pub(crate) const TABLE: &str = "kybern-cni-masquerade";
const CHAIN: &str = "postrouting";

/// Adds the rule of a subnet unless it is there.
pub(super) fn ensure(network: &str, subnet: IpNet) -> Result<(), NetlinkError> {
    let family = family_of(subnet.addr());
    tables::change(family, TABLE, |actual| {
        let mut desired = actual.cloned().unwrap_or_else(|| Table::new(family, TABLE));
        add(&mut desired, network, subnet.trunc());
        Some(desired)
    })
}

fn add(table: &mut Table, network: &str, subnet: IpNet) {
    let multicast: IpNet =
        if table.family == Family::Ip6 { "ff00::/8" } else { "224.0.0.0/4" }.parse().expect("constant");
    let chain = table.chain(CHAIN);
    chain.base = Some(BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: priority::SRCNAT });
    let rule = Rule::new()
        .saddr_in(subnet, CmpOp::Eq)
        .daddr_in(subnet, CmpOp::Neq)
        .daddr_in(multicast, CmpOp::Neq)
        .masquerade(true)
        .comment(format!("network {network}"));
    if !chain.rules.contains(&rule) {
        chain.rules.push(rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_one_rule() {
        let mut table = Table::new(Family::Ip, TABLE);
        add(&mut table, "n", "10.244.0.0/24".parse().unwrap());
        add(&mut table, "n", "10.244.0.0/24".parse().unwrap());
        add(&mut table, "n", "10.244.1.0/24".parse().unwrap());
        assert_eq!(table.chains[CHAIN].rules.len(), 2);
    }
}
