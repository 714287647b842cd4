//! The types of volumes, each alone.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};

use crate::tree::{flag, has, int, list, map, text};
use crate::validation::format::{self, Errors};
use crate::validation::names;

pub(crate) const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// Text fields that must not be empty.
fn required(out: &mut Errors, path: &FieldPath, value: &Value, fields: &[&str]) {
    for field in fields.iter().filter(|f| text(value, f).is_empty()) {
        out.push(FieldError::required(&path.child(field), ""));
    }
}

pub(super) fn mode(out: &mut Errors, path: &FieldPath, value: &Value, field: &str) {
    if let Some(mode) = int(value, field).filter(|m| !(0..=0o777).contains(m)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        out.push(FieldError::invalid(&path.child(field), mode, detail));
    }
}

/// `items` of a ConfigMap or Secret.
pub(super) fn items(out: &mut Errors, path: &FieldPath, value: &Value) {
    for (i, item) in list(value, "items").iter().enumerate() {
        let path = path.child("items").index(i);
        required(out, &path, item, &["key", "path"]);
        format::local_unreserved_path(out, &path.child("path"), text(item, "path"));
        mode(out, &path, item, "mode");
    }
}

pub(crate) fn empty_dir(out: &mut Errors, path: &FieldPath, value: &Value) {
    let size = value.get("sizeLimit").and_then(crate::validation::resources::quantity);
    if size.is_some_and(|s| s.is_negative()) {
        out.push(FieldError::forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
    }
}

pub(crate) fn host_path(out: &mut Errors, path: &FieldPath, value: &Value) {
    if text(value, "path").is_empty() {
        out.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    format::no_backsteps(out, &path.child("path"), text(value, "path"));
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    format::one_of(out, &path.child("type"), text(value, "type"), &types);
}

pub(crate) fn git_repo(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["repository"]);
    format::local_descending_path(out, &path.child("directory"), text(value, "directory"));
}

fn partition(out: &mut Errors, path: &FieldPath, value: &Value) {
    // Upstream's text, though it takes 0.
    if let Some(n) = int(value, "partition").filter(|n| !(0..=255).contains(n)) {
        out.push(FieldError::invalid(&path.child("partition"), n, "must be between 1 and 255, inclusive"));
    }
}

pub(crate) fn gce_disk(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["pdName"]);
    partition(out, path, value);
}

pub(crate) fn aws_disk(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["volumeID"]);
    partition(out, path, value);
}

pub(crate) fn secret(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["secretName"]);
    mode(out, path, value, "defaultMode");
    items(out, path, value);
}

pub(crate) fn config_map(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["name"]);
    mode(out, path, value, "defaultMode");
    items(out, path, value);
}

pub(crate) fn nfs(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["server", "path"]);
    if !text(value, "path").starts_with('/') {
        out.push(FieldError::invalid(&path.child("path"), text(value, "path"), "must be an absolute path"));
    }
}

/// `iqn.2001-04.com.example:storage`, or `eui` with 16 or `naa` with 32 letters and digits after a separator.
fn is_iscsi_name(name: &str) -> bool {
    let word = |text: &str, len: usize| {
        let mut rest = text.chars();
        rest.next().is_some() && rest.as_str().len() == len && rest.all(|c| c.is_ascii_alphanumeric())
    };
    if let Some(rest) = name.strip_prefix("eui") {
        return word(rest, 16);
    }
    if let Some(rest) = name.strip_prefix("naa") {
        return word(rest, 32);
    }
    let Some((date, rest)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once('.')) else { return false };
    let Some((authority, own)) = rest.split_once(':') else { return false };
    let dated =
        date.len() == 7 && date.bytes().enumerate().all(|(i, c)| if i == 4 { c == b'-' } else { c.is_ascii_digit() });
    let named = !authority.is_empty() && authority.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c));
    dated && named && !own.is_empty() && !own.contains(|c: char| ",;*&$|".contains(c) || c.is_whitespace())
}

fn iscsi_name(out: &mut Errors, path: &FieldPath, name: &str, kinds: &str) {
    if !["iqn", "eui", "naa"].iter().any(|kind| name.starts_with(kind)) {
        out.push(FieldError::invalid(path, name, kinds));
    } else if !is_iscsi_name(name) {
        out.push(FieldError::invalid(path, name, "must be valid format"));
    }
}

