//! PersistentVolume.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_subdomain;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::strategy::status::keep_all_but;
use crate::tree::{drop_field, has, list, list_mut, map, text};
use crate::validation::update::{diff, immutable};
use crate::validation::volume::{Source, one_of, source};
use crate::validation::{Errors, claim, format, resources, scheduling, warnings};

/// The types of volumes that a PersistentVolume can be, in the order in which upstream looks at them.
const SOURCES: [Source; 22] = [
    ("hostPath", "hostPath", "hostPath", source::host_path),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk", source::gce_disk),
    ("awsElasticBlockStore", "awsElasticBlockStore", "awsElasticBlockStore", source::aws_disk),
    ("glusterfs", "glusterfs", "glusterfs", source::persistent_glusterfs),
    ("flocker", "flocker", "flocker", source::flocker),
    ("nfs", "nfs", "nfs", source::nfs),
    ("rbd", "rbd", "rbd", source::rbd),
    ("quobyte", "quobyte", "quobyte", source::quobyte),
    ("cephfs", "cephFS", "cephfs", source::cephfs),
    ("iscsi", "iscsi", "iscsi", source::persistent_iscsi),
    ("cinder", "cinder", "cinder", source::persistent_cinder),
    ("fc", "fc", "fc", source::fibre_channel),
    ("flexVolume", "flexVolume", "flexVolume", source::flex),
    ("azureFile", "azureFile", "azureFile", source::persistent_azure_file),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume", source::vsphere),
    ("photonPersistentDisk", "photonPersistentDisk", "photonPersistentDisk", source::photon),
    ("portworxVolume", "portworxVolume", "portworxVolume", source::portworx),
    ("azureDisk", "azureDisk", "azureDisk", source::azure_disk),
    ("scaleIO", "scaleIO", "scaleIO", source::scale_io),
    ("local", "local", "local", source::local),
    ("storageos", "storageos", "storageos", source::persistent_storage_os),
    ("csi", "csi", "csi", source::persistent_csi),
];

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct PersistentVolume;

fn spec(out: &mut Errors, path: &FieldPath, spec: &Value) {
    if list(spec, "accessModes").is_empty() {
        out.push(FieldError::required(&path.child("accessModes"), ""));
    }
    claim::access_modes(out, path, spec);
    capacity(out, &path.child("capacity"), spec);
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    let policy_path = path.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        format::one_of(out, &policy_path, policy, &["Delete", "Recycle", "Retain"]);
    }
    if has(spec, "nodeAffinity") {
        let required = path.child("nodeAffinity").child("required");
        if has(&spec["nodeAffinity"], "required") {
            scheduling::node_selector(out, &required, &spec["nodeAffinity"]["required"], true);
        } else {
            out.push(FieldError::required(&required, "must specify required node constraints"));
        }
    }
    if !one_of(out, path, spec, &SOURCES) {
        out.push(FieldError::required(path, "must specify a volume type"));
    }
    if has(spec, "local") && !has(spec, "nodeAffinity") {
        out.push(FieldError::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
    }
    let host = text(&spec["hostPath"], "path");
    let is_root = host.starts_with('/') && host.split('/').all(|part| matches!(part, "" | "." | ".."));
    if is_root && policy == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        out.push(FieldError::forbidden(&policy_path, detail));
    }
    claim::class(out, path, spec, "storageClassName");
    if has(spec, "volumeMode") {
        format::one_of(out, &path.child("volumeMode"), text(spec, "volumeMode"), &claim::VOLUME_MODES);
    }
    if has(spec, "volumeAttributesClassName") {
        let (path_of, class) = (path.child("volumeAttributesClassName"), text(spec, "volumeAttributesClassName"));
        if class.is_empty() {
            out.push(FieldError::required(&path_of, "an empty string is disallowed"));
        } else {
            format::invalid(out, &path_of, class, dns1123_subdomain(class));
        }
        if !has(spec, "csi") {
            let detail = "has to be specified when using volumeAttributesClassName";
            out.push(FieldError::required(&path.child("csi"), detail));
        }
    }
}

