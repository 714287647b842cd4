use std::time::Duration;

use kybern_api::batch::v1::{JobCondition, JobSpec, JobStatus, JobTemplateSpec};

use super::*;
use crate::controller::Failure;
use crate::testing::{World, at, created, deleted, events, labels, meta, status_of, template};

const KEY: &str = "default/tick";
/// A full minute.
const MINUTE: i64 = 1_800_000_000;

fn cron(change: impl FnOnce(&mut CronJobSpec)) -> CronJob {
    let mut spec = CronJobSpec {
        schedule: "* * * * *".into(),
        concurrency_policy: Some("Allow".into()),
        successful_jobs_history_limit: Some(1),
        failed_jobs_history_limit: Some(0),
        job_template: JobTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels(&[("a", "b")])), ..ObjectMeta::default() }),
            spec: Some(JobSpec { template: template("tick", "busybox"), ..JobSpec::default() }),
        },
        ..CronJobSpec::default()
    };
    change(&mut spec);
    let mut metadata = meta("tick");
    metadata.creation_timestamp = Some(Time(at(MINUTE - 30)));
    CronJob { metadata, spec: Some(spec), status: None }
}

fn world(cron: CronJob) -> World {
    let world = World { now: at(MINUTE), ..World::new() };
    world.writers.cron_jobs.upsert(cron);
    world
}

fn run(world: &World) -> Plan {
    world.reconcile(&CronJobController::default(), KEY)
}

/// Looks and does until there is nothing more to do; gives the last events and when the next look is.
fn settle(world: &World) -> (Vec<String>, Option<Duration>) {
    let mut told = Vec::new();
    for _ in 0..5 {
        let plan = run(world);
        told.extend(events(&plan));
        if plan.ops.iter().all(|op| matches!(op, Op::Event { .. })) {
            return (told, plan.requeue_after);
        }
        world.apply(&plan);
    }
    panic!("it never settles: {told:?}");
}

fn names(world: &World) -> Vec<String> {
    world.snapshot.jobs.list().iter().map(|job| job.name().to_owned()).collect()
}

fn status(world: &World) -> CronJobStatus {
    world.snapshot.cron_jobs.get(KEY).unwrap().status.clone().unwrap_or_default()
}

fn end(world: &World, name: &str, kind: &str, ended: i64) {
    let mut job = (*world.snapshot.jobs.get_in("default", name).unwrap()).clone();
    let condition = JobCondition { type_: kind.into(), status: "True".into(), ..JobCondition::default() };
    let completion_time = (kind == "Complete").then(|| Time(at(ended)));
    let start_time = Some(Time(at(ended - 5)));
    job.status =
        Some(JobStatus { conditions: Some(vec![condition]), completion_time, start_time, ..JobStatus::default() });
    world.writers.jobs.upsert(job);
}

fn job_name(minutes: i64) -> String {
    format!("tick-{}", MINUTE / 60 + minutes)
}

#[test]
fn a_job_begins_when_its_time_comes() {
    let mut world = world(cron(|_| {}));
    world.now = at(MINUTE - 10);
    let (told, next) = settle(&world);
    assert_eq!((told.len(), names(&world).len()), (0, 0));
    assert_eq!(next, Some(Duration::from_millis(10_100)));
    world.now = at(MINUTE);
    let job: Job = created(&run(&world)).remove(0);
    assert_eq!(job.name(), job_name(0));
    assert_eq!(job.metadata.annotations.as_ref().unwrap()[SCHEDULED], "2027-01-15T08:00:00Z");
    assert_eq!(job.labels().unwrap()["a"], "b");
    assert!(owner::is_controlled_by(&job.metadata, &cron(|_| {})));
    let (told, next) = settle(&world);
    assert_eq!(told, [format!("SuccessfulCreate: Created job {}", job_name(0))]);
    assert_eq!(next, Some(Duration::from_millis(60_100)));
    let told = status(&world);
    assert_eq!(told.last_schedule_time, Some(Time(at(MINUTE))));
    assert_eq!(told.active.unwrap()[0].name, Some(job_name(0)));
}

