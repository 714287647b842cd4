//! Where a pod must not run: the rules of volumes, anti-affinity and topology spread, read from the objects alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kybern_apimachinery::{Value, object};

use super::model::{Model, STALENESS, has_ended, node_of, number};

/// A pod that counts no more since some time: whoever spreads pods may still count it.
pub(super) struct Departed {
    at: Duration,
    pod: Value,
}

/// A spread that is not as it should be, unless a binding that was decided before is still under way.
pub(super) struct Doubt {
    at: Duration,
    namespace: String,
    app: String,
    text: String,
}

/// The longest that a binding is under way.
const BINDING: Duration = Duration::from_secs(30);

fn counts(pod: &Value) -> bool {
    !node_of(pod).is_empty() && !has_ended(pod) && !object::is_deleting(pod)
}

fn selects(selector: &Value, namespace: &str, pod: &Value) -> bool {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    object::namespace(pod) == namespace && labels.into_iter().all(|(k, v)| object::label(pod, k) == v.as_str())
}

impl Model {
    pub(super) fn record_departure(&mut self, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        let Some(pod) = old.filter(|old| counts(old) && !new.is_some_and(counts)) else { return };
        self.resolve_doubts(pod);
        self.departed.retain(|departed| now.saturating_sub(departed.at) <= STALENESS);
        if !pod["spec"]["topologySpreadConstraints"].is_null() {
            self.departed.push_back(Departed { at: now, pod: pod.clone() });
        }
    }

    fn label_of_node(&self, node: &str, key: &str) -> Option<&str> {
        object::label(self.objects.get(&format!("/registry/minions/{node}"))?, key)
    }

    /// Why a pod must not be on a node, with all others where they are. `now` is when somebody decided that; nobody did
    /// where all have seen all.
    pub(super) fn barred(&self, pod: &Value, node: &str, now: Option<Duration>) -> Option<String> {
        let barred = self.barred_by_volumes(pod, node);
        barred.or_else(|| self.barred_by_affinity(pod, node)).or_else(|| self.barred_by_spread(pod, node, now))
    }

    fn barred_by_affinity(&self, pod: &Value, node: &str) -> Option<String> {
        let namespace = object::namespace(pod);
        let terms = &pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        terms.as_array().into_iter().flatten().find_map(|term| {
            let key = term["topologyKey"].as_str().unwrap_or_default();
            let domain = self.label_of_node(node, key)?;
            let rival = self.all("pods").find(|other| {
                object::uid(other) != object::uid(pod)
                    && !has_ended(other)
                    && selects(&term["labelSelector"], namespace, other)
                    && self.label_of_node(node_of(other), key) == Some(domain)
            })?;
            Some(format!("pod {}, which it shuns, is in {domain}", object::name(rival)))
        })
    }

    fn barred_by_spread(&self, pod: &Value, node: &str, now: Option<Duration>) -> Option<String> {
        let namespace = object::namespace(pod);
        let constraints = pod["spec"]["topologySpreadConstraints"].as_array().into_iter().flatten();
        let hard = constraints.filter(|constraint| constraint["whenUnsatisfiable"] == "DoNotSchedule");
        hard.into_iter().find_map(|constraint| {
            let key = constraint["topologyKey"].as_str().unwrap_or_default();
            let domain = self.label_of_node(node, key)?;
            // A node that is new may not be known yet.
            let is_known = |node: &&Value| {
                let since = self.nodes_since.get(object::name(node));
                now.zip(since).is_none_or(|(now, since)| now.saturating_sub(*since) > STALENESS)
            };
            let domains: BTreeSet<&str> =
                self.all("minions").filter(is_known).filter_map(|node| object::label(node, key)).collect();
            let mut found: BTreeMap<&str, i64> = domains.into_iter().map(|domain| (domain, 0)).collect();
            let mut here = 1;
            let selected = |other: &&Value| selects(&constraint["labelSelector"], namespace, other);
            let others = self.all("pods").filter(selected).filter(|p| counts(p) && object::uid(p) != object::uid(pod));
            for other in others {
                let Some(place) = self.label_of_node(node_of(other), key) else { continue };
                here += i64::from(place == domain);
                found.entry(place).and_modify(|count| *count += 1);
            }
            for departed in self.departed.iter().filter(|departed| {
                now.is_some_and(|now| now.saturating_sub(departed.at) <= STALENESS) && selected(&&departed.pod)
            }) {
                let place = self.label_of_node(node_of(&departed.pod), key);
                place.into_iter().for_each(|place| {
                    found.entry(place).and_modify(|count| *count += 1);
                });
            }
            let least = *found.values().min()?;
            (here - least > number(constraint, &["maxSkew"]))
                .then(|| format!("{here} pods would be in {domain}, where another has {least}: {found:?}"))
        })
    }

    pub(super) fn check_placement(&mut self, key: &str, pod: &Value, node: &str, now: Duration) {
        self.resolve_doubts(pod);
        let barred = self.barred_by_volumes(pod, node).or_else(|| self.barred_by_affinity(pod, node));
        if let Some(why) = barred.filter(|_| !self.is_late(now) && !self.is_unanswered(now)) {
            self.violated(format!("pod {key} was bound to {node}, but {why}"));
        }
        if let Some(why) = self.barred_by_spread(pod, node, Some(now)) {
            let text = format!("pod {key} was bound to {node}, but {why}");
            let app = object::label(pod, "app").unwrap_or_default().to_owned();
            self.doubts.push(Doubt { at: now, namespace: object::namespace(pod).to_owned(), app, text });
        }
    }

    /// Another pod of the same comes or goes: whether a binding before was right is not to be told.
    fn resolve_doubts(&mut self, pod: &Value) {
        let (namespace, app) = (object::namespace(pod), object::label(pod, "app").unwrap_or_default());
        self.doubts.retain(|doubt| doubt.namespace != namespace || doubt.app != app);
    }

    pub(super) fn check_doubts(&mut self, now: Duration) {
        let due = self.doubts.iter().find(|doubt| now.saturating_sub(doubt.at) > BINDING);
        if let Some(text) = due.map(|doubt| doubt.text.clone()) {
            self.violated(text);
        }
    }
}
