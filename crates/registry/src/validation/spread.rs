//! Topology spread, and the label keys that spread and affinity share.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::label_key;

use super::format::{self, Errors};
use super::meta;
use crate::tree::{has, int, list, map, text};

fn texts<'a>(owner: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    list(owner, field).iter().map(|v| v.as_str().unwrap_or(""))
}

/// `matchLabelKeys` and `mismatchLabelKeys` beside a `labelSelector`.
pub(super) fn label_keys(out: &mut Errors, path: &FieldPath, owner: &Value) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let at = path.child(field);
        if !list(owner, field).is_empty() && !has(owner, "labelSelector") {
            out.push(FieldError::forbidden(&at, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in texts(owner, field).enumerate() {
            format::invalid(out, &at.index(i), key, label_key(key));
        }
    }
    // A key may be in the selector once: then it is the one that was merged into it from here.
    let selector = &owner["labelSelector"];
    let mut selected: BTreeSet<&str> = map(selector, "matchLabels").map(|(key, _)| key.as_str()).collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let position = texts(owner, "matchLabelKeys").collect::<Vec<_>>().iter().rposition(|k| *k == key);
        if let Some(i) = position.filter(|_| selected.contains(key)) {
            out.push(FieldError::invalid(&path.index(i), key, "exists in both matchLabelKeys and labelSelector"));
        }
        selected.insert(key);
    }
    for (i, key) in texts(owner, "matchLabelKeys").enumerate() {
        if texts(owner, "mismatchLabelKeys").any(|other| other == key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            out.push(FieldError::invalid(&path.child("matchLabelKeys").index(i), key, detail));
        }
    }
}

/// `topologySpreadConstraints` of a pod's spec.
pub(super) fn constraints(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = list(spec, "topologySpreadConstraints");
    for (i, constraint) in all.iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        let positive = |out: &mut Errors, field: &str, value: i64| {
            if value <= 0 {
                out.push(FieldError::invalid(&path.child(field), value, "must be greater than zero"));
            }
        };
        positive(out, "maxSkew", int(constraint, "maxSkew").unwrap_or(0));
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            out.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        format::one_of(out, &path.child("whenUnsatisfiable"), action, &actions);
        if all[i + 1..].iter().any(|c| text(c, "topologyKey") == key && text(c, "whenUnsatisfiable") == action) {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            out.push(FieldError::duplicate(&path, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = int(constraint, "minDomains") {
            positive(out, "minDomains", domains);
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                out.push(FieldError::invalid(&path.child("minDomains"), domains, detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if has(constraint, field) {
                format::one_of(out, &path.child(field), text(constraint, field), &["Honor", "Ignore"]);
            }
        }
        label_keys(out, &path, constraint);
        meta::selector(out, &path.child("labelSelector"), &constraint["labelSelector"]);
    }
}
