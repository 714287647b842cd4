//! Where a container's volumes and block devices are in its file system.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::Volumes;
use crate::tree::{flag, has, list, text};
use crate::validation::format::{self, Errors};

/// `volumeMounts` and `volumeDevices` of a container.
pub(crate) fn mounts_and_devices(out: &mut Errors, path: &FieldPath, container: &Value, volumes: &Volumes<'_>) {
    mounts(out, &path.child("volumeMounts"), container, volumes);
    devices(out, &path.child("volumeDevices"), container, volumes);
}

/// Whether one of `others` has `value` in `field`.
fn taken(others: &[Value], field: &str, value: &str) -> bool {
    others.iter().any(|other| text(other, field) == value)
}

fn mounts(out: &mut Errors, path: &FieldPath, container: &Value, volumes: &Volumes<'_>) {
    let devices = list(container, "volumeDevices");
    let mut places = BTreeSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = path.index(i);
        let (name, place) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            out.push(FieldError::required(&at.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            out.push(FieldError::not_found(&at.child("name"), name));
        }
        if place.is_empty() {
            out.push(FieldError::required(&at.child("mountPath"), ""));
        }
        if !places.insert(place) {
            out.push(FieldError::invalid(&at.child("mountPath"), place, "must be unique"));
        }
        if taken(devices, "name", name) {
            out.push(FieldError::invalid(&at.child("name"), name, "must not already exist in volumeDevices"));
        }
        if taken(devices, "devicePath", place) {
            let detail = "must not already exist as a path in volumeDevices";
            out.push(FieldError::invalid(&at.child("mountPath"), place, detail));
        }
        // From here on upstream's paths do not count the mounts.
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            format::local_descending_path(out, &path.child("subPath"), sub);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                out.push(FieldError::invalid(&at.child("subPathExpr"), expression, detail));
            }
            format::local_descending_path(out, &path.child("subPathExpr"), expression);
        }
        propagation(out, path, mount, container);
    }
}

fn propagation(out: &mut Errors, path: &FieldPath, mount: &Value, container: &Value) {
    let propagation = text(mount, "mountPropagation");
    if has(mount, "mountPropagation") {
        let path = path.child("mountPropagation");
        format::one_of(out, &path, propagation, &["Bidirectional", "HostToContainer", "None"]);
        if propagation == "Bidirectional" && !flag(&container["securityContext"], "privileged") {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            out.push(FieldError::forbidden(&path, detail));
        }
    }
    if !has(mount, "recursiveReadOnly") {
        return;
    }
    let path = path.child("recursiveReadOnly");
    match text(mount, "recursiveReadOnly") {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !flag(mount, "readOnly") {
                out.push(FieldError::forbidden(&path, "may only be specified when readOnly is true"));
            }
            if has(mount, "mountPropagation") && propagation != "None" {
                let detail = "may only be specified when mountPropagation is None or not specified";
                out.push(FieldError::forbidden(&path, detail));
            }
        }
        other => out.push(FieldError::not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn devices(out: &mut Errors, path: &FieldPath, container: &Value, volumes: &Volumes<'_>) {
    let mounts = list(container, "volumeMounts");
    let (mut places, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = path.index(i);
        let (name, place) = (text(device, "name"), text(device, "devicePath"));
        let (at_name, at_place) = (path.child("name"), path.child("devicePath"));
        if name.is_empty() {
            out.push(FieldError::required(&at_name, ""));
        }
        if names.contains(name) {
            out.push(FieldError::invalid(&at_name, name, "must be unique"));
        }
        match volumes.get(name) {
            None => out.push(FieldError::not_found(&at_name, name)),
            Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                out.push(FieldError::invalid(&at_name, name, detail));
            }
            Some(_) => {}
        }
        if place.is_empty() {
            out.push(FieldError::required(&at_place, ""));
        }
        if places.contains(place) {
            out.push(FieldError::invalid(&at_place, place, "must be unique"));
        }
        if place.split('/').any(|part| part == "..") {
            out.push(FieldError::invalid(&at_place, place, "can not contain backsteps ('..')"));
        } else {
            places.insert(place);
        }
        if taken(mounts, "name", name) {
            out.push(FieldError::invalid(&at_name, name, "must not already exist in volumeMounts"));
        }
        if taken(mounts, "mountPath", place) {
            out.push(FieldError::invalid(&at_place, place, "must not already exist as a path in volumeMounts"));
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn mounts_name_volumes() {
        let mut out = Vec::new();
        let volume = json!({"name": "v", "emptyDir": {}});
        let container = json!({"volumeMounts": [{"name": "x", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}],
            "volumeDevices": [{"name": "v", "devicePath": "/b"}]});
        mounts_and_devices(&mut out, &FieldPath::new("c"), &container, &[("v", &volume)].into());
        let texts: Vec<String> = out.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "c.volumeMounts[0].name: Not found: \"x\"",
                "c.volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                "c.volumeMounts[1].name: Invalid value: \"v\": must not already exist in volumeDevices",
                "c.volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                "c.volumeDevices[0].name: Invalid value: \"v\": must not already exist in volumeMounts",
            ]
        );
    }
}
