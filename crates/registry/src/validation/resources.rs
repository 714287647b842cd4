//! Requests and limits.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::validation::{dns1123_label, is_native_resource, label_key};

use super::format::{self, Errors};
use super::names::is_extended_resource;
use crate::tree::{list, map, text};

/// A quantity in an object.
pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::of(value)
}

const REQUESTS_PREFIX: &str = "requests.";

/// The standard resources without a domain: of containers, and those that quotas count.
const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Resources that are counted, not measured.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Resources of which requests and limits may differ.
pub(crate) fn overcommittable(name: &str) -> bool {
    is_native_resource(name) && !is_huge(name)
}

/// The name of any resource.
pub(crate) fn name(out: &mut Errors, path: &FieldPath, name: &str) {
    let texts = label_key(name);
    let standard = STANDARD.contains(&name) || is_huge(name.strip_prefix(REQUESTS_PREFIX).unwrap_or(name));
    if texts.is_empty() && !name.contains('/') && !standard {
        out.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
    format::invalid(out, path, name, texts);
}

/// Whether quotas count a resource without being told how.
pub(crate) fn is_quota_name(name: &str) -> bool {
    (STANDARD.contains(&name) && name != "storage") || is_huge(name.strip_prefix(REQUESTS_PREFIX).unwrap_or(name))
}

/// An entry of a quota.
pub(crate) fn quota_amount(out: &mut Errors, path: &FieldPath, name: &str, value: &Value) {
    self::name(out, path, name);
    if !name.contains('/') && !is_quota_name(name) {
        out.push(FieldError::invalid(path, name, "must be a standard resource for quota"));
    }
    if let Some(given) = quantity(value) {
        amount(out, path, name, given);
    }
}

/// The name of a resource that a container may ask for.
pub(crate) fn container_name(out: &mut Errors, path: &FieldPath, name: &str) {
    self::name(out, path, name);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge(name) {
            out.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native_resource(name) && !is_extended_resource(name) {
        out.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// The name of a resource that a pod as a whole may ask for.
fn pod_name(out: &mut Errors, path: &FieldPath, name: &str) {
    let before = out.len();
    self::name(out, path, name);
    if out.len() == before && !matches!(name, "cpu" | "memory") && !is_huge(name) {
        out.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// An amount of a resource: not negative, and whole where it is counted.
pub(crate) fn amount(out: &mut Errors, path: &FieldPath, name: &str, amount: Quantity) {
    if amount.is_negative() {
        out.push(FieldError::invalid(path, amount.to_string(), "must be greater than or equal to 0"));
    }
    if (COUNTED.contains(&name) || is_extended_resource(name)) && amount.milli_value() % 1000 != 0 {
        out.push(FieldError::invalid(path, amount.to_string(), "must be an integer"));
    }
}

pub(crate) fn positive(out: &mut Errors, path: &FieldPath, amount: Quantity) {
    if amount.is_negative() || amount.is_zero() {
        out.push(FieldError::invalid(path, amount.to_string(), "must be greater than zero"));
    }
}

/// Huge pages come in whole pages of the size that their name tells.
fn huge_pages(out: &mut Errors, path: &FieldPath, name: &str, amount: Quantity) {
    let size = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok());
    let whole = |size: &Quantity| {
        !size.is_negative() && !size.is_zero() && size.milli_value() % 1000 == 0 && amount.value() % size.value() == 0
    };
    if !size.is_some_and(|size| whole(&size)) {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        out.push(FieldError::invalid(path, amount.to_string(), detail));
    }
}

/// `resources` of a container. `claims`: the names in the pod's `resourceClaims`.
pub(crate) fn requirements(out: &mut Errors, path: &FieldPath, resources: &Value, claims: &BTreeSet<&str>) {
    amounts(out, path, resources, container_name);
    claim_names(out, &path.child("claims"), resources, claims);
}

/// `resources` of a pod.
pub(crate) fn pod(out: &mut Errors, path: &FieldPath, resources: &Value) {
    if crate::tree::has(resources, "claims") {
        let detail = "claims may not be set for Resources at pod-level";
        out.push(FieldError::forbidden(&path.child("claims"), detail));
    }
    amounts(out, path, resources, pod_name);
}

fn amounts(out: &mut Errors, path: &FieldPath, resources: &Value, check: fn(&mut Errors, &FieldPath, &str)) {
    let (mut huge, mut other) = (false, false);
    for part in ["limits", "requests"] {
        for (name, given) in map(resources, part) {
            let at = path.child(part).key(name);
            check(out, &at, name);
            let Some(given) = quantity(given) else {
                out.push(FieldError::invalid(&at, given.clone(), kybern_apimachinery::quantity::MALFORMED));
                continue;
            };
            amount(out, &at, name, given);
            if part == "requests" {
                within_limit(out, path, name, given, resources["limits"].get(name).and_then(quantity));
            }
            if is_huge(name) {
                huge = true;
                huge_pages(out, &at, name, given);
            }
            other |= matches!(name.as_str(), "cpu" | "memory");
        }
    }
    if huge && !other {
        out.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

fn within_limit(out: &mut Errors, path: &FieldPath, name: &str, request: Quantity, limit: Option<Quantity>) {
    let requests = path.child("requests");
    match limit {
        Some(limit) if request.partial_cmp(&limit) != Some(Ordering::Equal) && !overcommittable(name) => {
            let detail = format!("must be equal to {name} limit of {limit}");
            out.push(FieldError::invalid(&requests, request.to_string(), detail));
        }
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            out.push(FieldError::invalid(&requests, request.to_string(), detail));
        }
        None if !overcommittable(name) => {
            let detail = "Limit must be set for non overcommitable resources";
            out.push(FieldError::required(&path.child("limits"), detail));
        }
        _ => {}
    }
}

fn claim_names(out: &mut Errors, path: &FieldPath, resources: &Value, known: &BTreeSet<&str>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in list(resources, "claims").iter().enumerate() {
        let (path, name, request) = (path.index(i), text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            out.push(FieldError::required(&path, ""));
            continue;
        }
        if seen.contains(name) {
            out.push(FieldError::duplicate(&path, name));
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                format::invalid(out, &path.child("request"), request, dns1123_label(request));
                key = format!("{name}/{request}");
            }
            if seen.contains(&key) {
                out.push(FieldError::duplicate(&path, key.as_str()));
            } else if request.is_empty() {
                let parts = seen.iter().filter(|other| other.split_once('/').is_some_and(|(first, _)| first == name));
                out.extend(parts.map(|_| FieldError::duplicate(&path, name)));
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let known: Vec<&str> = known.iter().copied().collect();
            let known = if known.is_empty() { " which is empty".to_owned() } else { format!(": {}", known.join(", ")) };
            let mut error = FieldError::not_found(&path, name);
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{known}");
            out.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn requests_stay_within_limits() {
        let check = |resources: Value, expect: &str| {
            let mut out = Vec::new();
            requirements(&mut out, &FieldPath::new("r"), &resources, &BTreeSet::new());
            assert_eq!(out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expect);
        };
        check(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1500m"}}), "");
        check(
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}),
            "r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1500m",
        );
        check(
            json!({"limits": {"memory": "-1"}}),
            "r.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        );
        check(
            json!({"requests": {"example.com/gpu": "1"}}),
            "r.limits: Required value: Limit must be set for non overcommitable resources",
        );
    }
}
