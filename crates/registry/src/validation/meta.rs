//! Labels and label selectors.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::validation::{label_key, label_value};
use kybern_apimachinery::{Value, object};

use super::format::{self, Errors};
use crate::tree::{list, map, text};

/// A map of labels.
pub(crate) fn labels(out: &mut Errors, path: &FieldPath, owner: &Value, field: &str) {
    let path = path.child(field);
    for (key, value) in map(owner, field) {
        format::invalid(out, &path, key, label_key(key));
        format::invalid(out, &path, value.as_str().unwrap_or(""), label_value(value.as_str().unwrap_or("")));
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn selector(out: &mut Errors, path: &FieldPath, selector: &Value) {
    let matches = path.child("matchLabels");
    for (key, value) in map(selector, "matchLabels") {
        format::invalid(out, &matches, key, label_key(key));
        let value = value.as_str().unwrap_or("");
        out.extend(label_value(value).into_iter().map(|t| FieldError::invalid(&matches.key(key), value, t)));
    }
    for (i, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = list(requirement, "values");
        match text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                out.push(FieldError::required(
                    &path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                out.push(FieldError::forbidden(&path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => out.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
        }
        format::invalid(out, &path.child("key"), text(requirement, "key"), label_key(text(requirement, "key")));
        for (j, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            format::invalid(out, &path.child("values").index(j), value, label_value(value));
        }
    }
}

/// The selector of a workload: given, well-formed, not empty, and matching its own template.
pub(crate) fn workload_selector(out: &mut Errors, spec: &Value, kind: &str) {
    let path = FieldPath::new("spec.selector");
    let labels = object::at(spec, &["template", "metadata", "labels"]);
    let matches = |out: &mut Errors, parsed: &LabelSelector| {
        if !parsed.matches_map(labels.and_then(Value::as_object)) {
            let labels = labels.cloned().unwrap_or_else(|| Value::Object(Default::default()));
            let path = FieldPath::new("spec.template.metadata.labels");
            out.push(FieldError::invalid(&path, labels, "`selector` does not match template `labels`"));
        }
    };
    let Some(chosen) = spec.get("selector").filter(|s| !s.is_null()) else {
        out.push(FieldError::required(&path, ""));
        // It selects nothing, its own template neither.
        matches(out, &LabelSelector { nothing: true, ..LabelSelector::default() });
        return;
    };
    let errors = out.len();
    selector(out, &path, chosen);
    let malformed = out.len() > errors;
    let empty = list(chosen, "matchExpressions").is_empty() && map(chosen, "matchLabels").next().is_none();
    if empty {
        out.push(FieldError::invalid(&path, chosen.clone(), format!("empty selector is invalid for {kind}")));
        return;
    }
    match LabelSelector::from_object(chosen) {
        Ok(parsed) if !malformed => matches(out, &parsed),
        _ => out.push(FieldError::invalid(&path, chosen.clone(), "invalid label selector")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn selectors_must_match_their_template() {
        let check = |spec: Value, expect: &str| {
            let mut out = Vec::new();
            workload_selector(&mut out, &spec, "deployment");
            assert_eq!(out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expect);
        };
        check(
            json!({"template": {"metadata": {"labels": {"a": "b"}}}}),
            "spec.selector: Required value; spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
        );
        check(
            json!({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'; spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"In\"}]}: invalid label selector",
        );
        check(json!({"selector": {}}), "spec.selector: Invalid value: {}: empty selector is invalid for deployment");
        check(json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}), "");
        check(
            json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}}}),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        );
    }
}
