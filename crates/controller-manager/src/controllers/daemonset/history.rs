//! The templates a daemon set has had, as ControllerRevisions that `kubectl rollout` reads.

use std::sync::Arc;

use kybern_api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};
use kybern_api::core::v1::Pod;
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::{Object, encode, owner};
use kybern_apimachinery::{Value, json};
use kybern_client::Patch;

use super::HASH_LABEL;
use crate::controller::Op;
use crate::hash::template_hash;
use crate::snapshot::{OWNER, Snapshot};

pub(super) struct History {
    /// Oldest revision first.
    all: Vec<Arc<ControllerRevision>>,
    hash: String,
    collision_count: Option<i32>,
    collided: bool,
    op: Option<Op>,
}

/// What a revision stores: the patch that brings its template back.
fn template_patch(spec: &DaemonSetSpec) -> Value {
    let mut template = encode::pod_template(&spec.template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn hash_of(revision: &ControllerRevision) -> Option<&String> {
    revision.labels()?.get(HASH_LABEL)
}

impl History {
    /// Finds the revision of the present template; one that is missing is to be made, one that comes back (after
    /// `rollout undo`) gets the highest number.
    pub(super) fn of(set: &Arc<DaemonSet>, spec: &DaemonSetSpec, snapshot: &Snapshot) -> Self {
        let mut all = snapshot.revisions.by_index(OWNER, set.uid());
        all.sort_by_key(|r| r.revision);
        let patch = template_patch(spec);
        let highest = all.last().map_or(0, |r| r.revision);
        let current = all.iter().rev().find(|r| r.data.as_ref().is_some_and(|d| d.0 == patch)).cloned();
        let collision_count = set.status.as_ref().and_then(|s| s.collision_count);
        let mut history = Self { all, hash: String::new(), collision_count, collided: false, op: None };
        if let Some(current) = current {
            history.hash = hash_of(&current).cloned().unwrap_or_default();
            if current.revision < highest {
                let next = json!({"metadata": {"uid": current.uid()}, "revision": highest + 1});
                history.op = Some(Op::patch(&*current, Patch::Merge(next)));
            }
            return history;
        }
        history.hash = template_hash(&spec.template, collision_count);
        let name = format!("{}-{}", set.name(), history.hash);
        if snapshot.revisions.get_in(set.namespace(), &name).is_some() {
            history.collided = true;
            history.collision_count = Some(collision_count.unwrap_or(0) + 1);
            return history;
        }
        let mut labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), history.hash.clone());
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![owner::controller_ref(&**set)]),
            ..ObjectMeta::default()
        };
        history.op =
            Some(Op::create(&ControllerRevision { metadata, data: Some(encode::raw(patch)), revision: highest + 1 }));
        history
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// Another template has this hash: it is to be computed anew with another salt.
    pub(super) fn has_collided(&self) -> bool {
        self.collided
    }

    pub(super) fn collision_count(&self) -> Option<i32> {
        self.collision_count
    }

    pub(super) fn ops(&self) -> Option<Op> {
        self.op.clone()
    }

    /// Removes the oldest revisions beyond `revisionHistoryLimit` that no pod has.
    pub(super) fn clean_up(&self, spec: &DaemonSetSpec, pods: &[Arc<Pod>]) -> Vec<Op> {
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let live = |r: &&Arc<ControllerRevision>| {
            let hash = hash_of(r);
            hash == Some(&self.hash) || pods.iter().any(|pod| pod.labels().and_then(|l| l.get(HASH_LABEL)) == hash)
        };
        let old: Vec<_> = self.all.iter().filter(|r| !live(r)).collect();
        old[..old.len().saturating_sub(limit)].iter().map(|r| Op::delete(&***r)).collect()
    }
}
