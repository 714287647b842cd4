//! What may change in a pod that exists: hardly anything (`ValidatePodUpdate`).

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use crate::tree::{drop_field, int, keep, list, list_mut, map, text};
use crate::validation::scheduling::REQUIRED;
use crate::validation::update::diff;
use crate::validation::{annotations, container, format, scheduling};

const REFUSAL: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// `ValidateContainerUpdates`; answers whether there is no going on.
fn containers(out: &mut Vec<FieldError>, path: &FieldPath, new: &[Value], old: &[Value]) -> bool {
    if new.len() != old.len() {
        out.push(FieldError::forbidden(path, "pod updates may not add or remove containers"));
        return true;
    }
    for (i, found) in new.iter().enumerate() {
        if text(found, "image").is_empty() {
            out.push(FieldError::required(&path.index(i).child("image"), ""));
        }
        container::image_padding(out, &path.index(i), found);
    }
    false
}

pub(super) fn validate(pod: &Value, before: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let (path, annotated) = (FieldPath::new("spec"), FieldPath::new("metadata.annotations"));
    annotations::pod_update(&mut out, &annotated, &pod["metadata"], &before["metadata"]);
    annotations::pod(&mut out, &annotated, &pod["metadata"], &pod["spec"]);
    let (new, old) = (&pod["spec"], &before["spec"]);
    for field in ["containers", "initContainers"] {
        if containers(&mut out, &path.child(field), list(new, field), list(old, field)) {
            return out;
        }
    }
    let at = path.child("activeDeadlineSeconds");
    match (int(old, "activeDeadlineSeconds"), int(new, "activeDeadlineSeconds")) {
        (_, Some(new)) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            format::range(&mut out, &at, Some(new), 0, i64::from(i32::MAX));
            return out;
        }
        (Some(old), Some(new)) if new > old => {
            out.push(FieldError::invalid(&at, new, "must be less than or equal to previous value"));
            return out;
        }
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            out.push(FieldError::invalid(&at, Value::Null, detail));
        }
        _ => {}
    }
    tolerations(&mut out, &path, new, old);
    for (i, gate) in list(new, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !list(old, "schedulingGates").iter().any(|g| text(g, "name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            out.push(FieldError::forbidden(&path.child("schedulingGates").index(i).child("name"), detail));
        }
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
    // A pod that is held back by a gate may still be told more narrowly where to go.
    if !list(old, "schedulingGates").is_empty() {
        gated(&mut out, &path, &mut rest, old);
    }
    if rest != *old {
        out.push(FieldError::forbidden(&path, format!("{REFUSAL}{}", diff(&rest, old, &path))));
    }
    out
}

fn tolerations(out: &mut Vec<FieldError>, path: &FieldPath, new: &Value, old: &Value) {
    let without_seconds = |toleration: &Value| {
        let mut plain = toleration.clone();
        drop_field(&mut plain, "tolerationSeconds");
        plain
    };
    let known: Vec<Value> = list(new, "tolerations").iter().map(without_seconds).collect();
    if list(old, "tolerations").iter().all(|t| known.contains(&without_seconds(t))) {
        scheduling::tolerations(out, path, new);
    } else {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        out.push(FieldError::forbidden(&path.child("tolerations"), detail));
    }
}

/// What may change of a gated pod's `nodeSelector` and node affinity: more conditions, never others.
fn gated(out: &mut Vec<FieldError>, path: &FieldPath, rest: &mut Value, old: &Value) {
    let kept = |(key, value): (&String, &Value)| rest["nodeSelector"].get(key) == Some(value);
    if !map(old, "nodeSelector").all(kept) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        let shown = rest["nodeSelector"].clone();
        out.push(FieldError::invalid(&path.child("nodeSelector"), shown, detail));
    }
    keep(rest, old, "nodeSelector");
    let node = |spec: &Value| spec["affinity"].get("nodeAffinity").cloned().unwrap_or_default();
    let (new, before) = (node(rest), node(old));
    if new == before {
        return;
    }
    affinity(out, &path.child("affinity").child("nodeAffinity"), &new, &before);
    let others =
        |spec: &Value| ["podAffinity", "podAntiAffinity"].iter().any(|kind| spec["affinity"].get(*kind).is_some());
    if before.is_null() && !others(rest) && old.get("affinity").is_none() {
        drop_field(rest, "affinity");
    } else if before.is_null() {
        drop_field(&mut rest["affinity"], "nodeAffinity");
    } else {
        rest["affinity"]["nodeAffinity"] = before;
    }
}

fn affinity(out: &mut Vec<FieldError>, path: &FieldPath, new: &Value, old: &Value) {
    let path = path.child(REQUIRED).child("nodeSelectorTerms");
    let (terms, before) = (list(&new[REQUIRED], "nodeSelectorTerms"), list(&old[REQUIRED], "nodeSelectorTerms"));
    // Where nothing was required, anything may be.
    if before.is_empty() {
        return;
    }
    if terms.len() != before.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        out.push(FieldError::invalid(&path, terms.to_vec(), detail));
        return;
    }
    for (i, (term, before)) in terms.iter().zip(before).enumerate() {
        let grows = |field: &str| {
            let (new, old) = (list(term, field), list(before, field));
            new.len() >= old.len() && new[..old.len()] == *old
        };
        let was_empty = ["matchExpressions", "matchFields"].iter().all(|f| list(before, f).is_empty());
        let is_empty = ["matchExpressions", "matchFields"].iter().all(|f| list(term, f).is_empty());
        if (was_empty && !is_empty) || !grows("matchExpressions") || !grows("matchFields") {
            let detail = "only additions are allowed (no mutations or deletions)";
            out.push(FieldError::invalid(&path.index(i), term.clone(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn images_and_more_tolerations_are_all_that_may_change() {
        let old = json!({"containers": [{"name": "a", "image": "x"}], "tolerations": [{"key": "k", "effect": "NoExecute"}], "nodeName": "n"});
        let check = |change: &dyn Fn(&mut Value), expect: &str| {
            let mut new = old.clone();
            change(&mut new);
            let pod = |spec: &Value| json!({"metadata": {}, "spec": spec});
            let text = validate(&pod(&new), &pod(&old)).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert!(if expect.is_empty() { text.is_empty() } else { text.contains(expect) }, "{text}");
        };
        check(&|s| s["containers"][0]["image"] = "y".into(), "");
        check(
            &|s| s["tolerations"] = json!([{"key": "k", "effect": "NoExecute", "tolerationSeconds": 5}, {"key": "l"}]),
            "",
        );
        check(&|s| s["tolerations"] = json!([]), "existing toleration can not be modified");
        check(&|s| s["activeDeadlineSeconds"] = 5.into(), "");
        check(
            &|s| s["nodeName"] = "m".into(),
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`",
        );
        check(&|s| s["nodeName"] = "m".into(), "-spec.nodeName: \"n\"\n+spec.nodeName: \"m\"\n");
        check(
            &|s| s["containers"] = json!([]),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        );
        check(&|s| s["containers"][0]["command"] = json!(["a"]), "spec.containers[0].command");
    }
}
