//! One scheduling cycle: from a pod and the cluster to a node, or to the reasons why there is none. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::cache::Cluster;
use crate::chain::Chain;
use crate::explain::Trace;
use crate::filters::Filters;
use crate::framework::{ApiCall, Diagnosis, Nomination, PreFilter, PreScore, Reason, Remedy, Verdict};
use crate::meter::{Counted, Meter};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Below this many nodes, all are looked at.
const MIN_SAMPLE: usize = 100;

/// What goes on from cycle to cycle: where the search begins, so that all nodes get their share, and what is measured.
#[derive(Debug, Default)]
pub struct Position {
    start: usize,
    cycles: usize,
    pub meter: Meter,
}

/// The number of feasible nodes after which the search ends. With `percentage` 0 it adapts: half of a hundred nodes, less of
/// more, but at least a twentieth.
pub fn sample_size(nodes: usize, percentage: u32) -> usize {
    if nodes < MIN_SAMPLE {
        return nodes;
    }
    let percentage = match percentage as usize {
        0 => 50usize.saturating_sub(nodes / 125).max(5),
        fixed => fixed.min(100),
    };
    (nodes * percentage / 100).max(MIN_SAMPLE)
}

/// Finds the best node for a pod; answers its index. The cluster's order must be fresh.
pub fn schedule(
    chain: &Chain,
    pod: &PodInfo,
    cluster: &Cluster,
    percentage: u32,
    position: &mut Position,
    mut trace: Option<&mut Trace>,
) -> Result<usize, Diagnosis> {
    let mut filters = Filters::new(pod, cluster);
    let Found { feasible, diagnosis, .. } =
        search(chain, &mut filters, percentage, position, true, trace.as_deref_mut());
    if feasible.is_empty() {
        return Err(with_remedy(chain, &mut filters, diagnosis, &mut position.meter));
    }
    Ok(best(chain, pod, cluster, &feasible, &[], position, trace))
}

/// Has plugins say what can be done so that a pod may fit later.
pub fn with_remedy(chain: &Chain, filters: &mut Filters<'_>, mut diagnosis: Diagnosis, meter: &mut Meter) -> Diagnosis {
    // Without nodes there is nothing to try, upstream's way.
    if !filters.cluster.is_empty() {
        let began = Instant::now();
        let remedy = remedy(chain, filters, &diagnosis, meter);
        meter.point("PostFilter", remedy.code(), began);
        diagnosis.remedy = Box::new(remedy);
        filters.tell(meter, |bit| chain.filter[bit].name());
    }
    diagnosis
}

/// Asks what can be done, until one plugin does something.
fn remedy(chain: &Chain, filters: &mut Filters<'_>, diagnosis: &Diagnosis, meter: &mut Meter) -> Remedy {
    let (mut messages, mut calls): (Vec<String>, Vec<ApiCall>) = Default::default();
    let mut remedy = Remedy::default();
    for plugin in &chain.post_filter {
        let began = meter.sampled();
        remedy = plugin.post_filter(filters, diagnosis);
        meter.plugin("PostFilter", plugin.name(), remedy.code(), began, 1);
        calls.append(&mut remedy.calls);
        messages.extend(Some(std::mem::take(&mut remedy.message)).filter(|text| !text.is_empty()));
        if matches!(remedy.nomination, Nomination::Node(_)) {
            // What others could not do is not told once something is done.
            messages.clear();
            break;
        }
        if !remedy.candidates.is_empty() {
            break;
        }
    }
    Remedy { message: messages.join(", "), calls, ..remedy }
}

/// The nodes to which plugins confine a pod, and the plugins that do.
#[derive(Default)]
struct Choice {
    only: Option<BTreeSet<String>>,
    choosers: Vec<(usize, &'static str)>,
}

/// Has plugins compute their filters; an error is the bit and the reason of one that takes no node at all.
fn prepare<'a>(chain: &'a Chain, filters: &mut Filters<'a>, meter: &mut Meter) -> Result<Choice, (usize, Reason)> {
    let mut choice = Choice::default();
    for (bit, plugin) in chain.filter.iter().enumerate() {
        let began = meter.sampled();
        let answer = plugin.pre_filter(filters.pod, filters.cluster);
        meter.plugin("PreFilter", plugin.name(), answer.code(), began, 1);
        if !matches!(answer, PreFilter::Skip) {
            meter.count(Counted::PreFilter, bit, 1);
        }
        match answer {
            PreFilter::Skip => {}
            PreFilter::Filter(filter) => filters.push(bit, filter),
            PreFilter::Only(names, filter) => {
                filters.push(bit, filter);
                choice.choosers.push((bit, plugin.name()));
                choice.only = Some(choice.only.map_or_else(|| names.clone(), |before| &before & &names));
            }
            PreFilter::Reject(reason) => return Err((bit, reason)),
        }
    }
    Ok(choice)
}

