//! What the cluster is according to every commit, and the rules that no commit may break.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::{Value, object};
use kybern_storage::{Revision, Write};

use super::faults::Faults;
use super::lateness::Unaware;
use super::placement::{Departed, Doubt};
use super::workloads::{JobRecord, ordinal, owner_kind};

/// How long someone may act on what it saw before: the network's delays and retries, and a watch that broke.
pub(super) const STALENESS: Duration = Duration::from_secs(120);

const TRACE: &str = "KYBERN_SIM_TRACE";
/// See the module.
#[derive(Default)]
pub struct Model {
    pub revision: Revision,
    /// By storage key.
    pub objects: BTreeMap<String, Value>,
    /// Which rules hold depends on what may go wrong.
    pub(super) faults: Faults,
    /// By node: when its object was deleted.
    removed_nodes: BTreeMap<String, Duration>,
    /// By uid of a workload: what sizes it may be seen to have, and since when no more.
    sizes: BTreeMap<String, Vec<(Duration, i64)>>,
    /// Deployments, by uid, that have had all their pods ready since their size was last changed.
    complete: BTreeSet<String>,
    /// What commits there were, for the report and to tell runs apart.
    pub digest: u64,
    pub bindings: usize,
    /// Keys that were written since someone last cleared this, but for leases and events.
    pub changed: BTreeSet<String>,
    pub(super) jobs: BTreeMap<String, JobRecord>,
    /// By namespace: when what its budgets guard was last changed by anything but an eviction.
    pub(super) disturbed: BTreeMap<String, Duration>,
    /// By uid of a quota: when its limits were last changed.
    pub(super) quotas_since: BTreeMap<String, Duration>,
    /// By node: when its object was made.
    pub(super) nodes_since: BTreeMap<String, Duration>,
    pub(super) departed: VecDeque<Departed>,
    pub(super) doubts: Vec<Doubt>,
    pub(super) unaware: Unaware,
    violation: Option<String>,
    /// Parts of keys whose commits are printed, separated by commas.
    traced: Option<String>,
}

