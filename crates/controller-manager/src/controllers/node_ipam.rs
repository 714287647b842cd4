//! `nodeipam`: each node gets its part of the cluster's pod network (`pkg/controller/nodeipam`, the range allocator).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kybern_api::Object;
use kybern_api::core::v1::Node;
use kybern_apimachinery::json;
use kybern_client::Patch;

use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// More parts than 2^16 of one range are refused, as upstream does.
const BITS_MAX: u8 = 16;
/// All nodes are looked at together: two that are looked at apart would be given the same part.
const KEY: &str = "nodes";

/// From what nodes get their parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRanges {
    /// The pod network, one range per family, and how long a node's prefix of it is.
    cluster: Vec<(IpNet, u8)>,
    /// Ranges of Services: nothing of them is given away.
    services: Vec<IpNet>,
}

impl NodeRanges {
    /// `mask_v4` and `mask_v6` are the prefix lengths of nodes, upstream's `--node-cidr-mask-size-ipv4` and `-ipv6`.
    pub fn new(cluster: &[IpNet], services: &[IpNet], mask_v4: u8, mask_v6: u8) -> Result<Self, String> {
        match cluster {
            [] => return Err("--allocate-node-cidrs needs --cluster-cidr".to_owned()),
            [_] => {}
            [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => {}
            _ => return Err("--cluster-cidr takes one range, or two of different families".to_owned()),
        }
        let mut ranges = Vec::new();
        for range in cluster.iter().map(IpNet::trunc) {
            let (mask, flag) = match range {
                IpNet::V4(_) => (mask_v4, "--node-cidr-mask-size-ipv4"),
                IpNet::V6(_) => (mask_v6, "--node-cidr-mask-size-ipv6"),
            };
            let prefix = range.prefix_len();
            if mask < prefix || mask > range.max_prefix_len() {
                return Err(format!("{flag} {mask} does not fit --cluster-cidr {range}: it must be {prefix} at least"));
            }
            if mask - prefix > BITS_MAX {
                let least = mask - BITS_MAX;
                return Err(format!(
                    "--cluster-cidr {range} is too large for {flag} {mask}: its prefix must be /{least} or longer"
                ));
            }
            ranges.push((range, mask));
        }
        Ok(Self { cluster: ranges, services: services.to_vec() })
    }
}

pub struct NodeIpamController {
    pub ranges: NodeRanges,
}

impl Controller for NodeIpamController {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn component(&self) -> &'static str {
        "cidrAllocator"
    }

    fn account(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.on(&snapshot.nodes, |change, _| {
            // A node that goes frees its part for one that waits.
            let concerns = change.new.as_ref().is_none_or(|node| parts(node).is_empty());
            concerns.then(|| KEY.to_owned()).into_iter().collect()
        });
    }

    fn reconcile(&self, _: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let nodes = snapshot.nodes.list();
        let mut waiting: Vec<&Arc<Node>> =
            nodes.iter().filter(|node| !node.is_deleting() && parts(node).is_empty()).collect();
        if waiting.is_empty() {
            return Plan::idle();
        }
        // The oldest first.
        waiting.sort_by_key(|node| (pods::created(&node.metadata), node.name().to_owned()));
        let given: Vec<IpNet> = nodes.iter().flat_map(|node| parts(node)).collect();
        let mut free: Vec<Free> = self
            .ranges
            .cluster
            .iter()
            .map(|(range, mask)| Free::of(*range, *mask, &given, &self.ranges.services))
            .collect();
        let mut plan = Plan::idle();
        for node in waiting {
            let found: Option<Vec<IpNet>> = free.iter_mut().map(Iterator::next).collect();
            plan.push(match found {
                Some(parts) => assign(node, &parts),
                None => {
                    let message = format!("Node {} status is now: CIDRNotAvailable", node.name());
                    Op::normal(&**node, "CIDRNotAvailable", message)
                }
            });
        }
        plan
    }
}

fn assign(node: &Node, parts: &[IpNet]) -> Op {
    let texts: Vec<String> = parts.iter().map(IpNet::to_string).collect();
    let patch = json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": texts[0], "podCIDRs": texts}});
    Op::patch(node, Patch::Strategic(patch))
}

/// What a node has.
fn parts(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let list = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    list.chain(one).filter_map(|text| text.parse().ok()).collect()
}

