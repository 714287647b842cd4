//! What may be said of a Job: how its counts, conditions and times go together, and what they may not turn back. A rule is
//! asked only of a write that changes what it is about, so that a status that breaks one can still be brought on.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::time::parse_rfc3339;

use crate::tree::{flag, has, int, list, text};
use crate::validation::{Errors, format};

fn is_true(job: &Value, condition: &str) -> bool {
    let conditions = list(&job["status"], "conditions");
    conditions.iter().any(|c| text(c, "type") == condition && text(c, "status") == "True")
}

fn is_finished(job: &Value) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

/// First and last index of an interval such as `3` or `5-7`.
fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = text.split('-').collect();
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match limits[..] {
        [one] => index(one).map(|index| (index, index)),
        [first, last] => match (index(first)?, index(last)?) {
            (x, y) if x >= y => Err(format!("non-increasing order, previous: {x}, current: {y}")),
            both => Ok(both),
        },
        _ => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

fn indexes_fault(text: &str, completions: i64) -> Option<String> {
    let mut last = None;
    for part in text.split(',').filter(|_| !text.is_empty()) {
        match (interval(part, completions), last) {
            (Err(fault), _) => return Some(fault),
            (Ok((x, _)), Some(last)) if last >= x => {
                return Some(format!("non-increasing order, previous: {last}, current: {x}"));
            }
            (Ok((_, y)), _) => last = Some(y),
        }
    }
    None
}

/// The first index that two lists in order share; what is no interval was told already.
fn shared_index(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let all = |text: &str| text.split(',').filter_map(|part| interval(part, completions).ok()).collect::<Vec<_>>();
    let (completed, failed) = (all(completed), all(failed));
    let (mut c, mut f) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some((c_first, c_last)), Some((f_first, f_last))) = (c.peek(), f.peek()) {
        if c_first <= f_last && f_first <= c_last {
            return Some(*c_first.max(f_first));
        }
        if c_first <= f_first {
            c.next()
        } else {
            f.next()
        };
    }
    None
}

