//! How many pods are where: pods of the same namespace and labels, and pods with the same affinity to others, counted by the
//! values of nodes' labels. What a plugin asks of all pods is thus asked of each workload once, however many pods it has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kybern_apimachinery::object;

use crate::cache::Cluster;
use crate::node::Node;
use crate::pod::{Labels, PodInfo};
use crate::pod_terms::PodTerms;

pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// The keys that are counted by; the first stands for the node's name. By any other key is counted from that.
const KEYS: [&str; SLOTS] = ["", HOSTNAME, "topology.kubernetes.io/zone", "topology.kubernetes.io/region"];
pub const SLOTS: usize = 4;
pub const NAME: usize = 0;

pub type Counts = HashMap<Arc<str>, i64>;

/// The place of a key among those that are counted by.
pub fn slot(key: &str) -> Option<usize> {
    KEYS.iter().skip(1).position(|known| *known == key).map(|at| at + 1)
}

pub fn domains(name: &str, labels: &BTreeMap<String, String>) -> [Option<Arc<str>>; SLOTS] {
    KEYS.map(|key| match key {
        "" => Some(Arc::from(name)),
        key => labels.get(key).map(|value| Arc::from(value.as_str())),
    })
}

/// Counts by the values of [`KEYS`].
#[derive(Debug, Default)]
pub struct Domains {
    counts: [Counts; SLOTS],
    totals: [i64; SLOTS],
}

impl Domains {
    fn add(&mut self, node: &Node, by: i64) {
        for (slot, value) in node.domains.iter().enumerate() {
            let Some(value) = value else { continue };
            self.totals[slot] += by;
            bump(&mut self.counts[slot], value, by);
        }
    }

    fn is_empty(&self) -> bool {
        self.totals[NAME] == 0
    }

    pub fn counts(&self, slot: usize) -> &Counts {
        &self.counts[slot]
    }

    pub fn total(&self, slot: usize) -> i64 {
        self.totals[slot]
    }

    /// How many are on a node.
    pub fn on(&self, node: &Node) -> i64 {
        self.counts[NAME].get(&*node.name).copied().unwrap_or(0)
    }
}

/// Adds to a count; one that becomes zero is dropped.
pub fn bump(counts: &mut Counts, value: &Arc<str>, by: i64) {
    match counts.get_mut(value) {
        Some(count) => {
            *count += by;
            if *count == 0 {
                counts.remove(value);
            }
        }
        None => {
            counts.insert(value.clone(), by);
        }
    }
}

/// Pods on known nodes.
#[derive(Debug, Default)]
pub struct PodIndex {
    /// By namespace, then by labels and whether they are being deleted.
    groups: HashMap<Box<str>, HashMap<(Labels, bool), Domains>>,
    /// By the hash of their terms.
    terms: HashMap<u64, Vec<(Arc<PodTerms>, Domains)>>,
    nodes: Domains,
    /// How many pods mount a claim, by its key.
    claims: HashMap<String, usize>,
}

impl PodIndex {
    pub fn add_node(&mut self, node: &Node, by: i64) {
        self.nodes.add(node, by);
    }

    /// All nodes, by their values.
    pub fn nodes(&self) -> &Domains {
        &self.nodes
    }

    pub fn add(&mut self, pod: &PodInfo, node: &Node) {
        if !self.groups.contains_key(&pod.namespace) {
            self.groups.insert(pod.namespace.clone(), HashMap::new());
        }
        let groups = self.groups.get_mut(&pod.namespace).expect("it was just made");
        groups.entry((pod.labels.clone(), pod.is_deleting)).or_default().add(node, 1);
        for (claim, _) in &pod.claims {
            *self.claims.entry(object::key_of(&pod.namespace, claim)).or_insert(0) += 1;
        }
        let Some(terms) = &pod.terms else { return };
        let bucket = self.terms.entry(terms.hash).or_default();
        match bucket.iter_mut().find(|(have, _)| have == terms) {
            Some((_, domains)) => domains.add(node, 1),
            None => {
                let mut domains = Domains::default();
                domains.add(node, 1);
                bucket.push((terms.clone(), domains));
            }
        }
    }

