//! What is to be done about a claim.

use kybern_api::Object;
use kybern_api::core::v1::PersistentVolumeClaim;
use kybern_api::storage::v1::StorageClass;

use super::matching::{self, is_for};
use super::{
    BOUND_BY_CONTROLLER, SELECTED_NODE, annotation, bind, claim_key, claim_ref, claim_uid, class_of_claim,
    is_bind_completed, is_default, provision, volume_name,
};
use crate::controller::{Op, Plan};
use crate::pods;
use crate::snapshot::{CLAIM, Snapshot};

pub(super) fn sync(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> Plan {
    match (is_bind_completed(claim), volume_name(claim)) {
        (false, "") => without_volume(claim, snapshot),
        (false, name) => with_wish(claim, name, snapshot),
        (true, name) => bound(claim, name, snapshot),
    }
}

fn without_volume(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> Plan {
    let class = snapshot.storage_classes.get(class_of_claim(claim));
    let waits = class.and_then(|class| class.volume_binding_mode.clone()).as_deref() == Some("WaitForFirstConsumer");
    match matching::best(claim, waits, snapshot) {
        Ok(Some(volume)) => return bind::next(&volume, claim),
        Ok(None) => {}
        Err(cause) => {
            return Plan::of(vec![Op::Fail(format!("error finding PV for claim {:?}: {cause}", claim.key()))]);
        }
    }
    let asks = annotation(&claim.metadata, super::BETA_CLASS).is_some()
        || claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
    if !asks && let Some(class) = default_class(snapshot) {
        let mut new = claim.clone();
        new.spec.get_or_insert_default().storage_class_name = Some(class.name().to_owned());
        return Plan::of(vec![Op::update(&new)]);
    }
    let told = if waits && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        awaited(claim, snapshot)
    } else if !class_of_claim(claim).is_empty() {
        return provision::plan(claim, snapshot);
    } else {
        let message = "no persistent volumes available for this claim and no storage class is set";
        Op::normal(claim, "FailedBinding", message)
    };
    pending(claim, told)
}

/// The newest of those that are marked so; of two equally new ones that of the lesser name.
fn default_class(snapshot: &Snapshot) -> Option<std::sync::Arc<StorageClass>> {
    let defaults = snapshot.storage_classes.list().into_iter().filter(|class| is_default(class));
    defaults.min_by(|a, b| {
        let age = pods::created(&b.metadata).cmp(&pods::created(&a.metadata));
        age.then_with(|| a.name().cmp(b.name()))
    })
}

/// Says for whom a claim waits.
fn awaited(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> Op {
    let pods = snapshot.pods.by_index(CLAIM, &claim.key());
    let waiting = pods.iter().filter(|pod| !pods::is_finished(pod) && pods::node_name(pod).is_empty());
    let mut names: Vec<&str> = waiting.map(|pod| pod.name()).collect();
    names.sort_unstable();
    match names.as_slice() {
        [] => Op::normal(claim, "WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [name] => Op::normal(claim, "WaitForPodScheduled", format!("waiting for pod {name} to be scheduled")),
        names => {
            Op::normal(claim, "WaitForPodScheduled", format!("waiting for pods {} to be scheduled", names.join(",")))
        }
    }
}

fn pending(claim: &PersistentVolumeClaim, told: Op) -> Plan {
    let status = bind::status(claim, "Pending", None).unwrap_or_default();
    Plan::of([told].into_iter().chain(status).collect())
}

/// A claim that names its volume, and is not bound to it yet.
fn with_wish(claim: &PersistentVolumeClaim, name: &str, snapshot: &Snapshot) -> Plan {
    let Some(volume) = snapshot.volumes.get(name) else {
        let status = bind::status(claim, "Pending", None).unwrap_or_default();
        return Plan::of(status.into_iter().collect());
    };
    if claim_ref(&volume).is_none() {
        return match matching::mismatch(&volume, claim) {
            None => bind::next(&volume, claim),
            Some(cause) => {
                let message = format!("Cannot bind to requested volume {name:?}: {cause}");
                pending(claim, Op::warning(claim, "VolumeMismatch", message))
            }
        };
    }
    if is_for(&volume, claim) {
        return bind::next(&volume, claim);
    }
    let told = Op::warning(claim, "FailedBinding", format!("volume {name:?} already bound to a different claim."));
    if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() {
        return pending(claim, told);
    }
    let owner = claim_key(&volume).unwrap_or_default();
    let message =
        format!("invalid binding of claim {:?} to volume {name:?}: volume already claimed by {owner:?}", claim.key());
    Plan::of(vec![told, Op::Fail(message)])
}

/// A claim that was bound: to what it was, it stays bound, or it is lost.
fn bound(claim: &PersistentVolumeClaim, name: &str, snapshot: &Snapshot) -> Plan {
    let lost = |reason: &'static str, message: &str| {
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            return Plan::idle();
        }
        let status = bind::status(claim, "Lost", None).unwrap_or_default();
        Plan::of(status.into_iter().chain([Op::warning(claim, reason, message)]).collect())
    };
    if name.is_empty() {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = snapshot.volumes.get(name) else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match claim_ref(&volume) {
        Some(reference) if claim_uid(reference) != claim.uid() => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
        _ => bind::next(&volume, claim),
    }
}