fn iscsi_common(out: &mut Errors, path: &FieldPath, value: &Value, kinds: &str) {
    match text(value, "iqn") {
        "" => out.push(FieldError::required(&path.child("iqn"), "")),
        name => iscsi_name(out, &path.child("iqn"), name, kinds),
    }
    format::range(out, &path.child("lun"), int(value, "lun"), 0, 255);
    if (flag(value, "chapAuthDiscovery") || flag(value, "chapAuthSession")) && !has(value, "secretRef") {
        out.push(FieldError::required(&path.child("secretRef"), ""));
    }
}

fn initiator(out: &mut Errors, path: &FieldPath, value: &Value, kinds: &str) {
    if has(value, "initiatorName") {
        iscsi_name(out, &path.child("initiatorname"), text(value, "initiatorName"), kinds);
    }
}

pub(crate) fn iscsi(out: &mut Errors, path: &FieldPath, value: &Value) {
    let kinds = "must be valid format starting with iqn, eui, or naa";
    required(out, path, value, &["targetPortal"]);
    iscsi_common(out, path, value, kinds);
    initiator(out, path, value, kinds);
}

pub(crate) fn persistent_iscsi(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["targetPortal"]);
    iscsi_common(out, path, value, "must be valid format");
    secret_reference(out, path, value, &["name"]);
    initiator(out, path, value, "must be valid format");
}

fn secret_reference(out: &mut Errors, path: &FieldPath, value: &Value, fields: &[&str]) {
    if has(value, "secretRef") {
        required(out, &path.child("secretRef"), &value["secretRef"], fields);
    }
}

pub(crate) fn glusterfs(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["endpoints", "path"]);
}

pub(crate) fn persistent_glusterfs(out: &mut Errors, path: &FieldPath, value: &Value) {
    glusterfs(out, path, value);
    if has(value, "endpointsNamespace") {
        let (path, name) = (path.child("endpointsNamespace"), text(value, "endpointsNamespace"));
        if name.is_empty() {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            out.push(FieldError::invalid(&path, name, detail));
        } else {
            format::invalid(out, &path, name, dns1123_label(name));
        }
    }
}

pub(crate) fn flocker(out: &mut Errors, path: &FieldPath, value: &Value) {
    let (name, uuid) = (text(value, "datasetName"), text(value, "datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        out.push(FieldError::required(path, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        out.push(FieldError::invalid(path, "resource", detail));
    }
    if name.contains('/') {
        out.push(FieldError::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

pub(crate) fn claim_name(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["claimName"]);
}

fn monitors(out: &mut Errors, path: &FieldPath, value: &Value) {
    if list(value, "monitors").is_empty() {
        out.push(FieldError::required(&path.child("monitors"), ""));
    }
}

pub(crate) fn rbd(out: &mut Errors, path: &FieldPath, value: &Value) {
    monitors(out, path, value);
    required(out, path, value, &["image"]);
}

pub(crate) fn cephfs(out: &mut Errors, path: &FieldPath, value: &Value) {
    monitors(out, path, value);
}

pub(crate) fn cinder(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["volumeID"]);
    secret_reference(out, path, value, &["name"]);
}

pub(crate) fn persistent_cinder(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["volumeID"]);
    secret_reference(out, path, value, &["name", "namespace"]);
}

pub(crate) fn quobyte(out: &mut Errors, path: &FieldPath, value: &Value) {
    let (registry, pairs) = (text(value, "registry"), "must be a host:port pair or multiple pairs separated by commas");
    if registry.is_empty() {
        out.push(FieldError::required(&path.child("registry"), pairs));
    } else if text(value, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        out.push(FieldError::required(&path.child("tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|pair| pair.matches(':').count() != 1) {
            out.push(FieldError::invalid(&path.child("registry"), registry, pairs));
        }
    }
    required(out, path, value, &["volume"]);
}

pub(crate) fn fibre_channel(out: &mut Errors, path: &FieldPath, value: &Value) {
    let (names, ids) = (list(value, "targetWWNs"), list(value, "wwids"));
    let at = path.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        out.push(FieldError::required(&at, "must specify either targetWWNs or wwids, but not both"));
    }
    if !names.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        out.push(FieldError::invalid(&at, names.to_vec(), detail));
    }
    if !names.is_empty() {
        match int(value, "lun") {
            None => out.push(FieldError::required(&path.child("lun"), "lun is required if targetWWNs is specified")),
            lun => format::range(out, &path.child("lun"), lun, 0, 255),
        }
    }
}

pub(crate) fn flex(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["driver"]);
    for (key, _) in map(value, "options") {
        let namespace = format!(".{}", key.split('/').next().unwrap_or("").to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            out.push(FieldError::invalid(&path.child("options").key(key), key.as_str(), detail));
        }
    }
}

