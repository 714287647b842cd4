//! Tolerations, node selectors, affinity and topology spread.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{label_key, label_value};

use super::format::{self, Errors};
use super::meta;
use crate::tree::{has, int, list, text};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn tolerations(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        let path = path.child("tolerations").index(i);
        let (key, operator, effect) =
            (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
        if !key.is_empty() {
            format::invalid(out, &path.child("key"), key, label_key(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            out.push(FieldError::invalid(&path.child("operator"), operator, detail));
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            out.push(FieldError::invalid(
                &path.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator {
            "" | "Equal" => {
                let value = text(toleration, "value");
                let texts = label_value(value);
                if !texts.is_empty() {
                    out.push(FieldError::invalid(&path.child("operator"), value, texts.join("; ")));
                }
            }
            "Exists" if !text(toleration, "value").is_empty() => {
                let value = toleration.clone();
                out.push(FieldError::invalid(
                    &path.child("operator"),
                    value,
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            other => out.push(FieldError::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            format::one_of(out, &path.child("effect"), effect, &EFFECTS);
        }
    }
}

/// `taints` of a node.
pub(crate) fn taints(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in list(spec, "taints").iter().enumerate() {
        let path = path.child("taints").index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        format::required_name(out, &path.child("key"), key, label_key);
        format::invalid(out, &path.child("value"), value, label_value(value));
        format::required_one_of(out, &path.child("effect"), effect, &EFFECTS);
        if seen.contains(&(key, effect)) {
            let mut error = FieldError::duplicate(&path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            out.push(error);
        }
        seen.push((key, effect));
    }
}

fn node_requirement(out: &mut Errors, path: &FieldPath, requirement: &Value) {
    let values = list(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            out.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            out.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            out.push(FieldError::required(
                &path.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => out.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    format::invalid(out, &path.child("key"), text(requirement, "key"), label_key(text(requirement, "key")));
}

fn node_term(out: &mut Errors, path: &FieldPath, term: &Value) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(out, &path.child("matchExpressions").index(i), requirement);
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(i);
        if text(requirement, "key") != "metadata.name" {
            out.push(FieldError::invalid(
                &path.child("key"),
                text(requirement, "key"),
                "not a valid field selector key",
            ));
        }
    }
}

fn pod_term(out: &mut Errors, path: &FieldPath, term: &Value) {
    for field in ["labelSelector", "namespaceSelector"] {
        meta::selector(out, &path.child(field), &term[field]);
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        out.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
    } else {
        format::invalid(out, &path.child("topologyKey"), key, label_key(key));
    }
}

fn weight(out: &mut Errors, path: &FieldPath, term: &Value) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        out.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `nodeSelector`, `affinity` and `topologySpreadConstraints` of a pod's spec.
pub(crate) fn placement(out: &mut Errors, path: &FieldPath, spec: &Value) {
    meta::labels(out, path, spec, "nodeSelector");
    let affinity = &spec["affinity"];
    let base = path.child("affinity");
    if let Some(required) = affinity["nodeAffinity"].get(REQUIRED).filter(|r| !r.is_null()) {
        let path = base.child("nodeAffinity").child(REQUIRED).child("nodeSelectorTerms");
        let terms = list(required, "nodeSelectorTerms");
        if terms.is_empty() {
            out.push(FieldError::required(&path, "must have at least one node selector term"));
        }
        for (i, term) in terms.iter().enumerate() {
            node_term(out, &path.index(i), term);
        }
    }
    for (i, term) in list(&affinity["nodeAffinity"], PREFERRED).iter().enumerate() {
        let path = base.child("nodeAffinity").child(PREFERRED).index(i);
        weight(out, &path, term);
        node_term(out, &path.child("preference"), &term["preference"]);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (i, term) in list(&affinity[kind], REQUIRED).iter().enumerate() {
            pod_term(out, &base.child(kind).child(REQUIRED).index(i), term);
        }
        for (i, term) in list(&affinity[kind], PREFERRED).iter().enumerate() {
            let path = base.child(kind).child(PREFERRED).index(i);
            weight(out, &path, term);
            pod_term(out, &path.child("podAffinityTerm"), &term["podAffinityTerm"]);
        }
    }
    for (i, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        if let Some(skew) = int(constraint, "maxSkew").filter(|s| *s <= 0) {
            out.push(FieldError::invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        if text(constraint, "topologyKey").is_empty() {
            out.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        format::one_of(out, &path.child("whenUnsatisfiable"), text(constraint, "whenUnsatisfiable"), &actions);
        meta::selector(out, &path.child("labelSelector"), &constraint["labelSelector"]);
    }
}
