//! Environment variables.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_subdomain, label_key};

use super::format::{self, Errors};
use crate::tree::{has, list, text};

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn name(out: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
    } else if !name.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        out.push(FieldError::invalid(path, name, detail));
    }
}

/// `env` and `envFrom` of a container.
pub(crate) fn variables(out: &mut Errors, path: &FieldPath, container: &Value) {
    for (i, variable) in list(container, "env").iter().enumerate() {
        let path = path.child("env").index(i);
        name(out, &path.child("name"), text(variable, "name"));
        if has(variable, "valueFrom") {
            value_from(out, &path.child("valueFrom"), &variable["valueFrom"], text(variable, "value"));
        }
    }
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        let path = path.child("envFrom").index(i);
        if !text(source, "prefix").is_empty() {
            name(out, &path.child("prefix"), text(source, "prefix"));
        }
        let given: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|s| has(source, s)).collect();
        for kind in &given {
            format::required_name(
                out,
                &path.child(kind).child("name"),
                text(&source[*kind], "name"),
                dns1123_subdomain,
            );
        }
        match given.len() {
            0 => out.push(FieldError::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => out.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time")),
        }
    }
}

fn value_from(out: &mut Errors, path: &FieldPath, source: &Value, value: &str) {
    let given: Vec<&str> = SOURCES.into_iter().filter(|s| has(source, s)).collect();
    for kind in &given {
        let (path, chosen) = (path.child(kind), &source[*kind]);
        match *kind {
            "fieldRef" => field_reference(out, &path, chosen, &FIELDS),
            "resourceFieldRef" => resource_reference(out, &path, chosen, false),
            "fileKeyRef" => {}
            _ => {
                format::required_name(out, &path.child("name"), text(chosen, "name"), dns1123_subdomain);
                if text(chosen, "key").is_empty() {
                    out.push(FieldError::required(&path.child("key"), ""));
                } else {
                    format::invalid(
                        out,
                        &path.child("key"),
                        text(chosen, "key"),
                        format::config_key(text(chosen, "key")),
                    );
                }
            }
        }
    }
    if given.is_empty() {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        out.push(FieldError::invalid(path, "", detail));
    } else if !value.is_empty() {
        out.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if given.len() > 1 {
        out.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

/// `fieldRef`, of one of `supported` fields, or of one label or annotation.
pub(crate) fn field_reference(out: &mut Errors, path: &FieldPath, reference: &Value, supported: &[&str]) {
    if text(reference, "apiVersion").is_empty() {
        out.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    let field = text(reference, "fieldPath");
    if field.is_empty() {
        out.push(FieldError::required(&path.child("fieldPath"), ""));
        return;
    }
    let path = path.child("fieldPath");
    if let Some((map, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        match map {
            "metadata.annotations" => format::invalid(out, &path, key, label_key(&key.to_ascii_lowercase())),
            "metadata.labels" => format::invalid(out, &path, key, label_key(key)),
            _ => out.push(FieldError::invalid(&path, field, "does not support subscript")),
        }
    } else if !supported.contains(&field) {
        out.push(FieldError::not_supported(&path, field, supported));
    }
}

/// `resourceFieldRef`; a volume's needs to say of which container.
pub(crate) fn resource_reference(out: &mut Errors, path: &FieldPath, reference: &Value, in_volume: bool) {
    if in_volume && text(reference, "containerName").is_empty() {
        out.push(FieldError::required(&path.child("containerName"), ""));
    }
    let resource = text(reference, "resource");
    if resource.is_empty() {
        out.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !resource.contains(".hugepages-") {
        out.push(FieldError::not_supported(&path.child("resource"), resource, &RESOURCES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_variable_has_one_source() {
        let check = |env: Value, expect: &str| {
            let mut out = Vec::new();
            variables(&mut out, &FieldPath::new("c"), &json!({"env": [env]}));
            assert_eq!(out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expect);
        };
        check(json!({"name": "A", "value": "b"}), "");
        check(json!({"value": "b"}), "c.env[0].name: Required value");
        check(
            json!({"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
            "c.env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        );
        check(
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['app']"}}}),
            "",
        );
        check(
            json!({"name": "A", "valueFrom": {"resourceFieldRef": {}}}),
            "c.env[0].valueFrom.resourceFieldRef.resource: Required value",
        );
    }
}
