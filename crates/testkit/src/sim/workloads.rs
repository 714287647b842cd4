//! The rules of StatefulSets, Jobs, CronJobs and quotas.

use std::collections::BTreeSet;
use std::time::Duration;

use kybern_apimachinery::{Value, object};

use super::model::{Model, has_ended, is_serving, number, owner_uid};

pub(super) const TRACKED: &str = "batch.kubernetes.io/job-tracking";
/// After this a quota has been counted twice, whoever led.
const RECOUNTED: Duration = Duration::from_secs(60);
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What ever became of the pods of a Job, or what times a CronJob was served at.
#[derive(Default)]
pub(super) struct JobRecord {
    pub(super) succeeded: BTreeSet<String>,
    /// Failed, or went before they had ended.
    lost: BTreeSet<String>,
    times: BTreeSet<String>,
}

pub(super) fn owner_kind(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().find(|o| o["controller"] == true).map_or("", |o| o["kind"].as_str().unwrap_or(""))
}

pub(super) fn ordinal(pod: &Value) -> Option<i64> {
    object::name(pod).rsplit_once('-')?.1.parse().ok()
}

fn is_finished(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")) && c["status"] == "True")
}

impl Model {
    /// The StatefulSet of a pod whose pods come and go one by one, as far as it is up to its controller.
    fn ordered_set(&self, pod: &Value) -> Option<&Value> {
        if owner_kind(pod) != "StatefulSet" || self.faults.take_pods() {
            return None;
        }
        let set = self.all("statefulsets").find(|set| object::uid(set) == owner_uid(pod))?;
        let is_ordered = set["spec"]["podManagementPolicy"] != "Parallel";
        let is_wanted = !object::is_deleting(set) && !self.is_ending(object::namespace(set));
        (is_ordered && is_wanted).then_some(set)
    }

    /// A StatefulSet's next pod is made when all before it serve.
    pub(super) fn check_order(&mut self, new: &Value) {
        let Some(set) = self.ordered_set(new) else { return };
        let (uid, name) = (object::uid(set).to_owned(), object::name(new));
        let serving: BTreeSet<i64> = self.owned("pods", &uid).filter(|p| is_serving(p)).filter_map(ordinal).collect();
        let missing = (0..ordinal(new).unwrap_or(0)).find(|n| !serving.contains(n));
        if let Some(n) = missing {
            self.violated(format!("pod {name} was made while number {n} of its StatefulSet did not serve"));
        }
    }

    /// Two pods of a StatefulSet do not end at once.
    pub(super) fn check_ending(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let Some(new) = new.filter(|new| object::is_deleting(new) && !old.is_some_and(object::is_deleting)) else {
            return;
        };
        let Some(set) = self.ordered_set(new) else { return };
        let ending: Vec<&Value> = self.owned("pods", object::uid(set)).filter(|p| object::is_deleting(p)).collect();
        let other = ending
            .into_iter()
            .find(|other| object::uid(other) != object::uid(new))
            .map(|other| object::name(other).to_owned());
        if let Some(other) = other {
            let text = format!("pod {} of a StatefulSet was deleted while {other} was ending", object::name(new));
            self.violated(text);
        }
    }

    pub(super) fn record_quota(&mut self, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        if let Some(quota) = new.filter(|new| old.is_none_or(|old| old["status"]["hard"] != new["status"]["hard"])) {
            self.quotas_since.insert(object::uid(quota).to_owned(), now);
        }
    }

    /// A quota that says what is used is never exceeded by what is made after. What was admitted before that, and is not
    /// counted yet, is when its controller counts again.
    pub(super) fn check_quotas(&mut self, new: &Value, now: Duration) {
        let namespace = object::namespace(new);
        let live = |p: &&Value| object::namespace(p) == namespace && !has_ended(p) && !object::is_deleting(p);
        let count = || self.all("pods").filter(live).count() as i64;
        let limit = |quota: &Value| quota["status"]["hard"]["pods"].as_str().and_then(|n| n.parse::<i64>().ok());
        let quotas = self.all("resourcequotas").filter(|q| object::namespace(q) == namespace);
        let known = |quota: &&Value| {
            let since = self.quotas_since.get(object::uid(quota));
            since.is_some_and(|since| now.saturating_sub(*since) > RECOUNTED)
        };
        let Some(limit) = quotas.filter(known).filter_map(limit).min() else { return };
        let count = count();
        if count > limit {
            let name = object::name(new);
            self.violated(format!("pod {name} is number {count} in {namespace}, where a quota allows {limit}"));
        }
    }

    /// Remembers how a Job's pod ended.
    pub(super) fn record_job_pod(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let Some(pod) = new.or(old).filter(|pod| owner_kind(pod) == "Job") else { return };
        let record = self.jobs.entry(owner_uid(pod).to_owned()).or_default();
        let uid = object::uid(pod).to_owned();
        match object::str_at(pod, &["status", "phase"]) {
            // One that its Job has let go, because it was too many, is not counted, whatever becomes of it.
            "Succeeded" if is_tracked(pod) || record.succeeded.contains(&uid) => {
                record.succeeded.insert(uid);
            }
            "Failed" => {
                record.lost.insert(uid);
            }
            _ if new.is_none_or(object::is_deleting) => {
                record.lost.insert(uid);
            }
            _ => {}
        }
    }