/// The parts of a range that nobody has, from the first.
struct Free {
    range: IpNet,
    mask: u8,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Free {
    fn of(range: IpNet, mask: u8, given: &[IpNet], services: &[IpNet]) -> Self {
        let mut free = Self { range, mask, taken: BTreeSet::new(), next: 0 };
        for other in given.iter().chain(services) {
            if range.contains(other) {
                free.taken.extend(free.place(other.network())..=free.place(other.broadcast()));
            } else if other.contains(&range) {
                free.next = free.total();
            }
        }
        free
    }

    fn total(&self) -> u32 {
        1 << (self.mask - self.range.prefix_len())
    }

    /// The number of the part that an address of the range is in.
    fn place(&self, address: IpAddr) -> u32 {
        let number = match (address, self.range.network()) {
            (IpAddr::V4(address), IpAddr::V4(first)) => {
                u128::from(u32::from(address) - u32::from(first)) >> (32 - self.mask).min(127)
            }
            (IpAddr::V6(address), IpAddr::V6(first)) => {
                (u128::from(address) - u128::from(first)).checked_shr(u32::from(128 - self.mask)).unwrap_or(0)
            }
            _ => 0,
        };
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn part(&self, place: u32) -> Option<IpNet> {
        match self.range.network() {
            IpAddr::V4(first) => {
                let offset = place.checked_shl(u32::from(32 - self.mask)).unwrap_or(0);
                Ipv4Net::new((u32::from(first) + offset).into(), self.mask).ok().map(IpNet::V4)
            }
            IpAddr::V6(first) => {
                let offset = u128::from(place).checked_shl(u32::from(128 - self.mask)).unwrap_or(0);
                Ipv6Net::new((u128::from(first) + offset).into(), self.mask).ok().map(IpNet::V6)
            }
        }
    }
}

impl Iterator for Free {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        while self.next < self.total() {
            let place = self.next;
            self.next += 1;
            if !self.taken.contains(&place) {
                return self.part(place);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::NodeSpec;
    use kybern_api::meta::v1::ObjectMeta;

    use super::*;
    use crate::testing::{World, events, meta};

    fn ranges(cluster: &[&str], services: &[&str], mask_v4: u8, mask_v6: u8) -> Result<NodeRanges, String> {
        let nets = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        NodeRanges::new(&nets(cluster), &nets(services), mask_v4, mask_v6)
    }

    fn node(name: &str, parts: &[&str]) -> Node {
        let parts: Vec<String> = parts.iter().map(|p| (*p).to_owned()).collect();
        let spec = NodeSpec { pod_cidr: parts.first().cloned(), pod_cidrs: Some(parts), ..NodeSpec::default() };
        Node { metadata: ObjectMeta { namespace: None, ..meta(name) }, spec: Some(spec), status: None }
    }

    /// What each node is given, and the events.
    fn run(ranges: NodeRanges, nodes: &[Node]) -> (Vec<String>, Vec<String>) {
        let world = World::new();
        nodes.iter().for_each(|node| world.writers.nodes.upsert(node.clone()));
        let plan = world.reconcile(&NodeIpamController { ranges }, KEY);
        let given = plan.ops.iter().filter_map(|op| match op {
            Op::Patch { name, patch: Patch::Strategic(patch), .. } => {
                let parts = patch["spec"]["podCIDRs"].as_array().unwrap();
                assert_eq!(patch["spec"]["podCIDR"], parts[0]);
                assert!(patch["metadata"]["uid"].is_string());
                let parts: Vec<&str> = parts.iter().map(|part| part.as_str().unwrap()).collect();
                Some(format!("{name} {}", parts.join(" ")))
            }
            _ => None,
        });
        (given.collect(), events(&plan))
    }

    #[test]
    fn each_node_gets_a_part_that_nobody_has() {
        let one = || ranges(&["10.244.0.0/22"], &[], 24, 64).unwrap();
        let (given, _) = run(one(), &[node("a", &[]), node("b", &["10.244.1.0/24"]), node("c", &[])]);
        assert_eq!(given, ["a 10.244.0.0/24", "c 10.244.2.0/24"]);
        // What is larger or smaller than a part counts, too.
        let odd = [node("a", &["10.244.0.0/23"]), node("b", &["10.244.2.128/25"]), node("c", &[]), node("d", &[])];
        let (given, events) = run(one(), &odd);
        assert_eq!(given, ["c 10.244.3.0/24"]);
        assert_eq!(events, ["CIDRNotAvailable: Node d status is now: CIDRNotAvailable"]);
        assert_eq!(run(one(), &[node("a", &["10.244.0.0/24"])]).0, Vec::<String>::new());
    }

    #[test]
    fn ranges_of_services_are_left_out() {
        let ranges_of = |services: &[&str]| ranges(&["10.0.0.0/22"], services, 24, 64).unwrap();
        assert_eq!(run(ranges_of(&["10.0.0.0/23"]), &[node("a", &[])]).0, ["a 10.0.2.0/24"]);
        assert_eq!(run(ranges_of(&["10.96.0.0/12"]), &[node("a", &[])]).0, ["a 10.0.0.0/24"]);
        assert_eq!(run(ranges_of(&["10.0.0.0/8"]), &[node("a", &[])]).1.len(), 1, "nothing is left");
    }

    #[test]
    fn two_families_are_given_together() {
        let both = || ranges(&["10.244.0.0/23", "fd00:10::/56"], &["fd00:10::/64"], 24, 64).unwrap();
        let nodes = [node("a", &[]), node("b", &[]), node("c", &[])];
        let (given, events) = run(both(), &nodes);
        assert_eq!(given, ["a 10.244.0.0/24 fd00:10:0:1::/64", "b 10.244.1.0/24 fd00:10:0:2::/64"]);
        assert_eq!(events.len(), 1);
        let whole = ranges(&["0.0.0.0/0"], &[], 16, 64).unwrap();
        assert_eq!(run(whole, &[node("a", &[])]).0, ["a 0.0.0.0/16"]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(ranges(&[], &[], 24, 64).unwrap_err().contains("--cluster-cidr"));
        assert!(ranges(&["10.0.0.0/25"], &[], 24, 64).unwrap_err().contains("25 at least"));
        assert!(ranges(&["10.0.0.0/7"], &[], 24, 64).unwrap_err().contains("/8 or longer"));
        assert!(ranges(&["fd00::/40"], &[], 24, 64).unwrap_err().contains("/48 or longer"));
        assert!(ranges(&["10.0.0.0/16", "10.1.0.0/16"], &[], 24, 64).is_err());
        assert!(ranges(&["10.0.0.0/16"], &[], 33, 64).is_err());
    }
}
