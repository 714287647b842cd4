//! What metrics say of one look at a job.

use kybern_api::batch::v1::{JobCondition, JobStatus};

use super::policy::is_indexed;
use super::sync::JobSync;
use crate::controller::{Op, Plan};
use crate::metrics::{JOB_INDEXES_FINISHED, JOB_PODS_CREATED, JOB_PODS_FINISHED, JOB_SYNCS, JOBS_FINISHED};

fn end(status: &JobStatus) -> Option<&JobCondition> {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// How many indexes a list like `1-3,7` names.
fn indexes(text: Option<&String>) -> i64 {
    let ranges = text.map_or("", String::as_str).split(',').filter(|range| !range.is_empty());
    let length = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<i64>().ok()? - first.parse::<i64>().ok()? + 1)
    };
    ranges.filter_map(length).sum()
}

impl JobSync<'_> {
    /// `old` and the job's new status, and what is done to its pods.
    pub(super) fn measure(&self, plan: &mut Plan, old: &JobStatus, changes: &[Op], is_over: bool) {
        let (spec, new) = (self.spec, &self.status);
        let mode = if is_indexed(spec) { "Indexed" } else { "NonIndexed" };
        let made = changes.iter().filter(|op| matches!(op, Op::Create { .. })).count();
        let action = match made {
            _ if is_over => "reconciling",
            0 if changes.iter().any(|op| matches!(op, Op::Delete { .. })) => "pods_deleted",
            0 => "tracking",
            _ => "pods_created",
        };
        plan.count(&JOB_SYNCS, [mode, "success", action]);
        let mut add = |metric, labels, more: i64| {
            if more > 0 {
                plan.measure(metric, labels, more as f64);
            }
        };
        let more = |old: Option<i32>, new: Option<i32>| i64::from(new.unwrap_or(0)) - i64::from(old.unwrap_or(0));
        add(&JOB_PODS_FINISHED, [mode, "succeeded"], more(old.succeeded, new.succeeded));
        add(&JOB_PODS_FINISHED, [mode, "failed"], more(old.failed, new.failed));
        if is_indexed(spec) {
            let limit = if spec.backoff_limit_per_index.is_some() { "perIndex" } else { "global" };
            let more = |old: &Option<String>, new: &Option<String>| indexes(new.as_ref()) - indexes(old.as_ref());
            add(&JOB_INDEXES_FINISHED, ["succeeded", limit], more(&old.completed_indexes, &new.completed_indexes));
            add(&JOB_INDEXES_FINISHED, ["failed", limit], more(&old.failed_indexes, &new.failed_indexes));
        }
        let (failed, terminating) = (new.failed.unwrap_or(0) > 0, new.terminating.unwrap_or(0) > 0);
        let reason = match spec.pod_replacement_policy.as_deref() {
            Some("Failed") if failed => "recreate_failed",
            _ if failed || terminating => "recreate_terminating_or_failed",
            _ => "new",
        };
        add(&JOB_PODS_CREATED, [reason, "succeeded"], i64::try_from(made).unwrap_or(i64::MAX));
        if let Some(end) = end(new).filter(|_| end(old).is_none()) {
            let result = if end.type_ == "Complete" { "succeeded" } else { "failed" };
            plan.count(&JOBS_FINISHED, [mode, result, end.reason.as_deref().unwrap_or("")]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted() {
        for (text, expect) in [("", 0), ("3", 1), ("0-2", 3), ("0,2-4,9", 5)] {
            assert_eq!(indexes(Some(&text.to_owned())), expect, "{text}");
        }
        assert_eq!(indexes(None), 0);
    }
}
