//! `job`: pods that run to their end (`pkg/controller/job`).
//!
//! Every pod bears a finalizer until it is counted, so that none is lost, and is counted in two steps, so that none is
//! counted twice: its uid goes into `status.uncountedTerminatedPods`, and the finalizer is removed; when the store shows
//! it without (which no later look undoes), the uid becomes one more in `status.succeeded` or `failed`. Successes of
//! indexed jobs are a set, and need no uids.

mod backoff;
mod counted;
mod indexes;
mod pods_of_job;
mod policy;
mod sync;

#[cfg(test)]
mod luck_tests;
#[cfg(test)]
mod tests;

use kybern_api::batch::v1::{Job, JobCondition, JobSpec};
use kybern_api::core::v1::Pod;
use kybern_api::{Object, label_selector, owner};
use kybern_apimachinery::json;
use kybern_client::{Change, Patch};

use self::sync::JobSync;
use crate::claim::claim_with;
use crate::controller::{Context, Controller, Op, Plan};
use crate::metrics::JOB_SYNCS;
use crate::snapshot::{OWNER, Snapshot};
use crate::watches::Watches;

/// On a pod that is not counted yet.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// `spec.managedBy` of the jobs that are this controller's.
const OWN_NAME: &str = "kubernetes.io/job-controller";
/// Keys of pods that have the finalizer, and perhaps no job that will remove it.
const ORPHAN: &str = "orphan/";

pub struct JobController;

impl Controller for JobController {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.jobs);
        watches.on(&snapshot.jobs, |change, snapshot| {
            let gone = change.old.as_ref().filter(|old| change.new.as_ref().is_none_or(|new| new.uid() != old.uid()));
            let left = gone.map(|job| snapshot.pods.by_index(OWNER, job.uid())).unwrap_or_default();
            left.iter().filter(|pod| is_tracked(pod)).map(|pod| format!("{ORPHAN}{}", pod.key())).collect()
        });
        watches.on(&snapshot.pods, keys_of_pod);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        if let Some(pod) = key.strip_prefix(ORPHAN) {
            return Plan::of(release_orphan(pod, snapshot).into_iter().collect());
        }
        let Some(job) = snapshot.jobs.get(key) else { return Plan::idle() };
        let Some(spec) = job.spec.as_ref().filter(|spec| !is_managed_elsewhere(spec)) else { return Plan::idle() };
        if finished(&job).is_some() {
            // A backup: no job has finished before its pods are counted.
            let left = snapshot.pods.by_index(OWNER, job.uid());
            return Plan::of(left.iter().filter(|pod| is_tracked(pod)).map(|pod| release(pod)).collect());
        }
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            return Plan::of(vec![Op::warning(&*job, "UnknownCompletionMode", message)]);
        }
        let Some(Ok(selector)) = spec.selector.as_ref().map(label_selector) else { return Plan::idle() };
        let claims = claim_with(&*job, &selector, &snapshot.pods, Some(FINALIZER), |_| true);
        if !claims.ops.is_empty() {
            // Who is adopted counts: what is missing is seen after that.
            return Plan::of(claims.ops);
        }
        let mut plan = JobSync::new(&job, spec, claims.owned, context).plan();
        if context.failure.is_some() {
            let mode = spec.completion_mode.as_deref().unwrap_or("NonIndexed");
            plan.count(&JOB_SYNCS, [mode, "error", "reconciling"]);
        }
        plan
    }
}

/// The condition `Complete` or `Failed`, if the job has ended.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

fn is_managed_elsewhere(spec: &JobSpec) -> bool {
    spec.managed_by.as_deref().is_some_and(|by| by != OWN_NAME)
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Removes the finalizer.
fn release(pod: &Pod) -> Op {
    let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    Op::patch(pod, Patch::Strategic(patch))
}

/// Removes the finalizer if the pod is as it is known here.
fn release_unchanged(pod: &Pod) -> Op {
    let patch = json!({"metadata": {
        "uid": pod.uid(), "resourceVersion": pod.resource_version(),
        "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    Op::patch(pod, Patch::Strategic(patch))
}

/// The job that owns the pod and the one that did; of a pod without an owner, the jobs that select it. A pod with the
/// finalizer whose job is not there is a key of its own.
fn keys_of_pod(change: &Change<Pod>, snapshot: &Snapshot) -> Vec<String> {
    let job_of = |pod: &Pod| {
        let owner = owner::controller_of(&pod.metadata)?;
        let is_job = owner.kind == "Job" && owner.api_version.starts_with("batch/");
        is_job.then(|| (format!("{}/{}", pod.namespace(), owner.name), owner.uid.clone()))
    };
    let mut keys: Vec<String> = change.old.iter().filter_map(|pod| job_of(pod)).map(|(key, _)| key).collect();
    let Some(pod) = &change.new else { return keys };
    let is_served = match job_of(pod) {
        Some((key, uid)) => {
            let is_there = snapshot.jobs.get(&key).is_some_and(|job| job.uid() == uid);
            keys.push(key);
            is_there
        }
        None if owner::controller_of(&pod.metadata).is_some() => true,
        None => {
            let same = |old: &Pod| old.labels() == pod.labels() && owner::controller_of(&old.metadata).is_none();
            if !change.old.as_ref().is_some_and(|old| same(old)) {
                keys.extend(adopters(pod, snapshot).map(|job| job.key()));
            }
            false
        }
    };
    if !is_served && is_tracked(pod) {
        keys.push(format!("{ORPHAN}{}", pod.key()));
    }
    keys.dedup();
    keys
}

/// The jobs that select a pod, and run.
fn adopters(pod: &Pod, snapshot: &Snapshot) -> impl Iterator<Item = std::sync::Arc<Job>> {
    let labels = pod.labels().cloned().unwrap_or_default();
    snapshot.jobs.list_in(pod.namespace()).into_iter().filter(move |job| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selects = selector.is_some_and(|s| label_selector(s).is_ok_and(|s| s.matches_btree(&labels)));
        selects && !job.is_deleting() && finished(job).is_none()
    })
}

/// Removes the finalizer of a pod that no job will count.
fn release_orphan(key: &str, snapshot: &Snapshot) -> Option<Op> {
    let pod = snapshot.pods.get(key).filter(|pod| is_tracked(pod))?;
    match owner::controller_of(&pod.metadata) {
        Some(owner) if owner.kind != "Job" || owner.api_version != "batch/v1" => return None,
        Some(owner) => {
            let job = snapshot.jobs.get(&format!("{}/{}", pod.namespace(), owner.name));
            let job = job.filter(|job| job.uid() == owner.uid);
            let elsewhere = |job: &Job| job.spec.as_ref().is_some_and(is_managed_elsewhere);
            if job.is_some_and(|job| elsewhere(&job) || finished(&job).is_none()) {
                return None;
            }
        }
        None if adopters(&pod, snapshot).next().is_some() => return None,
        None => {}
    }
    // Not if somebody adopts it meanwhile.
    Some(release_unchanged(&pod))
}
