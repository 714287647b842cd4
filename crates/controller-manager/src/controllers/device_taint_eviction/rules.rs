//! What the status of a rule says: which pods are to leave because of it, or would.

use std::collections::BTreeSet;
use std::time::Duration;

use kybern_api::Object;
use kybern_api::device_taints::selects;
use kybern_api::meta::v1::Condition;
use kybern_api::resource::v1alpha3::DeviceTaintRule;
use kybern_apimachinery::json;
use kybern_apimachinery::time::to_rfc3339;
use kybern_client::Patch;

use super::{DeviceTaintEvictionController, NAME, NO_EXECUTE, POOL, pool_of, results, used};
use crate::controller::{Context, Op, Plan};
use crate::snapshot::Snapshot;

const IN_PROGRESS: &str = "EvictionInProgress";
/// What a status says changes at most so often.
const PERIOD: Duration = Duration::from_secs(10);

/// `1 pod`, `2 pods`.
fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

impl DeviceTaintEvictionController {
    /// Writes the condition of a rule, if it says something new.
    pub(super) fn tell(&self, name: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(rules) = &self.devices.rules else { return Plan::idle() };
        let Some(rule) = rules.get(name) else {
            // Of what has gone nobody is told any more.
            let there: BTreeSet<String> = rules.list().iter().map(|rule| rule.uid().to_owned()).collect();
            self.memory.lock().evicted.retain(|uid, _| there.contains(uid));
            return Plan::idle();
        };
        let conditions = rule.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let old = conditions.into_iter().find(|condition| condition.type_ == IN_PROGRESS);
        let generation = rule.metadata.generation;
        if let Some(old) = old.filter(|old| old.observed_generation == generation) {
            let next = old.last_transition_time.0 + PERIOD;
            if next > context.now {
                let mut plan = Plan::idle();
                plan.requeue_at(next, context.now);
                return plan;
            }
        }
        let (status, reason, message) = self.progress(&rule, snapshot);
        let is_same = |old: &Condition| {
            (old.status.as_str(), old.reason.as_str(), &old.message) == (status, reason, &message)
                && old.observed_generation == generation
        };
        if old.is_some_and(is_same) {
            return Plan::idle();
        }
        let object = json!({
            "apiVersion": "resource.k8s.io/v1alpha3", "kind": "DeviceTaintRule",
            "metadata": {"name": name, "uid": rule.uid()},
            "status": {"conditions": [{
                "type": IN_PROGRESS, "status": status, "reason": reason, "message": message,
                "observedGeneration": generation, "lastTransitionTime": to_rfc3339(context.now),
            }]},
        });
        let patch = Patch::Apply { manager: NAME.to_owned(), force: true, object };
        Plan::of(vec![Op::patch_status(&*rule, patch)])
    }

    /// Status, reason and message.
    fn progress(&self, rule: &DeviceTaintRule, snapshot: &Snapshot) -> (&'static str, &'static str, String) {
        let evicted = self.memory.lock().evicted.get(rule.uid()).copied().unwrap_or(0);
        let spaces = |number| count(number, "namespace", "different namespaces");
        let (status, reason, mut message) = match rule.spec.taint.effect.as_str() {
            NO_EXECUTE => match self.pending(rule, snapshot) {
                (0, _) if evicted > 0 => ("False", "Completed", String::new()),
                (0, _) => ("False", "NotStarted", String::new()),
                (pods, namespaces) => {
                    let pods = count(pods, "pod needs", "pods need");
                    ("True", "PodsPendingEviction", format!("{pods} to be evicted in {}.", spaces(namespaces)))
                }
            },
            "None" => {
                let (published, allocated) = self.selected(rule, snapshot);
                let (pods, namespaces) = self.pending(rule, snapshot);
                let published = count(published, "published device", "published devices");
                let allocated = count(allocated, "allocated device", "allocated devices");
                let pods = count(pods, "pod", "pods");
                let message = format!(
                    "{published} selected. {allocated} selected. {pods} would be evicted in {} if the effect was \
                     NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an \
                     update.",
                    spaces(namespaces)
                );
                ("False", "NoEffect", message)
            }
            _ => ("False", "OtherEffect", "Eviction only happens for the NoExecute effect.".to_owned()),
        };
        if evicted > 0 {
            let gap = if message.is_empty() { "" } else { " " };
            let pods = count(evicted, "pod", "pods");
            message.push_str(&format!("{gap}{pods} evicted since starting the controller."));
        }
        (status, reason, message)
    }

    /// The pods that leave because of a rule, or would, and the namespaces that they are in. Only pods with claims are looked at.
    fn pending(&self, rule: &DeviceTaintRule, snapshot: &Snapshot) -> (u64, u64) {
        let claims = snapshot.resource_claims.list();
        let is_meant = |result: &_| -> bool {
            let result: &kybern_api::resource::v1::DeviceRequestAllocationResult = result;
            selects(rule, &result.driver, &result.pool, &result.device)
        };
        let meant = claims.iter().filter(|claim| results(claim).any(is_meant));
        let keys: BTreeSet<String> = meant.flat_map(|claim| super::users(claim)).collect();
        let pods = keys.iter().filter_map(|key| snapshot.pods.get(key)).filter(|pod| !pod.is_deleting());
        let also = (rule.spec.taint.effect != NO_EXECUTE).then_some(rule);
        let leaving = pods.filter(|pod| {
            let evictions = used(pod, snapshot).into_iter().filter_map(|claim| self.devices.of_claim(&claim, also));
            evictions.into_iter().any(|eviction| eviction.rules.contains(rule.uid()))
        });
        let namespaces: Vec<String> = leaving.map(|pod| pod.namespace().to_owned()).collect();
        let different: BTreeSet<&String> = namespaces.iter().collect();
        (namespaces.len() as u64, different.len() as u64)
    }

    /// How many devices a rule selects: of those that are published, and of those that claims have.
    fn selected(&self, rule: &DeviceTaintRule, snapshot: &Snapshot) -> (u64, u64) {
        let slices = self.devices.slices.list();
        let is_newest = |slice: &kybern_api::resource::v1::ResourceSlice| {
            let pool = self.devices.slices.by_index(POOL, &pool_of(slice)[0]);
            pool.iter().all(|other| other.spec.pool.generation <= slice.spec.pool.generation)
        };
        let current = slices.iter().filter(|slice| is_newest(slice));
        let published =
            current.flat_map(|slice| slice.spec.devices.iter().flatten().map(move |device| (slice, device)));
        let published =
            published.filter(|(slice, d)| selects(rule, &slice.spec.driver, &slice.spec.pool.name, &d.name)).count();
        let claims = snapshot.resource_claims.list();
        let allocated = claims.iter().flat_map(|claim| results(claim));
        let allocated = allocated.filter(|result| selects(rule, &result.driver, &result.pool, &result.device)).count();
        (published as u64, allocated as u64)
    }
}
