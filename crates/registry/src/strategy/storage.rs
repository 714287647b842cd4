//! PersistentVolume and PersistentVolumeClaim.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{has, keep, list, text};
use crate::validation::resources::quantity;
use crate::validation::{Errors, format, meta};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (modes, path) = (list(spec, "accessModes"), path.child("accessModes"));
    if modes.is_empty() {
        out.push(FieldError::required(&path, "at least 1 access mode is required"));
    }
    for mode in modes {
        format::one_of(out, &path, mode.as_str().unwrap_or(""), &ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        out.push(FieldError::forbidden(&path, "may not use ReadWriteOncePod with other access modes"));
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, volume: &mut Value) {
        volume["status"] =
            json!({"phase": "Pending", "lastPhaseTransitionTime": kybern_apimachinery::time::to_rfc3339(ctx.now)});
    }

    fn validate(&self, volume: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &volume["spec"], FieldPath::new("spec"));
        access_modes(&mut out, &path, spec);
        match spec["capacity"].get("storage").and_then(quantity) {
            None => out.push(FieldError::required(&path.child("capacity"), "")),
            Some(size) if size.is_negative() || size.is_zero() => {
                out.push(FieldError::invalid(
                    &path.child("capacity").key("storage"),
                    size.to_string(),
                    "must be greater than zero",
                ));
            }
            Some(_) => {}
        }
        let policies = ["Delete", "Recycle", "Retain"];
        format::one_of(
            &mut out,
            &path.child("persistentVolumeReclaimPolicy"),
            text(spec, "persistentVolumeReclaimPolicy"),
            &policies,
        );
        const OTHERS: [&str; 10] = [
            "accessModes",
            "capacity",
            "claimRef",
            "mountOptions",
            "nodeAffinity",
            "persistentVolumeReclaimPolicy",
            "storageClassName",
            "volumeAttributesClassName",
            "volumeMode",
            "",
        ];
        let sources: Vec<&String> =
            spec.as_object().into_iter().flat_map(|m| m.keys()).filter(|k| !OTHERS.contains(&k.as_str())).collect();
        match sources.as_slice() {
            [] => out.push(FieldError::required(&path, "must specify a volume type")),
            [_] => {}
            [_, more @ ..] => {
                out.extend(
                    more.iter()
                        .map(|s| FieldError::forbidden(&path.child(s), "may not specify more than 1 volume type")),
                );
            }
        }
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, claim: &mut Value) {
        claim["status"] = json!({"phase": "Pending"});
    }

    fn validate(&self, claim: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &claim["spec"], FieldPath::new("spec"));
        access_modes(&mut out, &path, spec);
        match object::at(spec, &["resources", "requests", "storage"]).and_then(quantity) {
            None => out.push(FieldError::required(&path.child("resources").key("storage"), "")),
            Some(size) if size.is_negative() || size.is_zero() => {
                out.push(FieldError::invalid(
                    &path.child("resources").key("storage"),
                    size.to_string(),
                    "must be greater than zero",
                ));
            }
            Some(_) => {}
        }
        meta::selector(&mut out, &path.child("selector"), &spec["selector"]);
        out
    }

    fn validate_update(&self, claim: &Value, old: &Value) -> Vec<FieldError> {
        let mut rest = claim["spec"].clone();
        // The size may grow, the class of attributes change, and a volume and a class be filled in.
        keep(&mut rest, &old["spec"], "resources");
        keep(&mut rest, &old["spec"], "volumeAttributesClassName");
        for field in ["volumeName", "storageClassName"] {
            if !has(&old["spec"], field) {
                keep(&mut rest, &old["spec"], field);
            }
        }
        let mut out = Vec::new();
        if rest != old["spec"] {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            out.push(FieldError::forbidden(&FieldPath::new("spec"), detail));
        }
        let size = |c: &Value| object::at(c, &["spec", "resources", "requests", "storage"]).and_then(quantity);
        if let (Some(new), Some(old)) = (size(claim), size(old))
            && new < old
        {
            let path = FieldPath::new("spec.resources.requests.storage");
            out.push(FieldError::forbidden(&path, "field can not be less than status.capacity"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_only_grow() {
        let claim = |size: &str, volume: &str| {
            let mut claim =
                json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
            if !volume.is_empty() {
                claim["spec"]["volumeName"] = volume.into();
            }
            claim
        };
        assert!(PersistentVolumeClaim.validate(&claim("1Gi", "")).is_empty());
        assert!(PersistentVolumeClaim.validate_update(&claim("2Gi", "v"), &claim("1Gi", "")).is_empty());
        assert_eq!(PersistentVolumeClaim.validate_update(&claim("1Gi", "w"), &claim("1Gi", "v")).len(), 1);
        assert_eq!(PersistentVolumeClaim.validate_update(&claim("1Mi", ""), &claim("1Gi", "")).len(), 1);
    }
}