/// Those of some nodes that take a pod now.
pub fn still_feasible<'a>(
    chain: &'a Chain,
    filters: &mut Filters<'a>,
    nodes: &[usize],
    meter: &mut Meter,
) -> Vec<usize> {
    let Ok(Choice { only, .. }) = prepare(chain, filters, meter) else { return Vec::new() };
    let cluster = filters.cluster;
    let mut fits = |index: &&usize| {
        let info = cluster.node_at(**index);
        only.as_ref().is_none_or(|names| names.contains(&*info.node.name)) && filters.rejection(info).is_none()
    };
    nodes.iter().filter(|index| fits(index)).copied().collect()
}

/// As [`with_remedy`], some time after the search; `None` where a plugin meanwhile takes no node at all.
pub fn reconsider<'a>(
    chain: &'a Chain,
    filters: &mut Filters<'a>,
    diagnosis: Diagnosis,
    meter: &mut Meter,
) -> Option<Diagnosis> {
    prepare(chain, filters, meter).ok()?;
    Some(with_remedy(chain, filters, diagnosis, meter))
}

/// The nodes that take a pod, and why others do not.
#[derive(Debug)]
pub struct Found {
    pub feasible: Vec<usize>,
    /// It is the one that the pod is nominated to.
    pub is_nominated: bool,
    pub diagnosis: Diagnosis,
}

/// Looks for nodes that take a pod until there are enough. With `heeds_nomination` the node that it is nominated to is tried
/// first, and is all there is if it fits.
pub fn search<'a>(
    chain: &'a Chain,
    filters: &mut Filters<'a>,
    percentage: u32,
    position: &mut Position,
    heeds_nomination: bool,
    mut trace: Option<&mut Trace>,
) -> Found {
    let (pod, cluster) = (filters.pod, filters.cluster);
    position.cycles = position.cycles.wrapping_add(1);
    let mut diagnosis = Diagnosis { nodes: cluster.len(), ..Diagnosis::default() };
    let began = Instant::now();
    let Choice { only, choosers } = match prepare(chain, filters, &mut position.meter) {
        Ok(choice) => choice,
        Err((bit, reason)) => {
            position.meter.point("PreFilter", "UnschedulableAndUnresolvable", began);
            diagnosis.rejected = Some(reason);
            diagnosis.plugins = 1 << bit;
            return Found { feasible: Vec::new(), is_nominated: false, diagnosis };
        }
    };
    position.meter.point("PreFilter", "Success", began);
    if position.meter.samples() {
        filters.time();
    }
    let began = Instant::now();
    if heeds_nomination
        && let Some(nominated) = cluster.nomination(&pod.uid).and_then(|name| cluster.index_of(name))
        && filters.rejection(cluster.node_at(nominated)).is_none()
    {
        if let Some(trace) = trace {
            trace.fits(&cluster.node_at(nominated).node);
        }
        filtered(chain, filters, position, began);
        return Found { feasible: vec![nominated], is_nominated: true, diagnosis };
    }
    let mut feasible = Vec::new();
    let mut visit = |index: usize, diagnosis: &mut Diagnosis| {
        let info = cluster.node_at(index);
        let (bit, verdict) = filters.rejection(info).unwrap_or((0, Verdict::Fits));
        let reasons = match verdict {
            Verdict::Fits => {
                feasible.push(index);
                if let Some(trace) = &mut trace {
                    trace.fits(&info.node);
                }
                return;
            }
            Verdict::Unschedulable(reasons) => {
                diagnosis.resolvable.push(index);
                reasons
            }
            Verdict::Unresolvable(reasons) => reasons,
        };
        if let Some(trace) = &mut trace {
            trace.rejects(&info.node, chain.filter[bit].name(), &reasons);
        }
        reject(diagnosis, bit, reasons);
    };
    if let Some(names) = &only {
        let mut looked_at = 0;
        for index in names.iter().filter_map(|name| cluster.index_of(name)) {
            looked_at += 1;
            visit(index, &mut diagnosis);
        }
        let others = cluster.len() - looked_at;
        if others > 0 {
            let plugins: Vec<&str> = choosers.iter().map(|(_, name)| *name).collect();
            let reason = format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" "));
            diagnosis.reasons.insert(reason.into(), others);
            choosers.iter().for_each(|(bit, _)| diagnosis.plugins |= 1 << bit);
        }
    } else {
        let order = cluster.order();
        let enough = sample_size(order.len(), percentage);
        let mut looked_at = 0;
        let (before, after) = order.split_at(position.start.min(order.len()));
        for &index in after.iter().chain(before) {
            looked_at += 1;
            visit(index, &mut diagnosis);
            if looked_at - diagnosis.rejections >= enough {
                break;
            }
        }
        position.start = (position.start + looked_at).checked_rem(order.len()).unwrap_or(0);
    }
    filtered(chain, filters, position, began);
    Found { feasible, is_nominated: false, diagnosis }
}

