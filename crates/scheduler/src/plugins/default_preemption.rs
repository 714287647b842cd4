//! A pod that no node takes may have the place of pods of lower priority: of all nodes where that helps, the one where it
//! does least harm.

use std::cmp::Reverse;
use std::sync::Arc;

use kybern_api::policy::v1::PodDisruptionBudget;

use crate::cache::Cluster;
use crate::cycle;
use crate::filters::Filters;
use crate::framework::{Candidate, Diagnosis, Nomination, Plugin, PostFilter, Reason, Remedy, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::stores::{Budget, Kept};

/// Of the nodes that could help, so many in a hundred are tried, but at least so many.
#[derive(Clone, Debug)]
pub struct DefaultPreemption {
    pub min_candidates_percent: usize,
    pub min_candidates: usize,
}

impl Default for DefaultPreemption {
    fn default() -> Self {
        Self { min_candidates_percent: 10, min_candidates: 100 }
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }
}

type Budgets = Vec<Arc<Kept<PodDisruptionBudget, Budget>>>;

impl PostFilter for DefaultPreemption {
    fn post_filter(&self, filters: &mut Filters<'_>, diagnosis: &Diagnosis) -> Remedy {
        if let Some(why) = ineligible(filters, diagnosis) {
            return Remedy { message: format!("preemption: {why}"), ..Remedy::default() };
        }
        let candidates = match candidates(filters, diagnosis, self) {
            Ok(candidates) => candidates,
            Err(unhelped) => {
                let message = format!("preemption: {}", cycle::message(&unhelped, ""));
                return Remedy { message, nomination: Nomination::Clear, ..Remedy::default() };
            }
        };
        match filters.leaves_choice {
            true => Remedy { candidates, ..Remedy::default() },
            false => self.choose(filters.pod, filters.cluster, candidates),
        }
    }

    fn choose(&self, pod: &PodInfo, cluster: &Cluster, candidates: Vec<Candidate>) -> Remedy {
        let Some(best) = candidates.into_iter().min_by_key(harm) else {
            let message = "preemption: no candidate node for preemption".to_owned();
            return Remedy { message, ..Remedy::default() };
        };
        let node = best.node.name.clone();
        let displaced = cluster.nominated_on(&node).iter().filter(|other| other.priority < pod.priority);
        Remedy {
            displaced: displaced.cloned().collect(),
            nomination: Nomination::Node(node),
            victims: best.victims,
            ..Remedy::default()
        }
    }
}

/// Why the pod must not preempt.
fn ineligible(filters: &Filters<'_>, diagnosis: &Diagnosis) -> Option<&'static str> {
    let (pod, cluster) = (filters.pod, filters.cluster);
    if pod.wants().preempts_never {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    // Where it was to go nothing can help any more: it may look elsewhere.
    let nominated = cluster.nomination(&pod.uid).and_then(|name| cluster.index_of(name));
    let nominated = nominated.filter(|index| diagnosis.resolvable.contains(index))?;
    let makes_room = |other: &Arc<PodInfo>| other.priority < pod.priority && cluster.is_leaving(other);
    let waits = cluster.node_at(nominated).pods.iter().any(makes_room);
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Tries nodes out until enough are found; otherwise says of each why it does not help.
fn candidates(
    filters: &mut Filters<'_>,
    diagnosis: &Diagnosis,
    limits: &DefaultPreemption,
) -> Result<Vec<Candidate>, Diagnosis> {
    let cluster = filters.cluster;
    let potential = &diagnosis.resolvable;
    let enough = (potential.len() * limits.min_candidates_percent / 100).max(limits.min_candidates);
    let budgets = if potential.is_empty() { Vec::new() } else { cluster.stores().budgets.list() };
    let mut found: Vec<Candidate> = Vec::new();
    let mut unhelped = Diagnosis { nodes: cluster.len(), ..Diagnosis::default() };
    let mut count = |reason: Reason, nodes: usize| *unhelped.reasons.entry(reason).or_insert(0) += nodes;
    for &index in potential {
        match victims_on(filters, cluster.node_at(index), &budgets) {
            Ok((victims, violations)) => {
                found.push(Candidate { node: cluster.node_at(index).node.clone(), victims, violations })
            }
            Err(Verdict::Fits) => {}
            Err(Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons)) => {
                reasons.into_iter().for_each(|reason| count(reason, 1));
            }
        }
        if found.len() >= enough && found.iter().any(|candidate| candidate.violations == 0) {
            break;
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let others = cluster.len() - potential.len();
    if others > 0 {
        count("Preemption is not helpful for scheduling".into(), others);
    }
    Err(unhelped)
}

/// The fewest pods of lower priority, chosen upstream's way, without which the pod fits on a node, and how many of them
/// violate budgets. The filters are afterwards as they were.
fn victims_on(
    filters: &mut Filters<'_>,
    info: &NodeInfo,
    budgets: &Budgets,
) -> Result<(Vec<Arc<PodInfo>>, usize), Verdict> {
    let priority = filters.pod.priority;
    let mut potential: Vec<Arc<PodInfo>> = info.pods.iter().filter(|p| p.priority < priority).cloned().collect();
    if potential.is_empty() {
        return Err(Verdict::unresolvable("No preemption victims found for incoming pod"));
    }
    let node = info.node.clone();
    let mut without = info.clone();
    for pod in &potential {
        without.remove(&pod.uid);
        filters.shift(pod, &node, -1);
    }
    if let Some((_, verdict)) = filters.rejection(&without) {
        potential.iter().for_each(|pod| filters.shift(pod, &node, 1));
        return Err(verdict);
    }
    potential.sort_by(|a, b| importance(a).cmp(&importance(b)));
    let (violating, others) = split_by_budgets(potential, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    // The most important are the first to be spared, those that budgets protect before all others.
    for (pod, violates) in violating.into_iter().map(|p| (p, 1)).chain(others.into_iter().map(|p| (p, 0))) {
        without.add(pod.clone());
        filters.shift(&pod, &node, 1);
        if filters.rejection(&without).is_some() {
            without.remove(&pod.uid);
            filters.shift(&pod, &node, -1);
            violations += violates;
            victims.push(pod);
        }
    }
    victims.iter().for_each(|pod| filters.shift(pod, &node, 1));
    victims.sort_by(|a, b| importance(a).cmp(&importance(b)));
    // It fits with all of them: whatever rejected it, they do not stand in its way.
    if victims.is_empty() { Err(Verdict::Fits) } else { Ok((victims, violations)) }
}

/// Sorts by falling priority, then by age; the uid keeps it from being left to chance.
fn importance(pod: &PodInfo) -> (Reverse<i32>, i64, &str) {
    (Reverse(pod.priority), pod.started, &pod.uid)
}

/// Those that must not be disrupted, and the others.
fn split_by_budgets(pods: Vec<Arc<PodInfo>>, budgets: &Budgets) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.facts.allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            let concerned = !pod.labels.is_empty()
                && budget.namespace == pod.namespace
                && budget.facts.selector.matches(|key| pod.label(key))
                && !budget.facts.disrupted.contains(&*pod.name);
            if concerned {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

/// The less the better: violated budgets, the highest priority, all priorities, the number of victims; and the later the
/// oldest of the most important ones was started. Of equals the first is taken.
fn harm(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<i64>) {
    let highest = candidate.victims.first().map_or(0, |pod| pod.priority);
    // Every victim counts, even with a negative priority.
    let sum = candidate.victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
    let oldest = candidate.victims.iter().filter(|pod| pod.priority == highest).map(|pod| pod.started).min();
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(oldest.unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Chain;
    use crate::cycle::Position;
    use crate::fixture;
    use crate::stores::Stores;
    use kybern_apimachinery::{Value, json};
    use kybern_client::Store;

    /// `name` of the application `app` on `node` with so much processor, priority and age.
    fn running(name: &str, node: &str, cpu: &str, priority: i32, started: i64) -> PodInfo {
        let spec = json!({"nodeName": node, "priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        let mut pod = fixture::labelled(name, json!({"app": "x"}), spec);
        pod.started = started;
        pod
    }

    fn budget(allowed: i32, disrupted: Value) -> Stores {
        let (budgets, writer) = Store::new([]);
        let object = json!({
            "metadata": {"name": "b", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "x"}}},
            "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
        });
        let object: PodDisruptionBudget = kybern_api::Object::from_json(object.to_string().as_bytes()).unwrap();
        writer.upsert(Kept::of(&object));
        Stores { budgets, ..Stores::default() }
    }

    /// Nodes with two cores each, and pods on them.
    fn cluster(stores: Stores, nodes: &[&str], pods: Vec<PodInfo>) -> Cluster {
        let mut cluster = Cluster::new(stores);
        nodes.iter().for_each(|name| drop(cluster.set_node(Arc::new(fixture::sized(name, "2", "64Gi")))));
        pods.into_iter().for_each(|pod| drop(cluster.set_bound(Arc::new(pod))));
        cluster.refresh_order();
        cluster
    }

    fn preemptor(cpu: &str) -> PodInfo {
        let mut pod = fixture::requesting("new", cpu, "1Mi");
        pod.priority = 100;
        pod
    }

    fn diagnose(cluster: &Cluster, pod: &PodInfo) -> Diagnosis {
        cycle::schedule(&Chain::default(), pod, cluster, 0, &mut Position::default(), None)
            .expect_err("no node takes it")
    }

    /// `node: victims`, or the message.
    fn outcome(cluster: &Cluster, pod: &PodInfo) -> String {
        let remedy = *diagnose(cluster, pod).remedy;
        match remedy.nomination {
            Nomination::Node(node) => {
                let victims: Vec<&str> = remedy.victims.iter().map(|victim| &*victim.name).collect();
                format!("{node}: {}", victims.join(" "))
            }
            _ => remedy.message.trim_start_matches("no new claims to deallocate, ").to_owned(),
        }
    }

    #[test]
    fn the_least_harm_is_chosen() {
        let check = |what: &str, pods: Vec<PodInfo>, expect: &str| {
            let cluster = cluster(Stores::default(), &["a", "b"], pods);
            assert_eq!(outcome(&cluster, &preemptor("2")), expect, "{what}");
        };
        let full = |name, node, priority, started| running(name, node, "2", priority, started);
        check("the lower priority", vec![full("p", "a", 7, 1), full("q", "b", 5, 1)], "b: q");
        let halves = |a: [i32; 2], b: [i32; 2]| {
            let half = |name, node, priority| running(name, node, "1", priority, 1);
            vec![half("p1", "a", a[0]), half("p2", "a", a[1]), half("q1", "b", b[0]), half("q2", "b", b[1])]
        };
        check("the lower sum", halves([5, 4], [5, 3]), "b: q1 q2");
        let mut pods = halves([5, -3], [5, 0]);
        pods.truncate(3);
        pods[2] = full("q", "b", 5, 1);
        check("fewer victims", pods, "b: q");
        check("the younger", vec![full("p", "a", 5, 10), full("q", "b", 5, 20)], "b: q");
        check("the first of equals", vec![full("p", "a", 5, 1), full("q", "b", 5, 1)], "a: p");
    }

    #[test]
    fn only_what_stands_in_the_way_goes() {
        let pods = vec![
            running("high", "a", "500m", 50, 1),
            running("old", "a", "500m", 5, 1),
            running("young", "a", "500m", 5, 2),
            running("low", "a", "500m", 1, 1),
        ];
        let cluster = cluster(Stores::default(), &["a"], pods);
        for (cpu, expect) in [("500m", "a: low"), ("1", "a: young low"), ("2", "a: high old young low")] {
            assert_eq!(outcome(&cluster, &preemptor(cpu)), expect, "{cpu}");
        }
    }

    #[test]
    fn budgets_are_honoured_where_there_is_a_choice() {
        let pods = || {
            let mut free = running("free", "b", "2", 50, 1);
            free.labels = [("app".into(), "y".into())].into_iter().collect();
            vec![running("p", "a", "2", 5, 1), free]
        };
        let check = |stores: Stores, expect: &str| {
            assert_eq!(outcome(&cluster(stores, &["a", "b"], pods()), &preemptor("2")), expect);
        };
        check(budget(1, json!({})), "a: p");
        check(budget(0, json!({})), "b: free");
        check(budget(0, json!({"p": "2026-01-01T00:00:00Z"})), "a: p");
        // Within a node, those that a budget protects are spared first, whatever their priority.
        let mut other = running("other", "a", "1", 50, 1);
        other.labels = Arc::default();
        let pods = vec![running("p", "a", "1", 5, 1), other];
        assert_eq!(outcome(&cluster(budget(0, json!({})), &["a"], pods), &preemptor("1")), "a: other");
    }

    #[test]
    fn messages_are_upstreams() {
        let pods = || {
            vec![running("p", "a", "2", 100, 1), running("q", "b", "1500m", 5, 1), running("r", "b", "500m", 100, 1)]
        };
        let mut cluster = cluster(Stores::default(), &["a", "b", "c"], pods());
        cluster.set_node(Arc::new(fixture::node(json!({"metadata": {"name": "c"}, "spec": {"unschedulable": true}}))));
        let mut pod = preemptor("2");
        let diagnosis = diagnose(&cluster, &pod);
        assert_eq!(
            cycle::message(&diagnosis, &diagnosis.remedy.message),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. no new claims to deallocate, preemption: \
             0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, 1 Preemption is not helpful \
             for scheduling."
        );
        assert_eq!(diagnosis.remedy.nomination, Nomination::Clear);
        let spec = json!({"preemptionPolicy": "Never", "priority": 100, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        assert_eq!(outcome(&cluster, &fixture::pod(spec)), "preemption: not eligible due to preemptionPolicy=Never.");
        pod = preemptor("1500m");
        assert_eq!(outcome(&cluster, &pod), "b: q");
        cluster.nominate(Arc::new(pod.clone()), "b");
        cluster.doom("q");
        assert_eq!(outcome(&cluster, &pod), "preemption: not eligible due to a terminating pod on the nominated node.");
        cluster.spare("q");
        assert_eq!(outcome(&cluster, &pod), "b: q");
    }

    /// What one pod was promised, another of the same priority does not get; one of a higher priority does.
    #[test]
    fn nominated_pods_count() {
        let mut cluster = cluster(Stores::default(), &["a"], vec![running("p", "a", "1", 5, 1)]);
        let mut first = preemptor("1500m");
        first.uid = "first".into();
        cluster.nominate(Arc::new(first), "a");
        assert_eq!(outcome(&cluster, &preemptor("1")), "preemption: 0/1 nodes are available: 1 Insufficient cpu.");
        let mut higher = preemptor("2");
        higher.priority = 200;
        let remedy = diagnose(&cluster, &higher).remedy;
        assert_eq!(remedy.nomination, Nomination::Node("a".into()));
        assert_eq!(remedy.displaced.iter().map(|pod| &*pod.uid).collect::<Vec<_>>(), ["first"]);
        // Where it may go, the nominated pod itself is not in its own way.
        let mut itself = preemptor("1");
        itself.uid = "first".into();
        assert!(cycle::schedule(&Chain::default(), &itself, &cluster, 0, &mut Position::default(), None).is_ok());
    }
}