    /// A Job counts no pod twice, and forgets none that it counted.
    pub(super) fn check_job(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>, now: Duration) {
        let Some(new) = new else { return };
        self.resized(object::uid(new), number(new, &["spec", "parallelism"]), now);
        if old.is_none() && owner_kind(new) == "CronJob" {
            self.check_scheduled(key, new);
        }
        let record = self.jobs.entry(object::uid(new).to_owned()).or_default();
        let says = |job: &Value, what: &str| {
            let uncounted = job["status"]["uncountedTerminatedPods"][what].as_array().map_or(0, Vec::len) as i64;
            number(job, &["status", what]) + uncounted
        };
        let (succeeded, lost) = (record.succeeded.len() as i64, record.lost.len() as i64);
        let counted = |what: &str| number(new, &["status", what]);
        let text = if says(new, "succeeded") > succeeded {
            format!("job {key} counts {} successes of {succeeded}", says(new, "succeeded"))
        } else if says(new, "failed") > lost {
            format!("job {key} counts {} failures of {lost}", says(new, "failed"))
        } else if let Some(what) =
            ["succeeded", "failed"].into_iter().find(|what| old.is_some_and(|old| says(old, what) > says(new, what)))
        {
            format!("job {key} takes back what it counted as {what}: {}", new["status"])
        } else if counted("succeeded") > number(new, &["spec", "completions"]) && is_indexed(new) {
            format!("job {key} has completed more indexes than it has: {}", new["status"])
        } else {
            return;
        };
        self.violated(text);
    }

    /// A CronJob serves no time twice, and one that forbids it has no two Jobs at once.
    fn check_scheduled(&mut self, key: &str, job: &Value) {
        let owner = owner_uid(job).to_owned();
        let running = self.owned("jobs", &owner).filter(|j| !is_finished(j) && !object::is_deleting(j)).count();
        let cron_job = self.all("cronjobs").find(|c| object::uid(c) == owner);
        let forbids = cron_job.is_some_and(|c| c["spec"]["concurrencyPolicy"] == "Forbid");
        if forbids && running > 1 {
            self.violated(format!("job {key} was made while another of its CronJob ran"));
        }
        let time = object::annotation(job, SCHEDULED).unwrap_or_default().to_owned();
        if !self.jobs.entry(owner).or_default().times.insert(time.clone()) {
            self.violated(format!("job {key} serves {time}, which was served before"));
        }
    }

    /// Names what is not yet as it should be of StatefulSets, Jobs and CronJobs.
    pub(super) fn unsettled_workloads(&self, complaints: &mut Vec<String>) {
        for set in self.all("statefulsets") {
            let (key, wanted) = (object::key(set), number(set, &["spec", "replicas"]));
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            let pods: Vec<&Value> = self.owned("pods", object::uid(set)).collect();
            let good = |p: &&&Value| is_serving(p) && p["spec"]["containers"][0]["image"] == *image;
            let ordinals: BTreeSet<i64> = pods.iter().filter(good).filter_map(|p| ordinal(p)).collect();
            let waits = pods.iter().any(|pod| super::model::node_of(pod).is_empty());
            if !waits && (ordinals != (0..wanted).collect() || pods.len() as i64 != wanted) {
                let all = pods.len();
                complaints
                    .push(format!("stateful set {key} wants {wanted} pods and has {all}, as wanted {ordinals:?}"));
            }
            let status = |what: &str| number(set, &["status", what]);
            let counts = ["replicas", "readyReplicas", "availableReplicas", "currentReplicas"];
            if !waits && counts.iter().any(|what| status(what) != wanted) {
                complaints.push(format!("stateful set {key} of {wanted} says {}", set["status"]));
            }
        }
        for job in self.all("jobs") {
            let (key, status) = (object::key(job), &job["status"]);
            let waits = self.owned("pods", object::uid(job)).any(|pod| super::model::node_of(pod).is_empty());
            if job["spec"]["suspend"] == true || waits {
                continue;
            }
            let count = |what: &str| number(job, &["status", what]);
            let record = self.jobs.get(object::uid(job));
            let succeeded = record.map_or(0, |record| record.succeeded.len()) as i64;
            // Of one that succeeded while it was being ended its Job may have counted the end.
            let open = record.map_or(0, |record| record.succeeded.intersection(&record.lost).count()) as i64;
            let fits = (succeeded - open..=succeeded).contains(&count("succeeded"));
            let exact = is_indexed(job) || fits || is_finished(job) && self.faults.pauses;
            let tracked = self.owned("pods", object::uid(job)).filter(|pod| is_tracked(pod)).count();
            if !is_finished(job) || count("active") != 0 || !exact || tracked != 0 {
                complaints
                    .push(format!("job {key} had {succeeded} successes and says {status}; {tracked} pods are held"));
            }
            // A pod too many may have succeeded before its maker knew of it, and after the job had ended.
            let too_many = self.faults.make_too_many();
            let (succeeded, wanted) = (count("succeeded"), number(job, &["spec", "completions"]));
            let is_complete = succeeded == wanted || too_many && succeeded > wanted;
            let says = |kind: &str| status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind);
            if says("Complete") != is_complete {
                complaints.push(format!("job {key} of {} says {status}", job["spec"]["completions"]));
            }
        }
        for cron_job in self.all("cronjobs") {
            let kept = self.owned("jobs", object::uid(cron_job)).filter(|job| !object::is_deleting(job)).count();
            if kept > 4 {
                complaints.push(format!("cron job {} keeps {kept} jobs", object::key(cron_job)));
            }
        }
    }
}

fn is_indexed(job: &Value) -> bool {
    job["spec"]["completionMode"] == "Indexed"
}

fn is_tracked(pod: &Value) -> bool {
    let finalizers = pod["metadata"]["finalizers"].as_array().into_iter().flatten();
    finalizers.into_iter().any(|f| f == TRACKED)
}
