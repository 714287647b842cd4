use std::collections::HashMap;

use kybern_api::batch::v1::{JobStatus, UncountedTerminatedPods};
use kybern_api::core::v1::PodStatus;
use kybern_api::meta::v1::Time;

use super::*;
use crate::testing::{
    self, NOW, PodBuilder, World, at, created, deleted, events, meta, now, selector, status_of, template,
};

pub(super) const KEY: &str = "default/work";

pub(super) fn job(change: impl FnOnce(&mut JobSpec)) -> Job {
    let mut spec = JobSpec {
        parallelism: Some(2),
        completions: Some(3),
        backoff_limit: Some(6),
        completion_mode: Some("NonIndexed".into()),
        pod_replacement_policy: Some("TerminatingOrFailed".into()),
        selector: Some(selector("work")),
        template: template("work", "busybox"),
        ..JobSpec::default()
    };
    change(&mut spec);
    Job { metadata: meta("work"), spec: Some(spec), status: None }
}

fn indexed(change: impl FnOnce(&mut JobSpec)) -> Job {
    job(|spec| {
        spec.completion_mode = Some("Indexed".into());
        change(spec);
    })
}

fn of_job(name: &str, phase: &str) -> PodBuilder {
    let mut pod = testing::pod(name).label("app", "work").owned_by(&job(|_| {})).phase(phase).build();
    pod.metadata.finalizers = Some(vec![FINALIZER.into()]);
    PodBuilder::from(pod)
}

fn of_index(name: &str, index: usize, phase: &str) -> PodBuilder {
    of_job(name, phase).annotation(indexes::INDEX, &index.to_string())
}

fn world(job: Job, pods: impl IntoIterator<Item = PodBuilder>) -> World {
    let world = World::new();
    world.writers.jobs.upsert(job);
    pods.into_iter().for_each(|pod| world.writers.pods.upsert(pod.build()));
    world
}

pub(super) fn run(world: &World) -> Plan {
    world.reconcile(&JobController, KEY)
}

fn status(plan: &Plan) -> JobStatus {
    status_of::<Job>(plan).expect("a status").status.unwrap()
}

/// The types, statuses, reasons and messages of the conditions.
fn conditions(plan: &Plan) -> Vec<String> {
    let text = |c: &JobCondition| {
        let (reason, message) = (c.reason.as_deref().unwrap_or(""), c.message.as_deref().unwrap_or(""));
        format!("{}={} {reason}: {message}", c.type_, c.status)
    };
    status(plan).conditions.iter().flatten().map(text).collect()
}

/// The pods that lose their finalizers.
fn released(plan: &Plan) -> Vec<String> {
    fn walk(ops: &[Op], names: &mut Vec<String>) {
        for op in ops {
            match op {
                Op::SlowStart(ops) => walk(ops, names),
                Op::Patch { name, patch: Patch::Strategic(patch), .. }
                    if patch["metadata"]["$deleteFromPrimitiveList/finalizers"][0] == FINALIZER =>
                {
                    names.push(name.clone());
                }
                _ => {}
            }
        }
    }
    let mut names = Vec::new();
    walk(&plan.ops, &mut names);
    names
}

