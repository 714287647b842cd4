//! `persistentvolume-expander`: claims that ask for more than they have (`pkg/controller/volume/expand`).
//!
//! Folders have no bound of their own: those of host paths and of the built-in provisioner are as large as is said. For all others
//! somebody else has to do it. Whether a claim may grow was the API server's to say.

use kybern_api::Object;
use kybern_api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::local_path_provisioner::is_own;
use super::persistent_volume_binder::{claim_ref, claim_uid, size, volume_name};
use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::{Snapshot, VOLUME};
use crate::watches::Watches;

const STORAGE: &str = "storage";
const RESIZING: [&str; 2] = ["Resizing", "FileSystemResizePending"];

pub struct PersistentVolumeExpander;

impl Controller for PersistentVolumeExpander {
    fn name(&self) -> &'static str {
        "persistentvolume-expander-controller"
    }

    fn component(&self) -> &'static str {
        "volume_expand"
    }

    fn account(&self) -> &'static str {
        "expand-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.claims);
        watches.on(&snapshot.volumes, |change, snapshot| {
            // A claim may be seen before its volume.
            let name = change.new.as_ref().filter(|_| change.old.is_none()).map(|volume| volume.name());
            name.iter().flat_map(|name| snapshot.claims.by_index(VOLUME, name)).map(|claim| claim.key()).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        snapshot.claims.get(key).map_or_else(Plan::idle, |claim| expand(&claim, snapshot))
    }
}

fn expand(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> Plan {
    let status = claim.status.clone().unwrap_or_default();
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let asked = requests.and_then(|requests| requests.get(STORAGE));
    let (Some(asked), Some("Bound")) = (asked, status.phase.as_deref()) else { return Plan::idle() };
    if size(requests) <= size(status.capacity.as_ref()) {
        return Plan::idle();
    }
    let Some(volume) = snapshot.volumes.get(volume_name(claim)) else { return Plan::idle() };
    if claim_ref(&volume).is_none_or(|reference| claim_uid(reference) != claim.uid()) {
        return Plan::idle();
    }
    if !is_folder(&volume) {
        let message = "waiting for an external controller to expand this PVC";
        return Plan::of(vec![Op::normal(claim, "ExternalExpanding", message)]);
    }
    let mut plan = Plan::idle();
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    if size(capacity) < size(requests) {
        let mut new = (*volume).clone();
        let capacity = new.spec.get_or_insert_default().capacity.get_or_insert_default();
        capacity.insert(STORAGE.to_owned(), asked.clone());
        plan.push(Op::update(&new));
    }
    let mut grown = status;
    grown.capacity.get_or_insert_default().insert(STORAGE.to_owned(), asked.clone());
    grown.conditions.iter_mut().for_each(|all| all.retain(|c| !RESIZING.contains(&c.type_.as_str())));
    plan.push(Op::update_status(&PersistentVolumeClaim { status: Some(grown), ..claim.clone() }));
    let message = format!("ExpandVolume succeeded for volume {}", claim.key());
    plan.push(Op::normal(claim, "VolumeResizeSuccessful", message));
    plan
}

fn is_folder(volume: &PersistentVolume) -> bool {
    is_own(volume) || volume.spec.as_ref().is_some_and(|spec| spec.host_path.is_some())
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::{Value, json};

    use super::*;
    use crate::testing::{World, events, status_of, updated};

    fn object<K: Object>(value: Value) -> K {
        K::from_json(value.to_string().as_bytes()).unwrap()
    }

    /// What is written of the volume's and of the claim's capacity, and what is told.
    fn plan(asked: &str, phase: &str, of: &str, source: Value, provisioner: &str) -> (Vec<String>, Vec<String>) {
        let world = World::new();
        let claim: PersistentVolumeClaim = object(json!({
            "metadata": {"name": "c", "namespace": "default", "uid": "u", "resourceVersion": "1"},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": asked}}},
            "status": {"phase": phase, "capacity": {"storage": "1Gi"}, "conditions": [{"type": "Resizing", "status": "True"}]},
        }));
        let mut spec =
            json!({"capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "default", "name": "c", "uid": of}});
        source.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
        let metadata = json!({"name": "v", "annotations": {"pv.kubernetes.io/provisioned-by": provisioner}});
        world.writers.claims.upsert(claim);
        world.writers.volumes.upsert(object(json!({"metadata": metadata, "spec": spec})));
        let plan = world.reconcile(&PersistentVolumeExpander, "default/c");
        let volumes = updated::<PersistentVolume>(&plan).into_iter().map(|v| v.spec.unwrap().capacity.unwrap());
        let claims = status_of::<PersistentVolumeClaim>(&plan).into_iter().map(|c| {
            let status = c.status.unwrap();
            assert!(status.conditions.is_none_or(|conditions| conditions.is_empty()));
            status.capacity.unwrap()
        });
        (volumes.chain(claims).map(|capacity| capacity[STORAGE].0.clone()).collect(), events(&plan))
    }

    #[test]
    fn folders_grow_and_others_are_left_to_others() {
        let host = || json!({"hostPath": {"path": "/srv"}});
        let local = || json!({"local": {"path": "/v/pvc-u"}});
        let done = || {
            (vec!["2Gi".into(); 2], vec!["VolumeResizeSuccessful: ExpandVolume succeeded for volume default/c".into()])
        };
        let nothing = (vec![], vec![]);
        assert_eq!(plan("2Gi", "Bound", "u", host(), ""), done());
        assert_eq!(plan("2Gi", "Bound", "u", local(), "kybern.io/local-path"), done());
        let told = vec!["ExternalExpanding: waiting for an external controller to expand this PVC".to_owned()];
        assert_eq!(plan("2Gi", "Bound", "u", local(), "example.com/x"), (vec![], told));
        assert_eq!(plan("1024Mi", "Bound", "u", host(), ""), nothing);
        assert_eq!(plan("2Gi", "Bound", "another", host(), ""), nothing);
        assert_eq!(plan("2Gi", "Pending", "u", host(), ""), nothing);
        // The volume has grown, and the claim was not told: not the volume once more.
        let grown = json!({"hostPath": {"path": "/srv"}, "capacity": {"storage": "2Gi"}});
        assert_eq!(plan("2Gi", "Bound", "u", grown, "").0, ["2Gi"]);
    }
}
