//! What is to be done about a volume.

use kybern_api::Object;
use kybern_api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::matching::same_volume_mode;
use super::{PROVISIONED_BY, annotation, bind, claim_key, claim_ref, claim_uid, phase, recycle, volume_name};
use crate::controller::{Context, Op, Plan};
use crate::snapshot::Snapshot;

const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";

pub(super) fn sync(volume: &PersistentVolume, snapshot: &Snapshot, context: &Context) -> Plan {
    let Some(uid) = claim_ref(volume).map(claim_uid).filter(|uid| !uid.is_empty()) else {
        return Plan::of(bind::set_phase(volume, "Available", "").into_iter().collect());
    };
    let claim = snapshot.claims.get(&claim_key(volume).unwrap_or_default()).filter(|claim| claim.uid() == uid);
    let Some(claim) = claim else {
        // A claim that has come a moment ago may not have been seen here.
        let mut plan = released(volume, snapshot, context);
        if !plan.ops.is_empty() {
            plan.ops.insert(0, claim_is_gone(volume));
        }
        return plan;
    };
    match volume_name(&claim) {
        "" if !same_volume_mode(volume, &claim) => Plan::of(vec![
            Op::warning(
                volume,
                "VolumeMismatch",
                format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                    claim.name()
                ),
            ),
            Op::warning(
                &*claim,
                "VolumeMismatch",
                format!(
                    "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                    volume.name()
                ),
            ),
        ]),
        // The claim's own key comes with every change of its volume.
        "" => Plan::idle(),
        name if name == volume.name() => Plan::of(bind::set_phase(volume, "Bound", "").into_iter().collect()),
        // The claim has taken another. One that was made for it is of no use to anybody.
        _ if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            released(volume, snapshot, context)
        }
        _ => Plan::of(vec![Op::update(&bind::unbound(volume))]),
    }
}

/// Ends a plan if the server still has the claim that the volume is for.
pub(crate) fn claim_is_gone(volume: &PersistentVolume) -> Op {
    let reference = claim_ref(volume).cloned().unwrap_or_default();
    Op::RequireAbsent {
        gvr: PersistentVolumeClaim::gvr(),
        namespace: reference.namespace.unwrap_or_default(),
        name: reference.name.unwrap_or_default(),
        uid: reference.uid.unwrap_or_default(),
    }
}

pub(crate) fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// What becomes of a volume whose claim is gone (`reclaimVolume`).
fn released(volume: &PersistentVolume, snapshot: &Snapshot, context: &Context) -> Plan {
    if !matches!(phase(volume), "Released" | "Failed") {
        return Plan::of(bind::set_phase(volume, "Released", "").into_iter().collect());
    }
    if annotation(&volume.metadata, MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return Plan::idle();
    }
    let failed = |reason: &'static str, message: &str| match bind::set_phase(volume, "Failed", message) {
        Some(op) => Plan::of(vec![op, Op::warning(volume, reason, message)]),
        None => Plan::idle(),
    };
    match policy(volume) {
        "Retain" => Plan::idle(),
        "Recycle" => recycle::plan(volume, snapshot, context),
        "Delete" => match undeletable(volume) {
            Some(message) => failed("VolumeFailedDelete", &message),
            None => Plan::idle(),
        },
        _ => failed("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy"),
    }
}

/// Why nobody deletes the volume; `None` where its provisioner does.
fn undeletable(volume: &PersistentVolume) -> Option<String> {
    let spec = volume.spec.as_ref();
    match annotation(&volume.metadata, PROVISIONED_BY).filter(|name| !name.is_empty()) {
        Some(name) if name.starts_with("kubernetes.io/") => Some(format!("no volume plugin matched name: {name}")),
        Some(_) => None,
        None if spec.is_some_and(|spec| spec.csi.is_some()) => None,
        None => match spec.and_then(|spec| spec.host_path.as_ref()) {
            // Upstream removes those below /tmp, on whatever machine its controllers run.
            Some(source) if source.path.starts_with("/tmp/") => {
                Some(format!("{} is on a node: remove it there, and then the volume", source.path))
            }
            Some(source) => {
                Some(format!("host_path deleter only supports /tmp/.+ but received provided {}", source.path))
            }
            None => Some(format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                volume.name()
            )),
        },
    }
}