/// Carries out operations on the jobs and pods of a world as the API server would, up to `budget` of them.
pub(super) fn carry_out(
    world: &World,
    ops: &[Op],
    budget: &mut usize,
    seen: &mut dyn FnMut(&JobStatus, &JobStatus),
) -> Result<(), &'static str> {
    for op in ops {
        if let Op::SlowStart(ops) = op {
            carry_out(world, ops, budget, seen)?;
            continue;
        }
        *budget = budget.checked_sub(1).ok_or("lost")?;
        match op {
            Op::Create { body, .. } => {
                let mut pod = Pod::from_json(body).unwrap();
                let number = world.snapshot.pods.resource_version();
                pod.metadata.name = Some(format!("{}{number}", pod.metadata.generate_name.as_deref().unwrap()));
                pod.metadata.uid = Some(format!("uid-{}", pod.name()));
                pod.metadata.creation_timestamp = Some(Time(world.now));
                pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
                put_pod(world, pod);
            }
            Op::Put { body, subresource: Some("status"), .. } => {
                let new = Job::from_json(body).unwrap();
                let old = world.snapshot.jobs.get(KEY).ok_or("no such job")?;
                if old.resource_version() != new.resource_version() {
                    return Err("conflict");
                }
                seen(&old.status.clone().unwrap_or_default(), new.status.as_ref().unwrap());
                put_job(world, Job { status: new.status, ..(*old).clone() });
            }
            Op::Patch { namespace, name, patch: Patch::Strategic(patch), .. } => {
                let mut pod = (*world.snapshot.pods.get_in(namespace, name).ok_or("no such pod")?).clone();
                let expected = patch["metadata"]["resourceVersion"].as_str();
                if expected.is_some_and(|version| version != pod.resource_version()) {
                    return Err("conflict");
                }
                pod.metadata.finalizers = None;
                put_pod(world, pod);
            }
            Op::Delete { namespace, name, .. } => {
                if let Some(pod) = world.snapshot.pods.get_in(namespace, name) {
                    delete_pod(world, &pod);
                }
            }
            Op::Event { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

pub(super) fn put_job(world: &World, mut job: Job) {
    job.metadata.resource_version = Some((world.snapshot.jobs.resource_version() + 1).to_string());
    world.writers.jobs.upsert(job);
}

/// What is being deleted, has ended and has no finalizer is gone.
pub(super) fn put_pod(world: &World, mut pod: Pod) {
    let version = (world.snapshot.pods.resource_version() + 1).to_string();
    if pod.is_deleting() && crate::pods::is_finished(&pod) && !is_tracked(&pod) {
        world.writers.pods.remove(&pod.key(), &version);
    } else {
        pod.metadata.resource_version = Some(version);
        world.writers.pods.upsert(pod);
    }
}

pub(super) fn delete_pod(world: &World, pod: &Pod) {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp.get_or_insert(Time(world.now));
    put_pod(world, pod);
}

#[test]
fn pods_are_made_with_the_finalizer() {
    let plan = run(&world(job(|_| {}), []));
    let pods: Vec<Pod> = created(&plan);
    assert_eq!(pods.len(), 2);
    assert_eq!(pods[0].metadata.generate_name.as_deref(), Some("work-"));
    assert!(is_tracked(&pods[0]) && owner::is_controlled_by(&pods[0].metadata, &job(|_| {})));
    let status = status(&plan);
    assert_eq!((status.start_time, status.ready, status.active), (Some(Time(now())), Some(0), None));
    assert_eq!(status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    assert_eq!(
        measured(&plan),
        [
            "job_syncs_total{completion_mode=NonIndexed,result=success,action=pods_created} 1",
            "job_pods_creation_total{reason=new,status=succeeded} 2",
        ]
    );
}

#[test]
fn a_pod_is_counted_in_two_steps() {
    let world = world(job(|_| {}), [of_job("a", "Succeeded"), of_job("b", "Running")]);
    let plan = run(&world);
    let first = status(&plan);
    assert_eq!((first.succeeded, first.active), (None, Some(1)));
    assert_eq!(first.uncounted_terminated_pods.as_ref().unwrap().succeeded, Some(vec!["uid-a".into()]));
    assert_eq!(released(&plan), ["a"]);
    assert_eq!(created::<Pod>(&plan).len(), 1, "two are still to be done");
    let plan_again = run(&world);
    assert_eq!(status(&plan_again), first, "a lost step is made again");
    carry_out(&world, &plan.ops, &mut 100, &mut |_, _| {}).unwrap();
    let second = status(&run(&world));
    assert_eq!((second.succeeded, second.uncounted_terminated_pods), (Some(1), Some(Default::default())));
}

#[test]
fn pods_of_an_indexed_job_know_their_index() {
    let long = "x".repeat(63);
    let mut job = indexed(|spec| spec.completions = Some(12));
    job.metadata.name = Some(long.clone());
    job.spec.as_mut().unwrap().parallelism = Some(12);
    let world = World::new();
    world.writers.jobs.upsert(job);
    let plan = world.reconcile(&JobController, &format!("default/{long}"));
    let pod = created::<Pod>(&plan).pop().unwrap();
    assert_eq!(pod.metadata.generate_name, Some(format!("{}-11-", "x".repeat(54))));
    assert_eq!(pod.labels().unwrap()[indexes::INDEX], "11");
    assert_eq!(pod.metadata.annotations.as_ref().unwrap()[indexes::INDEX], "11");
    let spec = pod.spec.unwrap();
    assert_eq!(spec.hostname, Some(format!("{long}-11")));
    let variable = &spec.containers[0].env.as_ref().unwrap()[0];
    assert_eq!(variable.name, "JOB_COMPLETION_INDEX");
    let path = variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
    assert_eq!(path.field_path, "metadata.labels['batch.kubernetes.io/job-completion-index']");
}

#[test]
fn indexes_are_done_once_each_and_doubles_go() {
    let pods = [
        of_index("a", 0, "Succeeded"),
        of_index("b", 1, "Running"),
        of_index("c", 1, "Pending"),
        of_index("d", 7, "Running"),
        of_index("e", 9, "Succeeded"),
    ];
    let plan = run(&world(indexed(|spec| spec.parallelism = Some(5)), pods));
    let mut gone = deleted(&plan);
    gone.sort();
    assert_eq!(gone, ["c", "d"]);
    assert!(created::<Pod>(&plan).is_empty(), "first they go");
    let told = status(&plan);
    assert_eq!((told.completed_indexes.as_deref(), told.succeeded), (Some("0"), Some(1)));
    let pods = [of_index("a", 0, "Succeeded"), of_index("b", 1, "Running")];
    let plan = run(&world(indexed(|spec| spec.parallelism = Some(5)), pods));
    let made: Vec<Pod> = created(&plan);
    assert_eq!((made.len(), indexes::of_pod(&made[0])), (1, Some(2)));
}

#[test]
fn a_job_ends_when_all_is_counted() {
    let mut done = job(|_| {});
    let uncounted = UncountedTerminatedPods { succeeded: Some(vec!["uid-c".into()]), failed: None };
    done.status = Some(JobStatus {
        succeeded: Some(2),
        start_time: Some(Time(at(NOW - 50))),
        uncounted_terminated_pods: Some(uncounted),
        ..JobStatus::default()
    });
    let plan = run(&world(done.clone(), [of_job("c", "Succeeded")]));
    let met = "SuccessCriteriaMet=True CompletionsReached: Reached expected number of succeeded pods";
    assert_eq!((conditions(&plan), released(&plan)), (vec![met.to_owned()], vec!["c".to_owned()]));
    let plan = run(&world(done.clone(), [of_job("x", "Running").deleting()]));
    assert_eq!(conditions(&plan), [met], "one is still on its way out");
    let plan = run(&world(done, []));
    let complete = "Complete=True CompletionsReached: Reached expected number of succeeded pods";
    assert_eq!(conditions(&plan), [met, complete]);
    let told = status(&plan);
    assert_eq!((told.succeeded, told.completion_time), (Some(3), Some(Time(now()))));
    assert_eq!(events(&plan), ["Completed: Job completed"]);
    assert_eq!(
        measured(&plan),
        [
            "job_syncs_total{completion_mode=NonIndexed,result=success,action=tracking} 1",
            "job_pods_finished_total{completion_mode=NonIndexed,result=succeeded} 1",
            "jobs_finished_total{completion_mode=NonIndexed,result=succeeded,reason=CompletionsReached} 1",
        ]
    );
}

/// Without the prefix of all.
fn measured(plan: &Plan) -> Vec<String> {
    plan.measures.iter().map(|measure| measure.shown().replace("job_controller_", "")).collect()
}

/// What ends a job, and by which condition.
#[test]
fn a_job_fails() {
    let started = |job: Job, change: &dyn Fn(&mut JobStatus)| {
        let mut status = JobStatus { start_time: Some(Time(at(NOW - 100))), ..JobStatus::default() };
        change(&mut status);
        Job { status: Some(status), ..job }
    };
    let limit = "FailureTarget=True BackoffLimitExceeded: Job has reached the specified backoff limit";
    let deadline = "FailureTarget=True DeadlineExceeded: Job was active longer than specified deadline";
    let per_index = |spec: &mut JobSpec| spec.backoff_limit_per_index = Some(0);
    let restarting = |spec: &mut JobSpec| {
        spec.template.spec.as_mut().unwrap().restart_policy = Some("OnFailure".into());
        spec.backoff_limit = Some(3);
    };
    for (job, pods, expect) in [
        (
            started(job(|s| s.backoff_limit = Some(2)), &|s| s.failed = Some(2)),
            vec![of_job("a", "Failed")],
            Some(limit),
        ),
        (started(job(|s| s.backoff_limit = Some(2)), &|s| s.failed = Some(1)), vec![of_job("a", "Failed")], None),
        (started(job(|s| s.active_deadline_seconds = Some(100)), &|_| {}), vec![], Some(deadline)),
        (started(job(|s| s.active_deadline_seconds = Some(101)), &|_| {}), vec![], None),
        (started(job(|s| s.active_deadline_seconds = Some(i64::MAX)), &|_| {}), vec![], None),
        (started(job(restarting), &|_| {}), vec![of_job("a", "Running").restarts(3)], Some(limit)),
        (started(job(restarting), &|_| {}), vec![of_job("a", "Running").restarts(2)], None),
        (started(indexed(per_index), &|_| {}), vec![of_index("a", 0, "Failed")], None),
        (
            started(indexed(per_index), &|s| s.completed_indexes = Some("1,2".into())),
            vec![of_index("a", 0, "Failed")],
            Some("FailureTarget=True FailedIndexes: Job has failed indexes"),
        ),
        (
            started(indexed(|s| (s.backoff_limit_per_index, s.max_failed_indexes) = (Some(0), Some(0))), &|_| {}),
            vec![of_index("a", 1, "Failed")],
            Some(
                "FailureTarget=True MaxFailedIndexesExceeded: Job has exceeded the specified maximal number of failed indexes",
            ),
        ),
    ] {
        let plan = run(&world(job, pods));
        assert_eq!(conditions(&plan).first().map(String::as_str), expect);
    }
}

#[test]
fn what_runs_when_a_job_fails_is_stopped_and_counts_as_failed() {
    let failing = job(|spec| spec.backoff_limit = Some(0));
    let world = world(failing, [of_job("a", "Failed"), of_job("b", "Running")]);
    let plan = run(&world);
    // It may have succeeded before it is stopped: it is counted once its end is seen.
    assert_eq!((deleted(&plan), released(&plan)), (vec!["b".into()], vec!["a".into()]));
    // Who stops it dies: nothing has been counted yet.
    carry_out(&world, &plan.ops, &mut 1, &mut |_, _| panic!("what may still succeed is counted")).unwrap_err();
    let plan = run(&world);
    carry_out(&world, &plan.ops, &mut 100, &mut |_, _| {}).unwrap();
    let plan = run(&world);
    assert_eq!((status(&plan).failed, status(&plan).terminating), (Some(2), Some(1)));
    assert!(events(&plan).is_empty());
    carry_out(&world, &plan.ops, &mut 100, &mut |_, _| {}).unwrap();
    world.writers.pods.remove("default/b", "100");
    let plan = run(&world);
    assert_eq!(events(&plan), ["BackoffLimitExceeded: Job has reached the specified backoff limit"]);
    carry_out(&world, &plan.ops, &mut 100, &mut |_, _| {}).unwrap();
    assert!(run(&world).ops.is_empty());
}

#[test]
fn a_replacement_waits() {
    let mut failed = of_job("a", "Failed").build();
    failed.metadata.creation_timestamp = Some(Time(at(NOW - 4)));
    let world = world(job(|spec| spec.parallelism = Some(1)), []);
    world.writers.pods.upsert(failed);
    let plan = run(&world);
    assert!(created::<Pod>(&plan).is_empty());
    assert_eq!(plan.requeue_after.unwrap().as_secs(), 6);
    let late = World { now: at(NOW + 7), ..world };
    assert_eq!(created::<Pod>(&run(&late)).len(), 1);
}

#[test]
fn failures_per_index_are_handed_on() {
    let job = indexed(|spec| spec.backoff_limit_per_index = Some(2));
    let failed = of_index("a", 0, "Failed").annotation("batch.kubernetes.io/job-index-failure-count", "1");
    let mut world = world(job, [failed.created_at(NOW - 5)]);
    let plan = run(&world);
    let made: Vec<Option<usize>> = created::<Pod>(&plan).iter().map(indexes::of_pod).collect();
    assert_eq!((made, released(&plan).len()), (vec![Some(1)], 0), "it keeps its finalizer until it is replaced");
    assert_eq!(plan.requeue_after.unwrap().as_secs(), 15);
    world.now = at(NOW + 16);
    let pod = created::<Pod>(&run(&world)).remove(0);
    assert_eq!(pod.metadata.annotations.unwrap()["batch.kubernetes.io/job-index-failure-count"], "2");
    world.writers.pods.upsert(of_index("b", 0, "Running").build());
    assert_eq!(released(&run(&world)), ["a"]);
    let failed = of_index("b", 0, "Failed").annotation("batch.kubernetes.io/job-index-failure-count", "2");
    world.writers.pods.upsert(failed.build());
    assert_eq!(status(&run(&world)).failed_indexes.as_deref(), Some("0"));
}

#[test]
fn deleted_pods_are_replaced_at_once_or_when_they_have_ended() {
    for (policy, expect) in [("TerminatingOrFailed", 1), ("Failed", 0)] {
        let job = job(|spec| {
            spec.pod_replacement_policy = Some(policy.into());
            spec.parallelism = Some(1);
        });
        let mut world = world(job, [of_job("a", "Running").deleting()]);
        world.now = at(NOW + 11);
        let plan = run(&world);
        assert_eq!((created::<Pod>(&plan).len(), status(&plan).terminating), (expect, Some(1)), "{policy}");
    }
}

#[test]
fn a_suspended_job_rests() {
    let mut held = job(|spec| spec.suspend = Some(true));
    held.status = Some(JobStatus { start_time: Some(Time(at(NOW - 100))), ..JobStatus::default() });
    let world = world(held, [of_job("a", "Running"), of_job("b", "Succeeded")]);
    let plan = run(&world);
    assert_eq!(
        (conditions(&plan), events(&plan)),
        (vec!["Suspended=True JobSuspended: Job suspended".to_owned()], vec!["Suspended: Job suspended".to_owned()])
    );
    assert_eq!((deleted(&plan), released(&plan)), (vec!["a".into()], vec!["b".into(), "a".into()]));
    let told = status(&plan).uncounted_terminated_pods.unwrap();
    assert_eq!((told.failed, told.succeeded), (None, Some(vec!["uid-b".into()])), "it is not to blame");
    // The server lets no job change its start while it runs.
    assert_eq!(status(&plan).start_time, None);
    carry_out(&world, &plan.ops, &mut 100, &mut |_, _| {}).unwrap();
    let mut resumed = (*world.snapshot.jobs.get(KEY).unwrap()).clone();
    let spec = resumed.spec.as_mut().unwrap();
    (spec.suspend, spec.active_deadline_seconds) = (Some(false), Some(60));
    put_job(&world, resumed);
    let plan = run(&world);
    assert_eq!(events(&plan), ["Resumed: Job resumed"]);
    assert_eq!(status(&plan).start_time, Some(Time(now())), "its deadline begins anew");
    assert_eq!(created::<Pod>(&plan).len(), 2);
}

#[test]
fn a_job_that_is_over_while_it_rests_ends() {
    let suspended = |spec: &mut JobSpec| (spec.suspend, spec.completions) = (Some(true), Some(1));
    let world = world(job(suspended), []);
    carry_out(&world, &run(&world).ops, &mut 100, &mut |_, _| {}).unwrap();
    let mut over = (*world.snapshot.jobs.get(KEY).unwrap()).clone();
    over.status.as_mut().unwrap().succeeded = over.spec.as_ref().unwrap().completions;
    put_job(&world, over);
    for _ in 0..3 {
        carry_out(&world, &run(&world).ops, &mut 100, &mut |_, _| {}).unwrap();
    }
    let over = world.snapshot.jobs.get(KEY).unwrap();
    assert_eq!(finished(&over).unwrap().type_, "Complete");
    let status = over.status.as_ref().unwrap();
    assert_eq!((&status.start_time, &status.completion_time), (&Some(Time(now())), &Some(Time(now()))));
}

#[test]
fn whose_job_it_is_not_is_left_alone() {
    let pods = || [of_job("a", "Succeeded")];
    assert!(run(&world(job(|spec| spec.managed_by = Some("example.com/queue".into())), pods())).ops.is_empty());
    assert!(!run(&world(job(|spec| spec.managed_by = Some(OWN_NAME.into())), pods())).ops.is_empty());
    let mut ended = job(|_| {});
    let complete = JobCondition { type_: "Complete".into(), status: "True".into(), ..JobCondition::default() };
    ended.status = Some(JobStatus { conditions: Some(vec![complete]), ..JobStatus::default() });
    let plan = run(&world(ended, pods()));
    assert_eq!((plan.ops.len(), released(&plan)), (1, vec!["a".to_owned()]));
}

#[test]
fn pods_are_adopted_and_given_back_with_their_finalizer() {
    let orphan = testing::pod("orphan").label("app", "work");
    let mut stranger = of_job("stranger", "Running").build();
    stranger.metadata.labels.as_mut().unwrap().insert("app".into(), "other".into());
    let world = world(job(|_| {}), [orphan]);
    world.writers.pods.upsert(stranger);
    let plan = run(&world);
    let patches: HashMap<&str, &kybern_apimachinery::Value> = plan
        .ops
        .iter()
        .filter_map(|op| match op {
            Op::Patch { name, patch: Patch::Strategic(patch), .. } => Some((name.as_str(), &patch["metadata"])),
            _ => None,
        })
        .collect();
    assert_eq!((patches.len(), plan.ops.len()), (2, 2), "nothing else until then");
    assert_eq!(patches["orphan"]["finalizers"], json!([FINALIZER]));
    assert_eq!(patches["stranger"]["$deleteFromPrimitiveList/finalizers"], json!([FINALIZER]));
}

#[test]
fn finalizers_of_pods_without_a_job_are_removed() {
    let release = |world: &World| released(&world.reconcile(&JobController, "orphan/default/a")).len();
    let pod = || of_job("a", "Running");
    let alone = |pod: PodBuilder| {
        let world = World::new();
        world.writers.pods.upsert(pod.build());
        world
    };
    assert_eq!(release(&alone(pod())), 1);
    assert_eq!(release(&world(job(|_| {}), [pod()])), 0);
    assert_eq!(release(&world(job(|spec| spec.managed_by = Some("x/y".into())), [pod()])), 0);
    let mut other = job(|_| {});
    other.metadata.uid = Some("another".into());
    assert_eq!(release(&world(other, [pod()])), 1, "a new job of the old name");
    let unowned = || {
        let mut pod = pod().build();
        pod.metadata.owner_references = None;
        PodBuilder::from(pod)
    };
    assert_eq!(release(&alone(unowned())), 1);
    assert_eq!(release(&world(job(|_| {}), [unowned()])), 0, "it will be adopted");
    let keys = |pod: Pod, world: &World| {
        keys_of_pod(&Change { old: None, new: Some(std::sync::Arc::new(pod)) }, &world.snapshot)
    };
    assert_eq!(keys(pod().build(), &World::new()), [KEY, "orphan/default/a"]);
    assert_eq!(keys(pod().build(), &world(job(|_| {}), [])), [KEY]);
    assert_eq!(keys(unowned().build(), &world(job(|_| {}), [])), [KEY, "orphan/default/a"]);
}

#[test]
fn a_leaving_job_lets_its_pods_go() {
    let mut leaving = job(|_| {});
    leaving.metadata.deletion_timestamp = Some(Time(now()));
    let plan = run(&world(leaving, [of_job("a", "Running")]));
    assert_eq!((released(&plan), created::<Pod>(&plan).len(), deleted(&plan).len()), (vec!["a".to_owned()], 0, 0));
}
