//! Volumes, their mounts and devices.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};

use super::env;
use super::format::{self, Errors};
use crate::tree::{has, int, list, text};

/// The fields that downward API volumes may show.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// The names of a pod's volumes.
pub(crate) type VolumeNames = BTreeSet<String>;

/// The volumes of a pod; answers their names.
pub(crate) fn volumes(out: &mut Errors, path: &FieldPath, spec: &Value) -> VolumeNames {
    let mut names = VolumeNames::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.child("volumes").index(i);
        let name = text(volume, "name");
        let before = out.len();
        format::required_name(out, &path.child("name"), name, dns1123_label);
        if out.len() == before && !names.insert(name.to_owned()) {
            out.push(FieldError::duplicate(&path.child("name"), name));
        }
        source(out, &path, volume);
    }
    names
}

fn source(out: &mut Errors, path: &FieldPath, volume: &Value) {
    let mut sources = 0;
    for (kind, value) in volume.as_object().into_iter().flatten().filter(|(k, v)| *k != "name" && !v.is_null()) {
        sources += 1;
        let path = path.child(kind);
        if sources > 1 {
            out.push(FieldError::forbidden(&path, "may not specify more than 1 volume type"));
            continue;
        }
        match kind.as_str() {
            "configMap" => {
                format::required_name(out, &path.child("name"), text(value, "name"), dns1123_subdomain);
                items(out, &path, value);
            }
            "secret" => {
                format::required_name(out, &path.child("secretName"), text(value, "secretName"), |_| Vec::new());
                items(out, &path, value);
            }
            "hostPath" => {
                if text(value, "path").is_empty() {
                    out.push(FieldError::required(&path.child("path"), ""));
                }
                format::no_backsteps(out, &path.child("path"), text(value, "path"));
                let types = [
                    "",
                    "DirectoryOrCreate",
                    "Directory",
                    "FileOrCreate",
                    "File",
                    "Socket",
                    "CharDevice",
                    "BlockDevice",
                ];
                format::one_of(out, &path.child("type"), text(value, "type"), &types);
            }
            "persistentVolumeClaim" if text(value, "claimName").is_empty() => {
                out.push(FieldError::required(&path.child("claimName"), ""));
            }
            "downwardAPI" => {
                mode(out, &path.child("defaultMode"), value, "defaultMode");
                downward(out, &path, value);
            }
            "projected" => projected(out, &path, value),
            "nfs" => {
                for field in ["server", "path"] {
                    if text(value, field).is_empty() {
                        out.push(FieldError::required(&path.child(field), ""));
                    }
                }
            }
            "emptyDir" => {
                let size = value.get("sizeLimit").and_then(super::resources::quantity);
                if size.is_some_and(|s| s.is_negative()) {
                    out.push(FieldError::forbidden(
                        &path.child("sizeLimit"),
                        "SizeLimit field must be a valid resource quantity",
                    ));
                }
            }
            _ => {}
        }
    }
    if sources == 0 {
        out.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn mode(out: &mut Errors, path: &FieldPath, value: &Value, field: &str) {
    if let Some(mode) = int(value, field).filter(|m| !(0..=0o777).contains(m)) {
        out.push(FieldError::invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// `items` of a ConfigMap or Secret, and its default mode.
fn items(out: &mut Errors, path: &FieldPath, value: &Value) {
    mode(out, &path.child("defaultMode"), value, "defaultMode");
    for (i, item) in list(value, "items").iter().enumerate() {
        let path = path.child("items").index(i);
        if text(item, "key").is_empty() {
            out.push(FieldError::required(&path.child("key"), ""));
        }
        file(out, &path, item);
    }
}

/// The `path` and `mode` of a file in a volume.
fn file(out: &mut Errors, path: &FieldPath, item: &Value) {
    let name = text(item, "path");
    if name.is_empty() {
        out.push(FieldError::required(&path.child("path"), ""));
    } else {
        format::local_descending_path(out, &path.child("path"), name);
        if name.starts_with("..") {
            out.push(FieldError::invalid(&path.child("path"), name, "must not start with '..'"));
        }
    }
    mode(out, &path.child("mode"), item, "mode");
}

fn downward(out: &mut Errors, path: &FieldPath, value: &Value) {
    for (i, item) in list(value, "items").iter().enumerate() {
        let path = path.child("items").index(i);
        file(out, &path, item);
        match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
            (true, true) => out.push(FieldError::invalid(
                &path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (true, false) => env::field_reference(out, &path.child("fieldRef"), &item["fieldRef"], &FIELDS),
            (false, true) => {
                env::resource_reference(out, &path.child("resourceFieldRef"), &item["resourceFieldRef"], true)
            }
            (false, false) => out.push(FieldError::required(&path, "one of fieldRef and resourceFieldRef is required")),
        }
    }
}

fn projected(out: &mut Errors, path: &FieldPath, value: &Value) {
    mode(out, &path.child("defaultMode"), value, "defaultMode");
    let mut paths = BTreeSet::new();
    for (i, source) in list(value, "sources").iter().enumerate() {
        let path = path.child("sources").index(i);
        let given: Vec<(&String, &Value)> =
            source.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()).collect();
        if given.len() > 1 {
            out.push(FieldError::forbidden(&path, "may not specify more than 1 volume type"));
            continue;
        }
        let Some((kind, value)) = given.first() else {
            out.push(FieldError::required(&path, "must specify a volume type"));
            continue;
        };
        let inner = path.child(kind);
        match kind.as_str() {
            "configMap" | "secret" => {
                format::required_name(out, &inner.child("name"), text(value, "name"), |_| Vec::new());
                items(out, &inner, value);
            }
            "downwardAPI" => downward(out, &inner, value),
            "serviceAccountToken" => {
                let seconds = int(value, "expirationSeconds").unwrap_or(3600);
                if seconds < 600 {
                    out.push(FieldError::invalid(
                        &inner.child("expirationSeconds"),
                        seconds,
                        "may not specify a duration less than 10 minutes",
                    ));
                }
                if seconds > 1 << 32 {
                    out.push(FieldError::invalid(
                        &inner.child("expirationSeconds"),
                        seconds,
                        "may not specify a duration larger than 2^32 seconds",
                    ));
                }
                if text(value, "path").is_empty() {
                    out.push(FieldError::required(&inner.child("path"), ""));
                } else {
                    format::local_descending_path(out, &inner.child("path"), text(value, "path"));
                }
            }
            _ => {}
        }
        let items = list(value, "items").iter().map(|i| text(i, "path")).chain([text(value, "path")]);
        for file in items.filter(|f| !f.is_empty()) {
            if !paths.insert(file) {
                out.push(FieldError::invalid(&inner, file, "conflicting duplicate paths"));
            }
        }
    }
}

/// `volumeMounts` and `volumeDevices` of a container.
pub(crate) fn mounts(out: &mut Errors, path: &FieldPath, container: &Value, volumes: &VolumeNames) {
    let mut places = BTreeSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = path.child("volumeMounts").index(i);
        known(out, &path, text(mount, "name"), volumes);
        let place = text(mount, "mountPath");
        if place.is_empty() {
            out.push(FieldError::required(&path.child("mountPath"), ""));
        }
        if !places.insert(place.to_owned()) {
            out.push(FieldError::invalid(&path.child("mountPath"), place, "must be unique"));
        }
        if !text(mount, "subPath").is_empty() {
            format::local_descending_path(out, &path.child("subPath"), text(mount, "subPath"));
        }
        if !text(mount, "subPathExpr").is_empty() {
            if !text(mount, "subPath").is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                out.push(FieldError::invalid(&path.child("subPathExpr"), text(mount, "subPathExpr"), detail));
            }
            format::local_descending_path(out, &path.child("subPathExpr"), text(mount, "subPathExpr"));
        }
        if has(mount, "mountPropagation") {
            let modes = ["Bidirectional", "HostToContainer", "None"];
            format::one_of(out, &path.child("mountPropagation"), text(mount, "mountPropagation"), &modes);
        }
    }
    for (i, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = path.child("volumeDevices").index(i);
        known(out, &path, text(device, "name"), volumes);
        let place = text(device, "devicePath");
        if place.is_empty() {
            out.push(FieldError::required(&path.child("devicePath"), ""));
        } else if !places.insert(place.to_owned()) {
            out.push(FieldError::invalid(&path.child("devicePath"), place, "must be unique"));
        }
    }
}

fn known(out: &mut Errors, path: &FieldPath, name: &str, volumes: &VolumeNames) {
    if name.is_empty() {
        out.push(FieldError::required(&path.child("name"), ""));
    } else if !volumes.contains(name) {
        out.push(FieldError::not_found(&path.child("name"), name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_volume_has_one_source() {
        let check = |volume: Value, expect: &str| {
            let mut out = Vec::new();
            volumes(&mut out, &FieldPath::new("spec"), &json!({"volumes": [volume]}));
            assert_eq!(out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expect);
        };
        check(json!({"name": "a", "emptyDir": {}}), "");
        check(json!({"name": "a"}), "spec.volumes[0]: Required value: must specify a volume type");
        check(
            json!({"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        );
        check(
            json!({"name": "a", "configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]}}),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'; \
             spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not start with '..'",
        );
        let token = json!({"serviceAccountToken": {"path": "t", "expirationSeconds": 1}});
        check(
            json!({"name": "a", "projected": {"sources": [token]}}),
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
        );
    }

    #[test]
    fn mounts_name_volumes() {
        let mut out = Vec::new();
        let container = json!({"volumeMounts": [{"name": "x", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]});
        mounts(&mut out, &FieldPath::new("c"), &container, &["v".to_owned()].into());
        let texts: Vec<String> = out.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "c.volumeMounts[0].name: Not found: \"x\"",
                "c.volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique"
            ]
        );
    }
}