impl Model {
    pub fn new(faults: Faults) -> Self {
        Self { revision: 1, faults, traced: std::env::var(TRACE).ok(), ..Self::default() }
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(super) fn violated(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// Takes in a commit.
    pub fn commit(&mut self, revision: Revision, writes: &[Write], now: Duration) {
        if revision != self.revision + 1 {
            self.violated(format!("revision {revision} was given out after {}", self.revision));
        }
        self.revision = revision;
        self.check_doubts(now);
        for write in writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value)),
                Write::Delete(key) => (key, None),
            };
            self.mix(revision, key.as_bytes());
            self.mix(now.as_nanos() as u64, value.map_or(&[], |v| v));
            let new = value.map(|value| serde_json::from_slice::<Value>(value).expect("the server stores JSON"));
            let old = match &new {
                Some(new) => self.objects.insert(key.to_string(), new.clone()),
                None => self.objects.remove(&**key),
            };
            if !key.starts_with("/registry/leases/") && !key.starts_with("/registry/events/") {
                self.changed.insert(key.to_string());
            }
            if self.traced.as_deref().is_some_and(|traced| traced.split(',').any(|part| key.contains(part))) {
                println!("{:8.3} {revision} {key} {}", now.as_secs_f64(), new.clone().unwrap_or_default());
            }
            self.check(key, old.as_ref(), new.as_ref(), now);
        }
    }

    /// What was written since this was last cleared, but for what tells only who decides since when. What was recommended
    /// lately is forgotten with the leader, and an autoscaler's status says whether that counts; why a pod waits is told anew.
    pub(super) fn take_decided(&mut self) -> BTreeSet<String> {
        let mut changed = std::mem::take(&mut self.changed);
        let waits = |key: &String| {
            let object = self.objects.get(key).filter(|_| key.starts_with("/registry/pods/"));
            object.is_some_and(|pod| node_of(pod).is_empty())
        };
        changed.retain(|key| !key.starts_with("/registry/horizontalpodautoscalers/") && !waits(key));
        changed
    }

    /// FNV-1a.
    fn mix(&mut self, number: u64, bytes: &[u8]) {
        for byte in number.to_le_bytes().iter().chain(bytes) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The objects of a kind, by the prefix of its storage keys.
    pub fn all(&self, prefix: &str) -> impl Iterator<Item = &Value> {
        let prefix = format!("/registry/{prefix}/");
        let end = prefix.clone();
        self.objects.range(prefix..).take_while(move |(k, _)| k.starts_with(&end)).map(|(_, v)| v)
    }

    pub fn has_node(&self, name: &str) -> bool {
        self.objects.contains_key(&format!("/registry/minions/{name}"))
    }

    /// Of the controlling owner.
    pub(super) fn owned<'a>(&'a self, prefix: &'a str, uid: &'a str) -> impl Iterator<Item = &'a Value> {
        self.all(prefix).filter(move |o| owner_uid(o) == uid)
    }

    fn check(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        if let (Some(old), Some(new)) = (old, new) {
            if object::uid(old) != object::uid(new) {
                self.violated(format!("{key} changed its uid without having been deleted"));
            }
            if object::generation(new) < object::generation(old) {
                self.violated(format!("the generation of {key} went back"));
            }
            if object::is_deleting(old) && !object::is_deleting(new) {
                self.violated(format!("the deletion of {key} was taken back"));
            }
        }
        match key.strip_prefix("/registry/").and_then(|k| k.split('/').next()) {
            Some("pods") => self.check_pod(key, old, new, now),
            Some("minions") => {
                let name = key.rsplit('/').next().unwrap_or_default().to_owned();
                if new.is_none() {
                    self.removed_nodes.insert(name, now);
                } else if old.is_none() {
                    self.nodes_since.insert(name, now);
                }
            }
            Some("resourcequotas") => self.record_quota(old, new, now),
            Some("persistentvolumeclaims") => self.check_claim(key, old, new),
            Some("persistentvolumes") => self.check_volume(key, old, new),
            Some("services") if new.is_some() => self.check_services(),
            Some("poddisruptionbudgets") => self.check_budget(key, old, new, now),
            Some("deployments") => {
                self.check_guarded(old, new, now);
                self.check_elastic(key, new);
                if let Some(new) = new {
                    let size = number(new, &["spec", "replicas"]);
                    if old.is_none_or(|old| number(old, &["spec", "replicas"]) != size) {
                        self.complete.remove(object::uid(new));
                    }
                    self.resized(object::uid(new), size, now);
                }
            }
            Some("replicasets") => self.check_replica_set(old, new, now),
            Some("statefulsets") => {
                if let Some(new) = new {
                    self.resized(object::uid(new), number(new, &["spec", "replicas"]), now);
                }
            }
            Some("jobs") => self.check_job(key, old, new, now),
            _ => {}
        }
    }

    fn check_pod(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        let was_on = old.map_or("", node_of);
        if let Some(new) = new {
            let is_on = node_of(new);
            if !was_on.is_empty() && was_on != is_on {
                self.violated(format!("pod {key} was bound to {was_on} and then to {is_on:?}"));
            }
            if was_on.is_empty() && !is_on.is_empty() {
                self.bindings += 1;
                self.check_binding(key, is_on, now);
                self.check_placement(key, new, is_on, now);
            }
            if old.is_none() {
                self.check_made(new, now);
                self.check_order(new);
                self.check_quotas(new, now);
            }
        } else if let Some(old) = old
            && self.has_node(was_on)
            && !object::is_deleting(old)
            && !has_ended(old)
        {
            // Its successor of the same name would run beside it.
            self.violated(format!("pod {key} went while it ran on {was_on}, which was not asked to end it"));
        }
        self.check_ending(old, new);
        self.record_job_pod(old, new);
        self.check_disruption(old, new, now);
        self.record_departure(old, new, now);
        let lost = old.is_some_and(is_serving) && !new.is_some_and(is_serving);
        let gained = new.is_some_and(is_serving) && !old.is_some_and(is_serving);
        if let Some(pod) = old.or(new).filter(|_| lost || gained) {
            self.check_available(pod, lost, now);
        }
    }

    fn check_binding(&mut self, key: &str, node: &str, now: Duration) {
        if !self.has_node(node) {
            let removed = self.removed_nodes.get(node).copied();
            if removed.is_none_or(|at| now.saturating_sub(at) > STALENESS) {
                self.violated(format!("pod {key} was bound to {node:?}, which does not exist"));
            }
            return;
        }
        let node = &self.objects[&format!("/registry/minions/{node}")];
        let name = object::name(node);
        let limit = |what: &str| quantity(&node["status"]["allocatable"][what]);
        let on_node: Vec<&Value> = self.all("pods").filter(|p| node_of(p) == name && !has_ended(p)).collect();
        let cpu: i64 = on_node.iter().map(|pod| milli_cpu(pod)).sum();
        let (cpu_limit, pod_limit) = (limit("cpu"), limit("pods") / 1000);
        let count = on_node.len();
        if (cpu > cpu_limit || count as i64 > pod_limit) && !self.is_late(now) && !self.is_unanswered(now) {
            self.violated(format!(
                "binding pod {key} to {name} made it hold {count} pods with {cpu}m CPU; it has {pod_limit} and {cpu_limit}m"
            ));
        }
    }

    /// No more pods than the owner was asked for within the time that its controller may lag.
    fn check_made(&mut self, pod: &Value, now: Duration) {
        let owner = owner_uid(pod);
        let Some(largest) = self.largest(owner, now) else { return };
        let live = match ordinal(pod).filter(|_| owner_kind(pod) == "StatefulSet") {
            // Of those that are too many some may wait until others serve.
            Some(ordinal) => ordinal as usize + 1,
            None => self.owned("pods", owner).filter(|p| !object::is_deleting(p) && !has_ended(p)).count(),
        };
        if live as i64 > largest && !self.is_unanswered(now) && !self.is_late(now) {
            let name = object::name(pod);
            self.violated(format!("pod {name} is number {live} of an owner that should have {largest}"));
        }
    }

    /// A rolling update leaves `replicas - maxUnavailable` pods serving, as far as it is up to the controllers.
    fn check_available(&mut self, pod: &Value, lost: bool, now: Duration) {
        let sets: Vec<&Value> = self.all("replicasets").filter(|rs| object::uid(rs) == owner_uid(pod)).collect();
        let Some(set) = sets.first() else { return };
        let Some(deployment) = self.all("deployments").find(|d| object::uid(d) == owner_uid(set)) else { return };
        if object::is_deleting(deployment) || self.is_ending(object::namespace(deployment)) {
            return;
        }
        let (uid, replicas) = (object::uid(deployment).to_owned(), number(deployment, &["spec", "replicas"]));
        let sets: BTreeSet<&str> = self.owned("replicasets", &uid).map(object::uid).collect();
        let serving = self.all("pods").filter(|p| sets.contains(owner_uid(p)) && is_serving(p)).count() as i64;
        let name = object::key(deployment);
        if lost {
            let smallest = self.sizes.get(&uid).into_iter().flatten().map(|(_, size)| *size).min().unwrap_or(replicas);
            let least = smallest - margins(deployment, smallest).1;
            if self.complete.contains(&uid) && serving < least && !self.faults.take_pods() && !self.is_late(now) {
                self.violated(format!("{serving} pods of deployment {name} are left serving, fewer than {least}"));
            }
        } else if serving >= replicas && self.largest(&uid, now).is_some() {
            self.complete.insert(uid);
        }
    }

    /// The sizes of a Deployment's ReplicaSets together stay within `replicas + maxSurge`.
    fn check_replica_set(&mut self, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        let Some(new) = new else { return };
        let size = number(new, &["spec", "replicas"]);
        self.resized(object::uid(new), size, now);
        let grew = size > old.map_or(0, |old| number(old, &["spec", "replicas"]));
        let owner = owner_uid(new);
        let Some(deployment) = self.all("deployments").find(|d| object::uid(d) == owner).filter(|_| grew) else {
            return;
        };
        let together: i64 = self.owned("replicasets", owner).map(|rs| number(rs, &["spec", "replicas"])).sum();
        let largest = self.largest(owner, now).unwrap_or(0);
        let largest = largest + margins(deployment, largest).0;
        if together > largest {
            let name = object::key(deployment);
            self.violated(format!("the ReplicaSets of {name} were sized {together} together, more than {largest}"));
        }
    }

    pub(super) fn is_ending(&self, namespace: &str) -> bool {
        self.objects.get(&format!("/registry/namespaces/{namespace}")).is_none_or(object::is_deleting)
    }

    /// Remembers a size, and forgets those that nobody can still see.
    pub(super) fn resized(&mut self, uid: &str, size: i64, now: Duration) {
        let sizes = self.sizes.entry(uid.to_owned()).or_default();
        if let Some(last) = sizes.last_mut() {
            if last.1 == size {
                last.0 = now;
                return;
            }
            // It was the size until now.
            last.0 = now;
        }
        sizes.push((now, size));
        let last = sizes.len() - 1;
        let mut index = 0;
        sizes.retain(|(until, _)| {
            index += 1;
            index > last || now.saturating_sub(*until) <= STALENESS
        });
    }

    fn largest(&self, uid: &str, now: Duration) -> Option<i64> {
        let sizes = self.sizes.get(uid)?;
        let (_, last) = sizes.last()?;
        let recent = sizes.iter().filter(|(until, _)| now.saturating_sub(*until) <= STALENESS).map(|(_, size)| *size);
        recent.chain([*last]).max()
    }
}

