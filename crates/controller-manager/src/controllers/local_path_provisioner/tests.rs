//! Tables of what is decided.

use kybern_api::core::v1::{PersistentVolumeClaimSpec, PersistentVolumeStatus};
use kybern_api::meta::v1::Time;
use kybern_apimachinery::{Value, json};

use super::*;
use crate::controller::Failure;
use crate::testing::{World, created, deleted, events, now, updated};

fn object<K: Object>(value: Value) -> K {
    K::from_json(value.to_string().as_bytes()).unwrap()
}

fn claim(selected: Option<&str>) -> PersistentVolumeClaim {
    let mut metadata = json!({
        "name": "data", "namespace": "default", "uid": "uid-data", "resourceVersion": "1", "annotations": {PROVISIONER: NAME},
    });
    if let Some(node) = selected {
        metadata["annotations"][SELECTED_NODE] = node.into();
    }
    let spec = json!({
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "local-path",
    });
    object(json!({"metadata": metadata, "spec": spec}))
}

fn node(directory: Option<&str>) -> Node {
    let annotations = directory.map_or(json!({}), |path| json!({DIRECTORY: path}));
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let metadata = json!({"name": "n1", "labels": {HOSTNAME: "host-1"}, "annotations": annotations});
    object(json!({"metadata": metadata, "status": status}))
}

fn world(directory: Option<&str>) -> World {
    let world = World::new();
    let class = json!({"metadata": {"name": "local-path"}, "provisioner": NAME});
    world.writers.storage_classes.upsert(object(class));
    world.writers.nodes.upsert(node(directory));
    world
}

#[test]
fn a_claim_gets_a_folder_of_the_node_that_was_chosen() {
    let world = world(Some("/srv/kybern/volumes"));
    world.writers.claims.upsert(claim(Some("n1")));
    let plan = world.reconcile(&LocalPathProvisioner, "default/data");
    let [volume] = &created::<PersistentVolume>(&plan)[..] else { panic!("{plan:?}") };
    let spec = volume.spec.clone().unwrap();
    assert_eq!(spec.local.unwrap().path, "/srv/kybern/volumes/pvc-uid-data");
    assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("uid-data"));
    assert_eq!(spec.capacity.unwrap()["storage"].0, "1Gi");
    let terms = spec.node_affinity.unwrap().required.unwrap().node_selector_terms;
    assert_eq!(terms[0].match_expressions.as_ref().unwrap()[0].values, Some(vec!["host-1".to_owned()]));
    assert_eq!(volume.metadata.finalizers, Some(vec![FINALIZER.to_owned()]));
    assert_eq!(annotation(&volume.metadata, NODE_NAME), Some("n1"));
    assert_eq!(events(&plan), ["ProvisioningSucceeded: Successfully provisioned volume pvc-uid-data"]);
    let failure = Failure { verb: Verb::Create, stale: false, message: "denied".into() };
    let told = events(&world.reconcile_after(&LocalPathProvisioner, "default/data", failure));
    assert_eq!(told[0], "ProvisioningFailed: failed to provision volume with StorageClass \"local-path\": denied");
    world.writers.volumes.upsert(volume.clone());
    assert!(world.reconcile(&LocalPathProvisioner, "default/data").ops.is_empty(), "once");
}

#[test]
fn what_no_node_can_hold_is_told() {
    let check = |directory: Option<&str>, change: &dyn Fn(&mut PersistentVolumeClaim), expect: &str, again: bool| {
        let world = world(directory);
        let mut claim = claim(Some("n1"));
        change(&mut claim);
        world.writers.claims.upsert(claim);
        let plan = world.reconcile(&LocalPathProvisioner, "default/data");
        let told = events(&plan).join(" ");
        assert!(told.contains(expect), "{told}");
        assert!(created::<PersistentVolume>(&plan).is_empty());
        let rescheduled = updated::<PersistentVolumeClaim>(&plan);
        assert_eq!(rescheduled.len(), usize::from(again));
        assert!(rescheduled.iter().all(|claim| annotation(&claim.metadata, SELECTED_NODE).is_none()));
    };
    let select = |claim: &mut PersistentVolumeClaim, node: &str| {
        claim.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.into(), node.into());
    };
    check(None, &|_| {}, "has no directory for volumes", true);
    check(Some("volumes"), &|_| {}, "has no directory for volumes", true);
    check(Some("/v"), &|claim| select(claim, "n2"), "node \"n2\" not found", true);
    let spec = |claim: &mut PersistentVolumeClaim, change: &dyn Fn(&mut PersistentVolumeClaimSpec)| {
        change(claim.spec.get_or_insert_default());
    };
    let many = |spec: &mut PersistentVolumeClaimSpec| spec.access_modes = Some(vec!["ReadWriteMany".into()]);
    check(Some("/v"), &|claim| spec(claim, &many), "access modes", false);
    let block = |spec: &mut PersistentVolumeClaimSpec| spec.volume_mode = Some("Block".into());
    check(Some("/v"), &|claim| spec(claim, &block), "volumeMode Filesystem", false);
    let unselected = |claim: &mut PersistentVolumeClaim| {
        claim.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
    };
    check(Some("/v"), &unselected, "no node was specified", false);
}

