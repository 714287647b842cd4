//! Environment variables.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_subdomain, label_key};

use super::format::{self, Errors};
use super::resources::quantity;
use crate::tree::{has, list, text};

const SOURCES: [&str; 4] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
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

/// `env` and `envFrom` of a container.
pub(crate) fn variables(out: &mut Errors, path: &FieldPath, container: &Value) {
    for (i, variable) in list(container, "env").iter().enumerate() {
        let path = path.child("env").index(i);
        format::required_name(out, &path.child("name"), text(variable, "name"), format::env_name);
        if has(variable, "valueFrom") {
            value_from(out, &path.child("valueFrom"), &variable["valueFrom"], text(variable, "value"));
        }
    }
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        // Upstream does not count the sources where it counts their types.
        let (all, path) = (path.child("envFrom"), path.child("envFrom").index(i));
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            format::invalid(out, &path.child("prefix"), prefix, format::env_name(prefix));
        }
        let given: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|s| has(source, s)).collect();
        for kind in &given {
            let name = text(&source[*kind], "name");
            // The name of an object that is yet to be made may end in a dash.
            let rest = name.strip_suffix('-').map_or_else(|| name.to_owned(), |base| format!("{base}a"));
            match name {
                "" => out.push(FieldError::required(&path.child(kind).child("name"), "")),
                name => format::invalid(out, &path.child(kind).child("name"), name, dns1123_subdomain(&rest)),
            }
        }
        match given.len() {
            0 => out.push(FieldError::invalid(&all, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => out.push(FieldError::invalid(&all, "", "may not have more than one field specified at a time")),
        }
    }
}

fn value_from(out: &mut Errors, path: &FieldPath, source: &Value, value: &str) {
    let given: Vec<&str> = SOURCES.into_iter().filter(|s| has(source, s)).collect();
    for kind in &given {
        let (path, chosen) = (path.child(kind), &source[*kind]);
        let key = text(chosen, "key");
        match *kind {
            "fieldRef" => field_reference(out, &path, chosen, &FIELDS),
            "resourceFieldRef" => resource_reference(out, &path, chosen, false),
            _ => {
                let name = text(chosen, "name");
                format::invalid(out, &path.child("name"), name, dns1123_subdomain(name));
                format::required_name(out, &path.child("key"), key, format::config_key);
            }
        }
    }
    if given.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        out.push(FieldError::invalid(path, "", detail));
    } else if !value.is_empty() {
        out.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if given.len() > 1 {
        out.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

/// What can be asked of a pod at all.
const CONVERTIBLE: [&str; 15] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];

/// `fieldRef`, of one of `supported` fields, or of one label or annotation.
pub(crate) fn field_reference(out: &mut Errors, path: &FieldPath, reference: &Value, supported: &[&str]) {
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    for (name, value) in [("apiVersion", version), ("fieldPath", field)] {
        if value.is_empty() {
            out.push(FieldError::required(&path.child(name), ""));
            return;
        }
    }
    let subscripted = field.strip_suffix("']").and_then(|f| f.split_once("['")).filter(|(map, _)| !map.is_empty());
    let fault = match subscripted {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some((map, _)) if !matches!(map, "metadata.annotations" | "metadata.labels") => {
            Some(format!("field label does not support subscript: {field}"))
        }
        None if !CONVERTIBLE.contains(&field) => Some(format!("field label not supported: {field}")),
        _ => None,
    };
    if let Some(fault) = fault {
        out.push(FieldError::invalid(&path.child("fieldPath"), field, format!("error converting fieldPath: {fault}")));
        return;
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            format::invalid(out, path, &key, label_key(&key));
        }
        Some((_, key)) => format::invalid(out, path, key, label_key(key)),
        None => {
            // The name that clients of long ago send.
            let field = if field == "spec.host" { "spec.nodeName" } else { field };
            format::one_of(out, &path.child("fieldPath"), field, supported);
        }
    }
}

/// `resourceFieldRef`; a volume's needs to say of which container.
pub(crate) fn resource_reference(out: &mut Errors, path: &FieldPath, reference: &Value, in_volume: bool) {
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(reference, "containerName").is_empty() {
        out.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        out.push(FieldError::required(&path.child("resource"), ""));
    } else if !huge {
        format::one_of(out, &path.child("resource"), resource, &RESOURCES);
    }
    let Some(divisor) = reference.get("divisor").and_then(quantity).filter(|d| !d.is_zero()) else { return };
    let (divisor, bytes) =
        (divisor.to_string(), ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]);
    let (good, what): (&[&str], &str) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "1m and 1 are supported with the cpu resource"),
        "limits.memory" | "requests.memory" => (&bytes, "memory resource"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (&bytes, "local ephemeral storage resource"),
        _ if huge => (&bytes, "hugepages resource"),
        _ => return,
    };
    if !good.contains(&divisor.as_str()) {
        let what = if good.len() == 2 {
            what.to_owned()
        } else {
            format!("{} are supported with the {what}", bytes.join(", "))
        };
        out.push(FieldError::invalid(&path.child("divisor"), resource, format!("only divisor's values {what}")));
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
