//! Which volume a claim gets (`k8s.io/component-helpers/storage/volume`).

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kybern_api::{Object, Quantity as ApiQuantity, label_selector};
use kybern_apimachinery::quantity::{Format, Quantity};

use super::{claim_ref, claim_uid, class_of_claim, class_of_volume};
use crate::snapshot::{CLAIM, STORAGE_CLASS, Snapshot};

/// What of a claim or volume is to be alike in the other.
struct Terms<'a> {
    size: Quantity,
    modes: &'a [String],
    volume_mode: &'a str,
    attributes_class: &'a str,
}

pub(crate) fn size(amounts: Option<&BTreeMap<String, ApiQuantity>>) -> Quantity {
    let storage = amounts.and_then(|amounts| Quantity::parse(&amounts.get("storage")?.0).ok());
    storage.unwrap_or(Quantity::from_units(0, Format::BinarySi))
}

fn wanted(claim: &PersistentVolumeClaim) -> Terms<'_> {
    let spec = claim.spec.as_ref();
    Terms {
        size: size(spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref())),
        modes: spec.and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default(),
        volume_mode: spec.and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem"),
        attributes_class: spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or(""),
    }
}

fn offered(volume: &PersistentVolume) -> Terms<'_> {
    let spec = volume.spec.as_ref();
    Terms {
        size: size(spec.and_then(|spec| spec.capacity.as_ref())),
        modes: spec.and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default(),
        volume_mode: spec.and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem"),
        attributes_class: spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or(""),
    }
}

/// Whether the volume is kept for this claim (`IsVolumeBoundToClaim`).
pub(super) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.name.as_deref() == Some(claim.name())
            && reference.namespace.as_deref().unwrap_or("") == claim.namespace()
            && [claim.uid(), ""].contains(&claim_uid(reference))
    })
}

pub(super) fn same_volume_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    offered(volume).volume_mode == wanted(claim).volume_mode
}

/// Why the volume that a claim names cannot be its own (`checkVolumeSatisfyClaim`).
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let (wanted, offered) = (wanted(claim), offered(volume));
    if volume.is_deleting() {
        Some(format!("the volume is marked for deletion {:?}", volume.name()))
    } else if offered.size < wanted.size {
        Some("requested PV is too small".to_owned())
    } else if class_of_volume(volume) != class_of_claim(claim) {
        Some("storageClassName does not match".to_owned())
    } else if offered.attributes_class != wanted.attributes_class {
        Some("volumeAttributesClassName does not match".to_owned())
    } else if offered.volume_mode != wanted.volume_mode {
        Some("incompatible volumeMode".to_owned())
    } else if !wanted.modes.iter().all(|mode| offered.modes.contains(mode)) {
        Some("incompatible accessMode".to_owned())
    } else {
        None
    }
}

/// Whether a volume can be this claim's, whatever its class and labels.
fn fits(volume: &PersistentVolume, wanted: &Terms<'_>) -> bool {
    let offered = offered(volume);
    !volume.is_deleting()
        && offered.size >= wanted.size
        && offered.volume_mode == wanted.volume_mode
        && offered.attributes_class == wanted.attributes_class
        && wanted.modes.iter().all(|mode| offered.modes.contains(mode))
}

/// The volume that a claim gets: one that is kept for it, else of those with the fewest modes the smallest. A claim that
/// waits for its first consumer gets only what is kept for it. An error is the claim's selector.
pub(super) fn best(
    claim: &PersistentVolumeClaim,
    waits: bool,
    snapshot: &Snapshot,
) -> Result<Option<Arc<PersistentVolume>>, String> {
    let wanted = wanted(claim);
    let selector = match claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
        Some(selector) => Some(label_selector(selector)?),
        None => None,
    };
    let kept = snapshot.volumes.by_index(CLAIM, &claim.key());
    if let Some(volume) = kept.into_iter().find(|volume| is_for(volume, claim) && fits(volume, &wanted)) {
        return Ok(Some(volume));
    }
    if waits {
        return Ok(None);
    }
    let selected = |volume: &PersistentVolume| match (&selector, volume.labels()) {
        (None, _) => true,
        (Some(selector), Some(labels)) => selector.matches_btree(labels),
        (Some(selector), None) => selector.matches(|_| None),
    };
    let free = snapshot.volumes.by_index(STORAGE_CLASS, class_of_claim(claim));
    let order = |volume: &Arc<PersistentVolume>| {
        let offered = offered(volume);
        (offered.modes.len(), offered.size)
    };
    let better = |a: &Arc<PersistentVolume>, b: &Arc<PersistentVolume>| {
        let by_name = || a.name().cmp(b.name());
        order(a).partial_cmp(&order(b)).unwrap_or(std::cmp::Ordering::Equal).then_with(by_name)
    };
    Ok(free.into_iter().filter(|volume| selected(volume) && fits(volume, &wanted)).min_by(better))
}