pub(super) fn number(object: &Value, path: &[&str]) -> i64 {
    object::at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

pub(super) fn node_of(pod: &Value) -> &str {
    object::str_at(pod, &["spec", "nodeName"])
}

/// The uid of the controlling owner, or nothing.
pub(super) fn owner_uid(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().find(|o| o["controller"] == true).map_or("", |o| o["uid"].as_str().unwrap_or(""))
}

pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(object::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// Ready, and not about to go.
pub(super) fn is_serving(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    !object::is_deleting(pod)
        && !has_ended(pod)
        && conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// In thousandths.
pub(super) fn quantity(value: &Value) -> i64 {
    value.as_str().and_then(|text| Quantity::parse(text).ok()).map_or(0, |q| q.milli_value())
}

pub(super) fn milli_cpu(pod: &Value) -> i64 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.map(|c| quantity(&c["resources"]["requests"]["cpu"])).sum()
}

/// `maxSurge` and `maxUnavailable` in pods, of a Deployment of this size.
fn margins(deployment: &Value, replicas: i64) -> (i64, i64) {
    if object::str_at(deployment, &["spec", "strategy", "type"]) == "Recreate" {
        return (0, replicas);
    }
    let read = |what: &str, up: bool| {
        let value = &deployment["spec"]["strategy"]["rollingUpdate"][what];
        match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok()) {
            Some(percent) if up => (percent * replicas + 99) / 100,
            Some(percent) => percent * replicas / 100,
            None => value.as_i64().unwrap_or(0),
        }
    };
    match (read("maxSurge", true), read("maxUnavailable", false)) {
        (0, 0) => (0, 1),
        margins => margins,
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
