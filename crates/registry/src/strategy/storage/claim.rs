//! PersistentVolumeClaim.

use std::cmp::Ordering;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::validation::{is_native_resource, label_key};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{drop_field, has, keep, map, text};
use crate::validation::resources::{self, quantity};
use crate::validation::update::{diff, immutable};
use crate::validation::{Errors, claim, format, warnings};

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct PersistentVolumeClaim;

/// The annotation from before `storageClassName` was a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The two ways to name a source of data say the same, where one can. Sources in other namespaces are turned off.
fn same_sources(spec: &mut Value, old: Option<&Value>) {
    let foreign = !text(&spec["dataSourceRef"], "namespace").is_empty();
    if foreign && !old.is_some_and(|old| has(&old["spec"], "dataSourceRef")) {
        drop_field(spec, "dataSourceRef");
    }
    let source = &spec["dataSource"];
    let snapshot = text(source, "kind") == "VolumeSnapshot" && text(source, "apiGroup") == "snapshot.storage.k8s.io";
    let claim = text(source, "kind") == "PersistentVolumeClaim" && text(source, "apiGroup").is_empty();
    let had = old.is_some_and(|old| has(&old["spec"], "dataSource") || has(&old["spec"], "dataSourceRef"));
    // Anything else has always been ignored here.
    if has(spec, "dataSource") && !has(spec, "dataSourceRef") && !snapshot && !claim && !had {
        drop_field(spec, "dataSource");
    }
    let copy = |source: &Value| {
        let mut copy = source.clone();
        drop_field(&mut copy, "namespace");
        copy
    };
    if has(spec, "dataSource") && !has(spec, "dataSourceRef") {
        spec["dataSourceRef"] = copy(&spec["dataSource"]);
    } else if has(spec, "dataSourceRef")
        && !has(spec, "dataSource")
        && text(&spec["dataSourceRef"], "namespace").is_empty()
    {
        spec["dataSource"] = copy(&spec["dataSourceRef"]);
    }
}

impl Strategy for PersistentVolumeClaim {
    fn default(&self, claim: &mut Value) {
        if object::str_at(claim, &["status", "phase"]).is_empty() {
            object::set(claim, &["status", "phase"], "Pending");
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, claim: &mut Value) {
        claim["status"] = json!({"phase": "Pending"});
        same_sources(&mut claim["spec"], None);
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, claim: &mut Value, old: &Value) {
        same_sources(&mut claim["spec"], Some(old));
    }

    fn validate(&self, claim: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        claim::spec(&mut out, &FieldPath::new("spec"), &claim["spec"]);
        out
    }

    fn validate_update(&self, claim: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let (new, before) = (&claim["spec"], &old["spec"]);
        let annotation = |claim: &Value| object::annotation(claim, CLASS).unwrap_or("").to_owned();
        let (class, was) = (annotation(claim), annotation(old));
        let mut rest = new.clone();
        if !has(before, "volumeName") {
            keep(&mut rest, before, "volumeName");
        }
        // A class may move from the annotation to the field, or be filled in where there was none.
        let filled = !has(before, "storageClassName") && has(new, "storageClassName");
        let from_annotation = filled && !was.is_empty() && text(new, "storageClassName") == was;
        if !(class == was || from_annotation && class.is_empty()) {
            let path = FieldPath::new("metadata.annotations").child(CLASS);
            out.push(FieldError::invalid(&path, class, "field is immutable"));
        }
        if filled && (was.is_empty() || from_annotation) {
            keep(&mut rest, before, "storageClassName");
        }
        if object::str_at(claim, &["status", "phase"]) == "Bound" {
            keep(&mut rest, before, "volumeAttributesClassName");
            if let (Some(requests), Some(size)) = (
                rest.pointer_mut("/resources/requests").and_then(Value::as_object_mut),
                object::at(before, &["resources", "requests", "storage"]),
            ) {
                requests.insert("storage".to_owned(), size.clone());
            }
        }
        if rest != *before {
            let path = FieldPath::new("spec");
            let detail = format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims{}",
                diff(&rest, before, &path)
            );
            out.push(FieldError::forbidden(&path, detail));
        }
        let size = |claim: &Value, fields: &[&str]| object::at(claim, fields).and_then(quantity);
        let requested = |claim: &Value| size(claim, &["spec", "resources", "requests", "storage"]);
        let actual = size(old, &["status", "capacity", "storage"]);
        let shrinks = match (requested(claim), requested(old)) {
            (Some(new), Some(old)) => new < old,
            (None, Some(_)) => true,
            _ => false,
        };
        let below = match (requested(claim), actual) {
            (Some(new), Some(actual)) => new.partial_cmp(&actual) != Some(Ordering::Greater),
            (Some(new), None) => new.is_zero() || new.is_negative(),
            (None, _) => true,
        };
        if shrinks && below {
            let path = FieldPath::new("spec.resources.requests.storage");
            out.push(FieldError::forbidden(&path, "field can not be less than status.capacity"));
        }
        immutable(&mut out, &FieldPath::new("volumeMode"), new.get("volumeMode"), before.get("volumeMode"));
        let attributes = |spec: &Value| spec.get("volumeAttributesClassName").cloned().unwrap_or_default();
        if attributes(new) != attributes(before) && has(&old["status"], "currentVolumeAttributesClassName") {
            let to = match attributes(new).as_str() {
                None => Some("nil"),
                Some("") => Some("empty string"),
                Some(_) => None,
            };
            out.extend(to.map(|to| {
                let detail =
                    format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
                FieldError::forbidden(&FieldPath::new("spec.volumeAttributesClassName"), detail)
            }));
        }
        out
    }

