//! `ttl-after-finished`: a job that has ended goes `spec.ttlSecondsAfterFinished` later (`pkg/controller/ttlafterfinished`).

use jiff::SignedDuration;
use kybern_api::Object;
use kybern_api::batch::v1::Job;
use kybern_client::{DeleteOptions, Propagation};

use crate::controller::{Context, Controller, Op, Plan};
use crate::controllers::job;
use crate::metrics::FINISHED_JOB_DELETION;
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub struct TtlAfterFinishedController;

impl Controller for TtlAfterFinishedController {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.jobs);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(job) = snapshot.jobs.get(key).filter(|job| !job.is_deleting()) else { return Plan::idle() };
        let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let (Some(ttl), Some(finished)) = (ttl, job::finished(&job)) else { return Plan::idle() };
        let end = finished.last_transition_time.as_ref();
        let Some(end) = end.and_then(|t| t.0.checked_add(SignedDuration::from_secs(ttl.into())).ok()) else {
            return Plan { waiting: Some(format!("job {key} does not say when it finished")), ..Plan::idle() };
        };
        let mut plan = Plan::idle();
        if context.now < end {
            plan.requeue_at(end, context.now);
            return plan;
        }
        let options = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            // One whose time was changed meanwhile stays.
            resource_version: job.metadata.resource_version.clone(),
            ..DeleteOptions::of_uid(job.uid())
        };
        let (namespace, name) = (job.namespace().to_owned(), job.name().to_owned());
        plan.push(Op::Delete { gvr: Job::gvr(), namespace, name, options, announce: None });
        plan.measure(&FINISHED_JOB_DELETION, [], context.now.duration_since(end).as_secs_f64());
        plan
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::batch::v1::{JobCondition, JobSpec, JobStatus};
    use kybern_api::meta::v1::Time;

    use super::*;
    use crate::testing::{NOW, World, at, meta};

    #[test]
    fn a_job_goes_when_its_time_is_over() {
        for (kind, ttl, ended, expect) in [
            ("Complete", Some(10), NOW - 10, Some(None)),
            ("Failed", Some(0), NOW, Some(None)),
            ("Failed", Some(10), NOW - 4, Some(Some(6))),
            ("Complete", None, NOW - 10_000, None),
            ("FailureTarget", Some(0), NOW - 10, None),
            ("Complete", Some(i32::MAX), NOW - 1, Some(Some(i32::MAX as u64 - 1))),
        ] {
            let condition = JobCondition {
                type_: kind.into(),
                status: "True".into(),
                last_transition_time: Some(Time(at(ended))),
                ..JobCondition::default()
            };
            let spec = JobSpec { ttl_seconds_after_finished: ttl, ..JobSpec::default() };
            let status = JobStatus { conditions: Some(vec![condition]), ..JobStatus::default() };
            let world = World::new();
            world.writers.jobs.upsert(Job { metadata: meta("a"), spec: Some(spec), status: Some(status) });
            let plan = world.reconcile(&TtlAfterFinishedController, "default/a");
            assert_eq!(plan.requeue_after.map(|d| d.as_secs()), expect.flatten(), "{kind} {ttl:?}");
            match &plan.ops[..] {
                [] => assert_ne!(expect, Some(None), "{kind} {ttl:?}"),
                [Op::Delete { options, .. }] => {
                    assert_eq!(expect, Some(None), "{kind} {ttl:?}");
                    let options = (options.propagation, options.uid.as_deref(), options.resource_version.as_deref());
                    assert_eq!(options, (Some(Propagation::Foreground), Some("uid-a"), Some("1")));
                    let measured = plan.measures[0].shown();
                    let name = "ttl_after_finished_controller_job_deletion_duration_seconds";
                    assert_eq!(measured, format!("{name}{{}} 0"), "{kind} {ttl:?}");
                }
                ops => panic!("{ops:?}"),
            }
        }
    }
}