/// A volume's capacity is its storage, nothing else.
fn capacity(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let amounts = &spec["capacity"];
    let count = map(spec, "capacity").count();
    if count == 0 {
        out.push(FieldError::required(path, ""));
    }
    if count != 1 || amounts.get("storage").is_none() {
        out.push(FieldError::not_supported(path, amounts.clone(), &["storage"]));
    }
    for (name, amount) in map(spec, "capacity") {
        let Some(amount) = resources::quantity(amount) else { continue };
        let path = path.key(name);
        if amount.value() < 0 {
            out.push(FieldError::invalid(&path, amount.value(), "must be a valid resource quantity"));
        }
        resources::positive(out, &path, amount);
    }
}

/// Labels of nodes that have another name since they are stable.
const RENAMED: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
];

/// Whether a volume's node affinity is what it was, but for a label that is called by its stable name. As upstream has it, the
/// stable name of any other label is the empty one, which is refused elsewhere.
fn same_affinity(new: &Value, old: &Value) -> bool {
    let mut old = old["nodeAffinity"].clone();
    let new = &new["nodeAffinity"];
    let terms = |affinity: &Value| list(&affinity["required"], "nodeSelectorTerms").to_vec();
    let wanted = terms(new);
    for (i, term) in list_mut(&mut old["required"], "nodeSelectorTerms").iter_mut().enumerate() {
        let wanted = wanted.get(i).map(|term| list(term, "matchExpressions")).unwrap_or_default();
        for (expression, wanted) in list_mut(term, "matchExpressions").iter_mut().zip(wanted) {
            let key = text(expression, "key");
            let stable = RENAMED.iter().find(|(beta, _)| *beta == key).map_or("", |(_, stable)| *stable);
            if stable == text(wanted, "key") {
                match wanted.get("key") {
                    Some(key) => expression["key"] = key.clone(),
                    None => drop_field(expression, "key"),
                }
            }
        }
    }
    *new == old
}

/// The volume itself, of whatever type, out of a spec.
fn source_of(spec: &Value) -> Value {
    SOURCES.iter().filter_map(|(field, ..)| Some(((*field).to_owned(), spec.get(*field)?.clone()))).collect()
}

