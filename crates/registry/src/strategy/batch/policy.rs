//! When a Job counts as failed or as done before all of its pods are.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldErrorType, FieldPath};
use kybern_apimachinery::validation::label_key;

use crate::tree::{has, int, list, text};
use crate::validation::{Errors, format};

const MAX_RULES: usize = 20;
const MAX_CODES: usize = 255;
const MAX_INDEXES_TEXT: usize = 64 << 10;

fn too_many(out: &mut Errors, path: &FieldPath, count: usize, max: usize) {
    if count > max {
        out.push(FieldError::too_many(path, count, max));
    }
}

/// A word of a set, asked for with upstream's list of them.
fn word(out: &mut Errors, path: &FieldPath, value: &str, words: &[&str]) {
    if value.is_empty() {
        let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
        out.push(FieldError::required(path, format!("valid values: [{}]", quoted.join(" "))));
    } else {
        format::one_of(out, path, value, words);
    }
}

/// An invalid value that is not shown.
fn unshown(path: &FieldPath, detail: &str) -> FieldError {
    FieldError { kind: FieldErrorType::Invalid, path: path.clone(), value: None, detail: detail.to_owned() }
}

/// `podFailurePolicy` of a Job's spec.
pub(super) fn failure(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (rules, path) = (list(&spec["podFailurePolicy"], "rules"), path.child("rules"));
    too_many(out, &path, rules.len(), MAX_RULES);
    let pod = &spec["template"]["spec"];
    let names: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|sort| list(pod, sort)).map(|c| text(c, "name")).collect();
    for (i, rule) in rules.iter().enumerate() {
        let (path, action) = (path.index(i), text(rule, "action"));
        if action == "FailIndex" {
            if !has(spec, "backoffLimitPerIndex") {
                let detail = "requires the backoffLimitPerIndex to be set";
                out.push(FieldError::invalid(&path.child("action"), action, detail));
            }
        } else {
            word(out, &path.child("action"), action, &["Count", "FailIndex", "FailJob", "Ignore"]);
        }
        let conditions = list(rule, "onPodConditions");
        if has(rule, "onExitCodes") {
            exit_codes(out, &path.child("onExitCodes"), &rule["onExitCodes"], &names);
        }
        too_many(out, &path.child("onPodConditions"), conditions.len(), MAX_RULES);
        for (j, condition) in conditions.iter().enumerate() {
            let (path, kind) = (path.child("onPodConditions").index(j), text(condition, "type"));
            format::invalid(out, &path.child("type"), kind, label_key(kind));
            word(out, &path.child("status"), text(condition, "status"), &["False", "True", "Unknown"]);
        }
        match (has(rule, "onExitCodes"), conditions.is_empty()) {
            (true, false) => {
                out.push(unshown(&path, "specifying both OnExitCodes and OnPodConditions is not supported"));
            }
            (false, true) => {
                out.push(unshown(&path, "specifying one of OnExitCodes and OnPodConditions is required"));
            }
            _ => {}
        }
    }
}

fn exit_codes(out: &mut Errors, path: &FieldPath, rule: &Value, names: &BTreeSet<&str>) {
    let operator = text(rule, "operator");
    word(out, &path.child("operator"), operator, &["In", "NotIn"]);
    let container = text(rule, "containerName");
    if has(rule, "containerName") && !names.contains(container) {
        let detail = "must be one of the container or initContainer names in the pod template";
        out.push(FieldError::invalid(&path.child("containerName"), container, detail));
    }
    let (codes, path) = (list(rule, "values"), path.child("values"));
    if codes.is_empty() {
        let shown = rule.get("values").cloned().unwrap_or_default();
        out.push(FieldError::invalid(&path, shown, "at least one value is required"));
    }
    too_many(out, &path, codes.len(), MAX_CODES);
    let codes: Vec<i64> = codes.iter().map(|code| code.as_i64().unwrap_or(0)).collect();
    for (i, code) in codes.iter().enumerate() {
        if operator == "In" && *code == 0 {
            out.push(FieldError::invalid(&path.index(i), 0, "must not be 0 for the In operator"));
        }
        if codes[..i].contains(code) {
            out.push(FieldError::duplicate(&path.index(i), *code));
        }
    }
    if !codes.is_sorted() {
        out.push(FieldError::invalid(&path, codes, "must be ordered"));
    }
}

/// `successPolicy` of an indexed Job's spec.
pub(super) fn success(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (rules, path) = (list(&spec["successPolicy"], "rules"), path.child("rules"));
    let completions = int(spec, "completions").unwrap_or(0);
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        out.push(FieldError::required(&path, detail));
    }
    too_many(out, &path, rules.len(), MAX_RULES);
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let indexes = rule.get("succeededIndexes").and_then(Value::as_str);
        if indexes.is_none() && !has(rule, "succeededCount") {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            out.push(FieldError::required(&path, detail));
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            let path = path.child("succeededIndexes");
            if indexes.len() > MAX_INDEXES_TEXT {
                out.push(FieldError::too_long(&path, MAX_INDEXES_TEXT));
            }
            match count_indexes(indexes, completions) {
                Ok(count) => total = count,
                Err(e) => {
                    out.push(FieldError::invalid(&path, indexes, format!("error parsing succeededIndexes: {e}")));
                }
            }
        }
        let path = path.child("succeededCount");
        let count = int(rule, "succeededCount");
        format::not_negative(out, &path, count);
        if let Some(count) = count.filter(|n| *n > completions) {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            out.push(FieldError::invalid(&path, count, detail));
        }
        if let Some(count) = count.filter(|n| indexes.is_some() && *n > total) {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            out.push(FieldError::invalid(&path, count, detail));
        }
    }
}

/// How many indexes `1,3-5` names, all below `completions` and in order.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let limits: Vec<&str> = interval.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let limit = |text: &str| -> Result<i64, String> {
            let n: i64 = text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
            if n >= completions { Err(format!("too large index: {text:?}")) } else { Ok(n) }
        };
        let first = limit(limits[0])?;
        let end = limits.get(1).map_or(Ok(first), |text| limit(text))?;
        if limits.len() > 1 && first >= end {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes() {
        assert_eq!(count_indexes("1,3-5", 6), Ok(4));
        assert_eq!(count_indexes("", 6), Ok(0));
        for wrong in ["5-3", "1,1", "9", "a", "1-2-3", "1,"] {
            assert!(count_indexes(wrong, 6).is_err(), "{wrong}");
        }
    }
}
