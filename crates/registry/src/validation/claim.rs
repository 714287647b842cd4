//! The spec of a PersistentVolumeClaim, as claims, ephemeral volumes and StatefulSets have it.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};

use super::format::{self, Errors};
use super::{meta, resources};
use crate::tree::{has, list, text};

pub(crate) const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// What the access modes of a volume or claim are, none excepted.
pub(crate) fn access_modes(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let path = path.child("accessModes");
    let (mut alone, mut shared) = (false, false);
    for mode in list(spec, "accessModes") {
        let mode = mode.as_str().unwrap_or("");
        format::one_of(out, &path, mode, &ACCESS_MODES);
        alone |= mode == "ReadWriteOncePod";
        shared |= mode != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode);
    }
    if alone && shared {
        out.push(FieldError::forbidden(&path, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// The name of a class, if one is given.
pub(crate) fn class(out: &mut Errors, path: &FieldPath, spec: &Value, field: &str) {
    let name = text(spec, field);
    if !name.is_empty() {
        format::invalid(out, &path.child(field), name, dns1123_subdomain(name));
    }
}

pub(crate) fn spec(out: &mut Errors, path: &FieldPath, spec: &Value) {
    if list(spec, "accessModes").is_empty() {
        out.push(FieldError::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    meta::selector(out, &path.child("selector"), &spec["selector"]);
    access_modes(out, path, spec);
    let size_path = path.child("resources").key("storage");
    match spec["resources"]["requests"].get("storage").and_then(resources::quantity) {
        None => out.push(FieldError::required(&size_path, "")),
        Some(size) => resources::positive(out, &size_path, size),
    }
    class(out, path, spec, "storageClassName");
    if has(spec, "volumeMode") {
        format::one_of(out, &path.child("volumeMode"), text(spec, "volumeMode"), &VOLUME_MODES);
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (field, value) in [("dataSource", source), ("dataSourceRef", reference)] {
        if has(spec, field) {
            data_source(out, &path.child(field), value);
        }
    }
    // Upstream shows a path here, of which nothing is printed.
    let shown = || serde_json::json!({});
    if !text(reference, "namespace").is_empty() {
        format::invalid(
            out,
            &path.child("dataSourceRef").child("namespace"),
            text(reference, "namespace"),
            dns1123_label(text(reference, "namespace")),
        );
        if has(spec, "dataSource") {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            out.push(FieldError::invalid(path, shown(), detail));
        }
    } else if has(spec, "dataSource") && has(spec, "dataSourceRef") {
        let same = |f: &str| text(source, f) == text(reference, f);
        if !(same("apiGroup") && same("kind") && same("name")) {
            out.push(FieldError::invalid(path, shown(), "must match dataSourceRef"));
        }
    }
    class(out, path, spec, "volumeAttributesClassName");
}

fn data_source(out: &mut Errors, path: &FieldPath, source: &Value) {
    for field in ["name", "kind"] {
        if text(source, field).is_empty() {
            out.push(FieldError::required(&path.child(field), ""));
        }
    }
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if !group.is_empty() {
        format::invalid(out, &path.child("apiGroup"), group, dns1123_subdomain(group));
    } else if kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        out.push(FieldError::invalid(path, kind, detail));
    }
}