/// `status` of a Job.
pub(in crate::strategy) fn validate(job: &Value, old: &Value) -> Vec<FieldError> {
    let (mut out, path) = (Errors::new(), FieldPath::new("status"));
    let (status, before, spec) = (&job["status"], &old["status"], &job["spec"]);
    let count = |field: &str| int(status, field).unwrap_or(0);
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        format::not_negative(&mut out, &path.child(field), int(status, field));
    }
    uncounted(&mut out, &path.child("uncountedTerminatedPods"), &status["uncountedTerminatedPods"]);

    let is = |condition: &str| is_true(job, condition);
    let turned = |condition: &str| is(condition) != is_true(old, condition);
    let changed = |field: &str| status.get(field) != before.get(field);
    let finished = is_finished(job);
    let ended = finished != is_finished(old);
    let time = |status: &Value, field: &str| parse_rfc3339(text(status, field));
    let (started, completed) = (time(status, "startTime"), time(status, "completionTime"));

    let condition = |out: &mut Errors, wrong: bool, detail: &str| {
        if wrong {
            out.push(FieldError { value: None, ..FieldError::invalid(&path.child("conditions"), Value::Null, detail) });
        }
    };
    let field = |out: &mut Errors, wrong: bool, name: &str, detail: &str| {
        if wrong {
            out.push(FieldError::invalid(&path.child(name), status.get(name).cloned().unwrap_or_default(), detail));
        }
    };
    let required = |out: &mut Errors, missing: bool, name: &str, detail: &str| {
        if missing {
            out.push(FieldError::required(&path.child(name), detail));
        }
    };

    let wrong = (turned("Complete") || turned("Failed")) && is("Complete") && is("Failed");
    condition(&mut out, wrong, "cannot set Complete=True and Failed=true conditions");
    let wrong = (turned("Complete") || turned("FailureTarget")) && is("Complete") && is("FailureTarget");
    condition(&mut out, wrong, "cannot set Complete=True and FailureTarget=true conditions");
    let of_completion = turned("Complete") || changed("completionTime");
    let wrong = of_completion && completed.is_some() && !is("Complete");
    field(&mut out, wrong, "completionTime", "cannot set completionTime when there is no Complete=True condition");
    let missing = of_completion && completed.is_none() && is("Complete");
    required(&mut out, missing, "completionTime", "completionTime is required for Complete jobs");
    let early = started.zip(completed).is_some_and(|(started, completed)| completed < started);
    let wrong = early && (changed("startTime") || changed("completionTime"));
    field(&mut out, wrong, "completionTime", "must be equal to or after `startTime`");
    let wrong = (turned("Failed") || changed("failedIndexes")) && is("Failed") && !is("FailureTarget");
    condition(&mut out, wrong, "cannot set Failed=True condition without the FailureTarget=true condition");
    let wrong = (turned("Complete") || turned("SuccessCriteriaMet")) && is("Complete") && !is("SuccessCriteriaMet");
    condition(&mut out, wrong, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    let wrong = (ended || changed("active")) && finished && count("active") > 0;
    field(&mut out, wrong, "active", "active>0 is invalid for finished job");
    let idle = flag(spec, "suspend") && int(spec, "completions") == Some(0);
    let missing = (ended || changed("startTime")) && !idle && finished && started.is_none();
    required(&mut out, missing, "startTime", "startTime is required for finished job");
    let pods = &status["uncountedTerminatedPods"];
    let uncounted = !list(pods, "failed").is_empty() || !list(pods, "succeeded").is_empty();
    let wrong = (ended || changed("uncountedTerminatedPods")) && finished && uncounted;
    field(&mut out, wrong, "uncountedTerminatedPods", "must be empty for finished job");

    let per_index = has(spec, "backoffLimitPerIndex");
    for (name, of_index) in [("completedIndexes", true), ("failedIndexes", per_index)] {
        let completions = int(spec, "completions").filter(|_| of_index && changed(name));
        if let Some(fault) = completions.and_then(|completions| indexes_fault(text(status, name), completions)) {
            field(&mut out, true, name, &format!("error parsing {name}: {fault}"));
        }
    }
    let indexed = text(spec, "completionMode") == "Indexed";
    let wrong = changed("completedIndexes") && !text(status, "completedIndexes").is_empty() && !indexed;
    let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
    field(&mut out, wrong, "completedIndexes", detail);
    let wrong = changed("failedIndexes") && has(status, "failedIndexes") && !per_index;
    field(&mut out, wrong, "failedIndexes", "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    if changed("failedIndexes") || changed("completedIndexes") {
        let (completed, failed) = (text(status, "completedIndexes"), text(status, "failedIndexes"));
        let shared = int(spec, "completions").and_then(|completions| shared_index(completed, failed, completions));
        let detail = |index| format!("failedIndexes and completedIndexes overlap at index: {index}");
        field(&mut out, shared.is_some(), "failedIndexes", &shared.map(detail).unwrap_or_default());
    }
    let wrong = (ended || changed("terminating")) && finished && count("terminating") > 0;
    field(&mut out, wrong, "terminating", "terminating>0 is invalid for finished job");
    let wrong = (changed("ready") || changed("active")) && has(status, "ready") && count("ready") > count("active");
    field(&mut out, wrong, "ready", "cannot set more ready pods than active");
    let met = is("SuccessCriteriaMet");
    condition(&mut out, met && is("Failed"), "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    let wrong = met && is("FailureTarget");
    condition(&mut out, wrong, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    let wrong = has(spec, "successPolicy") && !met && is("Complete");
    let detail = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
    condition(&mut out, wrong, detail);

    // What was reached stays.
    for kind in ["Failed", "Complete", "FailureTarget"] {
        let wrong = is_true(old, kind) && !is(kind);
        condition(&mut out, wrong, &format!("cannot disable the terminal {kind}=True condition"));
    }
    let fell = |field: &str| count(field) < int(before, field).unwrap_or(0);
    field(&mut out, fell("failed"), "failed", "cannot decrease the failed counter");
    // An indexed Job with as many pods as completions may be scaled down.
    let scalable = indexed && int(spec, "completions") == int(spec, "parallelism");
    field(&mut out, fell("succeeded") && !scalable, "succeeded", "cannot decrease the succeeded counter");
    let wrong = completed.is_some() && has(before, "completionTime") && completed != time(before, "completionTime");
    field(&mut out, wrong, "completionTime", "field is immutable");
    let missing = has(before, "startTime") && started != time(before, "startTime") && !flag(spec, "suspend");
    required(&mut out, missing, "startTime", "startTime cannot be removed for unsuspended job");
    let was_met = is_true(old, "SuccessCriteriaMet");
    condition(&mut out, was_met && !met, "cannot disable the SuccessCriteriaMet=True condition");
    let wrong = is_true(old, "Complete") && !was_met && met;
    condition(&mut out, wrong, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    out
}

/// Uids of pods, each once.
fn uncounted(out: &mut Errors, path: &FieldPath, pods: &Value) {
    let mut seen = std::collections::HashSet::new();
    for field in ["succeeded", "failed"] {
        for (i, uid) in list(pods, field).iter().enumerate() {
            let (path, uid) = (path.child(field).index(i), uid.as_str().unwrap_or(""));
            if uid.is_empty() {
                out.push(FieldError::invalid(&path, uid, "must not be empty"));
            } else if !seen.insert(uid) {
                out.push(FieldError::duplicate(&path, uid));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    const START: &str = "2024-01-01T00:00:00Z";
    const END: &str = "2024-01-01T00:01:00Z";

    fn faults(spec: &Value, old: &Value, new: &Value) -> Vec<String> {
        let job = |status: &Value| json!({"spec": spec, "status": status});
        validate(&job(new), &job(old)).iter().map(ToString::to_string).collect()
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn a_job_starts_runs_and_ends() {
        let spec = json!({"completions": 2, "parallelism": 1, "completionMode": "NonIndexed"});
        let running = json!({"startTime": START, "active": 1, "ready": 1});
        let target = json!({"startTime": START, "failed": 1, "conditions": conditions(&["FailureTarget"])});
        let failed = json!({"startTime": START, "failed": 1, "conditions": conditions(&["FailureTarget", "Failed"])});
        let met = json!({"startTime": START, "succeeded": 2, "conditions": conditions(&["SuccessCriteriaMet"])});
        let complete = json!({"startTime": START, "succeeded": 2, "completionTime": END,
            "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        for (old, new) in [
            (&json!({}), &running),
            (&running, &target),
            (&target, &failed),
            (&running, &met),
            (&met, &complete),
            (&complete, &complete),
        ] {
            assert_eq!(faults(&spec, old, new), [""; 0], "{new}");
        }
        let finished = faults(
            &spec,
            &running,
            &json!({"active": 1, "terminating": 1, "conditions": conditions(&["Complete", "Failed"]),
            "uncountedTerminatedPods": {"failed": ["a", "a", ""]}}),
        );
        assert_eq!(
            finished,
            [
                "status.uncountedTerminatedPods.failed[1]: Duplicate value: \"a\"",
                "status.uncountedTerminatedPods.failed[2]: Invalid value: \"\": must not be empty",
                "status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.uncountedTerminatedPods: Invalid value: {\"failed\":[\"a\",\"a\",\"\"]}: must be empty for finished job",
                "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
                "status.startTime: Required value: startTime cannot be removed for unsuspended job",
            ]
        );
        let back = faults(&spec, &complete, &json!({"startTime": END, "succeeded": 1, "active": -1}));
        assert_eq!(
            back,
            [
                "status.active: Invalid value: -1: must be greater than or equal to 0",
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",
                "status.startTime: Required value: startTime cannot be removed for unsuspended job",
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
            ]
        );
        let early = json!({"startTime": START, "completionTime": "2023-01-01T00:00:00Z", "succeeded": 2,
            "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        assert_eq!(faults(&spec, &met, &early).len(), 1);
        assert!(faults(&spec, &complete, &early)[1].ends_with("field is immutable"));
    }

    #[test]
    fn indexes_are_in_order_and_of_one_outcome() {
        let spec = json!({"completions": 9, "parallelism": 9, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
        for (completed, failed, fault) in [
            ("0-2,4", "3,5-8", ""),
            ("3,1", "", "completedIndexes: non-increasing order, previous: 3, current: 1"),
            ("4-4", "", "completedIndexes: non-increasing order, previous: 4, current: 4"),
            ("9", "", "completedIndexes: too large index: \"9\""),
            ("x", "", "completedIndexes: cannot convert string to integer for index: \"x\""),
            ("0", "1-2-3", "failedIndexes: the fragment \"1-2-3\" violates the requirement"),
            ("0-3,6", "1,4", "failedIndexes and completedIndexes overlap at index: 1"),
            ("0,4-6", "2,5", "failedIndexes and completedIndexes overlap at index: 5"),
        ] {
            let found = faults(&spec, &json!({}), &json!({"completedIndexes": completed, "failedIndexes": failed}));
            assert_eq!(found.len(), usize::from(!fault.is_empty()), "{found:?}");
            assert!(found.iter().all(|text| text.contains(fault)), "{found:?} for {fault}");
        }
        let plain = json!({"completions": 9, "completionMode": "NonIndexed"});
        assert_eq!(faults(&plain, &json!({}), &json!({"completedIndexes": "1", "failedIndexes": "2"})).len(), 2);
        let broken = json!({"completedIndexes": "12"});
        assert_eq!(faults(&spec, &broken, &broken), [""; 0], "it was so before");
    }
}
