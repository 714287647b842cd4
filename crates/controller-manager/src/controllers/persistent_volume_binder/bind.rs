//! The writes that bind a claim to a volume, and what a claim's status says of it.

use kybern_api::Object;
use kybern_api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use kybern_apimachinery::quantity::Quantity;

use super::matching::is_for;
use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, annotate, annotation, claim_ref, claim_uid, is_bind_completed, phase,
    volume_name,
};
use crate::controller::{Op, Plan};

const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// The next write that is missing until both say that they are bound to each other.
pub(super) fn next(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    if claim_ref(volume).is_none_or(|reference| claim_uid(reference) != claim.uid()) || !is_for(volume, claim) {
        return Plan::of(vec![Op::update(&claimed(volume, claim))]);
    }
    if let Some(op) = set_phase(volume, "Bound", "") {
        return Plan::of(vec![op]);
    }
    if volume_name(claim) != volume.name() || !is_bind_completed(claim) {
        return Plan::of(vec![Op::update(&completed(claim, volume))]);
    }
    match status(claim, "Bound", Some(volume)) {
        Ok(op) => Plan::of(op.into_iter().collect()),
        Err(cause) => Plan::of(vec![Op::Fail(cause)]),
    }
}

/// The volume names the claim (`GetBindVolumeToClaim`).
fn claimed(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut new = volume.clone();
    // What its maker has kept for the claim stays so when the claim goes to another.
    if !is_for(volume, claim) {
        annotate(&mut new.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    new.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    new
}

pub(crate) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: Some(claim.namespace().to_owned()),
        name: Some(claim.name().to_owned()),
        uid: Some(claim.uid().to_owned()),
        resource_version: Some(claim.resource_version().to_owned()),
        ..ObjectReference::default()
    }
}

/// The claim names the volume (`bindClaimToVolume`).
fn completed(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut new = claim.clone();
    if volume_name(claim) != volume.name() {
        new.spec.get_or_insert_default().volume_name = Some(volume.name().to_owned());
        annotate(&mut new.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    annotate(&mut new.metadata, BIND_COMPLETED, "yes");
    new
}

/// The volume is let go for others, or kept for whatever claim of the name that its maker has given (`unbindVolume`).
pub(super) fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut new = volume.clone();
    let spec = new.spec.get_or_insert_default();
    if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
        spec.claim_ref = None;
        new.metadata.annotations.get_or_insert_default().remove(BOUND_BY_CONTROLLER);
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    new
}

/// Writes a volume's phase where it is another.
pub(super) fn set_phase(volume: &PersistentVolume, wanted: &str, message: &str) -> Option<Op> {
    if phase(volume) == wanted {
        return None;
    }
    let mut new = volume.clone();
    let status = new.status.get_or_insert_default();
    status.phase = Some(wanted.to_owned());
    status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
    Some(Op::update_status(&new))
}

/// Writes a claim's status where it says something else of its phase or volume (`updateClaimStatus`).
pub(super) fn status(
    claim: &PersistentVolumeClaim,
    wanted: &str,
    volume: Option<&PersistentVolume>,
) -> Result<Option<Op>, String> {
    let old = claim.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let moves = old.phase.as_deref() != Some(wanted);
    new.phase = Some(wanted.to_owned());
    match volume.map(|volume| (volume, volume.spec.clone().unwrap_or_default())) {
        None => {
            new.access_modes = None;
            new.capacity = None;
            new.current_volume_attributes_class_name = None;
        }
        Some((volume, spec)) => {
            new.access_modes = spec.access_modes;
            // Later it is the resizer's to say how large it is.
            if moves {
                let capacity = spec.capacity.clone().unwrap_or_default();
                let Some(storage) = capacity.get("storage") else {
                    return Err(format!("PersistentVolume {:?} is without a storage capacity", volume.name()));
                };
                let before = annotation(&volume.metadata, PRE_RESIZE_CAPACITY);
                let before = before.filter(|amount| Quantity::parse(amount).is_ok());
                let known = new.capacity.as_ref().and_then(|known| known.get("storage"));
                match before {
                    Some(before) => {
                        let storage = kybern_api::Quantity(before.to_owned());
                        new.capacity.get_or_insert_default().insert("storage".to_owned(), storage);
                    }
                    None if known == Some(storage) => {}
                    None => new.capacity = spec.capacity,
                }
            }
            if wanted == "Bound" && old.phase.as_deref() == Some("Pending") {
                new.current_volume_attributes_class_name = spec.volume_attributes_class_name;
            }
        }
    }
    Ok((new != old).then(|| Op::update_status(&PersistentVolumeClaim { status: Some(new), ..claim.clone() })))
}
