//! `resourcequota`: says what a quota bounds, and counts what of it is used (`pkg/controller/resourcequota`).
//!
//! The API server charges what is created; here is found out what is given back. What is used is counted at the server, after
//! the quota was read: a charge that comes in between makes the write of the status fail, so that none is ever lost.

use std::time::Duration;

use kybern_api::Object;
use kybern_api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kybern_apimachinery::Value;
use kybern_client::{ApiResource, Change};
use kybern_quota::{Evaluator, concerns, is_told};

use crate::controller::{Context, Controller, Counted, Op, Plan};
use crate::inventory::Seen;
use crate::pods;
use crate::snapshot::{NAMESPACE, Snapshot};
use crate::watches::Watches;

/// Upstream's `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_mins(5);
/// When a quota is new, what was being created is not charged to it yet.
const SETTLE: Duration = Duration::from_secs(1);

pub struct ResourceQuotaController;

impl Controller for ResourceQuotaController {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.when_missed(&snapshot.quotas);
        // What admission charges is no reason to count.
        watches.on(&snapshot.quotas, |change: &Change<ResourceQuota>, _| match (&change.old, &change.new) {
            (Some(old), Some(new)) if old.spec == new.spec => Vec::new(),
            (_, new) => new.iter().map(|quota| quota.key()).collect(),
        });
        watches.on(&snapshot.pods, |change, snapshot| match frees_pod(change) {
            Some(namespace) => concerned(snapshot, &namespace, &Evaluator::Pods),
            None => Vec::new(),
        });
        watches.on(&snapshot.services, |change: &Change<Service>, snapshot| match (&change.old, &change.new) {
            (Some(old), Some(new)) if old.spec != new.spec => {
                concerned(snapshot, new.namespace(), &Evaluator::Services)
            }
            _ => Vec::new(),
        });
        watches.on(&snapshot.claims, |change: &Change<PersistentVolumeClaim>, snapshot| {
            match (&change.old, &change.new) {
                (Some(old), Some(new)) if old.spec != new.spec || old.status != new.status => {
                    concerned(snapshot, new.namespace(), &Evaluator::Claims)
                }
                _ => Vec::new(),
            }
        });
        let (queue, quotas) = (watches.queue(), snapshot.clone());
        snapshot.inventory.listen(move |resource, seen| {
            let Seen::Change(change) = seen else {
                return quotas.quotas.list().iter().for_each(|quota| queue.add(quota.key()));
            };
            // What comes is charged where it is created.
            let gone = change.old.as_ref().filter(|_| change.new.is_none());
            let Some(gone) = gone.filter(|gone| !gone.namespace.is_empty()) else { return };
            if quotas.quotas.by_index(NAMESPACE, &gone.namespace).is_empty() {
                return;
            }
            if let Some(evaluator) = evaluator(resource) {
                concerned(&quotas, &gone.namespace, &evaluator).into_iter().for_each(|key| queue.add(key));
            }
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(quota) = snapshot.quotas.get(key) else { return Plan::idle() };
        if !snapshot.inventory.is_complete() {
            let mut plan = Plan { waiting: Some("the list of all resources".into()), ..Plan::idle() };
            plan.requeue(SETTLE);
            return plan;
        }
        let shown = json(&quota);
        let followed = snapshot.inventory.followed();
        let namespaced = followed.iter().map(|f| &*f.resource).filter(|resource| resource.namespaced);
        let counted = namespaced.filter_map(|resource| {
            let evaluator = evaluator(resource).filter(|evaluator| concerns(&shown, evaluator))?;
            Some(Counted { gvr: resource.gvr.clone(), evaluator })
        });
        let (namespace, name) = (quota.namespace().to_owned(), quota.name().to_owned());
        let mut plan = Plan::of(vec![Op::Count { namespace, name, counted: counted.collect() }]);
        plan.requeue(if is_told(&shown) { RESYNC } else { SETTLE });
        plan
    }
}

/// As the server would show it.
fn json(quota: &ResourceQuota) -> Value {
    serde_json::from_slice(&quota.to_json()).unwrap_or_default()
}

fn evaluator(resource: &ApiResource) -> Option<Evaluator> {
    Evaluator::of(&resource.gvr.group, &resource.gvr.resource)
}

/// The quotas of a namespace that bound what the evaluator counts.
fn concerned(snapshot: &Snapshot, namespace: &str, evaluator: &Evaluator) -> Vec<String> {
    let quotas = snapshot.quotas.by_index(NAMESPACE, namespace);
    let bounds = |quota: &ResourceQuota| {
        let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
        hard.into_iter().any(|(name, _)| evaluator.counts(name))
    };
    quotas.iter().filter(|quota| bounds(quota)).map(|quota| quota.key()).collect()
}

/// The namespace of a pod that may have given something back, other than by its end.
fn frees_pod(change: &Change<Pod>) -> Option<String> {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return None };
    let statuses = |pod: &Pod| {
        let all = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        all.map(|s| (s.allocated_resources.clone(), s.resources.clone())).collect::<Vec<_>>()
    };
    let ended = pods::is_finished(new) && !pods::is_finished(old);
    let deleted = new.is_deleting() && !old.is_deleting();
    let freed = ended || deleted || old.spec != new.spec || statuses(old) != statuses(new);
    freed.then(|| new.namespace().to_owned())
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;
    use crate::testing::{World, resource};

    #[test]
    fn what_is_bounded_is_counted_at_the_server() {
        let resources = [("", "pods", "Pod"), ("", "services", "Service"), ("a.example", "widgets", "Widget")];
        let world = World::with_resources(resources.map(|(group, name, kind)| resource(group, name, kind, true)));
        let hard = json!({"pods": "5", "count/widgets.a.example": "5", "count/none.b": "5"});
        let metadata = json!({"name": "quota", "namespace": "default"});
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}});
        world.writers.quotas.upsert(ResourceQuota::from_json(quota.to_string().as_bytes()).unwrap());
        let plan = world.reconcile(&ResourceQuotaController, "default/quota");
        let [Op::Count { counted, .. }] = &plan.ops[..] else { panic!("{plan:?}") };
        let names: Vec<&str> = counted.iter().map(|counted| counted.gvr.resource.as_str()).collect();
        assert_eq!(names, ["pods", "widgets"]);
        assert_eq!(plan.requeue_after, Some(SETTLE), "its status says nothing yet");
    }
}
