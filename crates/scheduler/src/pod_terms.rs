//! A pod's affinity and anti-affinity to other pods.

use std::hash::{DefaultHasher, Hash, Hasher};

use kybern_api::core::v1::{PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};
use kybern_api::label_selector;
use kybern_api::meta::v1::LabelSelector as ApiSelector;
use kybern_apimachinery::selector::{LabelSelector, Operator, Requirement};

use crate::cache::Cluster;
use crate::pod::{PodInfo, label};
use crate::stores::Stores;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTerms {
    pub affinity: Vec<PodTerm>,
    pub anti_affinity: Vec<PodTerm>,
    /// With weights; those of anti-affinity are negative.
    pub preferred: Vec<(i64, PodTerm)>,
    /// Equal terms have the same.
    pub hash: u64,
}

/// Other pods, and the label of nodes that says what is near them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTerm {
    pub topology_key: Box<str>,
    selector: LabelSelector,
    namespaces: Vec<String>,
    namespace_selector: LabelSelector,
}

impl PodTerms {
    /// `None` for a pod that does not care about others.
    pub fn of(spec: &PodSpec, namespace: &str, labels: &[(Box<str>, Box<str>)]) -> Option<Self> {
        let affinity = spec.affinity.as_ref()?;
        let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let terms = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            terms.into_iter().flatten().map(|term| PodTerm::of(term, namespace, labels)).collect()
        };
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, PodTerm)> {
            let one = |term: &WeightedPodAffinityTerm| {
                (sign * i64::from(term.weight), PodTerm::of(&term.pod_affinity_term, namespace, labels))
            };
            terms.into_iter().flatten().map(one).collect()
        };
        let mut preferred =
            weighted(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
        preferred
            .extend(weighted(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), -1));
        let mut found = Self {
            affinity: terms(near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            anti_affinity: terms(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred,
            hash: 0,
        };
        if found.affinity.is_empty() && found.anti_affinity.is_empty() && found.preferred.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        format!("{found:?}").hash(&mut hasher);
        found.hash = hasher.finish();
        Some(found)
    }
}

impl PodTerm {
    fn of(term: &PodAffinityTerm, namespace: &str, labels: &[(Box<str>, Box<str>)]) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        namespaces.sort();
        namespaces.dedup();
        let mut selector = read(term.label_selector.as_ref());
        merge_keys(&mut selector, term.match_label_keys.as_deref(), Operator::In, labels);
        merge_keys(&mut selector, term.mismatch_label_keys.as_deref(), Operator::NotIn, labels);
        Self {
            topology_key: term.topology_key.as_str().into(),
            selector,
            namespaces,
            namespace_selector: read(term.namespace_selector.as_ref()),
        }
    }

    /// Whether it is about pods of a namespace.
    pub fn covers(&self, namespace: &str, stores: &Stores) -> bool {
        let selector = &self.namespace_selector;
        self.namespaces.iter().any(|name| name == namespace)
            || selector.is_everything()
            || (!selector.nothing
                && stores.namespaces.get(namespace).is_some_and(|found| selector.matches_btree(&found.facts.0)))
    }

    /// The namespaces with pods that it covers.
    pub fn reach<'a>(&'a self, cluster: &'a Cluster) -> Vec<&'a str> {
        match self.namespace_selector.nothing {
            true => self.namespaces.iter().map(String::as_str).collect(),
            false => cluster.index().namespaces().filter(|name| self.covers(name, cluster.stores())).collect(),
        }
    }

    /// Whether it is about pods with these labels, in the namespaces that it covers.
    pub fn selects(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        self.selector.matches(|key| label(labels, key))
    }

    pub fn is_about(&self, pod: &PodInfo, stores: &Stores) -> bool {
        self.selects(&pod.labels) && self.covers(&pod.namespace, stores)
    }
}

/// A selector that is missing selects nothing; nor does one that cannot be read.
fn read(selector: Option<&ApiSelector>) -> LabelSelector {
    selector.and_then(|selector| label_selector(selector).ok()).unwrap_or_else(LabelSelector::none)
}

/// Has a selector ask for the pod's own values of some keys. The server does so too: what is there is not added again.
pub fn merge_keys(
    selector: &mut LabelSelector,
    keys: Option<&[String]>,
    operator: Operator,
    labels: &[(Box<str>, Box<str>)],
) {
    for key in keys.into_iter().flatten() {
        let Some(value) = label(labels, key) else { continue };
        let requirement = Requirement { key: key.clone(), operator, values: vec![value.to_owned()] };
        if !selector.requirements.contains(&requirement) {
            selector.requirements.push(requirement);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fixture;
    use crate::stores::Kept;
    use kybern_api::core::v1::Namespace;
    use kybern_apimachinery::{Value, json};
    use kybern_client::Store;

    #[test]
    fn what_a_term_is_about() {
        let (namespaces, writer) = Store::new([]);
        for (name, team) in [("default", "a"), ("near", "a"), ("far", "b")] {
            let object = json!({"metadata": {"name": name, "labels": {"team": team}}});
            let object: Namespace = kybern_api::Object::from_json(object.to_string().as_bytes()).unwrap();
            writer.upsert(Kept::of(&object));
        }
        let stores = Stores { namespaces, ..Stores::default() };
        let check = |term: Value, expect: &[&str]| {
            let mut term = term;
            term["topologyKey"] = "zone".into();
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
            let own = json!({"app": "x", "hash": "1"});
            let pod = fixture::labelled("p", own.clone(), json!({"affinity": {"podAffinity": required}}));
            let terms = pod.terms.unwrap();
            let about = |namespace: &&str| {
                let mut other = fixture::labelled("q", own.clone(), json!({}));
                other.namespace = (*namespace).into();
                terms.affinity[0].is_about(&other, &stores)
            };
            let found: Vec<&str> = ["default", "near", "far", "unknown"].into_iter().filter(about).collect();
            assert_eq!(found, expect, "{term}");
        };
        let app = json!({"matchLabels": {"app": "x"}});
        check(json!({"labelSelector": app}), &["default"]);
        check(json!({"labelSelector": app, "namespaces": ["far"]}), &["far"]);
        check(json!({"labelSelector": app, "namespaceSelector": {}}), &["default", "near", "far", "unknown"]);
        check(json!({"labelSelector": app, "namespaceSelector": {"matchLabels": {"team": "a"}}}), &["default", "near"]);
        check(
            json!({"labelSelector": app, "namespaces": ["far"], "namespaceSelector": {"matchLabels": {"team": "a"}}}),
            &["default", "near", "far"],
        );
        check(json!({"labelSelector": app, "matchLabelKeys": ["hash", "absent"]}), &["default"]);
        check(json!({"labelSelector": app, "mismatchLabelKeys": ["hash"]}), &[]);
        check(json!({}), &[]);
        assert!(fixture::pod(json!({"affinity": {}})).terms.is_none());
        let equal = |n: &str| {
            Arc::new(fixture::pod_named(n, json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": app, "topologyKey": "zone"}]}}})).terms.unwrap())
        };
        assert_eq!(equal("a").hash, equal("b").hash);
    }
}
