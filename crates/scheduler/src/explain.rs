//! Why pods are where they are: every node's verdict and scores of the last hour's decisions, as `kybern explain-scheduling`
//! shows them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_apimachinery::time::to_rfc3339;
use kybern_apimachinery::{Value, json};
use parking_lot::Mutex;

use crate::core::Decision;
use crate::framework::Reason;
use crate::node::Node;

/// Below this path, `NAMESPACE/NAME` of a pod.
pub const PREFIX: &str = "/debug/scheduling";
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(1);
/// Verdicts that are kept of all decisions together: of large clusters the last minutes instead of the last hour.
const MAX_VERDICTS: usize = 200_000;

type Rejection = (&'static str, Vec<Reason>);

/// What one cycle saw.
#[derive(Default)]
pub struct Trace {
    /// Why not, and by which plugin; `None`: it fits.
    verdicts: Vec<(Arc<Node>, Option<Rejection>)>,
    /// Of the nodes that fit, in their order.
    scores: Vec<(&'static str, i64, Vec<i64>)>,
}

impl Trace {
    pub fn fits(&mut self, node: &Arc<Node>) {
        self.verdicts.push((node.clone(), None));
    }

    pub fn rejects(&mut self, node: &Arc<Node>, plugin: &'static str, reasons: &[Reason]) {
        self.verdicts.push((node.clone(), Some((plugin, reasons.to_vec()))));
    }

    /// What a plugin gives the nodes that fit, out of a hundred.
    pub fn scores(&mut self, plugin: &'static str, weight: i64, scores: &[i64]) {
        self.scores.push((plugin, weight, scores.to_vec()));
    }

    /// Extenders left these of the nodes that fit, and others did so for reasons that are given by the nodes' names.
    pub fn settle(&mut self, left: &[&Arc<Node>], reasons: &HashMap<&str, Vec<Reason>>) {
        let names: HashSet<&str> = left.iter().map(|node| &*node.name).collect();
        for (node, rejection) in self.verdicts.iter_mut().filter(|(_, rejection)| rejection.is_none()) {
            if !names.contains(&*node.name) {
                *rejection = Some(("Extender", reasons.get(&*node.name).cloned().unwrap_or_default()));
            }
        }
        // Those that are left in the order in which they get scores.
        self.verdicts.retain(|(_, rejection)| rejection.is_some());
        left.iter().for_each(|node| self.fits(node));
    }

    fn nodes(&self) -> Vec<Value> {
        let mut fitting = 0_usize..;
        let mut shown = Vec::with_capacity(self.verdicts.len());
        for (node, rejection) in &self.verdicts {
            let name = &*node.name;
            let Some((plugin, reasons)) = rejection else {
                let place = fitting.next().unwrap_or(0);
                let of_node = |(plugin, weight, scores): &(&str, i64, Vec<i64>)| {
                    let score = scores.get(place)?;
                    Some((json!({"plugin": plugin, "weight": weight, "score": score}), score * weight))
                };
                let (scores, weighted): (Vec<Value>, Vec<i64>) = self.scores.iter().filter_map(of_node).unzip();
                let total = weighted.iter().sum::<i64>();
                shown.push(json!({"name": name, "fits": true, "scores": scores, "total": total}));
                continue;
            };
            shown.push(json!({"name": name, "fits": false, "plugin": plugin, "reasons": reasons}));
        }
        shown
    }
}

struct Explanation {
    time: Timestamp,
    namespace: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    scheduler: Box<str>,
    /// The node, or why there is none.
    outcome: Result<Box<str>, String>,
    trace: Trace,
}

/// Clones share what is kept.
#[derive(Clone, Default)]
pub struct Explanations(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// The oldest first.
    list: VecDeque<Explanation>,
    verdicts: usize,
}

impl std::fmt::Debug for Explanations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explanations").finish_non_exhaustive()
    }
}

impl Explanations {
    pub(crate) fn keep(&self, trace: Trace, decision: &Decision, now: Timestamp) {
        let (pod, outcome) = match decision {
            Decision::Bind { pod, node, .. } => (pod, Ok(node.clone())),
            Decision::Prepare { pod, .. } => (pod, Err("others must act before it can be bound".to_owned())),
            Decision::Unschedulable { pod, message, .. } | Decision::Failed { pod, message } => {
                (pod, Err(message.clone()))
            }
            // What comes of it is told then.
            Decision::Ask { .. } => return,
        };
        let explanation = Explanation {
            time: now,
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            scheduler: pod.wants().scheduler.clone(),
            outcome,
            trace,
        };
        let mut kept = self.0.lock();
        kept.verdicts += explanation.trace.verdicts.len();
        kept.list.push_back(explanation);
        while let Some(oldest) = kept.list.front()
            && (kept.verdicts > MAX_VERDICTS || now.duration_since(oldest.time) > KEPT_FOR)
        {
            kept.verdicts -= oldest.trace.verdicts.len();
            kept.list.pop_front();
        }
    }

