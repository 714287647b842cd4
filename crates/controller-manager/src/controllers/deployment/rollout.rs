//! A deployment and working copies of its ReplicaSets.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::scaled::{Round, scaled_value};
use kybern_api::{IntOrString, Object, owner};
use kybern_apimachinery::json;
use kybern_client::Patch;

use super::revision::{
    DESIRED_REPLICAS, MAX_REPLICAS, POD_TEMPLATE_HASH, REVISION, new_set_annotations, revision_of, same_template,
};
use super::{created, progress};
use crate::controller::{Context, Op, Plan, Verb};
use crate::hash::template_hash;
use crate::snapshot::Snapshot;

/// One ReplicaSet as it shall be.
pub(super) struct WorkingSet {
    pub(super) object: Arc<ReplicaSet>,
    pub(super) replicas: i32,
    annotations: BTreeMap<String, String>,
    min_ready_seconds: Option<i32>,
    /// Not there yet: to be created.
    is_new: bool,
}

impl WorkingSet {
    fn of(object: Arc<ReplicaSet>) -> Self {
        let replicas = object.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        Self { object, replicas, annotations: BTreeMap::new(), min_ready_seconds: None, is_new: false }
    }

    /// `status.availableReplicas`.
    pub(super) fn available(&self) -> i32 {
        self.object.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    /// `status.readyReplicas`.
    pub(super) fn ready(&self) -> i32 {
        self.object.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
    }

    /// `status.replicas`: the pods that there are.
    pub(super) fn actual(&self) -> i32 {
        self.object.status.as_ref().map_or(0, |s| s.replicas)
    }

    pub(super) fn terminating(&self) -> i32 {
        self.object.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<i32> {
        self.object.metadata.annotations.as_ref()?.get(key)?.parse().ok()
    }

    fn annotate(&mut self, key: &str, value: String) {
        let have = self.object.metadata.annotations.as_ref().and_then(|a| a.get(key));
        if have != Some(&value) {
            self.annotations.insert(key.to_owned(), value);
        }
    }

    /// The write that makes it so, if one is needed.
    fn into_op(self) -> Option<Op> {
        if self.is_new {
            let mut object = (*self.object).clone();
            object.spec.get_or_insert_default().replicas = Some(self.replicas);
            object.metadata.annotations.get_or_insert_default().extend(self.annotations);
            return Some(Op::create(&object));
        }
        let resized = Self::of(self.object.clone()).replicas != self.replicas;
        if !resized && self.annotations.is_empty() && self.min_ready_seconds.is_none() {
            return None;
        }
        let mut patch =
            json!({"metadata": {"uid": self.object.uid(), "resourceVersion": self.object.resource_version()}});
        if !self.annotations.is_empty() {
            patch["metadata"]["annotations"] = json!(self.annotations);
        }
        if resized {
            patch["spec"]["replicas"] = self.replicas.into();
        }
        if let Some(seconds) = self.min_ready_seconds {
            patch["spec"]["minReadySeconds"] = seconds.into();
        }
        Some(Op::patch(&*self.object, Patch::Merge(patch)))
    }
}

/// One reconcile of one deployment.
pub(super) struct Rollout<'a> {
    pub(super) deployment: &'a Arc<Deployment>,
    pub(super) spec: &'a DeploymentSpec,
    pub(super) context: &'a Context,
    snapshot: &'a Snapshot,
    /// The set with the deployment's template.
    pub(super) new: Option<WorkingSet>,
    /// All others, oldest first.
    pub(super) old: Vec<WorkingSet>,
    pub(super) conditions: Option<Vec<DeploymentCondition>>,
    collision_count: Option<i32>,
    revision: Option<i64>,
    deletions: Vec<Op>,
    events: Vec<Op>,
    pub(super) ops: Vec<Op>,
}

impl<'a> Rollout<'a> {
    pub(super) fn new(
        deployment: &'a Arc<Deployment>,
        spec: &'a DeploymentSpec,
        mut sets: Vec<Arc<ReplicaSet>>,
        snapshot: &'a Snapshot,
        context: &'a Context,
    ) -> Self {
        sets.sort_by(|a, b| created(a).cmp(&created(b)).then_with(|| a.name().cmp(b.name())));
        let is_new = |set: &Arc<ReplicaSet>| {
            set.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| same_template(t, &spec.template))
        };
        // Of several the oldest: a hash collision or a race may have made two.
        let new = sets.iter().position(is_new).map(|at| WorkingSet::of(sets.remove(at)));
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            deployment,
            spec,
            context,
            snapshot,
            new,
            old: sets.into_iter().map(WorkingSet::of).collect(),
            conditions: status.conditions,
            collision_count: status.collision_count,
            revision: None,
            deletions: Vec::new(),
            events: Vec::new(),
            ops: Vec::new(),
        }
    }

    pub(super) fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    pub(super) fn is_recreate(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &WorkingSet> {
        self.old.iter().chain(&self.new)
    }

    /// The new set is at `old.len()`.
    pub(super) fn set_mut(&mut self, index: usize) -> Option<&mut WorkingSet> {
        if index < self.old.len() { self.old.get_mut(index) } else { self.new.as_mut() }
    }

    /// `(maxSurge, maxUnavailable)` resolved, never both 0 (`ResolveFenceposts`); 0 and 0 when not rolling.
    fn fenceposts(&self) -> (i32, i32) {
        if self.is_recreate() {
            return (0, 0);
        }
        let rolling = self.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let resolve = |value: Option<&IntOrString>, round| {
            scaled_value(value.unwrap_or(&quarter), self.replicas(), round).unwrap_or(0)
        };
        let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), Round::Up);
        let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), Round::Down);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    pub(super) fn max_surge(&self) -> i32 {
        self.fenceposts().0
    }

    pub(super) fn max_unavailable(&self) -> i32 {
        if self.is_recreate() || self.replicas() == 0 { 0 } else { self.fenceposts().1.min(self.replicas()) }
    }

    /// Whether `spec.replicas` changed since the sets were last scaled.
    pub(super) fn is_scaling_event(&self) -> bool {
        let scaled_for_other =
            |set: &WorkingSet| set.annotation(DESIRED_REPLICAS).is_some_and(|n| n != self.replicas());
        self.all().any(|set| set.replicas > 0 && scaled_for_other(set))
    }

    /// Scales a set and says so in an event.
    pub(super) fn scale(&mut self, index: usize, replicas: i32) -> bool {
        let (desired, max) = (self.replicas(), self.replicas() + self.max_surge());
        let Some(set) = self.set_mut(index) else { return false };
        set.annotate(DESIRED_REPLICAS, desired.to_string());
        set.annotate(MAX_REPLICAS, max.to_string());
        let before = set.replicas;
        if before == replicas {
            return false;
        }
        set.replicas = replicas;
        let name = set.object.name().to_owned();
        let direction = if before < replicas { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {before} to {replicas}");
        self.events.push(Op::normal(&**self.deployment, "ScalingReplicaSet", message));
        true
    }

    /// Gives an existing new set the next revision, and the deployment that of the set.
    pub(super) fn adopt_revision(&mut self) {
        let newest_old =
            self.old.iter().map(|s| revision_of(s.object.metadata.annotations.as_ref())).max().unwrap_or(0);
        let Some(set) = &mut self.new else { return };
        let revision = revision_of(set.object.metadata.annotations.as_ref()).max(newest_old + 1);
        set.annotations.extend(new_set_annotations(self.deployment, &set.object, revision));
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        if set.object.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) != seconds {
            set.min_ready_seconds = Some(seconds);
        }
        let name = set.object.name().to_owned();
        self.revision = Some(revision);
        progress::found_new_set(self, &name);
    }

    /// Finds the new set or plans its creation.
    pub(super) fn ensure_new_set(&mut self) {
        if self.new.is_some() {
            return self.adopt_revision();
        }
        let hash = template_hash(&self.spec.template, self.collision_count);
        let name = format!("{}-{hash}", self.deployment.name());
        if let Some(taken) = self.snapshot.replica_sets.get_in(self.deployment.namespace(), &name) {
            let adoptable = owner::controller_of(&taken.metadata).is_none();
            let same = taken
                .spec
                .as_ref()
                .and_then(|s| s.template.as_ref())
                .is_some_and(|t| same_template(t, &self.spec.template));
            if !(adoptable && same) {
                self.collision_count = Some(self.collision_count.unwrap_or(0) + 1);
            }
            return;
        }
        if let Some(failure) = self.context.failure.as_ref().filter(|f| f.verb == Verb::Create) {
            progress::creation_failed(self, &name, &failure.message);
        } else {
            progress::created_new_set(self, &name);
        }
        let newest_old =
            self.old.iter().map(|s| revision_of(s.object.metadata.annotations.as_ref())).max().unwrap_or(0);
        let object = self.make_set(name, &hash);
        let annotations = new_set_annotations(self.deployment, &object, newest_old + 1);
        self.revision = Some(newest_old + 1);
        let set =
            WorkingSet { object: Arc::new(object), replicas: 0, annotations, min_ready_seconds: None, is_new: true };
        self.new = Some(set);
    }

    fn make_set(&self, name: String, hash: &str) -> ReplicaSet {
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.to_owned());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.to_owned(), hash.to_owned());
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: self.deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner::controller_ref(&**self.deployment)]),
            ..ObjectMeta::default()
        };
        let min_ready_seconds = self.spec.min_ready_seconds;
        ReplicaSet {
            metadata,
            spec: Some(ReplicaSetSpec { replicas: Some(0), min_ready_seconds, selector, template: Some(template) }),
            status: None,
        }
    }

    /// Removes old sets beyond `revisionHistoryLimit`, the oldest revisions first.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.filter(|n| *n != i32::MAX) else { return };
        let mut sets: Vec<&WorkingSet> = self.old.iter().filter(|s| !s.object.is_deleting()).collect();
        let surplus = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        sets.sort_by_key(|s| revision_of(s.object.metadata.annotations.as_ref()));
        let idle = |set: &&&WorkingSet| {
            let observed = set.object.status.as_ref().and_then(|s| s.observed_generation);
            set.actual() == 0 && set.replicas == 0 && set.object.metadata.generation <= observed
        };
        let deletions: Vec<Op> = sets[..surplus].iter().filter(idle).map(|s| Op::delete(&*s.object)).collect();
        self.deletions.extend(deletions);
    }

    /// Writes in upstream's order: sets, events, status and revision.
    pub(super) fn into_plan(mut self) -> Plan {
        let mut plan = Plan::of(std::mem::take(&mut self.ops));
        let status = progress::next_status(&mut self, &mut plan);
        let Self { deployment, new, old, deletions, events, revision, collision_count, context, .. } = self;
        let mut status = status;
        status.collision_count = collision_count;
        // As upstream, with the status: its role lets it update Deployments, not patch them.
        let revision = revision.filter(|r| *r != revision_of(deployment.metadata.annotations.as_ref()));
        let differs = revision.is_some() || Some(&status) != deployment.status.as_ref();
        let status = differs.then(|| {
            let mut object = Deployment { status: Some(status), ..(**deployment).clone() };
            if let Some(revision) = revision {
                let annotations = object.metadata.annotations.get_or_insert_default();
                annotations.insert(REVISION.to_owned(), revision.to_string());
            }
            Op::update_status(&object)
        });
        // A failed creation is told before it is tried again.
        let (early, late) = if context.failure.is_some() { (status, None) } else { (None, status) };
        plan.ops.extend(early);
        plan.ops.extend(old.into_iter().chain(new).filter_map(WorkingSet::into_op));
        plan.ops.extend(events);
        plan.ops.extend(deletions);
        plan.ops.extend(late);
        plan
    }
}
