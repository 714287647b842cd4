//! Workload: groups of pods that are scheduled together, or not at all.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, path_segment};
use kybern_apiserver::strategy::Strategy;

use super::device_claims::unique;
use crate::tree::{has, int, list, text};
use crate::validation::update::immutable;
use crate::validation::{Errors, format};

const MAX_GROUPS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Workload;

impl Strategy for Workload {
    fn validate(&self, workload: &Value) -> Vec<FieldError> {
        let (mut out, path, spec) = (Vec::new(), FieldPath::new("spec"), &workload["spec"]);
        if has(spec, "controllerRef") {
            controller(&mut out, &path.child("controllerRef"), &spec["controllerRef"]);
        }
        let (groups, path) = (list(spec, "podGroups"), path.child("podGroups"));
        match groups.len() {
            0 => out.push(FieldError::required(&path, "must have at least one item")),
            many if many > MAX_GROUPS => out.push(FieldError::too_many(&path, many, MAX_GROUPS)),
            _ => {
                for (i, group) in groups.iter().enumerate() {
                    let (path, name) = (path.index(i), text(group, "name"));
                    format::invalid(&mut out, &path.child("name"), name, dns1123_label(name));
                    policy(&mut out, &path.child("policy"), &group["policy"]);
                }
                unique(&mut out, &path, groups, "name", |group| text(group, "name").to_owned());
            }
        }
        out
    }

    /// The paths are upstream's.
    fn validate_update(&self, workload: &Value, old: &Value) -> Vec<FieldError> {
        let (mut out, new, old) = (Vec::new(), &workload["spec"], &old["spec"]);
        if has(old, "controllerRef") {
            let path = FieldPath::new("controllerRef");
            immutable(&mut out, &path, new.get("controllerRef"), old.get("controllerRef"));
        }
        immutable(&mut out, &FieldPath::new("podGroups"), new.get("podGroups"), old.get("podGroups"));
        out
    }
}

fn controller(out: &mut Errors, path: &FieldPath, reference: &Value) {
    let group = text(reference, "apiGroup");
    if !group.is_empty() {
        format::invalid(out, &path.child("apiGroup"), group, dns1123_subdomain(group));
    }
    for field in ["kind", "name"] {
        let (path, value) = (path.child(field), text(reference, field));
        if value.is_empty() {
            out.push(FieldError::required(&path, ""));
        } else {
            format::invalid(out, &path, value, path_segment(value));
        }
    }
}

fn policy(out: &mut Errors, path: &FieldPath, policy: &Value) {
    let set: Vec<String> =
        ["basic", "gang"].iter().filter(|field| has(policy, field)).map(|field| format!("`{field}`")).collect();
    let detail = "exactly one of `basic`, `gang` is required";
    match set.len() {
        0 => out.push(FieldError::required(path, detail)),
        1 if has(policy, "gang") => {
            let count = int(&policy["gang"], "minCount").unwrap_or(0);
            if count <= 0 {
                let path = path.child("gang").child("minCount");
                out.push(FieldError::invalid(&path, count, "must be greater than zero"));
            }
        }
        1 => {}
        _ => {
            let detail = format!("{detail}, but multiple fields are set");
            out.push(FieldError::invalid(path, format!("{{{}}}", set.join(", ")), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn texts(spec: &Value) -> Vec<String> {
        Workload.validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect()
    }

    fn groups(groups: Value) -> Value {
        json!({"podGroups": groups})
    }

    #[test]
    fn groups_have_names_and_one_policy() {
        let gang = |name: &str, count: i64| json!({"name": name, "policy": {"gang": {"minCount": count}}});
        let basic = json!({"name": "b", "policy": {"basic": {}}});
        assert!(texts(&groups(json!([gang("g", 2), basic]))).is_empty());
        let required = "exactly one of `basic`, `gang` is required";
        for (spec, expect) in [
            (json!({}), vec!["spec.podGroups: Required value: must have at least one item".to_owned()]),
            (
                groups(json!([gang("g", 0)])),
                vec!["spec.podGroups[0].policy.gang.minCount: Invalid value: 0: must be greater than zero".to_owned()],
            ),
            (groups(json!([{"name": "g"}])), vec![format!("spec.podGroups[0].policy: Required value: {required}")]),
            (
                groups(json!([{"name": "g", "policy": {"basic": {}, "gang": {"minCount": 1}}}])),
                vec![format!(
                    "spec.podGroups[0].policy: Invalid value: \"{{`basic`, `gang`}}\": {required}, but multiple fields are set"
                )],
            ),
            (
                groups(json!([gang("g", 1), gang("g", 1)])),
                vec!["spec.podGroups[1].name: Duplicate value: \"g\"".to_owned()],
            ),
            (
                groups((0..9).map(|i| gang(&format!("g{i}"), 1)).collect()),
                vec!["spec.podGroups: Too many: 9: must have at most 8 items".to_owned()],
            ),
        ] {
            assert_eq!(texts(&spec), expect, "{spec}");
        }
        assert_eq!(texts(&groups(json!([gang("No", 1)]))).len(), 1);
        let mut owned = groups(json!([gang("g", 1)]));
        owned["controllerRef"] = json!({"apiGroup": "a/b", "kind": "", "name": "x/y"});
        assert_eq!(texts(&owned).len(), 3, "{:?}", texts(&owned));
    }

    #[test]
    fn groups_stay_as_they_are_and_so_does_a_reference_once_set() {
        let spec = |controller: Value, count: i64| {
            let groups = json!([{"name": "g", "policy": {"gang": {"minCount": count}}}]);
            json!({"spec": {"controllerRef": controller, "podGroups": groups}})
        };
        let (job, other) = (json!({"kind": "Job", "name": "a"}), json!({"kind": "Job", "name": "b"}));
        for (old, new, faults) in [
            (spec(Value::Null, 1), spec(job.clone(), 1), 0),
            (spec(job.clone(), 1), spec(other, 1), 1),
            (spec(job.clone(), 1), spec(Value::Null, 2), 2),
            (spec(job.clone(), 1), spec(job, 1), 0),
        ] {
            assert_eq!(Workload.validate_update(&new, &old).len(), faults, "{old} {new}");
        }
    }
}