impl Strategy for PersistentVolume {
    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, volume: &mut Value) {
        volume["status"] =
            json!({"phase": "Pending", "lastPhaseTransitionTime": kybern_apimachinery::time::to_rfc3339(ctx.now)});
    }

    fn validate(&self, volume: &Value) -> Vec<FieldError> {
        let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
        spec(&mut out, &path, &volume["spec"]);
        let iscsi = &volume["spec"]["iscsi"];
        let portal = text(iscsi, "targetPortal");
        if has(iscsi, "initiatorName") && object::name(volume).len() + 1 + portal.len() > 64 {
            let path = path.child("iscsi").child("targetportal");
            out.push(FieldError::invalid(&path, portal, source::ISCSI_TOO_LONG));
        }
        out
    }

    fn validate_update(&self, volume: &Value, old: &Value) -> Vec<FieldError> {
        // Upstream checks the whole volume once more.
        let mut out = self.validate(volume);
        let (mut new, before) = (source_of(&volume["spec"]), source_of(&old["spec"]));
        // A secret for expansion may be added.
        if has(&before, "csi") && has(&new, "csi") && !has(&before["csi"], "controllerExpandSecretRef") {
            drop_field(&mut new["csi"], "controllerExpandSecretRef");
        }
        if new != before {
            let path = FieldPath::new("spec.persistentvolumesource");
            let changed = diff(&new, &before, &path);
            let detail = format!("spec.persistentvolumesource is immutable after creation{changed}");
            out.push(FieldError::forbidden(&path, detail));
        }
        let (new, before) = (&volume["spec"], &old["spec"]);
        immutable(&mut out, &FieldPath::new("volumeMode"), new.get("volumeMode"), before.get("volumeMode"));
        if has(before, "nodeAffinity") {
            let path = FieldPath::new("nodeAffinity");
            if !same_affinity(new, before) {
                let shown = new.get("nodeAffinity").cloned().unwrap_or_default();
                let detail = "field is immutable, except for updating from beta label to GA";
                out.push(FieldError::invalid(&path, shown, detail));
            }
        }
        if has(before, "volumeAttributesClassName") && !has(new, "volumeAttributesClassName") {
            let path = FieldPath::new("spec.volumeAttributesClassName");
            out.push(FieldError::forbidden(&path, "update from non-nil value to nil is forbidden"));
        }
        out
    }

    fn warnings(&self, volume: &Value, _: Option<&Value>) -> Vec<String> {
        let (mut out, spec, path) = (Vec::new(), &volume["spec"], FieldPath::new("spec"));
        for (key, message) in [
            (
                "volume.beta.kubernetes.io/storage-class",
                "deprecated since v1.8; use \"storageClassName\" attribute instead",
            ),
            (
                "volume.beta.kubernetes.io/mount-options",
                "deprecated since v1.31; use \"mountOptions\" attribute instead",
            ),
        ] {
            if object::annotation(volume, key).is_some() {
                out.push(format!("metadata.annotations[{key}]: {message}"));
            }
        }
        if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
            out.push(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is \
                 to use dynamic provisioning."
                    .to_owned(),
            );
        }
        let terms = list(&spec["nodeAffinity"]["required"], "nodeSelectorTerms");
        for (i, term) in terms.iter().enumerate() {
            let path = path.child("nodeAffinity").child("required").child("nodeSelectorTerms").index(i);
            warnings::node_term(&mut out, &path, term, false);
        }
        warnings::old_volume(&mut out, &path, spec, &["flocker", "gitRepo", "quobyte"]);
        out
    }
}

/// `status` of a volume: since when it is in its phase is the server's to say, unless its writer does.
pub(in crate::strategy) struct VolumeStatus;

impl Strategy for VolumeStatus {
    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, volume: &mut Value, old: &Value) {
        const SINCE: &str = "lastPhaseTransitionTime";
        keep_all_but(volume, old, "status");
        let moved = text(&volume["status"], "phase") != text(&old["status"], "phase");
        let same = volume["status"].get(SINCE) == old["status"].get(SINCE);
        if moved && (same || !has(&volume["status"], SINCE)) {
            object::set(volume, &["status", SINCE], kybern_apimachinery::time::to_rfc3339(ctx.now));
        } else if !moved && !has(&volume["status"], SINCE) && has(&old["status"], SINCE) {
            volume["status"][SINCE] = old["status"][SINCE].clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apiserver::strategy::Features;

    #[test]
    fn a_phase_says_since_when_it_is() {
        let user = Default::default();
        let (then, now) = ("2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z");
        let check = |phase: &str, since: Option<&str>, expect: &str| {
            let old = json!({"spec": {"a": 1}, "status": {"phase": "Bound", "lastPhaseTransitionTime": then}});
            let mut new = json!({"spec": {"a": 2}, "status": {"phase": phase}});
            if let Some(since) = since {
                new["status"]["lastPhaseTransitionTime"] = since.into();
            }
            let ctx = StrategyContext {
                user: &user,
                now: jiff::Timestamp::UNIX_EPOCH,
                dry_run: false,
                features: &Features::default(),
            };
            VolumeStatus.prepare_for_update(&ctx, &mut new, &old);
            assert_eq!((text(&new["status"], "lastPhaseTransitionTime"), &new["spec"]), (expect, &old["spec"]));
        };
        check("Bound", None, then);
        check("Released", None, now);
        check("Released", Some(then), now);
        check("Released", Some("2026-02-02T00:00:00Z"), "2026-02-02T00:00:00Z");
    }
}
