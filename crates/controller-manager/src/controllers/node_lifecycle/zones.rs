//! How fast nodes that are not ready begin to lose their pods: zone by zone, the slower the more of a zone is not ready, and not
//! at all where no zone has a node that is (`handleDisruption`, `doNoExecuteTaintingPass`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::Node;
use kybern_api::{Object, condition};

use super::{NOT_READY, NodeLifecycleController, Settings, UNREACHABLE, status_of, taint};
use crate::controller::Plan;
use crate::metrics::{NODE_EVICTIONS, UNHEALTHY_NODES, ZONE_HEALTH, ZONE_SIZE};

/// Nodes with this label say nothing about the health of their zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// So many nodes that are not ready make no zone unhealthy.
const FEW: usize = 2;

#[derive(Default)]
struct Zone {
    ready: usize,
    unready: usize,
    /// The nodes that are to lose their pods and do not yet.
    waiting: Vec<Arc<Node>>,
}

/// What matters of a node to its zone.
pub(super) fn facts(node: &Node) -> (String, String, bool, bool) {
    (zone_of(node), status_of(node, "Ready").to_owned(), is_excluded(node), loses_pods(node))
}

/// Region and zone. Those of the old labels count first, as upstream has it.
fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.labels().and_then(|labels| labels.get(key));
    let either = |old: &str, new: &str| label(old).or_else(|| label(new)).cloned().unwrap_or_default();
    let zone = either("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone");
    let region = either("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region");
    // Upstream's form, which its metrics show: neither name holds a NUL.
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

fn is_excluded(node: &Node) -> bool {
    node.labels().is_some_and(|labels| labels.contains_key(EXCLUDED))
}

/// Whether a taint of this controller makes the node's pods leave.
pub(super) fn loses_pods(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    taints.filter(|taint| taint.effect == "NoExecute").any(|taint| [NOT_READY, UNREACHABLE].contains(&&*taint.key))
}

/// Since when the node is not ready.
fn since(node: &Node) -> Option<Timestamp> {
    let ready = condition::find(&node.status.as_ref()?.conditions, "Ready")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

impl Zone {
    fn is_lost(&self) -> bool {
        self.ready == 0 && self.unready > 0
    }

    /// Nodes a second. A zone of which nothing is ready is believed, for others are.
    fn rate(&self, settings: &Settings) -> f64 {
        let size = self.ready + self.unready;
        let is_unhealthy = self.unready > FEW && self.unready as f64 / size as f64 >= settings.unhealthy_zone_threshold;
        match (self.is_lost() || !is_unhealthy, size > settings.large_cluster_size_threshold) {
            (true, _) => settings.eviction_rate,
            (false, true) => settings.secondary_eviction_rate,
            (false, false) => 0.0,
        }
    }
}

impl NodeLifecycleController {
    pub(super) fn judge_zones(&self, nodes: &[Arc<Node>], now: Timestamp) -> Plan {
        let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
        for node in nodes {
            let (name, ready, is_excluded, loses_pods) = facts(node);
            let zone = zones.entry(name).or_default();
            if !is_excluded {
                *(if ready == "True" { &mut zone.ready } else { &mut zone.unready }) += 1;
            }
            if matches!(ready.as_str(), "False" | "Unknown") && !loses_pods {
                zone.waiting.push(node.clone());
            }
        }
        let mut measures = Plan::idle();
        for (name, zone) in &zones {
            let (ready, size) = (zone.ready as f64, (zone.ready + zone.unready) as f64);
            measures.measure(&ZONE_SIZE, [name], size);
            measures.measure(&ZONE_HEALTH, [name], if size > 0.0 { 100.0 * ready / size } else { 100.0 });
            measures.measure(&UNHEALTHY_NODES, [name], zone.unready as f64);
        }
        for gone in std::mem::replace(&mut *self.zones.lock(), zones.keys().cloned().collect()) {
            if !zones.contains_key(&gone) {
                measures.measure(&ZONE_SIZE, [&gone], 0.0);
                measures.measure(&ZONE_HEALTH, [&gone], 100.0);
                measures.measure(&UNHEALTHY_NODES, [&gone], 0.0);
            }
        }
        let mut counted = zones.values().filter(|zone| zone.ready + zone.unready > 0).peekable();
        if counted.peek().is_some() && counted.all(Zone::is_lost) {
            // It is rather this side that is cut off. Nobody loses pods.
            let back = nodes.iter().filter(|node| loses_pods(node)).filter_map(|n| taint(n, false, now));
            return Plan { ops: back.collect(), ..measures };
        }
        let (mut plan, mut last) = (measures, self.tainted.lock());
        last.retain(|name, _| zones.contains_key(name));
        for (name, mut zone) in zones {
            let rate = zone.rate(&self.settings);
            if zone.waiting.is_empty() || rate <= 0.0 {
                continue;
            }
            let pause = SignedDuration::try_from_secs_f64(1.0 / rate).unwrap_or(SignedDuration::MAX);
            let after = |time: Timestamp| time.checked_add(pause).unwrap_or(Timestamp::MAX);
            zone.waiting.sort_by_key(|node| (since(node), node.name().to_owned()));
            let began = last.get(&name).cloned();
            // A node that had its turn and still waits was changed by somebody else meanwhile: its turn goes on.
            let again = began.as_ref().and_then(|(node, _)| zone.waiting.iter().position(|n| n.name() == node));
            let next = began.as_ref().map_or(now, |(_, time)| after(*time));
            if again.is_none() && next > now {
                plan.requeue_at(next, now);
                continue;
            }
            let node = &zone.waiting[again.unwrap_or(0)];
            let began = began.filter(|_| again.is_some()).map_or(now, |(_, time)| time);
            plan.ops.extend(taint(node, true, now));
            if again.is_none() {
                plan.count(&NODE_EVICTIONS, [&name]);
            }
            last.insert(name, (node.name().to_owned(), began));
            if zone.waiting.len() > 1 {
                plan.requeue_at(after(began).max(now), now);
            }
        }
        plan
    }
}
