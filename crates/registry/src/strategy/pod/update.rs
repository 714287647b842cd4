//! What may change in a pod that exists: hardly anything (`ValidatePodUpdate`).

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use crate::tree::{int, keep, list, list_mut, text};
use crate::validation::update::differences;

const REFUSAL: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let path = FieldPath::new("spec");
    for field in ["containers", "initContainers"] {
        if list(new, field).len() != list(old, field).len() {
            out.push(FieldError::forbidden(&path.child(field), "pod updates may not add or remove containers"));
        }
    }
    if !out.is_empty() {
        return out;
    }
    let deadline = int(old, "activeDeadlineSeconds");
    match (deadline, int(new, "activeDeadlineSeconds")) {
        (Some(old), Some(new)) if new > old => {
            out.push(FieldError::invalid(
                &path.child("activeDeadlineSeconds"),
                new,
                "must be less than or equal to previous value",
            ));
        }
        (Some(_), None) => {
            out.push(FieldError::invalid(
                &path.child("activeDeadlineSeconds"),
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
        }
        _ => {}
    }
    for (i, gate) in list(new, "schedulingGates").iter().enumerate() {
        if !list(old, "schedulingGates").iter().any(|g| text(g, "name") == text(gate, "name")) {
            let path = path.child("schedulingGates").index(i);
            out.push(FieldError::forbidden(&path, "only deletion is allowed, but found new scheduling gate"));
        }
    }
    let known = list(new, "tolerations");
    let kept = |toleration: &Value| {
        let mut plain = toleration.clone();
        if let Value::Object(map) = &mut plain {
            map.remove("tolerationSeconds");
        }
        known.iter().any(|t| {
            let mut other = t.clone();
            if let Value::Object(map) = &mut other {
                map.remove("tolerationSeconds");
            }
            other == plain
        })
    };
    if !list(old, "tolerations").iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        out.push(FieldError::forbidden(&path.child("tolerations"), detail));
    }

    // The new spec with everything set back that may differ: the rest must be the old one.
    let mut rest = new.clone();
    for field in ["containers", "initContainers"] {
        for (container, old) in list_mut(&mut rest, field).iter_mut().zip(list(old, field)) {
            keep(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep(&mut rest, old, field);
    }
    if int(old, "terminationGracePeriodSeconds").is_some_and(|s| s < 0)
        && int(new, "terminationGracePeriodSeconds") == Some(1)
    {
        keep(&mut rest, old, "terminationGracePeriodSeconds");
    }
    // A pod that is held back by a gate may still be told where to go.
    if !list(old, "schedulingGates").is_empty() {
        keep(&mut rest, old, "nodeSelector");
        keep(&mut rest, old, "affinity");
    }
    if rest != *old {
        let mut changed = Vec::new();
        differences(&rest, old, &path, 10, &mut changed);
        out.push(FieldError::forbidden(&path, format!("{REFUSAL}\n{}\n", changed.join("\n"))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn images_and_more_tolerations_are_all_that_may_change() {
        let old = json!({"containers": [{"name": "a", "image": "x"}], "tolerations": [{"key": "k"}], "nodeName": "n"});
        let check = |change: &dyn Fn(&mut Value), expect: &str| {
            let mut new = old.clone();
            change(&mut new);
            let text = validate(&new, &old).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert!(if expect.is_empty() { text.is_empty() } else { text.contains(expect) }, "{text}");
        };
        check(&|s| s["containers"][0]["image"] = "y".into(), "");
        check(&|s| s["tolerations"] = json!([{"key": "k", "tolerationSeconds": 5}, {"key": "l"}]), "");
        check(&|s| s["tolerations"] = json!([]), "existing toleration can not be modified");
        check(&|s| s["activeDeadlineSeconds"] = 5.into(), "");
        check(
            &|s| s["nodeName"] = "m".into(),
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`",
        );
        check(&|s| s["nodeName"] = "m".into(), "spec.nodeName: \"n\" -> \"m\"");
        check(
            &|s| s["containers"] = json!([]),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        );
        check(&|s| s["containers"][0]["command"] = json!(["a"]), "spec.containers[0].command");
    }
}