#[test]
fn what_has_ended_is_told_and_the_oldest_go() {
    let mut world = world(cron(|_| {}));
    for minute in 0..3 {
        world.now = at(MINUTE + 60 * minute);
        settle(&world);
        end(&world, &job_name(minute), if minute == 1 { "Failed" } else { "Complete" }, MINUTE + 60 * minute + 7);
        let (told, _) = settle(&world);
        let kind = if minute == 1 { "Failed" } else { "Complete" };
        assert!(told.contains(&format!("SawCompletedJob: Saw completed job: {}, condition: {kind}", job_name(minute))));
    }
    assert_eq!(names(&world), [job_name(2)], "one success stays, no failure");
    assert_eq!(status(&world).last_successful_time, Some(Time(at(MINUTE + 127))));
    assert_eq!(status(&world).active, None);
}

#[test]
fn jobs_side_by_side_are_as_the_policy_says() {
    for (policy, left, told) in [
        ("Allow", vec![job_name(0), job_name(1)], "SuccessfulCreate"),
        ("Forbid", vec![job_name(0)], "JobAlreadyActive"),
        ("Replace", vec![job_name(1)], "SuccessfulDelete"),
    ] {
        let mut world = world(cron(|spec| spec.concurrency_policy = Some(policy.into())));
        settle(&world);
        world.now = at(MINUTE + 61);
        let (events, _) = settle(&world);
        assert!(events.iter().any(|event| event.starts_with(told)), "{policy} {events:?}");
        assert_eq!(names(&world), left, "{policy}");
        let active: Vec<String> = status(&world).active.unwrap().into_iter().filter_map(|job| job.name).collect();
        assert_eq!(active, left, "{policy}");
    }
}

#[test]
fn what_does_not_begin() {
    let check = |change: &dyn Fn(&mut CronJobSpec), late: i64, told: &str| {
        let mut world = world(cron(change));
        world.now = at(MINUTE + late);
        let plan = run(&world);
        assert!(created::<Job>(&plan).is_empty(), "{told}");
        assert_eq!(events(&plan).join("; "), told);
    };
    check(&|spec| spec.suspend = Some(true), 0, "");
    check(&|spec| spec.starting_deadline_seconds = Some(5), 6, "");
    check(
        &|spec| spec.schedule = "0 0 30 2 *".into(),
        0,
        "InvalidSchedule: invalid schedule: 0 0 30 2 * : time difference between two schedules is less than 1 second",
    );
    check(
        &|spec| spec.schedule = "* * *".into(),
        0,
        "UnparseableSchedule: unparseable schedule: \"* * *\" : expected exactly 5 fields, found 3: [* * *]",
    );
    check(
        &|spec| spec.time_zone = Some("Mars/Base".into()),
        0,
        "UnknownTimeZone: invalid timeZone: \"Mars/Base\": unknown time zone Mars/Base",
    );
}

#[test]
fn many_missed_times_become_one_job_and_a_warning() {
    let mut world = world(cron(|_| {}));
    world.now = at(MINUTE + 60 * 200 + 3);
    let (told, _) = settle(&world);
    assert!(told[0].starts_with("TooManyMissedTimes: too many missed start times."), "{told:?}");
    assert_eq!(names(&world), [job_name(200)]);
}

#[test]
fn a_zone_is_kept_to_and_written() {
    let mut berlin = cron(|spec| {
        spec.schedule = "0 9 * * *".into();
        spec.time_zone = Some("Europe/Berlin".into());
    });
    berlin.metadata.creation_timestamp = Some(Time(at(MINUTE - 3600)));
    let world = world(berlin);
    let job: Job = created(&run(&world)).remove(0);
    assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED], "2027-01-15T09:00:00+01:00");
}

