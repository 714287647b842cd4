//! `cronjob`: jobs that begin at the times of a schedule (`pkg/controller/cronjob`).
//!
//! The name of a job says for when it was made, so that no time is served twice; a job of such a name that is not in
//! `status.active` is one that was made before the status was written, and is put there.

mod schedule;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kybern_api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use kybern_api::core::v1::ObjectReference;
use kybern_api::meta::v1::{ObjectMeta, Time};
use kybern_api::{Object, owner};
use kybern_apimachinery::cron::{self, Schedule};
use kybern_client::{Change, DeleteOptions, Propagation};
use parking_lot::Mutex;

use self::schedule::Due;
use crate::controller::{Context, Controller, Op, Plan, Verb};
use crate::controllers::job::finished;
use crate::metrics::JOB_SKEW;
use crate::snapshot::{OWNER, Snapshot};
use crate::watches::Watches;

/// On a job: for when it was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

#[derive(Default)]
pub struct CronJobController {
    /// The keys of those whose schedule was changed: they wait for its next time, whatever has passed.
    rescheduled: Arc<Mutex<HashSet<String>>>,
}

impl CronJobController {
    fn note(rescheduled: &Mutex<HashSet<String>>, change: &Change<CronJob>) {
        if let (Some(old), Some(new)) = (&change.old, &change.new) {
            let times = |cron: &CronJob| cron.spec.as_ref().map(|spec| (spec.schedule.clone(), spec.time_zone.clone()));
            if old.uid() == new.uid() && times(old) != times(new) {
                rescheduled.lock().insert(new.key());
            }
        }
    }
}

impl Controller for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.when_missed(&snapshot.cron_jobs);
        let rescheduled = self.rescheduled.clone();
        watches.on(&snapshot.cron_jobs, move |change, _| {
            Self::note(&rescheduled, change);
            vec![change.object().key()]
        });
        watches.on(&snapshot.jobs, |change, _| {
            let both = [&change.old, &change.new].into_iter().flatten();
            let owners = both.filter_map(|job| Some((job.namespace(), owner::controller_of(&job.metadata)?)));
            let cron_jobs = owners.filter(|(_, owner)| owner.kind == "CronJob");
            let mut keys: Vec<String> = cron_jobs.map(|(namespace, o)| format!("{namespace}/{}", o.name)).collect();
            keys.dedup();
            keys
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let is_rescheduled = self.rescheduled.lock().remove(key);
        let Some(cron) = snapshot.cron_jobs.get(key) else { return Plan::idle() };
        let Some(spec) = &cron.spec else { return Plan::idle() };
        let mut look = Look {
            jobs: snapshot.jobs.by_index(OWNER, cron.uid()),
            status: cron.status.clone().unwrap_or_default(),
            plan: Plan::idle(),
            now: context.now,
            cron: &cron,
            spec,
        };
        if is_rescheduled {
            look.wait();
            return look.plan;
        }
        if let Some(failure) = context.failure.as_ref().filter(|failure| failure.verb == Verb::Create) {
            look.warn("FailedCreate", format!("Error creating job: {}", failure.message));
        }
        look.remove_old();
        look.follow();
        if !cron.is_deleting() {
            look.start(snapshot);
        }
        look.finish()
    }
}

struct Look<'a> {
    cron: &'a Arc<CronJob>,
    spec: &'a CronJobSpec,
    jobs: Vec<Arc<Job>>,
    status: CronJobStatus,
    plan: Plan,
    now: Timestamp,
}

