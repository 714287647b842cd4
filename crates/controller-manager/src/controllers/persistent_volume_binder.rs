//! `persistentvolume-binder`: claims and volumes find each other (`pkg/controller/volume/persistentvolume`).
//!
//! A binding is four writes: the volume names the claim, the volume's phase, the claim names the volume, the claim's status.
//! Each look makes the next one that is missing, on what it has read, so that whoever was faster makes it fail harmlessly.
//! Keys are those of claims (`namespace/name`) and of volumes (`name`).

mod bind;
mod claim;
mod matching;
mod provision;
mod recycle;
#[cfg(test)]
mod tests;
mod volume;

use std::sync::Arc;

use kybern_api::Object;
use kybern_api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::storage::v1::StorageClass;
use kybern_apimachinery::object;
use kybern_client::Change;

use crate::controller::{Context, Controller, Plan};
use crate::pods;
use crate::snapshot::{CLAIM, STORAGE_CLASS, Snapshot, VOLUME};
use crate::watches::Watches;

pub(crate) use bind::reference;
pub(crate) use matching::size;
pub(crate) use volume::{claim_is_gone, policy};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Who made a volume for a claim.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make a volume for a claim.
pub(crate) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The node that the scheduler has chosen for a claim's first pod.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

pub struct PersistentVolumeBinder;

impl Controller for PersistentVolumeBinder {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    fn component(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn account(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.when_missed(&snapshot.volumes);
        watches.primary(&snapshot.claims);
        watches.on(&snapshot.claims, |change, snapshot| {
            // The volumes that are its own, as it says or as they say.
            let named = [&change.old, &change.new].into_iter().flatten();
            let named = named.filter_map(|claim| claim.spec.as_ref()?.volume_name.clone()).filter(|n| !n.is_empty());
            let naming = snapshot.volumes.by_index(CLAIM, &change.object().key());
            named.chain(naming.iter().map(|volume| volume.name().to_owned())).collect()
        });
        watches.on(&snapshot.volumes, concerned);
        watches.on(&snapshot.storage_classes, |change, snapshot| {
            let class = change.object();
            let waiting = snapshot.claims.by_index(STORAGE_CLASS, class.name());
            // Claims without a class take the one that is the default.
            let classless = if is_default(class) { snapshot.claims.by_index(STORAGE_CLASS, "") } else { Vec::new() };
            waiting.iter().chain(&classless).map(|claim| claim.key()).collect()
        });
        watches.on(&snapshot.pods, |change, snapshot| {
            let pod = change.object();
            let scrubbed = recycled_by(pod).map(str::to_owned);
            // Volumes are not scrubbed while a pod uses them.
            let over = change.new.as_ref().is_none_or(|pod| pods::is_finished(pod));
            let claims = if over { pods::claims(pod) } else { Vec::new() };
            let left = claims.iter().flat_map(|claim| snapshot.volumes.by_index(CLAIM, claim));
            scrubbed.into_iter().chain(left.map(|volume| volume.name().to_owned())).collect()
        });
        watches.on(&snapshot.pods, |change, snapshot| {
            // Its claims tell in an event whom they wait for.
            let waits = |pod: &Arc<Pod>| pods::node_name(pod).is_empty();
            let Some(pod) = change.new.as_ref().filter(|pod| change.old.is_none() && waits(pod)) else {
                return Vec::new();
            };
            let unbound = |key: &String| snapshot.claims.get(key).is_some_and(|claim| !is_bind_completed(&claim));
            pods::claims(pod).into_iter().filter(unbound).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        if key.contains('/') {
            snapshot.claims.get(key).map_or_else(Plan::idle, |claim| claim::sync(&claim, snapshot))
        } else {
            snapshot.volumes.get(key).map_or_else(Plan::idle, |volume| volume::sync(&volume, snapshot, context))
        }
    }
}

/// The volume, the claims that are its own, and those that wait for one like it.
fn concerned(change: &Change<PersistentVolume>, snapshot: &Snapshot) -> Vec<String> {
    let volume = change.object();
    let mut keys = vec![volume.name().to_owned()];
    for seen in [&change.old, &change.new].into_iter().flatten() {
        keys.extend(claim_key(seen));
    }
    keys.extend(snapshot.claims.by_index(VOLUME, volume.name()).iter().map(|claim| claim.key()));
    for class in change.new.iter().flat_map(|volume| free(volume)) {
        keys.extend(snapshot.claims.by_index(STORAGE_CLASS, &class).iter().map(|claim| claim.key()));
    }
    keys
}

pub(crate) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn annotate(metadata: &mut ObjectMeta, key: &str, value: &str) {
    metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

fn is_bind_completed(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The volume that a pod scrubs, by its name.
pub(crate) fn recycled_by(pod: &Pod) -> Option<&str> {
    recycle::volume_of(pod)
}

/// The class that a claim asks for; empty where it asks for none.
pub(crate) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, BETA_CLASS).or(spec).unwrap_or("")
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, BETA_CLASS).or(spec).unwrap_or("")
}

pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("")
}

pub(crate) fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

pub(crate) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

fn claim_key(volume: &PersistentVolume) -> Option<String> {
    let reference = claim_ref(volume)?;
    Some(object::key_of(reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref().unwrap_or("")))
}

/// The uid of the claim that a volume is for; empty where it is for whatever claim of that name.
pub(crate) fn claim_uid(reference: &ObjectReference) -> &str {
    reference.uid.as_deref().unwrap_or("")
}

fn is_default(class: &StorageClass) -> bool {
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .into_iter()
        .any(|key| annotation(&class.metadata, key) == Some("true"))
}

/// Index [`CLAIM`] of volumes: the claim that a volume is for.
pub(crate) fn claims_of(volume: &PersistentVolume) -> Vec<String> {
    claim_key(volume).into_iter().collect()
}

/// Index [`STORAGE_CLASS`] of volumes: that of a volume which any claim may have.
pub(crate) fn free(volume: &PersistentVolume) -> Vec<String> {
    let is_free = phase(volume) == "Available" && claim_ref(volume).is_none() && !volume.is_deleting();
    is_free.then(|| class_of_volume(volume).to_owned()).into_iter().collect()
}

/// Index [`STORAGE_CLASS`] of claims: that of a claim which has no volume yet.
pub(crate) fn unbound(claim: &PersistentVolumeClaim) -> Vec<String> {
    (!is_bind_completed(claim)).then(|| class_of_claim(claim).to_owned()).into_iter().collect()
}

/// Index [`VOLUME`] of claims: the volume that a claim names.
pub(crate) fn volumes_of(claim: &PersistentVolumeClaim) -> Vec<String> {
    Some(volume_name(claim).to_owned()).filter(|name| !name.is_empty()).into_iter().collect()
}