#[test]
fn lost_steps_are_made_up_for() {
    // Made, but the status was never written; then it was removed.
    let world = world(cron(|_| {}));
    let job: Job = created(&run(&world)).remove(0);
    world.writers.jobs.upsert(Job { metadata: ObjectMeta { uid: Some("7".into()), ..job.metadata }, ..job });
    let (told, _) = settle(&world);
    assert_eq!(told, [""; 0]);
    assert_eq!(status(&world).active.unwrap()[0].uid.as_deref(), Some("7"));
    world.writers.jobs.remove(&format!("default/{}", job_name(0)), "99");
    let (told, _) = settle(&world);
    assert_eq!(told, [format!("MissingJob: Active job went missing: {}", job_name(0))]);
    assert_eq!(names(&world), [""; 0], "its time is served");

    // It had ended before the status was written, and none that has ended stays.
    let world = self::world(cron(|spec| spec.successful_jobs_history_limit = Some(0)));
    let job: Job = created(&run(&world)).remove(0);
    world.writers.jobs.upsert(Job { metadata: ObjectMeta { uid: Some("7".into()), ..job.metadata }, ..job });
    end(&world, &job_name(0), "Complete", MINUTE);
    settle(&world);
    assert_eq!(names(&world), [""; 0], "its time is served");
    assert_eq!(status(&world).last_schedule_time, Some(Time(at(MINUTE))));

    // Somebody else's job of that name, and one made by hand.
    let world = self::world(cron(|_| {}));
    world.writers.jobs.upsert(Job { metadata: meta(&job_name(0)), ..Job::default() });
    assert_eq!(settle(&world).0, [""; 0]);
    let by_hand = ObjectMeta { owner_references: Some(vec![owner::controller_ref(&cron(|_| {}))]), ..meta("mine") };
    world.writers.jobs.upsert(Job { metadata: by_hand, ..Job::default() });
    assert_eq!(settle(&world).0, ["UnexpectedJob: Saw a job that the controller did not create or forgot: mine"]);
}

#[test]
fn a_failure_is_told_and_a_leaving_cron_job_begins_nothing() {
    let mut leaving = cron(|_| {});
    let world = world(leaving.clone());
    let failure = Failure { verb: Verb::Create, stale: false, message: "quota".into() };
    let plan = world.reconcile_after(&CronJobController::default(), KEY, failure);
    assert_eq!(events(&plan)[0], "FailedCreate: Error creating job: quota");
    leaving.metadata.deletion_timestamp = Some(Time(at(MINUTE)));
    world.writers.cron_jobs.upsert(leaving);
    assert!(run(&world).ops.is_empty());
    assert!(status_of::<CronJob>(&run(&world)).is_none() && deleted(&run(&world)).is_empty());
}

#[test]
fn a_changed_schedule_waits_for_its_next_time() {
    let world = world(cron(|spec| spec.schedule = "0 0 1 1 *".into()));
    let controller = CronJobController::default();
    let old = world.snapshot.cron_jobs.get(KEY).unwrap();
    for (schedule, zone, waits) in
        [("* * * * *", None, true), ("0 0 1 1 *", Some("Asia/Tokyo"), true), ("0 0 1 1 *", None, false)]
    {
        let mut new = (*old).clone();
        let spec = new.spec.as_mut().unwrap();
        (spec.schedule, spec.time_zone) = (schedule.into(), zone.map(str::to_owned));
        let change = Change { old: Some(old.clone()), new: Some(Arc::new(new.clone())) };
        CronJobController::note(&controller.rescheduled, &change);
        assert_eq!(controller.rescheduled.lock().remove(KEY), waits, "{schedule} {zone:?}");
    }
    let mut new = (*old).clone();
    new.spec.as_mut().unwrap().schedule = "* * * * *".into();
    world.writers.cron_jobs.upsert(new);
    controller.rescheduled.lock().insert(KEY.to_owned());
    // A time of the new schedule has passed since the cron job was made; it is not made up for.
    let plan = world.reconcile(&controller, KEY);
    assert!(plan.ops.is_empty(), "{plan:?}");
    assert!(plan.requeue_after.is_some_and(|wait| wait <= Duration::from_millis(60_100)), "{plan:?}");
    let plan = world.reconcile(&controller, KEY);
    assert_eq!(created::<Job>(&plan).len(), 1, "any other look does");
    assert_eq!(plan.measures[0].shown(), "cronjob_controller_job_creation_skew_duration_seconds{} 0");
    world.writers.cron_jobs.upsert(cron(|spec| spec.schedule = "nonsense".into()));
    controller.rescheduled.lock().insert(KEY.to_owned());
    assert_eq!(
        events(&world.reconcile(&controller, KEY)),
        ["UnParseableCronJobSchedule: unparseable schedule for cronjob: nonsense"]
    );
}
