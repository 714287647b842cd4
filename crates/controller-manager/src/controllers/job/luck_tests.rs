//! Every order in which pods end, steps are lost, and the stores lag behind: no pod is lost or counted twice.

use std::collections::{HashMap, HashSet};

use kybern_api::Object;
use kybern_api::batch::v1::{Job, JobStatus};
use kybern_api::core::v1::Pod;
use proptest::prelude::*;

use super::tests::{KEY, carry_out, delete_pod, job, put_job, put_pod, run};
use super::{finished, is_tracked};
use crate::pods;
use crate::testing::{NOW, World, at};

struct Trial {
    /// What the server has.
    truth: World,
    /// What the controller sees of it.
    seen: World,
    /// Every uid that was ever noted, and whether as a success.
    noted: HashMap<String, bool>,
    /// Pods that ended well while they bore the finalizer.
    ended_well: HashSet<String>,
    seconds: i64,
}

impl Trial {
    fn new(job: Job) -> Self {
        let (truth, seen) = (World::new(), World::new());
        put_job(&truth, job);
        let mut trial = Self { truth, seen, noted: HashMap::new(), ended_well: HashSet::new(), seconds: 0 };
        trial.show_job();
        trial
    }

    fn pods(&self) -> Vec<Pod> {
        self.truth.snapshot.pods.list().iter().map(|pod| (**pod).clone()).collect()
    }

    fn job(&self) -> Job {
        (*self.truth.snapshot.jobs.get(KEY).unwrap()).clone()
    }

    fn show_job(&mut self) {
        self.seen.writers.jobs.upsert(self.job());
    }

    /// Shows what has changed of one pod, or of all.
    fn show_pods(&mut self, one: Option<usize>) {
        let (truth, seen) = (&self.truth.snapshot.pods, &self.seen);
        let mut keys: Vec<String> =
            truth.list().iter().chain(&seen.snapshot.pods.list()).map(|pod| pod.key()).collect();
        keys.sort();
        keys.dedup();
        let keys = match one {
            Some(at) if !keys.is_empty() => vec![keys[at % keys.len()].clone()],
            _ => keys,
        };
        for key in keys {
            match truth.get(&key) {
                Some(pod) => seen.writers.pods.upsert((*pod).clone()),
                None => seen.writers.pods.remove(&key, &(truth.resource_version()).to_string()),
            }
        }
    }

    fn look(&mut self, mut budget: usize) -> bool {
        let plan = run(&self.seen);
        let idle = plan.ops.is_empty();
        let noted = &mut self.noted;
        let indexed = self.truth.snapshot.jobs.get(KEY).unwrap().spec.as_ref().unwrap().completion_mode.as_deref()
            == Some("Indexed");
        let mut check = |old: &JobStatus, new: &JobStatus| {
            let lists = |status: &JobStatus| {
                let all = status.uncounted_terminated_pods.clone().unwrap_or_default();
                [all.succeeded.unwrap_or_default(), all.failed.unwrap_or_default()]
            };
            let counts = |status: &JobStatus| [status.succeeded.unwrap_or(0), status.failed.unwrap_or(0)];
            for (i, success) in [(0, true), (1, false)] {
                let (before, after) = (lists(old)[i].clone(), lists(new)[i].clone());
                for uid in after.iter().filter(|uid| !before.contains(uid)) {
                    assert_eq!(noted.insert(uid.clone(), success), None, "{uid} is counted twice");
                }
                let counted = before.iter().filter(|uid| !after.contains(uid)).count();
                if !(indexed && success) {
                    let grown = counts(new)[i] - counts(old)[i];
                    assert_eq!(usize::try_from(grown), Ok(counted), "{old:?} {new:?}");
                }
            }
        };
        let _ = carry_out(&self.truth, &plan.ops, &mut budget, &mut check);
        // The driver waits until the pods that it made are seen.
        let made = self.pods().into_iter().filter(|pod| self.seen.snapshot.pods.get(&pod.key()).is_none());
        made.for_each(|pod| self.seen.writers.pods.upsert(pod));
        idle
    }

    fn end(&mut self, mut pod: Pod, well: bool) {
        if pods::is_finished(&pod) {
            return;
        }
        if well && is_tracked(&pod) {
            self.ended_well.insert(pod.uid().to_owned());
        }
        pod.status.get_or_insert_default().phase = Some(if well { "Succeeded" } else { "Failed" }.into());
        put_pod(&self.truth, pod);
    }