impl Look<'_> {
    fn warn(&mut self, reason: &'static str, message: String) {
        self.plan.push(Op::warning(&**self.cron, reason, message));
    }

    fn tell(&mut self, reason: &'static str, message: String) {
        self.plan.push(Op::normal(&**self.cron, reason, message));
    }

    fn active(&self) -> &[ObjectReference] {
        self.status.active.as_deref().unwrap_or_default()
    }

    fn is_active(&self, uid: &str) -> bool {
        self.active().iter().any(|job| job.uid.as_deref() == Some(uid))
    }

    fn forget(&mut self, uid: &str) {
        let active = self.status.active.get_or_insert_default();
        active.retain(|job| job.uid.as_deref() != Some(uid));
        if active.is_empty() {
            self.status.active = None;
        }
    }

    /// The status first: one that is old ends the plan.
    fn finish(mut self) -> Plan {
        if self.status != self.cron.status.clone().unwrap_or_default() {
            let new = CronJob { status: Some(self.status), ..(**self.cron).clone() };
            self.plan.ops.insert(0, Op::update_status(&new));
        }
        self.plan
    }

    fn delete(&mut self, job: &Job) {
        let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::of_uid(job.uid()) };
        let (namespace, name) = (job.namespace().to_owned(), job.name().to_owned());
        self.plan.push(Op::Delete { gvr: Job::gvr(), namespace, name, options, announce: None });
        self.forget(job.uid());
        self.tell("SuccessfulDelete", format!("Deleted job {}", job.name()));
    }

    /// Of those that have ended the last few stay.
    fn remove_old(&mut self) {
        let limits =
            [("Complete", self.spec.successful_jobs_history_limit), ("Failed", self.spec.failed_jobs_history_limit)];
        for (end, limit) in limits {
            let Some(limit) = limit else { continue };
            let ended = |job: &&Arc<Job>| !job.is_deleting() && finished(job).is_some_and(|c| c.type_ == end);
            let mut ended: Vec<Arc<Job>> = self.jobs.iter().filter(ended).cloned().collect();
            // Those that have not begun come last.
            let began =
                |job: &Job| job.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |t| t.0);
            ended.sort_by(|a, b| began(a).cmp(&began(b)).then_with(|| a.name().cmp(b.name())));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &ended[..surplus] {
                self.follow_end(job);
                self.delete(job);
            }
            self.jobs.retain(|job| !ended[..surplus].iter().any(|gone| gone.uid() == job.uid()));
        }
    }

    /// Keeps `active` and the times of the status.
    fn follow(&mut self) {
        for job in self.jobs.clone() {
            if finished(&job).is_some() {
                self.follow_end(&job);
            } else if !self.is_active(job.uid()) && !job.is_deleting() {
                self.take_up(&job);
            }
        }
        for gone in self.active().to_vec() {
            let uid = gone.uid.unwrap_or_default();
            if !self.jobs.iter().any(|job| job.uid() == uid) {
                self.tell("MissingJob", format!("Active job went missing: {}", gone.name.unwrap_or_default()));
                self.forget(&uid);
            }
        }
    }

    /// A job that has just been made, or one that somebody else made.
    fn take_up(&mut self, job: &Job) {
        if !self.note_time(job) {
            let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
            return self.warn("UnexpectedJob", message);
        }
        let reference = ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            name: job.metadata.name.clone(),
            namespace: job.metadata.namespace.clone(),
            uid: job.metadata.uid.clone(),
            resource_version: job.metadata.resource_version.clone(),
            ..ObjectReference::default()
        };
        self.status.active.get_or_insert_default().push(reference);
    }

    /// Keeps the time that a job was made for, so that no other is made for it when the job is gone. Whether it is one that
    /// was made for a time.
    fn note_time(&mut self, job: &Job) -> bool {
        let annotations = job.metadata.annotations.as_ref();
        let scheduled = annotations.and_then(|a| a.get(SCHEDULED)?.parse::<Timestamp>().ok());
        let Some(scheduled) = scheduled.filter(|at| job.name() == self.name_for(*at)) else { return false };
        if self.status.last_schedule_time.as_ref().is_none_or(|last| last.0 < scheduled) {
            self.status.last_schedule_time = Some(Time(scheduled));
        }
        true
    }

    fn follow_end(&mut self, job: &Job) {
        let Some(end) = finished(job) else { return };
        self.note_time(job);
        if self.is_active(job.uid()) {
            self.forget(job.uid());
            self.tell("SawCompletedJob", format!("Saw completed job: {}, condition: {}", job.name(), end.type_));
        }
        let completed =
            job.status.as_ref().and_then(|s| s.completion_time.as_ref()).filter(|_| end.type_ == "Complete");
        if let Some(completed) = completed
            && self.status.last_successful_time.as_ref().is_none_or(|last| last.0 < completed.0)
        {
            self.status.last_successful_time = Some(completed.clone());
        }
    }

    fn name_for(&self, scheduled: Timestamp) -> String {
        format!("{}-{}", self.cron.name(), scheduled.as_second().div_euclid(60))
    }

    /// Begins the job that is due, if one is and may begin.
    fn start(&mut self, snapshot: &Snapshot) {
        let zone = match self.spec.time_zone.as_deref().map(cron::zone).transpose() {
            Ok(zone) => zone.unwrap_or(TimeZone::UTC),
            Err(error) => {
                let name = self.spec.time_zone.as_deref().unwrap_or("");
                return self.warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}"));
            }
        };
        if self.spec.suspend == Some(true) {
            return;
        }
        let spec = self.spec;
        let text = &spec.schedule;
        if text.contains("TZ") {
            self.warn(
                "UnsupportedSchedule",
                format!(
                    "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
                     https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                ),
            );
        }
        let schedule = match Schedule::parse(text, &zone) {
            Ok(schedule) => schedule,
            Err(error) => return self.warn("UnparseableSchedule", format!("unparseable schedule: {text:?} : {error}")),
        };
        let due = match schedule::due(self.cron, self.spec, &self.status, &schedule, self.now) {
            Ok(due) => due,
            Err(error) => return self.warn("InvalidSchedule", format!("invalid schedule: {text} : {error}")),
        };
        if let Some(due) = due {
            self.serve(&due, &zone, snapshot);
        }
        if let Some(next) = schedule::next(self.cron, &self.status, &schedule, self.now) {
            self.plan.requeue(next);
        }
    }

    /// Waits for the next time of a new schedule.
    fn wait(&mut self) {
        let zone = self.spec.time_zone.as_deref().and_then(|name| cron::zone(name).ok()).unwrap_or(TimeZone::UTC);
        let text = &self.spec.schedule;
        let Ok(schedule) = Schedule::parse(text, &zone) else {
            return self.warn("UnParseableCronJobSchedule", format!("unparseable schedule for cronjob: {text}"));
        };
        if let Some(next) = schedule::next(self.cron, &self.status, &schedule, self.now) {
            self.plan.requeue(next);
        }
    }

    fn serve(&mut self, due: &Due, zone: &TimeZone, snapshot: &Snapshot) {
        if due.too_many {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warn("TooManyMissedTimes", message.to_owned());
        }
        let deadline = self.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if deadline.and_then(|d| due.at.checked_add(d).ok()).is_some_and(|last| last < self.now) {
            let at = due.at.strftime("%a, %d %b %Y %H:%M:%S +0000");
            return self.warn("MissSchedule", format!("Missed scheduled time to start a job: {at}"));
        }
        let name = self.name_for(due.at);
        let last = self.status.last_schedule_time.as_ref().map(|t| t.0);
        // One of this name is the one, or somebody else's, who will see to it.
        let is_there = snapshot.jobs.get_in(self.cron.namespace(), &name).is_some();
        if is_there || last == Some(due.at) {
            return;
        }
        let policy = self.spec.concurrency_policy.as_deref();
        if policy == Some("Forbid") && !self.active().is_empty() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return self.tell("JobAlreadyActive", message.to_owned());
        }
        if policy == Some("Replace") {
            let active: Vec<Arc<Job>> = self.jobs.iter().filter(|job| self.is_active(job.uid())).cloned().collect();
            active.iter().for_each(|job| self.delete(job));
        }
        let job = self.make(name, due.at, zone);
        self.plan.push(Op::create(&job));
        self.plan.measure(&JOB_SKEW, [], self.now.duration_since(due.at).as_secs_f64());
        self.tell("SuccessfulCreate", format!("Created job {}", job.name()));
    }

    fn make(&self, name: String, scheduled: Timestamp, zone: &TimeZone) -> Job {
        let template = &self.spec.job_template;
        let source = template.metadata.clone().unwrap_or_default();
        let local = scheduled.to_zoned(zone.clone());
        let is_utc = local.offset().seconds() == 0;
        let scheduled = local.strftime(if is_utc { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" }).to_string();
        let mut annotations = source.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED.to_owned(), scheduled);
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: self.cron.metadata.namespace.clone(),
            labels: source.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner::controller_ref(&**self.cron)]),
            ..ObjectMeta::default()
        };
        Job { metadata, spec: template.spec.clone(), status: None }
    }
}
