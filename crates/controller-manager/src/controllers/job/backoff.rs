//! How long a replacement waits: 10 s after the first failure since the last success, then twice as long each time.
//!
//! It follows from the pods that are there, so that it needs no memory and outlives a restart: a failed pod that somebody
//! has removed is forgotten with it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{ContainerStatus, Pod};
use kybern_api::{Object, condition};

use crate::pods;

const FIRST: i64 = 10;
const LONGEST: i64 = 600;

/// Failures since the last success, and when the last of them was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) failures: i32,
    pub(super) last: Option<Timestamp>,
}

impl Record {
    pub(super) fn of(successes: impl Iterator<Item = Timestamp>, failures: impl Iterator<Item = Timestamp>) -> Self {
        let last_success = successes.max();
        let mut record = Self::default();
        for failure in failures.filter(|at| last_success.is_none_or(|success| *at > success)) {
            record.failures = record.failures.saturating_add(1);
            record.last = record.last.max(Some(failure));
        }
        record
    }

    /// How long it still is to the next try.
    pub(super) fn remaining(&self, now: Timestamp) -> Duration {
        let Some(last) = self.last.filter(|_| self.failures > 0) else { return Duration::ZERO };
        let doublings = u32::try_from(self.failures - 1).unwrap_or(0).min(10);
        let wait = SignedDuration::from_secs((FIRST << doublings).min(LONGEST));
        Duration::try_from(wait.saturating_sub(now.duration_since(last))).unwrap_or_default()
    }
}

/// When a pod has finished: with its last container, when it ceased to be ready, or when its deletion was asked for.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let ready = pod.status.as_ref().and_then(|s| condition::find(&s.conditions, "Ready"));
    let unready = || ready.filter(|c| c.status == "False").and_then(condition::Condition::transition_time);
    let at = containers_finished_at(pod).or_else(unready).or_else(|| deleted_at(pod));
    at.unwrap_or_else(|| pods::created(&pod.metadata))
}

/// When the deletion was asked for: the deletion's time is the end of its grace period.
pub(super) fn deleted_at(pod: &Pod) -> Option<Timestamp> {
    let end = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    Some(end.checked_sub(grace).unwrap_or(end))
}

fn containers_finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> =
        init.filter(|c| c.restart_policy.as_deref() == Some("Always")).map(|c| c.name.as_str()).collect();
    let of_sidecars = status.init_container_statuses.iter().flatten();
    let of_sidecars = of_sidecars.filter(|c| sidecars.contains(&c.name.as_str()));
    let mut last = None;
    for container in status.container_statuses.iter().flatten().chain(of_sidecars) {
        last = last.max(Some(container_finished_at(container)?));
    }
    last
}

fn container_finished_at(container: &ContainerStatus) -> Option<Timestamp> {
    Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
}

/// The failures of a job as a whole. Pods that no longer bear the finalizer count if they failed by themselves, or were
/// deleted since the job's `start`: those that it removed itself when it was suspended do not.
pub(super) fn failed_at(pod: &Pod, has_failed: bool, tracked: bool, start: Option<Timestamp>) -> Option<Timestamp> {
    if !has_failed {
        return None;
    }
    if tracked || !pod.is_deleting() {
        return Some(finished_at(pod));
    }
    deleted_at(pod).filter(|at| start.is_none_or(|start| *at > start))
}

#[cfg(test)]
mod tests {
    use kybern_api::meta::v1::Time;

    use super::*;
    use crate::testing::{NOW, at, now, pod};

    #[test]
    fn the_wait_doubles_up_to_ten_minutes() {
        for (failures, since, expect) in
            [(0, 0, 0), (1, 0, 10), (1, 4, 6), (1, 11, 0), (2, 0, 20), (3, 0, 40), (7, 0, 600), (1000, 599, 1)]
        {
            let record = Record { failures, last: Some(at(NOW - since)) };
            assert_eq!(record.remaining(now()).as_secs(), expect, "{failures} {since}");
        }
        assert_eq!(Record::default().remaining(now()), Duration::ZERO);
    }

    #[test]
    fn a_success_ends_the_row() {
        let record = |good: &[i64], bad: &[i64]| Record::of(good.iter().map(|s| at(*s)), bad.iter().map(|s| at(*s)));
        assert_eq!(record(&[], &[5, 3]), Record { failures: 2, last: Some(at(5)) });
        assert_eq!(record(&[4], &[5, 3]), Record { failures: 1, last: Some(at(5)) });
        assert_eq!(record(&[5], &[5, 3]), Record::default());
    }

    #[test]
    fn a_pod_finishes_when_its_deletion_is_asked_for_at_the_latest() {
        let mut gone = pod("a").build();
        assert_eq!(finished_at(&gone), at(NOW - 10_000));
        gone.metadata.deletion_timestamp = Some(Time(now()));
        gone.metadata.deletion_grace_period_seconds = Some(30);
        assert_eq!(finished_at(&gone), at(NOW - 30));
        assert_eq!(failed_at(&gone, true, false, Some(at(NOW - 30))), None, "removed by the job itself");
        assert_eq!(failed_at(&gone, true, false, Some(at(NOW - 31))), Some(at(NOW - 30)));
        assert_eq!(failed_at(&gone, true, true, Some(at(NOW - 30))), Some(at(NOW - 30)));
        gone.metadata.deletion_grace_period_seconds = Some(i64::MAX);
        assert_eq!(finished_at(&gone), now());
    }
}