    /// Nodes end what is being deleted.
    fn stop(&mut self) {
        for pod in self.pods().into_iter().filter(Object::is_deleting) {
            self.end(pod, false);
        }
    }

    fn pass(&mut self, seconds: i64) {
        self.seconds += seconds;
        self.truth.now = at(NOW + self.seconds);
        self.seen.now = self.truth.now;
    }

    fn change(&mut self, change: impl FnOnce(&mut kybern_api::batch::v1::JobSpec)) {
        let mut job = self.job();
        if finished(&job).is_none() {
            change(job.spec.as_mut().unwrap());
            put_job(&self.truth, job);
        }
    }

    fn step(&mut self, what: u8, how: u8) {
        let one = |pods: Vec<Pod>| (!pods.is_empty()).then(|| pods[usize::from(how / 2) % pods.len()].clone());
        match what % 10 {
            0..=2 => {
                self.look(if how > 100 { usize::MAX } else { usize::from(how % 8) });
            }
            3 => self.show_job(),
            4 => self.show_pods(Some(usize::from(how))),
            5 => self.show_pods(None),
            6 | 7 => {
                let running = self.pods().into_iter().filter(|pod| !pods::is_finished(pod)).collect();
                if let Some(pod) = one(running) {
                    self.end(pod, how.is_multiple_of(2));
                }
            }
            8 => match how % 4 {
                0 => self.stop(),
                1 => one(self.pods()).iter().for_each(|pod| delete_pod(&self.truth, pod)),
                2 => self.change(|spec| spec.parallelism = Some(i32::from(how / 4 % 5))),
                _ => self.change(|spec| spec.suspend = Some((how / 4).is_multiple_of(2))),
            },
            _ => self.pass(i64::from(how)),
        }
    }

    fn finish(&mut self) {
        self.change(|spec| (spec.suspend, spec.parallelism) = (Some(false), Some(2)));
        for _ in 0..200 {
            self.pass(700);
            self.show_job();
            self.show_pods(None);
            let idle = self.look(usize::MAX);
            self.stop();
            for pod in self.pods() {
                self.end(pod, true);
            }
            self.show_job();
            self.show_pods(None);
            if idle && finished(&self.job()).is_some() && run(&self.seen).ops.is_empty() {
                return;
            }
        }
        panic!("the job never ends: {:?}", self.job().status);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pod_counts_once(
        indexed in any::<bool>(),
        per_index in any::<bool>(),
        late_replacement in any::<bool>(),
        parallelism in 1..5_i32,
        completions in 1..6_i32,
        limit in 0..8_i32,
        luck in prop::collection::vec(any::<(u8, u8)>(), 0..200),
    ) {
        let mut trial = Trial::new(job(|spec| {
            (spec.parallelism, spec.completions) = (Some(parallelism), Some(completions));
            spec.backoff_limit = Some(limit);
            if late_replacement {
                spec.pod_replacement_policy = Some("Failed".into());
            }
            if indexed {
                spec.completion_mode = Some("Indexed".into());
                if per_index {
                    (spec.backoff_limit, spec.backoff_limit_per_index) = (Some(i32::MAX), Some(limit / 3));
                }
            }
        }));
        for (what, how) in luck {
            trial.step(what, how);
        }
        trial.finish();
        let job = trial.job();
        let status = job.status.clone().unwrap();
        let end = finished(&job).unwrap().type_.clone();
        prop_assert!(trial.pods().iter().all(|pod| !is_tracked(pod)), "a finalizer is left");
        let total = |success| trial.noted.values().filter(|noted| **noted == success).count();
        let count = |n: Option<i32>| usize::try_from(n.unwrap_or(0)).unwrap();
        prop_assert_eq!(count(status.failed), total(false));
        if indexed {
            prop_assert!(count(status.succeeded) <= usize::try_from(completions).unwrap());
            prop_assert!(end != "Complete" || status.succeeded == Some(completions));
        } else {
            prop_assert_eq!(count(status.succeeded), total(true));
            for uid in &trial.ended_well {
                prop_assert!(trial.noted.contains_key(uid), "{} is lost", uid);
            }
            prop_assert!(end != "Complete" || count(status.succeeded) >= usize::try_from(completions).unwrap());
        }
    }
}