/// The filters were asked of all nodes that a search looks at.
fn filtered(chain: &Chain, filters: &mut Filters<'_>, position: &mut Position, began: Instant) {
    position.meter.point("Filter", "Success", began);
    filters.tell(&mut position.meter, |bit| chain.filter[bit].name());
}

fn reject(diagnosis: &mut Diagnosis, bit: usize, reasons: Vec<Reason>) {
    diagnosis.plugins |= 1 << bit;
    diagnosis.rejections += 1;
    for reason in reasons {
        *diagnosis.reasons.entry(reason).or_insert(0) += 1;
    }
}

/// The node with the highest weighted sum of scores; nodes with the same take turns. `more` is added to their scores, in
/// their order.
pub fn best(
    chain: &Chain,
    pod: &PodInfo,
    cluster: &Cluster,
    feasible: &[usize],
    more: &[i64],
    position: &mut Position,
    mut trace: Option<&mut Trace>,
) -> usize {
    if let [only] = feasible {
        return *only;
    }
    let nodes: Vec<&NodeInfo> = feasible.iter().map(|index| cluster.node_at(*index)).collect();
    let mut totals = vec![0; nodes.len()];
    let mut scores = Vec::with_capacity(nodes.len());
    let meter = &mut position.meter;
    let mut scored = Duration::ZERO;
    let begun = Instant::now();
    for (place, (plugin, weight)) in chain.score.iter().enumerate() {
        let began = meter.sampled();
        let answer = plugin.pre_score(pod, cluster, &nodes);
        meter.plugin("PreScore", plugin.name(), answer.code(), began, 1);
        let PreScore::Score(score) = answer else { continue };
        let began = Instant::now();
        scores.clear();
        scores.extend(nodes.iter().map(|node| score(node)));
        meter.plugin("Score", plugin.name(), "Success", meter.samples().then_some(began), nodes.len());
        meter.count(Counted::PreScore, place, 1);
        meter.count(Counted::Score, place, nodes.len() as u64);
        plugin.normalize(&mut scores);
        if let Some(trace) = &mut trace {
            trace.scores(plugin.name(), *weight, &scores);
        }
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * weight;
        }
        scored += began.elapsed();
    }
    // Here one plugin after the other does both.
    meter.add("PreScore", None, "Success", begun.elapsed().saturating_sub(scored));
    meter.add("Score", None, "Success", scored);
    if let Some(trace) = trace.filter(|_| !more.is_empty()) {
        trace.scores("Extender", 1, more);
    }
    for (total, more) in totals.iter_mut().zip(more) {
        *total = i64::saturating_add(*total, *more);
    }
    let max = totals.iter().copied().max().unwrap_or(0);
    let tied = totals.iter().filter(|total| **total == max).count().max(1);
    let winner = totals.iter().enumerate().filter(|(_, total)| **total == max).nth(position.cycles % tied);
    winner.map_or(feasible[0], |(at, _)| feasible[at])
}

