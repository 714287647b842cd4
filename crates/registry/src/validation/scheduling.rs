//! Tolerations, taints, node selectors and affinity.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key, label_value};

use super::format::{self, Errors};
use super::{meta, spread};
use crate::tree::{has, int, list, text};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn tolerations(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        let path = path.child("tolerations").index(i);
        let (key, operator, effect) =
            (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
        let value = text(toleration, "value");
        let at = path.child("operator");
        if !key.is_empty() {
            format::invalid(out, &path.child("key"), key, label_key(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            out.push(FieldError::invalid(&at, operator, detail));
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            out.push(FieldError::invalid(&path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                let texts = label_value(value);
                if !texts.is_empty() {
                    out.push(FieldError::invalid(&at, value, texts.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                out.push(FieldError::invalid(&at, value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            other => out.push(FieldError::not_supported(&at, other, &["Equal", "Exists"])),
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
        format::invalid(out, &path.child("key"), key, label_key(key));
        let texts = label_value(value);
        if !texts.is_empty() {
            out.push(FieldError::invalid(&path.child("value"), value, texts.join(";")));
        }
        format::required_one_of(out, &path.child("effect"), effect, &EFFECTS);
        if seen.contains(&(key, effect)) {
            let mut error = FieldError::duplicate(&path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            out.push(error);
        }
        seen.push((key, effect));
    }
}

fn node_requirement(out: &mut Errors, path: &FieldPath, requirement: &Value, strict: bool) {
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
    for (i, value) in values.iter().enumerate().filter(|_| strict) {
        let value = value.as_str().unwrap_or("");
        format::invalid(out, &path.child("values").index(i), value, label_value(value));
    }
}

/// One term of a node selector. `strict`: its values must be such as labels can have.
pub(crate) fn node_term(out: &mut Errors, path: &FieldPath, term: &Value, strict: bool) {
    for (i, requirement) in list(term, "matchExpressions").iter().enumerate() {
        node_requirement(out, &path.child("matchExpressions").index(i), requirement, strict);
    }
    for (i, requirement) in list(term, "matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(i);
        let (key, values) = (text(requirement, "key"), list(requirement, "values"));
        match text(requirement, "operator") {
            "In" | "NotIn" if values.len() != 1 => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                out.push(FieldError::required(&path.child("values"), detail));
            }
            "In" | "NotIn" => {}
            other => out.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        if key != "metadata.name" {
            out.push(FieldError::invalid(&path.child("key"), key, "not a valid field selector key"));
            continue;
        }
        for (j, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            format::invalid(out, &path.child("values").index(j), value, dns1123_subdomain(value));
        }
    }
}

/// A node selector: at least one term.
pub(crate) fn node_selector(out: &mut Errors, path: &FieldPath, selector: &Value, strict: bool) {
    let (path, terms) = (path.child("nodeSelectorTerms"), list(selector, "nodeSelectorTerms"));
    if terms.is_empty() {
        out.push(FieldError::required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(out, &path.index(i), term, strict);
    }
}

fn pod_term(out: &mut Errors, path: &FieldPath, term: &Value) {
    for field in ["labelSelector", "namespaceSelector"] {
        meta::selector(out, &path.child(field), &term[field]);
    }
    for namespace in list(term, "namespaces") {
        let namespace = namespace.as_str().unwrap_or("");
        format::invalid(out, &path.child("namespace"), namespace, dns1123_label(namespace));
    }
    spread::label_keys(out, path, term);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        out.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
    }
    format::invalid(out, &path.child("topologyKey"), key, label_key(key));
}

fn weight(out: &mut Errors, path: &FieldPath, term: &Value) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        out.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

pub(crate) const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
pub(crate) const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `affinity` of a pod's spec.
pub(crate) fn affinity(out: &mut Errors, path: &FieldPath, affinity: &Value) {
    let node = &affinity["nodeAffinity"];
    if has(node, REQUIRED) {
        node_selector(out, &path.child("nodeAffinity").child(REQUIRED), &node[REQUIRED], true);
    }
    for (i, term) in list(node, PREFERRED).iter().enumerate() {
        let path = path.child("nodeAffinity").child(PREFERRED).index(i);
        weight(out, &path, term);
        node_term(out, &path.child("preference"), &term["preference"], false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (i, term) in list(&affinity[kind], REQUIRED).iter().enumerate() {
            pod_term(out, &path.child(kind).child(REQUIRED).index(i), term);
        }
        for (i, term) in list(&affinity[kind], PREFERRED).iter().enumerate() {
            let path = path.child(kind).child(PREFERRED).index(i);
            weight(out, &path, term);
            pod_term(out, &path.child("podAffinityTerm"), &term["podAffinityTerm"]);
        }
    }
}
