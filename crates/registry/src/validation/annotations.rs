//! The annotations of a pod that mean something to Kubernetes itself.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::format::{self, Errors};
use super::scheduling;
use crate::tree::{list, map, text};

const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Those of a pod or of a template; `path` is that of the annotations.
pub(crate) fn pod(out: &mut Errors, path: &FieldPath, meta: &Value, spec: &Value) {
    let get = |key: &str| meta["annotations"].get(key).and_then(Value::as_str);
    if let Some(value) = get(MIRROR).filter(|_| text(spec, "nodeName").is_empty()) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        out.push(FieldError::invalid(&path.key(MIRROR), value, detail));
    }
    if let Some(value) = get(TOLERATIONS).filter(|v| !v.is_empty()) {
        match serde_json::from_str::<Value>(value) {
            Ok(tolerations) => {
                let owner = serde_json::json!({"tolerations": tolerations});
                scheduling::tolerations(out, &path.child(TOLERATIONS), &owner);
            }
            Err(e) => out.push(FieldError::invalid(path, TOLERATIONS, e.to_string())),
        }
    }
    if let Some(cost) = get(DELETION_COST).filter(|cost| !is_cost(cost)) {
        out.push(FieldError::invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer"));
    }
    if let Some(profile) = get(SECCOMP_POD) {
        seccomp(out, &path.child(SECCOMP_POD), profile);
    }
    for (key, profile) in map(meta, "annotations").filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        seccomp(out, &path.child(key), profile.as_str().unwrap_or(""));
    }
    for (key, profile) in map(meta, "annotations") {
        let (Some(container), profile) = (key.strip_prefix(APP_ARMOR), profile.as_str().unwrap_or("")) else {
            continue;
        };
        let sorts = ["initContainers", "containers", "ephemeralContainers"];
        if !sorts.iter().flat_map(|sort| list(spec, sort)).any(|c| text(c, "name") == container) {
            out.push(FieldError::invalid(&path.key(key), container, "container not found"));
        }
        if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            let detail = format!("invalid AppArmor profile name: {profile:?}");
            out.push(FieldError::invalid(&path.key(key), profile, detail));
        }
    }
}

/// A number as upstream writes it: without a plus sign, without zeros in front.
fn is_cost(cost: &str) -> bool {
    let first = cost.as_bytes().first();
    let padded = cost.len() > 1 && first == Some(&b'0');
    first != Some(&b'+') && !padded && cost.parse::<i32>().is_ok()
}

fn seccomp(out: &mut Errors, path: &FieldPath, profile: &str) {
    match profile.strip_prefix("localhost/") {
        Some(file) => format::local_descending_path(out, path, file),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => out.push(FieldError::invalid(path, profile, "must be a valid seccomp profile")),
    }
}

/// What an update may not do to them.
pub(crate) fn pod_update(out: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let kept = |owner: &Value, key: &str| owner["annotations"].get(key).cloned();
    for (key, value) in map(old, "annotations").filter(|(key, value)| kept(new, key).as_ref() != Some(value)) {
        let _ = value;
        if key.starts_with(APP_ARMOR) {
            out.push(FieldError::forbidden(&path.key(key), "may not remove or update AppArmor annotations"));
        }
        if key == MIRROR {
            out.push(FieldError::forbidden(&path.key(key), "may not remove or update mirror pod annotation"));
        }
    }
    for (key, _) in map(new, "annotations").filter(|(key, _)| kept(old, key).is_none()) {
        if key.starts_with(APP_ARMOR) {
            out.push(FieldError::forbidden(&path.key(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR {
            out.push(FieldError::forbidden(&path.key(key), "may not add mirror pod annotation"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn costs_and_profiles() {
        let check = |key: &str, value: &str, wrong: usize| {
            let mut out = Vec::new();
            let meta = json!({"annotations": {key: value}});
            pod(&mut out, &FieldPath::new("a"), &meta, &json!({"containers": [{"name": "c"}]}));
            assert_eq!(out.len(), wrong, "{key}={value}: {out:?}");
        };
        check(DELETION_COST, "-5", 0);
        check(DELETION_COST, "05", 1);
        check(DELETION_COST, "x", 1);
        check(SECCOMP_POD, "localhost/../x", 1);
        check(SECCOMP_POD, "runtime/default", 0);
        check(&format!("{APP_ARMOR}c"), "runtime/default", 0);
        check(&format!("{APP_ARMOR}d"), "other", 2);
        check(MIRROR, "x", 1);
    }
}
