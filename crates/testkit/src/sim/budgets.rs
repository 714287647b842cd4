//! The rule of PodDisruptionBudgets: evictions leave as many healthy pods as was promised.

use std::time::Duration;

use kybern_apimachinery::{Value, object};

use super::manifests::GUARDED;
use super::model::{Model, STALENESS, is_serving, number};

/// Budgets are honoured where clocks are less wrong than this, either way: here as upstream.
const CLOCKS_AGREE: Duration = Duration::from_secs(45);

impl Model {
    /// What else takes pods, or changes how many there should be, is not up to a budget. For some time its controller may
    /// not know.
    fn disturb_budgets(&mut self, namespace: &str, now: Duration) {
        self.disturbed.insert(namespace.to_owned(), now);
    }

    pub(super) fn check_budget(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        let Some(budget) = new.or(old) else { return };
        if old.is_none_or(|old| object::generation(old) != object::generation(budget)) || new.is_none() {
            self.disturb_budgets(object::namespace(budget), now);
        }
        if number(budget, &["status", "disruptionsAllowed"]) < 0 {
            self.violated(format!("{key} allows less than nothing: {}", budget["status"]));
        }
    }

    pub(super) fn check_guarded(&mut self, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        if let Some(deployment) = new.or(old).filter(|deployment| object::name(deployment) == GUARDED)
            && (new.is_none() || old.map(object::generation) != new.map(object::generation))
        {
            self.disturb_budgets(object::namespace(deployment), now);
        }
    }

    /// A pod that is evicted leaves as many as its budget promises.
    pub(super) fn check_disruption(&mut self, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        let Some(pod) = old.filter(|old| is_serving(old) && !new.is_some_and(is_serving)) else { return };
        let namespace = object::namespace(pod);
        let covering: Vec<&Value> = self.all("poddisruptionbudgets").filter(|b| covers(b, pod)).collect();
        if covering.is_empty() {
            return;
        }
        // Of an eviction its controller waits two minutes to see something, from what the server's clock said.
        if self.faults.clock_skew >= CLOCKS_AGREE {
            return;
        }
        let goes = new.is_none_or(object::is_deleting);
        let quiet = self.disturbed.get(namespace).is_none_or(|at| now.saturating_sub(*at) > STALENESS);
        if !is_evicted(pod) || !goes {
            let namespace = namespace.to_owned();
            return self.disturb_budgets(&namespace, now);
        }
        let broken = covering.into_iter().find_map(|budget| {
            let (healthy, promised) = self.healthy(budget);
            let (pod, budget) = (object::name(pod), object::key(budget));
            let text =
                format!("evicting pod {pod} left {healthy} healthy pods, where budget {budget} promises {promised}");
            (healthy < promised && quiet).then_some(text)
        });
        if let Some(text) = broken {
            self.violated(text);
        }
    }

    /// How many pods serve, and how many should.
    fn healthy(&self, budget: &Value) -> (i64, i64) {
        let healthy = self.all("pods").filter(|pod| covers(budget, pod) && is_serving(pod)).count() as i64;
        let guarded = self
            .all("deployments")
            .find(|d| object::name(d) == GUARDED && object::namespace(d) == object::namespace(budget));
        let expected = guarded.map_or(0, |d| number(d, &["spec", "replicas"]));
        let promised = match budget["spec"]["maxUnavailable"].as_i64() {
            Some(unavailable) => (expected - unavailable).max(0),
            None => number(budget, &["spec", "minAvailable"]),
        };
        (healthy, promised)
    }

    /// Names the budgets whose status is not what there is.
    pub(super) fn unsettled_budgets(&self, complaints: &mut Vec<String>) {
        for budget in self.all("poddisruptionbudgets") {
            let (healthy, promised) = self.healthy(budget);
            let status = |what: &str| number(budget, &["status", what]);
            let is_told = status("currentHealthy") == healthy
                && status("disruptionsAllowed") == (healthy - promised).max(0)
                && status("observedGeneration") == object::generation(budget)
                && budget["status"]["disruptedPods"].as_object().is_none_or(|pods| pods.is_empty());
            if !is_told {
                let (key, status) = (object::key(budget), &budget["status"]);
                complaints.push(format!("budget {key} promises {promised} of {healthy} pods and says {status}"));
            }
        }
    }
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let labels = budget["spec"]["selector"]["matchLabels"].as_object();
    object::namespace(budget) == object::namespace(pod)
        && labels.is_some_and(|labels| labels.iter().all(|(key, value)| object::label(pod, key) == value.as_str()))
}

fn is_evicted(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI")
}
