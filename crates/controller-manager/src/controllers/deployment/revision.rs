//! Revisions: which ReplicaSet is which, as annotations that `kubectl rollout` reads
//! (`pkg/controller/deployment/util`).

use std::collections::BTreeMap;

use kybern_api::apps::v1::{Deployment, ReplicaSet};
use kybern_api::core::v1::PodTemplateSpec;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// The longest `revision-history`, characters.
const HISTORY_MAX: usize = 2000;

/// Annotations that belong to the deployment, or to the set, alone.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

type Annotations = BTreeMap<String, String>;

/// A set's revision; 0 where it has none.
pub(super) fn revision_of(annotations: Option<&Annotations>) -> i64 {
    annotations.and_then(|a| a.get(REVISION)?.parse().ok()).unwrap_or(0)
}

/// Whether two templates are equal but for the hash label.
pub(super) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
        let mut template = template.clone();
        let metadata = template.metadata.get_or_insert_default();
        metadata.creation_timestamp = None;
        let labels = metadata.labels.get_or_insert_default();
        labels.remove(POD_TEMPLATE_HASH);
        template
    }
    a.spec == b.spec && without_hash(a).metadata == without_hash(b).metadata
}

/// The changes that make a set's annotations those of the new set: the deployment's own, and its revision.
pub(super) fn new_set_annotations(deployment: &Deployment, set: &ReplicaSet, revision: i64) -> Annotations {
    let empty = Annotations::new();
    let have = set.metadata.annotations.as_ref().unwrap_or(&empty);
    let wanted = deployment.metadata.annotations.iter().flatten().filter(|(k, _)| !NOT_COPIED.contains(&k.as_str()));
    let mut changes: Annotations =
        wanted.filter(|(k, v)| have.get(*k) != Some(*v)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let old = revision_of(Some(have));
    if old < revision {
        changes.insert(REVISION.to_owned(), revision.to_string());
        if old > 0 {
            changes.insert(REVISION_HISTORY.to_owned(), history(have.get(REVISION_HISTORY), old));
        }
    }
    changes
}

/// Appends a revision, dropping the oldest when the list grows too long.
fn history(old: Option<&String>, revision: i64) -> String {
    let mut text = old.filter(|h| !h.is_empty()).map_or_else(|| revision.to_string(), |h| format!("{h},{revision}"));
    while text.len() > HISTORY_MAX {
        let Some((_, rest)) = text.split_once(',') else { break };
        text = rest.to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{replica_set, template};

    #[test]
    fn the_hash_label_makes_no_difference() {
        let a = template("web", "nginx:1.14");
        let mut b = a.clone();
        b.metadata.as_mut().unwrap().labels.as_mut().unwrap().insert(POD_TEMPLATE_HASH.into(), "x".into());
        assert!(same_template(&a, &b));
        assert!(!same_template(&a, &template("web", "nginx:1.15")));
        assert!(!same_template(&a, &template("api", "nginx:1.14")));
    }

    #[test]
    fn annotations_are_copied_but_for_those_that_are_not() {
        let mut deployment = Deployment::default();
        let annotations = [("kubernetes.io/change-cause", "why"), (REVISION, "9"), (NOT_COPIED[0], "{}")];
        deployment.metadata.annotations = Some(crate::testing::labels(&annotations));
        let mut set = replica_set("web", 1);
        let changes = new_set_annotations(&deployment, &set, 2);
        assert_eq!(changes, crate::testing::labels(&[("kubernetes.io/change-cause", "why"), (REVISION, "2")]));
        set.metadata.annotations = Some(changes);
        assert!(new_set_annotations(&deployment, &set, 2).is_empty());
        assert_eq!(new_set_annotations(&deployment, &set, 4)[REVISION_HISTORY], "2");
    }

    #[test]
    fn history_is_bounded() {
        let mut text = None;
        for revision in 1..2000 {
            text = Some(history(text.as_ref(), revision));
        }
        let text = text.unwrap();
        assert!(text.len() <= HISTORY_MAX && text.ends_with(",1999"), "{}", text.len());
    }
}