/// The message of a pod that no node takes: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub fn message(diagnosis: &Diagnosis, tried: &str) -> String {
    if diagnosis.nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut text = format!("0/{} nodes are available", diagnosis.nodes);
    let mut reasons: Vec<String> = match &diagnosis.rejected {
        Some(reason) => vec![reason.to_string()],
        None => diagnosis.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect(),
    };
    reasons.sort();
    if !reasons.is_empty() {
        let _ = write!(text, ": {}.", reasons.join(", "));
    }
    if !tried.is_empty() {
        let _ = write!(text, " {tried}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::json;
    use std::sync::Arc;

    fn cluster(nodes: Vec<crate::node::Node>) -> Cluster {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.set_node(Arc::new(node));
        }
        cluster.refresh_order();
        cluster
    }

    fn place(cluster: &Cluster, pod: &PodInfo) -> Result<String, String> {
        schedule(&Chain::default(), pod, cluster, 0, &mut Position::default(), None)
            .map(|index| cluster.node_at(index).node.name.to_string())
            .map_err(|diagnosis| message(&diagnosis, ""))
    }

    #[test]
    fn samples() {
        for (nodes, percentage, expect) in [
            (0, 0, 0),
            (99, 0, 99),
            (100, 0, 100),
            (1000, 0, 420),
            (6000, 0, 300),
            (1000, 70, 700),
            (1000, 1, 100),
            (200, 100, 200),
        ] {
            assert_eq!(sample_size(nodes, percentage), expect, "{nodes} at {percentage} %");
        }
    }

    #[test]
    fn the_emptiest_node_wins() {
        let mut cluster = cluster(vec![fixture::sized("a", "4", "4Gi"), fixture::sized("b", "4", "4Gi")]);
        cluster.assume(Arc::new(fixture::requesting("x", "1", "1Gi")), "a");
        assert_eq!(place(&cluster, &fixture::requesting("p", "1", "1Gi")).as_deref(), Ok("b"));
    }

    #[test]
    fn messages_are_upstreams() {
        let tainted = json!({"metadata": {"name": "t"}, "spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}});
        let cordoned = json!({"metadata": {"name": "c"}, "spec": {"unschedulable": true}});
        let cluster = cluster(vec![
            fixture::node(tainted),
            fixture::node(cordoned),
            fixture::sized("s1", "1", "1Gi"),
            fixture::sized("s2", "1", "1Gi"),
        ]);
        assert_eq!(
            place(&cluster, &fixture::requesting("p", "2", "1")).unwrap_err(),
            "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 1 node(s) were unschedulable, 2 Insufficient cpu."
        );
        let pinned = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}]}}}});
        assert_eq!(
            place(&cluster, &fixture::pod(pinned)).unwrap_err(),
            "0/4 nodes are available: 1 node(s) were unschedulable, 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
        assert_eq!(
            place(&Cluster::default(), &fixture::pod(json!({}))).unwrap_err(),
            "no nodes available to schedule pods"
        );
    }

    /// Each question to a plugin counts, and every tenth cycle times plugins one by one.
    #[test]
    fn plugins_are_measured() {
        let cordoned = json!({"metadata": {"name": "c"}, "spec": {"unschedulable": true}});
        let cluster =
            cluster(vec![fixture::sized("a", "4", "4Gi"), fixture::node(cordoned), fixture::sized("b", "4", "4Gi")]);
        let (chain, mut position) = (Chain::default(), Position::default());
        let pod = fixture::requesting("p", "1", "1Gi");
        for n in 1..=10 {
            position.meter.begin(0);
            schedule(&chain, &pod, &cluster, 0, &mut position, None).unwrap();
            let (spans, counts) = position.meter.fetch();
            let place = |name: &str| chain.filter.iter().position(|plugin| plugin.name() == name).unwrap();
            let asked = |point: Counted, name: &str| counts[0][point as usize][place(name)];
            assert_eq!((asked(Counted::PreFilter, "NodePorts"), asked(Counted::Filter, "NodePorts")), (0, 0));
            assert_eq!(asked(Counted::PreFilter, "NodeResourcesFit"), 1);
            let (first, last) =
                (asked(Counted::Filter, "NodeUnschedulable"), asked(Counted::Filter, "NodeResourcesFit"));
            assert_eq!((first, last), (3, 2), "the cordoned node is not asked about its resources");
            assert_eq!(counts[0][Counted::Score as usize].iter().filter(|count| **count == 2).count(), 2);
            let timed = |point: &str| spans.iter().filter(|span| span.point == point && span.plugin.is_some()).count();
            let all = spans.iter().filter(|span| span.plugin.is_none()).map(|span| span.point);
            assert_eq!(all.collect::<Vec<_>>(), ["PreFilter", "Filter", "PreScore", "Score"]);
            assert_eq!(timed("Filter") > 0, n == 10, "cycle {n}");
            assert_eq!(timed("PreFilter"), if n == 10 { chain.filter.len() } else { 0 });
        }
    }

    /// Equal nodes get equally many pods, and a search that ends early goes on where it ended.
    #[test]
    fn nodes_take_turns() {
        for count in [3, 250] {
            let nodes = (0..count).map(|n| fixture::sized(&format!("n{n}"), "1000", "1000Gi")).collect();
            let mut cluster = cluster(nodes);
            let mut position = Position::default();
            for n in 0..count * 2 {
                let pod = Arc::new(fixture::requesting(&format!("p{n}"), "1", "1Gi"));
                let index = schedule(&Chain::default(), &pod, &cluster, 0, &mut position, None).unwrap();
                let name = cluster.node_at(index).node.name.clone();
                cluster.assume(pod, &name);
            }
            let most = (0..count).map(|n| cluster.node_at(n).pods.len()).max();
            assert!(most <= Some(3), "{count} nodes: {most:?} pods on one");
        }
    }
}