pub(crate) fn azure_file(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["secretName", "shareName"]);
}

pub(crate) fn persistent_azure_file(out: &mut Errors, path: &FieldPath, value: &Value) {
    azure_file(out, path, value);
    if has(value, "secretNamespace") {
        required(out, path, value, &["secretNamespace"]);
    }
}

pub(crate) fn azure_disk(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["diskName", "diskURI"]);
    let (kind, uri) = (text(value, "kind"), text(value, "diskURI"));
    if has(value, "cachingMode") {
        let modes = ["None", "ReadOnly", "ReadWrite"];
        format::one_of(out, &path.child("cachingMode"), text(value, "cachingMode"), &modes);
    }
    if has(value, "kind") {
        format::one_of(out, &path.child("kind"), kind, &["Dedicated", "Managed", "Shared"]);
        let (start, form) = if kind == "Managed" {
            (
                "/subscriptions/",
                "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
            )
        } else {
            ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
        };
        if !uri.starts_with(start) {
            out.push(FieldError::not_supported(&path.child("diskURI"), uri, &[form]));
        }
    }
}

pub(crate) fn vsphere(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["volumePath"]);
}

pub(crate) fn photon(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["pdID"]);
}

pub(crate) fn portworx(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["volumeID"]);
}

pub(crate) fn scale_io(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["gateway", "system", "volumeName"]);
}

pub(crate) fn storage_os(out: &mut Errors, path: &FieldPath, value: &Value) {
    storage_os_names(out, path, value);
    secret_reference(out, path, value, &["name"]);
}

pub(crate) fn persistent_storage_os(out: &mut Errors, path: &FieldPath, value: &Value) {
    storage_os_names(out, path, value);
    secret_reference(out, path, value, &["name", "namespace"]);
}

fn storage_os_names(out: &mut Errors, path: &FieldPath, value: &Value) {
    format::required_name(out, &path.child("volumeName"), text(value, "volumeName"), dns1123_label);
    let namespace = text(value, "volumeNamespace");
    if !namespace.is_empty() {
        format::invalid(out, &path.child("volumeNamespace"), namespace, dns1123_label(namespace));
    }
}

pub(crate) fn local(out: &mut Errors, path: &FieldPath, value: &Value) {
    required(out, path, value, &["path"]);
    format::no_backsteps(out, &path.child("path"), text(value, "path"));
}

pub(crate) fn csi(out: &mut Errors, path: &FieldPath, value: &Value) {
    names::driver_name(out, &path.child("driver"), text(value, "driver"));
    if has(value, "nodePublishSecretRef") {
        match text(&value["nodePublishSecretRef"], "name") {
            "" => out.push(FieldError::required(&path.child("nodePublishSecretRef").child("name"), "")),
            name => format::invalid(out, &path.child("name"), name, dns1123_subdomain(name)),
        }
    }
}

pub(crate) fn persistent_csi(out: &mut Errors, path: &FieldPath, value: &Value) {
    names::driver_name(out, &path.child("driver"), text(value, "driver"));
    required(out, path, value, &["volumeHandle"]);
    let secrets =
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    for secret in secrets.into_iter().filter(|s| has(value, s)) {
        let (path, secret) = (path.child(secret), &value[secret]);
        format::required_name(out, &path.child("name"), text(secret, "name"), dns1123_subdomain);
        format::required_name(out, &path.child("namespace"), text(secret, "namespace"), dns1123_label);
    }
}

pub(crate) fn image(out: &mut Errors, path: &FieldPath, value: &Value) {
    format::required_one_of(
        out,
        &path.child("pullPolicy"),
        text(value, "pullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iscsi_names() {
        for (name, good) in [
            ("iqn.2001-04.com.example:storage", true),
            ("iqn.2001-04.com.example", false),
            ("eui.0123456789abcdef", true),
            ("eui.0123", false),
            ("naa.0123456789abcdef0123456789abcdef", true),
            ("iqn", false),
        ] {
            assert_eq!(is_iscsi_name(name), good, "{name}");
        }
    }
}
