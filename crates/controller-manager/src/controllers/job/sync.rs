//! One look at a job: what has ended, whether all is done, what is to be made or removed, and the status that says so.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_api::Object;
use kybern_api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use kybern_api::core::v1::Pod;
use kybern_api::meta::v1::Time;

use super::backoff::{self, Record};
use super::indexes::{self, Indexes};
use super::policy::{self, Judgement, is_indexed, is_suspended};
use super::{is_tracked, release};
use crate::controller::{Context, Op, Plan};
use crate::pods;

/// The most uids in `status.uncountedTerminatedPods`.
const MAX_UNCOUNTED: usize = 500;

/// A pod of the job, and what of it is asked again and again.
pub(super) struct Member {
    pub(super) pod: Arc<Pod>,
    pub(super) index: Option<usize>,
    /// It has the finalizer: it may not be counted yet.
    pub(super) tracked: bool,
    pub(super) active: bool,
    pub(super) failed: bool,
    pub(super) succeeded: bool,
}

impl Member {
    pub(super) fn is_terminating(&self) -> bool {
        self.pod.is_deleting() && !pods::is_finished(&self.pod)
    }
}

/// Why the job ends.
struct Finish {
    success: bool,
    reason: String,
    message: String,
}

impl Finish {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.into() }
    }

    fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.to_owned(), message: message.into() }
    }

    fn told_by(condition: &JobCondition, success: bool) -> Self {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Self { success, reason: text(&condition.reason), message: text(&condition.message) }
    }
}

pub(super) struct JobSync<'a> {
    pub(super) job: &'a Arc<Job>,
    pub(super) spec: &'a JobSpec,
    pub(super) members: Vec<Member>,
    pub(super) now: Timestamp,
    pub(super) status: JobStatus,
    /// Successes and failures, those included that are not in the status yet.
    pub(super) succeeded: usize,
    failed: i64,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Indexes,
    pub(super) record: Record,
    uncounted_succeeded: HashSet<String>,
    uncounted_failed: HashSet<String>,
    counted_indexes: Indexes,
}

impl<'a> JobSync<'a> {
    pub(super) fn new(job: &'a Arc<Job>, spec: &'a JobSpec, owned: Vec<Arc<Pod>>, context: &Context) -> Self {
        let member = |pod: Arc<Pod>| Member {
            index: indexes::of_pod(&pod),
            tracked: is_tracked(&pod),
            active: pods::is_active(&pod),
            failed: policy::has_failed(spec, &pod),
            succeeded: pods::phase(&pod) == "Succeeded",
            pod,
        };
        let mut members: Vec<Member> = owned.into_iter().map(member).collect();
        members.sort_by(|a, b| a.index.cmp(&b.index).then_with(|| a.pod.name().cmp(b.pod.name())));
        let status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let mut sync = Self {
            job,
            spec,
            members,
            now: context.now,
            status,
            succeeded: 0,
            failed: 0,
            succeeded_indexes: Indexes::default(),
            failed_indexes: Indexes::default(),
            record: Record::default(),
            uncounted_succeeded: uncounted.succeeded.into_iter().flatten().collect(),
            uncounted_failed: uncounted.failed.into_iter().flatten().collect(),
            counted_indexes: Indexes::default(),
        };
        sync.count();
        sync
    }

    pub(super) fn completions(&self) -> Option<usize> {
        self.spec.completions.map(|n| usize::try_from(n).unwrap_or(0))
    }

    /// Whether a pod is one of the job's at all: those of an indexed job have an index below its completions.
    pub(super) fn is_valid(&self, member: &Member) -> bool {
        let completions = self.completions().unwrap_or(0);
        !is_indexed(self.spec) || member.index.is_some_and(|index| index < completions)
    }

    fn is_uncounted(&self, member: &Member) -> bool {
        self.uncounted_succeeded.contains(member.pod.uid()) || self.uncounted_failed.contains(member.pod.uid())
    }

    fn count(&mut self) {
        let new = |m: &&Member| m.tracked && self.is_valid(m) && !self.is_uncounted(m);
        let counts = |m: &&Member| policy::judge(self.spec, &m.pod).counts();
        let of = |n: Option<i32>| usize::try_from(n.unwrap_or(0)).unwrap_or(0);
        let succeeded = self.members.iter().filter(new).filter(|m| m.succeeded).count();
        let failed = self.members.iter().filter(new).filter(|m| m.failed).filter(counts).count();
        let all_failed = of(self.status.failed) + failed + self.uncounted_failed.len();
        self.succeeded = of(self.status.succeeded) + succeeded + self.uncounted_succeeded.len();
        self.failed = i64::try_from(all_failed).unwrap_or(i64::MAX);
        if is_indexed(self.spec) {
            self.count_indexes();
        }
        let start = if self.resumes() { Some(self.now) } else { self.status.start_time.as_ref().map(|t| t.0) };
        let failures = self.members.iter().filter_map(|m| backoff::failed_at(&m.pod, m.failed, m.tracked, start));
        let successes = self.members.iter().filter(|m| m.succeeded).map(|m| backoff::finished_at(&m.pod));
        self.record = Record::of(successes, failures);
    }

