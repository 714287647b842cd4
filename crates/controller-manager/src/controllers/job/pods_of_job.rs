//! How many pods a job needs now, and which ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kybern_api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kybern_api::{Object, owner};
use kybern_client::ObjectRef;

use super::backoff::{Record, finished_at};
use super::indexes::{INDEX, Indexes, number};
use super::policy::{self, is_indexed, is_suspended, only_replaces_failed};
use super::sync::{JobSync, Member};
use super::{FINALIZER, release_unchanged};
use crate::controller::{Op, Plan};
use crate::controllers::replicaset::BURST;
use crate::pods;

/// How often pods of this index had failed before this one, and how often that did not count.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix that leaves room for a generated suffix.
const PREFIX_MAX: usize = 58;

#[derive(Default)]
pub(super) struct Managed {
    pub(super) ops: Vec<Op>,
    pub(super) made: usize,
    /// The uids of those that are removed without being counted.
    pub(super) removed: HashSet<String>,
}

impl JobSync<'_> {
    /// Removes what is too much or, if nothing is, makes what is missing and may be made by now.
    pub(super) fn manage(&self, plan: &mut Plan) -> Managed {
        let active: Vec<&Member> = self.members.iter().filter(|m| m.active).collect();
        let wanted = self.wanted(active.len());
        let mut surplus = self.surplus(&active, active.len().saturating_sub(wanted));
        if !is_suspended(self.spec) {
            surplus.truncate(BURST);
        }
        if !surplus.is_empty() {
            let removed = surplus.iter().map(|m| m.pod.uid().to_owned()).collect();
            return Managed { ops: self.remove(&surplus), removed, made: 0 };
        }
        let leaving = if only_replaces_failed(self.spec) {
            self.members.iter().filter(|m| m.is_terminating()).count()
        } else {
            0
        };
        let missing = wanted.saturating_sub(leaving + active.len()).min(BURST);
        if missing == 0 || is_suspended(self.spec) {
            return Managed::default();
        }
        let ops = self.creations(missing, &active, plan);
        Managed { made: ops.len(), ops, ..Managed::default() }
    }

    fn wanted(&self, active: usize) -> usize {
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        match self.completions() {
            _ if is_suspended(self.spec) => 0,
            // After the first success the others may end, and no more are made.
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => completions.saturating_sub(self.succeeded).min(parallelism),
        }
    }

    /// At least `count` of the active pods; of an indexed job also those without an index of their own.
    fn surplus<'b>(&self, active: &[&'b Member], count: usize) -> Vec<&'b Member> {
        let ranks = HashMap::new();
        let mut left = active.to_vec();
        left.sort_by(|a, b| pods::deletion_order(&a.pod, &b.pod, &ranks, self.now));
        let mut surplus = Vec::new();
        if is_indexed(self.spec) {
            let mut seen = HashSet::new();
            // From the most useful one on, so that it is what stays.
            let (keep, drop): (Vec<_>, Vec<_>) =
                left.into_iter().rev().partition(|m| self.is_valid(m) && seen.insert(m.index));
            surplus = drop;
            left = keep.into_iter().rev().collect();
        }
        let more = count.saturating_sub(surplus.len());
        surplus.extend(left.into_iter().take(more));
        surplus
    }

    /// Removes pods without counting them: the finalizer goes first, but not of one that has just ended.
    pub(super) fn remove(&self, surplus: &[&Member]) -> Vec<Op> {
        let about = ObjectRef::of(&**self.job);
        let both = |m: &&Member| {
            let delete = Op::delete(&*m.pod).announced(&about);
            if m.tracked { Op::SlowStart(vec![release_unchanged(&m.pod), delete]) } else { delete }
        };
        surplus.iter().map(both).collect()
    }

    pub(super) fn delete(&self, active: &[&Member]) -> Vec<Op> {
        let about = ObjectRef::of(&**self.job);
        active.iter().map(|m| Op::delete(&*m.pod).announced(&about)).collect()
    }

    fn creations(&self, missing: usize, active: &[&Member], plan: &mut Plan) -> Vec<Op> {
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let remaining = if per_index { Duration::ZERO } else { self.record.remaining(self.now) };
        if !remaining.is_zero() {
            plan.requeue(remaining);
            return Vec::new();
        }
        let about = ObjectRef::of(&**self.job);
        let create = |pod: Pod| Op::create(&pod).announced(&about);
        if !is_indexed(self.spec) {
            return vec![create(self.make_pod()); missing];
        }
        let mut taken: Vec<usize> = active.iter().filter_map(|m| m.index).collect();
        if only_replaces_failed(self.spec) {
            taken.extend(self.members.iter().filter(|m| m.is_terminating()).filter_map(|m| m.index));
        }
        let taken = self.succeeded_indexes.union(&self.failed_indexes).union(&taken.into_iter().collect::<Indexes>());
        let mut indexes = taken.missing(missing, self.completions().unwrap_or(0));
        let before = self.delayed();
        if per_index {
            let wait = |index: &usize| {
                let last = before.get(&Some(*index));
                last.map_or(Duration::ZERO, |pod| {
                    let record =
                        Record { failures: self.all_before(pod).saturating_add(1), last: Some(finished_at(pod)) };
                    record.remaining(self.now)
                })
            };
            let soonest = indexes.iter().map(wait).filter(|wait| !wait.is_zero()).min();
            indexes.retain(|index| wait(index).is_zero());
            if let Some(soonest) = soonest {
                plan.requeue(soonest);
            }
        }
        indexes.into_iter().map(|index| create(self.make_indexed(index, before.get(&Some(index))))).collect()
    }

    fn make_pod(&self) -> Pod {
        let owner = owner::controller_ref(&**self.job);
        let mut pod = pods::from_template(&self.spec.template, self.job.namespace(), self.job.name(), owner);
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        pod
    }

    fn make_indexed(&self, index: usize, replaces: Option<&Arc<Pod>>) -> Pod {
        let mut pod = self.make_pod();
        let suffix = format!("-{index}-");
        let mut prefix = self.job.name().to_owned();
        prefix.truncate(PREFIX_MAX - suffix.len());
        pod.metadata.generate_name = Some(prefix + &suffix);
        pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_owned(), index.to_string());
        if self.spec.backoff_limit_per_index.is_some() {
            let (mut failures, mut ignored) =
                replaces.map_or((0, 0), |old| (self.failures_before(old), number(old, IGNORED).unwrap_or(0)));
            if let Some(old) = replaces {
                let count = if policy::judge(self.spec, old).counts() { &mut failures } else { &mut ignored };
                *count = count.saturating_add(1);
            }
            annotations.insert(FAILURES.to_owned(), failures.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED.to_owned(), ignored.to_string());
            }
        }
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{}-{index}", self.job.name()));
        spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(add_variable);
        pod
    }

    pub(super) fn failures_before(&self, pod: &Pod) -> i32 {
        number(pod, FAILURES).unwrap_or(0)
    }

    fn all_before(&self, pod: &Pod) -> i32 {
        self.failures_before(pod).saturating_add(number(pod, IGNORED).unwrap_or(0))
    }

    /// Per index that is neither done nor at work, the failed pod that tells its successor how many there were before: it
    /// keeps its finalizer until there is one. Only of jobs that count failures per index.
    pub(super) fn delayed(&self) -> BTreeMap<Option<usize>, Arc<Pod>> {
        let mut delayed: BTreeMap<Option<usize>, Arc<Pod>> = BTreeMap::new();
        if !is_indexed(self.spec) || self.spec.backoff_limit_per_index.is_none() {
            return delayed;
        }
        let at_work: HashSet<usize> = self.members.iter().filter(|m| m.active).filter_map(|m| m.index).collect();
        let rank = |pod: &Pod| (self.all_before(pod), finished_at(pod));
        for member in self.members.iter().filter(|m| m.tracked && m.failed && self.is_valid(m)) {
            let open = member.index.is_some_and(|index| {
                !self.succeeded_indexes.has(index) && !self.failed_indexes.has(index) && !at_work.contains(&index)
            });
            if !open {
                continue;
            }
            let last = delayed.entry(member.index).or_insert_with(|| member.pod.clone());
            if rank(&member.pod) >= rank(last) {
                *last = member.pod.clone();
            }
        }
        delayed
    }
}

fn add_variable(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field_ref = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    let source = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    env.push(EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from: Some(source) });
}