    fn warnings(&self, claim: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if object::annotation(claim, CLASS).is_some() {
            out.push(format!(
                "metadata.annotations[{CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        warnings::claim(&mut out, &FieldPath::new("spec"), &claim["spec"]);
        out
    }
}

const RESIZING: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// `status` of a claim: its amounts, and how far the resizing of each is.
pub(in crate::strategy) fn validate_status(claim: &Value, _old: &Value) -> Vec<FieldError> {
    let (mut out, path, status) = (Vec::new(), FieldPath::new("status"), &claim["status"]);
    let basic = |out: &mut Errors, path: &FieldPath, amount: Quantity| {
        if amount.value() < 0 {
            out.push(FieldError::invalid(path, amount.value(), "must be a valid resource quantity"));
        }
        amount.value() >= 0
    };
    for (name, amount) in map(status, "capacity") {
        if let Some(amount) = quantity(amount) {
            basic(&mut out, &path.child("capacity").key(name), amount);
        }
    }
    let resizing_path = path.child("allocatedResourceStatuses");
    for (name, state) in map(status, "allocatedResourceStatuses") {
        resizable(&mut out, &resizing_path, name);
        if !RESIZING.contains(&state.as_str().unwrap_or("")) {
            let mut known = RESIZING;
            known.sort_unstable();
            out.push(FieldError::not_supported(&resizing_path, name.as_str(), &known));
        }
    }
    let path = path.child("allocatedResources");
    for (name, amount) in map(status, "allocatedResources") {
        if !resizable(&mut out, &path, name) {
            continue;
        }
        let path = path.key(name);
        if let Some(amount) = quantity(amount)
            && basic(&mut out, &path, amount)
        {
            resources::amount(&mut out, &path, "storage", amount);
        }
    }
    out
}

/// Whether a claim's resource of this name can be resized: its storage, or one of a driver's own.
fn resizable(out: &mut Errors, path: &FieldPath, name: &str) -> bool {
    let before = out.len();
    format::invalid(out, path, name, label_key(name));
    if out.len() == before && is_native_resource(name) && name != "storage" {
        out.push(FieldError::not_supported(path, name, &["storage"]));
    }
    out.len() == before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_amounts_of_storage() {
        let texts = |status: Value| -> Vec<String> {
            validate_status(&json!({"status": status}), &json!({})).iter().map(ToString::to_string).collect()
        };
        let fine = json!({"capacity": {"storage": "1Gi", "x": "1"}, "allocatedResources": {"storage": "2Gi", "a.io/b": "1"},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"}});
        assert_eq!(texts(fine), [""; 0]);
        let wrong = json!({"capacity": {"storage": "-1"}, "allocatedResources": {"cpu": "1", "storage": "1500m", "a b": "1"},
            "allocatedResourceStatuses": {"storage": "Soon"}});
        let found = texts(wrong);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[0], "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity");
        assert!(found[1].starts_with("status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\""));
        assert!(found[3].ends_with("Unsupported value: \"cpu\": supported values: \"storage\""), "{found:?}");
    }

    #[test]
    fn bound_claims_grow() {
        let claim = |size: &str, volume: &str, phase: &str| {
            let mut claim = json!({"metadata": {}, "status": {"phase": phase, "capacity": {"storage": "1Gi"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
            if !volume.is_empty() {
                claim["spec"]["volumeName"] = volume.into();
            }
            claim
        };
        let check = |new: Value, old: Value, wrong: usize| {
            assert_eq!(PersistentVolumeClaim.validate_update(&new, &old).len(), wrong, "{new} {old}");
        };
        assert!(PersistentVolumeClaim.validate(&claim("1Gi", "", "Pending")).is_empty());
        check(claim("2Gi", "v", "Bound"), claim("1Gi", "", "Bound"), 0);
        check(claim("2Gi", "", "Pending"), claim("1Gi", "", "Pending"), 1);
        check(claim("1Gi", "w", "Bound"), claim("1Gi", "v", "Bound"), 1);
        check(claim("1Mi", "", "Bound"), claim("2Gi", "", "Bound"), 1);
    }

    #[test]
    fn a_source_is_named_both_ways() {
        let mut spec = json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}});
        same_sources(&mut spec, None);
        assert_eq!(spec["dataSource"], spec["dataSourceRef"]);
        let mut ignored = json!({"dataSource": {"kind": "Pod", "name": "a"}});
        same_sources(&mut ignored, None);
        assert_eq!(ignored, json!({}));
    }
}