    /// What is known of the pods that had a name, the oldest decision first.
    pub fn of(&self, namespace: &str, name: &str) -> Value {
        let kept = self.0.lock();
        let found = kept.list.iter().filter(|kept| *kept.namespace == *namespace && *kept.name == *name);
        let decisions: Vec<Value> = found
            .map(|explanation| {
                let mut shown = json!({
                    "time": to_rfc3339(explanation.time),
                    "uid": explanation.uid,
                    "scheduler": explanation.scheduler,
                    "nodes": explanation.trace.nodes(),
                });
                match &explanation.outcome {
                    Ok(node) => shown["node"] = (**node).into(),
                    Err(message) => shown["message"] = message.as_str().into(),
                }
                shown
            })
            .collect();
        json!({"namespace": namespace, "name": name, "decisions": decisions})
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Profiles;
    use crate::core::Core;
    use crate::fixture;
    use crate::framework::Remedy;
    use crate::stores::Stores;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn core() -> Core {
        let mut core = Core::new(Profiles::default(), Stores::default());
        for (name, cpu) in [("a", "4"), ("b", "2"), ("small", "1")] {
            core.set_node(Arc::new(fixture::sized(name, cpu, "4Gi")), Duration::ZERO);
        }
        core
    }

    /// Schedules one pod, which has the name for its uid too.
    fn decide(core: &mut Core, explanations: &Explanations, name: &str, cpu: &str, now: Timestamp) {
        core.set_pod(Arc::new(fixture::requesting(name, cpu, "1Gi")), Duration::ZERO);
        let decision = core.schedule_next(Duration::ZERO).unwrap();
        if let Some(trace) = core.take_trace() {
            explanations.keep(trace, &decision, now);
        }
    }

    #[test]
    fn every_node_has_its_verdict_and_scores() {
        let (mut core, explanations) = (core(), Explanations::default());
        decide(&mut core, &explanations, "p", "2", at(0));
        assert_eq!(explanations.of("default", "p")["decisions"], json!([]), "nobody asked for traces");
        core.explain();
        decide(&mut core, &explanations, "q", "1500m", at(0));
        decide(&mut core, &explanations, "r", "64", at(1));
        let shown = explanations.of("default", "q");
        let decision = &shown["decisions"][0];
        let node = |name: &str| decision["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap();
        assert_eq!((&node("small")["fits"], &node("small")["plugin"]), (&json!(false), &json!("NodeResourcesFit")));
        assert_eq!(node("small")["reasons"], json!(["Insufficient cpu"]));
        assert_eq!(decision["nodes"].as_array().unwrap().len(), 3);
        let chosen = decision["node"].as_str().unwrap();
        let total = |name: &str| node(name)["total"].as_i64().unwrap();
        assert!(total(chosen) >= total("a") && total(chosen) >= total("b"), "{shown}");
        let scores = node("a")["scores"].as_array().unwrap();
        let sum: i64 = scores.iter().map(|s| s["weight"].as_i64().unwrap() * s["score"].as_i64().unwrap()).sum();
        assert_eq!(sum, total("a"));
        let message = &explanations.of("default", "r")["decisions"][0]["message"];
        assert!(message.as_str().unwrap().starts_with("0/3 nodes are available: 3 Insufficient cpu."), "{message}");
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let (mut core, explanations) = (core(), Explanations::default());
        core.explain();
        decide(&mut core, &explanations, "old", "64", at(0));
        decide(&mut core, &explanations, "new", "64", at(3601));
        assert_eq!(explanations.of("default", "old")["decisions"], json!([]), "an hour is over");
        assert_eq!(explanations.of("default", "new")["decisions"].as_array().unwrap().len(), 1);
        for n in 0..MAX_VERDICTS / 3 + 10 {
            let node = Arc::new(fixture::sized("n", "1", "1Gi"));
            let mut trace = Trace::default();
            (0..3).for_each(|_| trace.fits(&node));
            let pod = Arc::new(fixture::requesting(&format!("many-{n}"), "1", "1Gi"));
            explanations.keep(
                trace,
                &Decision::Unschedulable { pod, message: String::new(), remedy: Remedy::default() },
                at(3602),
            );
        }
        let kept = explanations.0.lock();
        assert!(kept.verdicts <= MAX_VERDICTS);
        assert_eq!(kept.verdicts, kept.list.iter().map(|kept| kept.trace.verdicts.len()).sum::<usize>());
    }
}
