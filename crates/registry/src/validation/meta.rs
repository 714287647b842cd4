//! Labels and label selectors.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::validation::{label_key, label_value};

use super::format::{self, Errors};
use crate::tree::{list, map, text};

/// Annotations of an object within an object.
pub(crate) fn annotations(out: &mut Errors, path: &FieldPath, owner: &Value) {
    const MAX: usize = 256 << 10;
    let (path, mut size) = (path.child("annotations"), 0);
    for (key, value) in map(owner, "annotations") {
        format::invalid(out, &path, key, label_key(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX {
        out.push(FieldError::too_long(&path, MAX));
    }
}

/// The metadata of what an object will be made from: labels and annotations, nothing else.
pub(crate) fn template(out: &mut Errors, path: &FieldPath, meta: &Value) {
    annotations(out, path, meta);
    labels(out, path, meta, "labels");
    for (field, name) in [
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ] {
        if meta.get(field).is_some_and(|v| !v.is_null() && v != "" && v != 0) {
            out.push(FieldError::forbidden(&path.child(name), "cannot be set"));
        }
    }
}

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
    labels(out, path, selector, "matchLabels");
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

/// Whether labels are such as a selector wants; a template without labels has none.
fn match_template(out: &mut Errors, path: &FieldPath, template: &Value, parsed: &LabelSelector) {
    let labels = &template["metadata"]["labels"];
    if !parsed.matches_map(labels.as_object()) {
        let path = path.child("metadata").child("labels");
        out.push(FieldError::invalid(&path, labels.clone(), "`selector` does not match template `labels`"));
    }
}

/// Whether a selector selects everything.
fn is_empty(selector: &Value) -> bool {
    list(selector, "matchExpressions").is_empty() && map(selector, "matchLabels").next().is_none()
}

/// The selector of a workload: given, well-formed, not empty, and matching the workload's own template. Answers whether it
/// could be read at all; upstream looks at the template only then. `malformed`: the text for one that could not.
pub(crate) fn workload_selector(out: &mut Errors, spec: &Value, kind: &str, malformed: &str) -> bool {
    let path = FieldPath::new("spec.selector");
    let template = FieldPath::new("spec.template");
    let Some(chosen) = spec.get("selector").filter(|s| !s.is_null()) else {
        out.push(FieldError::required(&path, ""));
        // It selects nothing, its own template neither.
        let nothing = LabelSelector { nothing: true, ..LabelSelector::default() };
        match_template(out, &template, &spec["template"], &nothing);
        return true;
    };
    let errors = out.len();
    selector(out, &path, chosen);
    let well_formed = out.len() == errors;
    if is_empty(chosen) {
        out.push(FieldError::invalid(&path, chosen.clone(), format!("empty selector is invalid for {kind}")));
        return true;
    }
    match LabelSelector::from_object(chosen) {
        Ok(parsed) if well_formed => {
            match_template(out, &template, &spec["template"], &parsed);
            true
        }
        _ => {
            out.push(FieldError::invalid(&path, chosen.clone(), malformed));
            false
        }
    }
}

/// The selector of a workload where upstream looks at the template whatever the selector is: DaemonSets and Jobs.
pub(crate) fn template_selected(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let parsed = match spec.get("selector").filter(|s| !s.is_null()) {
        None => Ok(LabelSelector { nothing: true, ..LabelSelector::default() }),
        Some(chosen) => {
            let mut faults = Errors::new();
            selector(&mut faults, path, chosen);
            if faults.is_empty() { LabelSelector::from_object(chosen).map_err(|_| ()) } else { Err(()) }
        }
    };
    if let Ok(parsed) = parsed {
        match_template(out, &path.child("template"), &spec["template"], &parsed);
    }
}

/// A selector that selects everything, where one is given.
pub(crate) fn not_empty(out: &mut Errors, path: &FieldPath, selector: &Value, kind: &str) {
    if selector.is_object() && is_empty(selector) {
        out.push(FieldError::invalid(path, selector.clone(), format!("empty selector is invalid for {kind}")));
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
            workload_selector(&mut out, &spec, "deployment", "invalid label selector");
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
