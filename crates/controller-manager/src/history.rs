//! The templates that a daemon set or a stateful set has had, as ControllerRevisions that `kubectl rollout` reads
//! (`pkg/controller/history`).

use std::sync::Arc;

use kybern_api::apps::v1::ControllerRevision;
use kybern_api::core::v1::{PodTemplate, PodTemplateSpec};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::{Metadata, Object, encode, owner};
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{Value, json};
use kybern_client::Patch;

use crate::claim::claim;
use crate::controller::Op;
use crate::hash::template_hash;
use crate::pods;
use crate::snapshot::Snapshot;

pub(crate) struct History {
    /// What is there, oldest revision first.
    all: Vec<Arc<ControllerRevision>>,
    /// That of the present template; the one that the operations make, if it is new.
    pub(crate) present: Arc<ControllerRevision>,
    /// How many names were taken by other templates so far.
    pub(crate) collision_count: Option<i32>,
    /// A revision that is missing is made, one that comes back (after `rollout undo`) gets the highest number.
    pub(crate) ops: Vec<Op>,
}

/// What a revision stores: the patch that brings its template back.
fn template_patch(template: &PodTemplateSpec) -> Value {
    let mut template = encode::pod_template(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision stores.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let tree = json!({"template": revision.data.as_ref()?.0["spec"]["template"]});
    PodTemplate::from_json(tree.to_string().as_bytes()).ok()?.template
}

impl History {
    /// The history of `owner`, whose revisions have their hash in `label`. Orphans of an owner before it are adopted first:
    /// then the operations that do so are the answer.
    pub(crate) fn of<O>(
        owner: &O,
        selector: &LabelSelector,
        template: &PodTemplateSpec,
        collision_count: Option<i32>,
        label: &str,
        snapshot: &Snapshot,
    ) -> Result<Self, Vec<Op>>
    where
        O: Object + Metadata<Ty = ObjectMeta>,
    {
        let claims = claim(owner, selector, &snapshot.revisions, |_| true);
        if !claims.ops.is_empty() {
            return Err(claims.ops);
        }
        let mut all = claims.owned;
        all.sort_by(|a, b| {
            let older = pods::created(&a.metadata).cmp(&pods::created(&b.metadata));
            a.revision.cmp(&b.revision).then(older).then_with(|| a.name().cmp(b.name()))
        });
        let patch = template_patch(template);
        let highest = all.last().map_or(0, |r| r.revision);
        // Another program may have written the same template in other words.
        let holds = |r: &ControllerRevision| {
            r.data.as_ref().is_some_and(|d| d.0 == patch) || template_of(r).as_ref() == Some(template)
        };
        if let Some(present) = all.iter().rev().find(|r| holds(r)).cloned() {
            let mut ops = Vec::new();
            if present.revision < highest {
                let next = json!({"metadata": {"uid": present.uid()}, "revision": highest + 1});
                ops.push(Op::patch(&*present, Patch::Merge(next)));
            }
            return Ok(Self { all, present, collision_count, ops });
        }
        let mut collision_count = collision_count;
        // A name takes 253 characters.
        let prefix = owner.name().get(..223).unwrap_or(owner.name());
        let (name, hash) = loop {
            let hash = template_hash(template, collision_count);
            let name = format!("{prefix}-{hash}");
            if snapshot.revisions.get_in(owner.namespace(), &name).is_none() {
                break (name, hash);
            }
            collision_count = Some(collision_count.unwrap_or(0) + 1);
        };
        let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(label.to_owned(), hash);
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: Some(owner.namespace().to_owned()),
            labels: Some(labels),
            annotations: owner.metadata().annotations.clone(),
            owner_references: Some(vec![owner::controller_ref(owner)]),
            ..ObjectMeta::default()
        };
        let present = ControllerRevision { metadata, data: Some(encode::raw(patch)), revision: highest + 1 };
        let ops = vec![Op::create(&present)];
        Ok(Self { all, present: Arc::new(present), collision_count, ops })
    }

    /// The revision of this name, if it is there.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        self.all.iter().find(|revision| revision.name() == name)
    }

    /// Removes the oldest revisions beyond `revisionHistoryLimit` that are neither the present one nor `live`. A negative
    /// limit keeps all.
    pub(crate) fn clean_up(&self, limit: Option<i32>, live: impl Fn(&ControllerRevision) -> bool) -> Vec<Op> {
        let Ok(limit) = usize::try_from(limit.unwrap_or(10)) else { return Vec::new() };
        let old: Vec<_> = self.all.iter().filter(|r| r.name() != self.present.name() && !live(r)).collect();
        old[..old.len().saturating_sub(limit)].iter().map(|r| Op::delete(&***r)).collect()
    }
}