/// A volume as it was made, in this phase.
fn made(phase: &str, policy: &str, deleting: bool) -> PersistentVolume {
    let class = StorageClass { reclaim_policy: Some(policy.to_owned()), ..StorageClass::default() };
    let mut made = volume(&claim(Some("n1")), &class, &node(Some("/v"))).unwrap();
    made.metadata.uid = Some("uid-volume".to_owned());
    made.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    made.metadata.deletion_timestamp = deleting.then(|| Time(now()));
    made.status = Some(PersistentVolumeStatus { phase: Some(phase.to_owned()), ..Default::default() });
    made
}

#[test]
fn data_goes_when_nobody_claims_it_and_before_its_volume() {
    let plan = |volume: PersistentVolume, claim: Option<PersistentVolumeClaim>| {
        let world = world(Some("/v"));
        world.writers.claims.replace(claim, "1");
        world.writers.volumes.upsert(volume);
        world.reconcile(&LocalPathProvisioner, "pvc-uid-data")
    };
    let at_node = Op::DeleteAtNode { node: "n1".into(), path: "volumes/pvc-uid-data".into() };
    let released = plan(made("Released", "Delete", false), None);
    assert!(matches!(&released.ops[0], Op::RequireAbsent { uid, .. } if uid == "uid-data"), "{released:?}");
    assert_eq!(released.ops[1], at_node);
    assert_eq!(updated::<PersistentVolume>(&released)[0].metadata.finalizers, Some(vec![]));
    assert_eq!(deleted(&released), ["pvc-uid-data"]);
    // Deleted by hand before anybody had it: nobody has to delete it once more.
    let unused = plan(made("Available", "Delete", true), None);
    assert!(unused.ops.contains(&at_node) && deleted(&unused).is_empty(), "{unused:?}");
    // Given back by hand, and deleted: there is no claim to ask for.
    let mut given_back = made("Available", "Delete", true);
    given_back.spec.get_or_insert_default().claim_ref = None;
    assert_eq!(plan(given_back, None).ops[0], at_node);
    // In use, kept, or somebody else's.
    assert!(plan(made("Bound", "Delete", true), Some(claim(None))).ops.is_empty());
    assert!(plan(made("Bound", "Delete", false), None).ops.is_empty());
    assert!(plan(made("Released", "Retain", false), None).ops.is_empty());
    let mut mine = claim(None);
    mine.spec.get_or_insert_default().volume_name = Some("pvc-uid-data".into());
    assert!(plan(made("Released", "Delete", true), Some(mine)).ops.is_empty(), "its claim is there");
    let mut other = made("Released", "Delete", false);
    other.metadata.annotations.get_or_insert_default().insert(PROVISIONED_BY.into(), "example.com/x".into());
    assert!(plan(other, None).ops.is_empty());
    // A retained one is let go without its data.
    let kept = plan(made("Released", "Retain", true), None);
    assert!(kept.ops.len() == 1 && updated::<PersistentVolume>(&kept).len() == 1, "{kept:?}");
}

#[test]
fn a_node_that_fails_is_told_of_and_asked_again_and_one_that_is_gone_is_not() {
    let world = world(Some("/v"));
    world.writers.volumes.upsert(made("Released", "Delete", false));
    let failure = Failure { verb: Verb::Delete, stale: false, message: "no route".into() };
    let plan = world.reconcile_after(&LocalPathProvisioner, "pvc-uid-data", failure);
    assert_eq!(events(&plan), ["VolumeFailedDelete: no route"]);
    assert!(plan.ops.iter().any(|op| matches!(op, Op::DeleteAtNode { .. })));
    let mut lost = node(Some("/v"));
    lost.status = None;
    world.writers.nodes.upsert(lost);
    let plan = world.reconcile(&LocalPathProvisioner, "pvc-uid-data");
    assert_eq!(events(&plan), ["VolumeFailedDelete: the data is on node \"n1\", which is not ready"]);
    assert_eq!(plan.ops.len(), 1);
    world.writers.nodes.remove("n1", "9");
    let plan = world.reconcile(&LocalPathProvisioner, "pvc-uid-data");
    assert!(!plan.ops.iter().any(|op| matches!(op, Op::DeleteAtNode { .. })), "{plan:?}");
    assert_eq!(deleted(&plan), ["pvc-uid-data"]);
}