    fn count_indexes(&mut self) {
        let completions = self.completions().unwrap_or(0);
        self.counted_indexes = Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or(""), completions);
        let new = |m: &&Member| m.tracked && self.is_valid(m);
        let succeeded: Indexes =
            self.members.iter().filter(new).filter(|m| m.succeeded).filter_map(|m| m.index).collect();
        let failed: Indexes =
            self.members.iter().filter(new).filter(|m| self.index_failed(m)).filter_map(|m| m.index).collect();
        self.succeeded_indexes = self.counted_indexes.union(&succeeded);
        self.succeeded = self.succeeded_indexes.total();
        if self.spec.backoff_limit_per_index.is_some() {
            let before = Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or(""), completions);
            self.failed_indexes = before.union(&failed);
        }
    }

    /// Whether a pod's failure is one too many for its index, or ends it by rule.
    fn index_failed(&self, member: &Member) -> bool {
        let Some(limit) = self.spec.backoff_limit_per_index.filter(|_| member.failed) else { return false };
        match policy::judge(self.spec, &member.pod) {
            Judgement::FailIndex => true,
            judgement => judgement.counts() && self.failures_before(&member.pod) >= limit,
        }
    }

    pub(super) fn plan(mut self) -> Plan {
        let mut plan = Plan::idle();
        let suspended = is_suspended(self.spec);
        if self.status.start_time.is_none() && !suspended {
            self.status.start_time = Some(Time(self.now));
        }
        let mut events = Vec::new();
        let mut finish = self.finish(&mut plan);
        let ends = finish.is_some();
        let (mut changes, mut removed) = (Vec::new(), HashSet::new());
        if let Some(finish) = &finish {
            let active: Vec<&Member> = self.members.iter().filter(|m| m.active).collect();
            if finish.success {
                removed = active.iter().map(|m| m.pod.uid().to_owned()).collect();
                changes = self.remove(&active);
            } else if !active.is_empty() {
                // Before they are counted as failed: what runs on may succeed.
                plan.push(Op::SlowStart(self.delete(&active)));
            }
        } else {
            let mut active = self.members.iter().filter(|m| m.active).count();
            let manages = !self.job.is_deleting();
            if manages {
                let managed = self.manage(&mut plan);
                active = active + managed.made - managed.removed.len();
                (changes, removed) = (managed.ops, managed.removed);
            }
            let enough = match self.completions() {
                None => self.succeeded > 0,
                Some(completions) => self.succeeded >= completions,
            };
            if enough && active == 0 {
                finish = Some(Finish::success("CompletionsReached", "Reached expected number of succeeded pods"));
            } else if manages {
                self.tell_suspension(suspended, &mut events);
            }
        }
        let (released, all) = self.track(finish.as_ref(), &removed);
        self.tell_counts();
        if let Some(finish) = &finish {
            self.tell_finish(finish, all && released.is_empty(), &mut events);
        }
        let mut old = self.job.status.clone().unwrap_or_default();
        old.uncounted_terminated_pods.get_or_insert_default();
        self.measure(&mut plan, &old, &changes, ends);
        if old != self.status {
            let status = Some(mem::take(&mut self.status));
            plan.push(Op::update_status(&Job { status, ..(**self.job).clone() }));
        }
        plan.ops.extend(events);
        if !released.is_empty() {
            plan.push(Op::SlowStart(released));
        }
        if !changes.is_empty() {
            plan.push(Op::SlowStart(changes));
        }
        plan
    }

    /// Whether the job ends, in upstream's order: what was said before, then failures, then successes.
    fn finish(&self, plan: &mut Plan) -> Option<Finish> {
        if let Some(said) = self.condition("SuccessCriteriaMet").filter(|c| c.status == "True") {
            return Some(Finish::told_by(said, true));
        }
        if let Some(said) = self.condition("FailureTarget").filter(|c| c.status == "True") {
            return Some(Finish::told_by(said, false));
        }
        let by_policy = |m: &Member| match policy::judge(self.spec, &m.pod) {
            Judgement::FailJob(why) => Some(why),
            _ => None,
        };
        if let Some(why) = self.members.iter().filter(|m| m.failed).find_map(by_policy) {
            return Some(Finish::failure("PodFailurePolicy", why));
        }
        let limit = i64::from(self.spec.backoff_limit.unwrap_or(i32::MAX));
        if self.failed > limit || self.restarts_exceed(limit) {
            return Some(Finish::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if let Some(deadline) = self.deadline() {
            if self.now >= deadline {
                return Some(Finish::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
            }
            plan.requeue_at(deadline, self.now);
        }
        if !is_indexed(self.spec) {
            return None;
        }
        let (failed, completions) = (self.failed_indexes.total(), self.completions().unwrap_or(0));
        let max_failed = self.spec.max_failed_indexes.and_then(|n| usize::try_from(n).ok());
        if max_failed.is_some_and(|max| failed > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Finish::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + self.succeeded_indexes.total() >= completions {
            return Some(Finish::failure("FailedIndexes", "Job has failed indexes"));
        }
        let policy = self.spec.success_policy.as_ref()?;
        let rule = policy::satisfied(policy, completions, &self.succeeded_indexes)?;
        Some(Finish::success("SuccessPolicy", format!("Matched rules at index {rule}")))
    }

    /// Containers that are restarted in their pods count as failures, too.
    fn restarts_exceed(&self, limit: i64) -> bool {
        let on_failure =
            self.spec.template.spec.as_ref().is_some_and(|s| s.restart_policy.as_deref() == Some("OnFailure"));
        if !on_failure {
            return false;
        }
        let running = self.members.iter().filter(|m| matches!(pods::phase(&m.pod), "Running" | "Pending"));
        let statuses = running.filter_map(|m| m.pod.status.as_ref());
        let containers = statuses.flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten());
        let restarts: i64 = containers.map(|c| i64::from(c.restart_count)).sum();
        restarts >= limit.max(1)
    }

    /// Whether it rested until now: then it starts anew.
    fn resumes(&self) -> bool {
        !is_suspended(self.spec) && self.condition("Suspended").is_some_and(|c| c.status == "True")
    }

    fn deadline(&self) -> Option<Timestamp> {
        let rests = is_suspended(self.spec) || self.resumes();
        let seconds = self.spec.active_deadline_seconds.filter(|_| !rests)?;
        let start = self.status.start_time.as_ref()?.0;
        // One beyond the end of time never comes.
        start.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// Counts what has been released, notes what may be released now, and says whether that is all there is.
    fn track(&mut self, finish: Option<&Finish>, removed: &HashSet<String>) -> (Vec<Op>, bool) {
        let mut uncounted = self.status.uncounted_terminated_pods.take().unwrap_or_default();
        let tracked: HashSet<&str> = self.members.iter().filter(|m| m.tracked).map(|m| m.pod.uid()).collect();
        let (mut succeeded, mut failed) =
            (uncounted.succeeded.take().unwrap_or_default(), uncounted.failed.take().unwrap_or_default());
        for (waiting, total) in [(&mut succeeded, &mut self.status.succeeded), (&mut failed, &mut self.status.failed)] {
            let before = waiting.len();
            waiting.retain(|uid| tracked.contains(uid.as_str()));
            let counted = i32::try_from(before - waiting.len()).unwrap_or(i32::MAX);
            *total = Some(total.unwrap_or(0).saturating_add(counted));
        }
        let delayed = self.delayed();
        let fails = finish.is_some_and(|finish| !finish.success);
        let (mut released, mut new_indexes, mut all) = (Vec::new(), 0, true);
        // Those that are noted already come first: they make room.
        let (noted, new): (Vec<&Member>, Vec<&Member>) = self
            .members
            .iter()
            .filter(|m| m.tracked && !removed.contains(m.pod.uid()))
            .partition(|m| self.is_uncounted(m));
        for member in noted.into_iter().chain(new) {
            let waits = delayed.get(&member.index).is_some_and(|pod| pod.uid() == member.pod.uid());
            let may_go = self.job.is_deleting() || finish.is_some() || member.succeeded || (member.failed && !waits);
            // One that is only now stopped may have succeeded before that: what comes of it is seen first.
            if !may_go || (fails && member.active) {
                continue;
            }
            if !self.is_uncounted(member) {
                if new_indexes + succeeded.len() + failed.len() >= MAX_UNCOUNTED {
                    all = false;
                    break;
                }
                let uid = || member.pod.uid().to_owned();
                if member.succeeded {
                    if !is_indexed(self.spec) {
                        succeeded.push(uid());
                    } else if self.is_valid(member) && !member.index.is_some_and(|i| self.counted_indexes.has(i)) {
                        new_indexes += 1;
                    }
                } else if (member.failed || fails)
                    && self.is_valid(member)
                    && policy::judge(self.spec, &member.pod).counts()
                {
                    failed.push(uid());
                }
            }
            released.push(release(&member.pod));
        }
        let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
        uncounted = UncountedTerminatedPods { succeeded: some(succeeded), failed: some(failed) };
        self.status.uncounted_terminated_pods = Some(uncounted);
        (released, all)
    }

    /// What is counted anew at each look.
    fn tell_counts(&mut self) {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let count = |of: &dyn Fn(&Member) -> bool| number(self.members.iter().filter(|m| of(m)).count());
        let (active, terminating) = (count(&|m| m.active), count(&Member::is_terminating));
        let ready = count(&|m| m.active && pods::is_ready(&m.pod));
        let positive = |n: i32| Some(n).filter(|n| *n > 0);
        let status = &mut self.status;
        if is_indexed(self.spec) {
            status.succeeded = Some(number(self.succeeded_indexes.total()));
            status.completed_indexes = Some(self.succeeded_indexes.to_string()).filter(|text| !text.is_empty());
            status.failed_indexes = self.spec.backoff_limit_per_index.map(|_| self.failed_indexes.to_string());
        }
        (status.ready, status.terminating) = (Some(ready), Some(terminating));
        status.active = positive(active);
        status.succeeded = status.succeeded.and_then(positive);
        status.failed = status.failed.and_then(positive);
    }

    fn tell_suspension(&mut self, suspended: bool, events: &mut Vec<Op>) {
        let (status, reason, message, event) = if suspended {
            ("True", "JobSuspended", "Job suspended", "Suspended")
        } else {
            ("False", "JobResumed", "Job resumed", "Resumed")
        };
        if !self.set_condition("Suspended", status, reason, message) {
            return;
        }
        events.push(Op::normal(&**self.job, event, message));
        if suspended {
            // The deadline is about the time in which it runs without a break. When it goes on, it is too late: the server
            // lets no job change its start then.
            self.status.start_time = None;
        }
    }

    /// First that it will end, and how; when all pods have ended and are counted, that it has.
    fn tell_finish(&mut self, finish: &Finish, all_counted: bool, events: &mut Vec<Op>) {
        let Finish { success, reason, message } = finish;
        let (interim, end) = if *success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        if self.condition(interim).is_none() {
            self.set_condition(interim, "True", reason, message);
        }
        let nobody = UncountedTerminatedPods::default();
        let open = self.status.uncounted_terminated_pods.as_ref().is_some_and(|pods| *pods != nobody);
        if !all_counted || open || self.members.iter().any(|m| m.active || m.is_terminating()) {
            return;
        }
        self.set_condition(end, "True", reason, message);
        if self.status.start_time.is_none() && self.spec.completions != Some(0) {
            // It was over when it rested: who has ended has begun.
            self.status.start_time = Some(Time(self.now));
        }
        if *success {
            self.status.completion_time = Some(Time(self.now));
            let too_many = self.spec.completions.is_some_and(|n| self.status.succeeded.unwrap_or(0) > n);
            if too_many {
                let message = "Too many succeeded pods running after completion count reached";
                events.push(Op::warning(&**self.job, "TooManySucceededPods", message));
            }
            events.push(Op::normal(&**self.job, "Completed", "Job completed"));
        } else {
            events.push(Op::warning(&**self.job, known_reason(reason), message.clone()));
        }
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().flatten().find(|c| c.type_ == kind)
    }

    /// Whether it was set to something new. That what never was is not so is nothing new.
    fn set_condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) -> bool {
        let condition = JobCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        let list = self.status.conditions.get_or_insert_default();
        match list.iter_mut().find(|c| c.type_ == kind) {
            Some(old) if old.status == status && old.reason == condition.reason && old.message == condition.message => {
                return false;
            }
            Some(old) => *old = condition,
            None if status == "False" => {
                if list.is_empty() {
                    self.status.conditions = None;
                }
                return false;
            }
            None => list.push(condition),
        }
        true
    }
}

/// The reason of an event is one of those that this controller has; another may have been written into the status.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: &[&str] =
        &["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    KNOWN.iter().copied().find(|known| *known == reason).unwrap_or("Failed")
}
