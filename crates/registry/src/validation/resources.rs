//! Requests and limits.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::validation::label_key;

use super::format::{self, Errors};
use crate::tree::map;

/// A quantity in an object: a string, or a number as written.
pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Resources of which requests and limits may differ: all others cannot be overcommitted.
fn overcommittable(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

/// `resources` of a container.
pub(crate) fn requirements(out: &mut Errors, path: &FieldPath, resources: &Value) {
    for part in ["limits", "requests"] {
        let path = path.child(part);
        for (name, amount) in map(resources, part) {
            let path = path.key(name);
            format::invalid(out, &path, name, label_key(name));
            if !name.contains('/') && !is_standard(name) {
                out.push(FieldError::invalid(
                    &path,
                    name.as_str(),
                    "must be a standard resource type or fully qualified",
                ));
                out.push(FieldError::invalid(&path, name.as_str(), "must be a standard resource for containers"));
            }
            let Some(parsed) = quantity(amount) else {
                out.push(FieldError::invalid(&path, amount.clone(), kybern_apimachinery::quantity::MALFORMED));
                continue;
            };
            if parsed.is_negative() {
                out.push(FieldError::invalid(&path, parsed.to_string(), "must be greater than or equal to 0"));
            }
            if !overcommittable(name) && parsed.milli_value() % 1000 != 0 {
                out.push(FieldError::invalid(&path, parsed.to_string(), "must be an integer"));
            }
        }
    }
    let path = path.child("requests");
    for (name, request) in map(resources, "requests") {
        let limit = resources.get("limits").and_then(|l| l.get(name)).and_then(quantity);
        let (Some(request), limit) = (quantity(request), limit) else { continue };
        match limit {
            Some(limit) if overcommittable(name) && request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                out.push(FieldError::invalid(&path, request.to_string(), detail));
            }
            Some(limit) if !overcommittable(name) && request.milli_value() != limit.milli_value() => {
                out.push(FieldError::invalid(
                    &path,
                    request.to_string(),
                    format!("must be equal to {name} limit of {limit}"),
                ));
            }
            None if !overcommittable(name) => {
                out.push(FieldError::required(&path, "Limit must be set for non overcommitable resources"));
            }
            _ => {}
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
            requirements(&mut out, &FieldPath::new("r"), &resources);
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
            "r.requests: Required value: Limit must be set for non overcommitable resources",
        );
    }
}