    pub fn remove(&mut self, pod: &PodInfo, node: &Node) {
        if let Some(groups) = self.groups.get_mut(&pod.namespace) {
            let key = (pod.labels.clone(), pod.is_deleting);
            if let Some(domains) = groups.get_mut(&key) {
                domains.add(node, -1);
                if domains.is_empty() {
                    groups.remove(&key);
                }
            }
            if groups.is_empty() {
                self.groups.remove(&pod.namespace);
            }
        }
        for (claim, _) in &pod.claims {
            let key = object::key_of(&pod.namespace, claim);
            if let Some(count) = self.claims.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.claims.remove(&key);
                }
            }
        }
        let Some(terms) = &pod.terms else { return };
        if let Some(bucket) = self.terms.get_mut(&terms.hash) {
            bucket.iter_mut().filter(|(have, _)| have == terms).for_each(|(_, domains)| domains.add(node, -1));
            bucket.retain(|(_, domains)| !domains.is_empty());
            if bucket.is_empty() {
                self.terms.remove(&terms.hash);
            }
        }
    }

    /// Whether a pod on a node mounts a claim.
    pub fn is_mounted(&self, namespace: &str, claim: &str) -> bool {
        self.claims.contains_key(&object::key_of(namespace, claim))
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(|name| &**name)
    }

    /// The groups of a namespace: their labels, whether they are being deleted, and where they are.
    pub fn groups(&self, namespace: &str) -> impl Iterator<Item = (&Labels, bool, &Domains)> {
        let groups = self.groups.get(namespace).into_iter().flatten();
        groups.map(|((labels, is_deleting), domains)| (labels, *is_deleting, domains))
    }

    /// All pods with affinity to others, by their terms.
    pub fn terms(&self) -> impl Iterator<Item = (&PodTerms, &Domains)> {
        self.terms.values().flatten().map(|(terms, domains)| (&**terms, domains))
    }
}

/// More counts of the index than these are added up at once rather than at each question.
const MAX_PARTS: usize = 4;

/// How many of certain pods are where, by the values of one key; each may count several times, or negatively.
pub struct Tally<'a> {
    pub key: Box<str>,
    slot: Option<usize>,
    parts: Vec<(&'a Counts, i64)>,
    own: Counts,
    total: i64,
}

impl<'a> Tally<'a> {
    /// The empty key is the node's name.
    pub fn new(key: &str) -> Self {
        let slot = if key.is_empty() { Some(NAME) } else { slot(key) };
        Self { key: key.into(), slot, parts: Vec::new(), own: Counts::new(), total: 0 }
    }

    /// Counts these pods, each so many times.
    pub fn take(&mut self, domains: &'a Domains, weight: i64, cluster: &Cluster) {
        let Some(slot) = self.slot else {
            for (name, count) in domains.counts(NAME) {
                if let Some(info) = cluster.node(name) {
                    self.shift(&info.node, weight * count);
                }
            }
            return;
        };
        if domains.total(slot) == 0 {
            return;
        }
        self.total += weight * domains.total(slot);
        self.parts.push((domains.counts(slot), weight));
        if self.parts.len() > MAX_PARTS {
            for (counts, weight) in self.parts.drain(..) {
                counts.iter().for_each(|(value, count)| bump(&mut self.own, value, weight * count));
            }
        }
    }

    /// Counts one pod on a node.
    pub fn shift(&mut self, node: &Node, by: i64) {
        if let Some(value) = value(node, self.slot, &self.key) {
            self.total += by;
            bump(&mut self.own, &value, by);
        }
    }

    pub fn at(&self, value: &str) -> i64 {
        let part = |(counts, weight): &(&Counts, i64)| counts.get(value).map_or(0, |count| count * weight);
        self.own.get(value).copied().unwrap_or(0) + self.parts.iter().map(part).sum::<i64>()
    }

    /// `None` where the node does not have the key.
    pub fn on(&self, node: &Node) -> Option<i64> {
        domain(node, self.slot, &self.key).map(|value| self.at(value))
    }

    /// All together.
    pub fn total(&self) -> i64 {
        self.total
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.own.is_empty()
    }
}

/// A node's value of a key whose slot is known, if it has one.
pub fn domain<'a>(node: &'a Node, slot: Option<usize>, key: &str) -> Option<&'a str> {
    match slot {
        Some(slot) => node.domains[slot].as_deref(),
        None => node.labels.get(key).map(String::as_str),
    }
}

/// As [`domain`], to be kept.
pub fn value(node: &Node, slot: Option<usize>, key: &str) -> Option<Arc<str>> {
    match slot {
        Some(slot) => node.domains[slot].clone(),
        None => node.labels.get(key).map(|value| Arc::from(value.as_str())),
    }
}
