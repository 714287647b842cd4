//! Tables of what is decided, and claims that fight for volumes.

use std::collections::{BTreeMap, HashSet};

use kybern_api::Quantity;
use kybern_api::core::v1::{
    HostPathVolumeSource, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, PersistentVolumeSpec,
    PersistentVolumeStatus, VolumeResourceRequirements,
};
use kybern_api::meta::v1::Time;
use kybern_apimachinery::object::set;
use kybern_apimachinery::{Value, json};
use kybern_client::{Store, StoreWriter};
use proptest::prelude::*;

use super::*;
use crate::controller::Op;
use crate::testing::{NOW, PodBuilder, World, at, created, deleted, events, meta, now, pod, status_of, updated};

fn amount(size: &str) -> Option<BTreeMap<String, Quantity>> {
    Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))]))
}

fn claim(name: &str, size: &str, class: Option<&str>) -> PersistentVolumeClaim {
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        resources: Some(VolumeResourceRequirements { requests: amount(size), limits: None }),
        storage_class_name: class.map(str::to_owned),
        ..Default::default()
    };
    let status = PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() };
    PersistentVolumeClaim { metadata: meta(name), spec: Some(spec), status: Some(status) }
}

fn volume(name: &str, size: &str, class: &str) -> PersistentVolume {
    let spec = PersistentVolumeSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        capacity: amount(size),
        storage_class_name: Some(class.to_owned()),
        persistent_volume_reclaim_policy: Some("Retain".to_owned()),
        host_path: Some(HostPathVolumeSource { path: "/srv".to_owned(), type_: None }),
        ..Default::default()
    };
    let status = PersistentVolumeStatus { phase: Some("Available".to_owned()), ..Default::default() };
    PersistentVolume { metadata: ObjectMeta { namespace: None, ..meta(name) }, spec: Some(spec), status: Some(status) }
}

fn class(name: &str, provisioner: &str, waits: bool) -> StorageClass {
    StorageClass {
        metadata: ObjectMeta { namespace: None, ..meta(name) },
        provisioner: provisioner.to_owned(),
        volume_binding_mode: waits.then(|| "WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    }
}

fn with<K>(mut object: K, change: impl FnOnce(&mut K)) -> K {
    change(&mut object);
    object
}

fn spec_of(volume: &mut PersistentVolume) -> &mut PersistentVolumeSpec {
    volume.spec.get_or_insert_default()
}

fn kept_for(volume: PersistentVolume, name: &str, uid: &str) -> PersistentVolume {
    with(volume, |v| {
        let uid = Some(uid.to_owned()).filter(|uid| !uid.is_empty());
        spec_of(v).claim_ref = Some(ObjectReference { uid, ..reference(&claim(name, "1", None)) });
    })
}

fn in_phase(volume: PersistentVolume, phase: &str) -> PersistentVolume {
    with(volume, |v| v.status.get_or_insert_default().phase = Some(phase.to_owned()))
}

fn world(claims: &[PersistentVolumeClaim], volumes: &[PersistentVolume], classes: &[StorageClass]) -> World {
    let world = World::new();
    world.writers.claims.replace(claims.to_vec(), "1");
    world.writers.volumes.replace(volumes.to_vec(), "1");
    world.writers.storage_classes.replace(classes.to_vec(), "1");
    world
}

/// The volume that is claimed for `default/c`.
fn chosen(claim: PersistentVolumeClaim, volumes: &[PersistentVolume]) -> Option<String> {
    let world = world(&[claim], volumes, &[]);
    let written = updated::<PersistentVolume>(&world.reconcile(&PersistentVolumeBinder, "default/c"));
    written.first().map(|volume| volume.name().to_owned())
}

#[test]
fn the_smallest_that_fits() {
    let check = |claim: PersistentVolumeClaim, volumes: &[PersistentVolume], expect: Option<&str>| {
        assert_eq!(chosen(claim, volumes).as_deref(), expect, "{volumes:?}");
    };
    let c = || claim("c", "5Gi", Some("fast"));
    let v = |name: &str, size: &str| volume(name, size, "fast");
    check(c(), &[v("a", "100Gi"), v("b", "5Gi"), v("d", "10Gi"), v("e", "1Gi")], Some("b"));
    check(c(), &[v("a", "5000Mi")], None);
    check(c(), &[volume("a", "5Gi", "slow"), volume("b", "5Gi", "")], None);
    let many = ["ReadWriteOnce", "ReadWriteMany"].map(str::to_owned).to_vec();
    let shared = with(v("a", "5Gi"), |v| spec_of(v).access_modes = Some(many.clone()));
    check(c(), &[shared.clone(), v("b", "9Gi")], Some("b"));
    check(c(), &[shared], Some("a"));
    let wants_many = with(c(), |c| c.spec.get_or_insert_default().access_modes = Some(many));
    check(wants_many, &[v("a", "5Gi")], None);
    check(c(), &[with(v("a", "5Gi"), |v| spec_of(v).volume_mode = Some("Block".into()))], None);
    check(c(), &[with(v("a", "5Gi"), |v| v.metadata.deletion_timestamp = Some(Time(now())))], None);
    check(c(), &[with(v("a", "5Gi"), |v| spec_of(v).volume_attributes_class_name = Some("gold".into()))], None);
    check(c(), &[in_phase(v("a", "5Gi"), "Pending")], None);
    check(c(), &[kept_for(v("a", "5Gi"), "other", "")], None);
    check(c(), &[v("a", "5Gi"), kept_for(volume("b", "50Gi", "slow"), "c", "")], Some("b"));
    check(c(), &[kept_for(v("a", "5Gi"), "c", "another")], None);
    let selects = with(c(), |c| {
        let selector = crate::testing::selector("db");
        c.spec.get_or_insert_default().selector = Some(selector);
    });
    let labelled = with(v("b", "9Gi"), |v| v.metadata.labels = Some(crate::testing::labels(&[("app", "db")])));
    check(selects, &[v("a", "5Gi"), labelled], Some("b"));
    let beta = with(claim("c", "1Gi", None), |c| annotate(&mut c.metadata, BETA_CLASS, "fast"));
    check(beta, &[v("a", "5Gi")], Some("a"));
}

#[test]
fn a_claim_without_a_volume_says_what_it_waits_for() {
    let check = |claim: PersistentVolumeClaim, classes: &[StorageClass], pods: Vec<PodBuilder>, expect: &str| {
        let world = world(&[claim], &[volume("a", "9Gi", "late")], classes);
        for builder in pods {
            let mut pod = builder.build();
            let source = kybern_api::core::v1::PersistentVolumeClaimVolumeSource {
                claim_name: "c".into(),
                ..Default::default()
            };
            let volume = kybern_api::core::v1::Volume { persistent_volume_claim: Some(source), ..Default::default() };
            pod.spec.get_or_insert_default().volumes = Some(vec![volume]);
            world.writers.pods.upsert(pod);
        }
        let plan = world.reconcile(&PersistentVolumeBinder, "default/c");
        assert_eq!(events(&plan), [expect]);
        assert!(updated::<PersistentVolume>(&plan).is_empty());
    };
    let nothing = "FailedBinding: no persistent volumes available for this claim and no storage class is set";
    check(claim("c", "1Gi", Some("")), &[], vec![], nothing);
    check(claim("c", "1Gi", None), &[], vec![], nothing);
    let missing = "ProvisioningFailed: storageclass.storage.k8s.io \"gone\" not found";
    check(claim("c", "1Gi", Some("gone")), &[], vec![], missing);
    let none = "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner";
    check(claim("c", "1Gi", Some("no")), &[class("no", "kubernetes.io/no-provisioner", false)], vec![], none);
    let late = [class("late", "example.com/x", true)];
    let first = "WaitForFirstConsumer: waiting for first consumer to be created before binding";
    let c = || claim("c", "1Gi", Some("late"));
    check(c(), &late, vec![], first);
    check(c(), &late, vec![pod("b"), pod("a")], "WaitForPodScheduled: waiting for pods a,b to be scheduled");
    check(c(), &late, vec![pod("a"), pod("b").node("n")], "WaitForPodScheduled: waiting for pod a to be scheduled");
    check(c(), &late, vec![pod("a").phase("Failed")], first);
}

#[test]
fn a_provisioner_is_asked_once_the_node_is_known() {
    let of = |provisioner: &str| {
        let chosen = with(claim("c", "1Gi", Some("late")), |c| annotate(&mut c.metadata, SELECTED_NODE, "n1"));
        let world = world(&[chosen], &[], &[class("late", provisioner, true)]);
        let plan = world.reconcile(&PersistentVolumeBinder, "default/c");
        let [asked] = &updated::<PersistentVolumeClaim>(&plan)[..] else { panic!("{plan:?}") };
        world.writers.claims.upsert(asked.clone());
        let told = events(&world.reconcile(&PersistentVolumeBinder, "default/c")).join("");
        assert!(told.starts_with("ExternalProvisioning: Waiting for a volume to be created either by"), "{told}");
        let name = |key: &str| annotation(&asked.metadata, key).map(str::to_owned);
        assert_eq!(name(PROVISIONER), name(BETA_PROVISIONER));
        name(PROVISIONER).unwrap()
    };
    assert_eq!(of("example.com/x"), "example.com/x");
    assert_eq!(of("kubernetes.io/aws-ebs"), "ebs.csi.aws.com");
}

#[test]
fn a_claim_without_a_class_takes_the_newest_default() {
    let default = |name: &str, seconds: i64| {
        with(class(name, "x/y", false), |class| {
            annotate(&mut class.metadata, "storageclass.kubernetes.io/is-default-class", "true");
            class.metadata.creation_timestamp = Some(Time(at(seconds)));
        })
    };
    let classes = [default("old", 1), default("b", 9), default("a", 9), class("newest", "x/y", false)];
    let taken = |class: Option<&str>| {
        let plan = world(&[claim("c", "1", class)], &[], &classes).reconcile(&PersistentVolumeBinder, "default/c");
        let written = updated::<PersistentVolumeClaim>(&plan);
        written.first().and_then(|c| c.spec.clone()?.storage_class_name)
    };
    assert_eq!(taken(None).as_deref(), Some("a"));
    assert_eq!(taken(Some("")), None);
}

#[test]
fn a_claim_that_names_its_volume() {
    let wish = || with(claim("c", "5Gi", Some("")), |c| c.spec.get_or_insert_default().volume_name = Some("v".into()));
    let check = |claim: PersistentVolumeClaim, volumes: &[PersistentVolume], told: &[&str], claims: bool| {
        let plan = world(&[claim], volumes, &[]).reconcile(&PersistentVolumeBinder, "default/c");
        assert_eq!(events(&plan), told);
        assert_eq!(updated::<PersistentVolume>(&plan).len(), usize::from(claims), "{plan:?}");
        plan
    };
    check(wish(), &[volume("v", "9Gi", "")], &[], true);
    check(wish(), &[kept_for(volume("v", "1Gi", "x"), "c", "")], &[], true);
    check(wish(), &[volume("other", "9Gi", "")], &[], false);
    let mismatch = |cause: &str| format!("VolumeMismatch: Cannot bind to requested volume \"v\": {cause}");
    check(wish(), &[volume("v", "1Gi", "")], &[&mismatch("requested PV is too small")], false);
    check(wish(), &[volume("v", "9Gi", "x")], &[&mismatch("storageClassName does not match")], false);
    let taken = "FailedBinding: volume \"v\" already bound to a different claim.";
    check(wish(), &[kept_for(volume("v", "9Gi", ""), "other", "u")], &[taken], false);
    let stolen = with(wish(), |c| annotate(&mut c.metadata, BOUND_BY_CONTROLLER, "yes"));
    let plan = check(stolen, &[kept_for(volume("v", "9Gi", ""), "other", "u")], &[taken], false);
    assert!(matches!(&plan.ops[1], Op::Fail(text) if text.contains("volume already claimed by \"default/other\"")));
}

#[test]
fn a_bound_claim_that_loses_its_volume_is_lost() {
    let check = |name: &str, volumes: &[PersistentVolume], expect: Option<&str>| {
        let bound = with(claim("c", "5Gi", None), |c| {
            annotate(&mut c.metadata, BIND_COMPLETED, "yes");
            c.spec.get_or_insert_default().volume_name = Some(name.to_owned());
            c.status.get_or_insert_default().phase = Some("Bound".to_owned());
        });
        let plan = world(&[bound], volumes, &[]).reconcile(&PersistentVolumeBinder, "default/c");
        assert_eq!(events(&plan).first().map(|told| told.split(':').next().unwrap()), expect, "{plan:?}");
        let phase = status_of::<PersistentVolumeClaim>(&plan).and_then(|c| c.status?.phase);
        assert_eq!(phase.as_deref() == Some("Lost"), expect.is_some());
    };
    check("", &[], Some("ClaimLost"));
    check("v", &[], Some("ClaimLost"));
    check("v", &[kept_for(volume("v", "9Gi", ""), "c", "another")], Some("ClaimMisbound"));
    check("v", &[in_phase(kept_for(volume("v", "9Gi", ""), "c", "uid-c"), "Bound")], None);
}

#[test]
fn volumes_follow_their_claims() {
    let check = |volume: PersistentVolume, claims: &[PersistentVolumeClaim], phase: Option<&str>, told: &[&str]| {
        let plan = world(claims, &[volume], &[]).reconcile(&PersistentVolumeBinder, "v");
        let written = status_of::<PersistentVolume>(&plan).and_then(|v| v.status?.phase);
        assert_eq!(written.as_deref(), phase, "{plan:?}");
        assert_eq!(events(&plan), told);
        plan
    };
    let v = || volume("v", "9Gi", "");
    let of = |uid: &str, phase: &str| in_phase(kept_for(v(), "c", uid), phase);
    let named =
        |name: &str| with(claim("c", "1", None), |c| c.spec.get_or_insert_default().volume_name = Some(name.into()));
    let policy = |policy: &str, volume: PersistentVolume| {
        with(volume, |v| spec_of(v).persistent_volume_reclaim_policy = Some(policy.to_owned()))
    };
    check(in_phase(v(), "Pending"), &[], Some("Available"), &[]);
    check(of("", "Pending"), &[claim("c", "1", None)], Some("Available"), &[]);
    check(of("uid-c", "Available"), &[named("v")], Some("Bound"), &[]);
    check(of("uid-c", "Bound"), &[named("v")], None, &[]);
    check(of("uid-c", "Available"), &[claim("c", "1", None)], None, &[]);
    let released = check(of("uid-c", "Bound"), &[], Some("Released"), &[]);
    assert!(matches!(&released.ops[0], Op::RequireAbsent { uid, .. } if uid == "uid-c"), "the server knows better");
    check(of("uid-c", "Released"), &[], None, &[]);
    check(of("another", "Bound"), &[claim("c", "1", None)], Some("Released"), &[]);
    let text = "VolumeFailedRecycle: No recycler plugin found for the volume!";
    let elsewhere = with(policy("Recycle", of("uid-c", "Released")), |v| spec_of(v).host_path = None);
    check(elsewhere, &[], Some("Failed"), &[text]);
    let text = "VolumeFailedDelete: host_path deleter only supports /tmp/.+ but received provided /srv";
    check(policy("Delete", of("uid-c", "Released")), &[], Some("Failed"), &[text]);
    let made =
        |volume| with(volume, |v: &mut PersistentVolume| annotate(&mut v.metadata, PROVISIONED_BY, "example.com/x"));
    check(made(policy("Delete", of("uid-c", "Released"))), &[], None, &[]);
    check(made(policy("Delete", of("uid-c", "Bound"))), &[named("other")], Some("Released"), &[]);
    // The claim took another: this one is free again, or kept as its maker has written.
    let freed = |by_controller: bool| {
        let volume = with(of("uid-c", "Bound"), |v| {
            if by_controller {
                annotate(&mut v.metadata, BOUND_BY_CONTROLLER, "yes");
            }
        });
        let plan = check(volume, &[named("other")], None, &[]);
        updated::<PersistentVolume>(&plan)[0].spec.clone().unwrap().claim_ref
    };
    assert_eq!(freed(true), None);
    assert_eq!(freed(false).unwrap().uid, None);
}

#[test]
fn a_volume_is_scrubbed_by_a_pod_of_ours_and_by_no_other() {
    let released = || {
        with(in_phase(kept_for(volume("v", "9Gi", ""), "c", "uid-c"), "Released"), |v| {
            spec_of(v).persistent_volume_reclaim_policy = Some("Recycle".to_owned());
            annotate(&mut v.metadata, BOUND_BY_CONTROLLER, "yes");
            let since = kybern_api::meta::v1::Time(at(NOW - 100));
            v.status.get_or_insert_default().last_phase_transition_time = Some(since);
        })
    };
    let plan = |pod: Option<Pod>| {
        let world = world(&[], &[released()], &[]);
        pod.into_iter().for_each(|pod| world.writers.pods.upsert(pod));
        world.reconcile(&PersistentVolumeBinder, "v")
    };
    let first = plan(None);
    assert!(matches!(first.ops[0], Op::RequireAbsent { .. }), "its claim may be back");
    let made = created::<Pod>(&first).remove(0);
    let spec = made.spec.clone().unwrap();
    assert_eq!((made.key().as_str(), spec.active_deadline_seconds), ("default/recycler-for-v", Some(9 * 30)));
    assert_eq!(spec.volumes.unwrap()[0].host_path.clone().unwrap().path, "/srv");
    let scrubber = |phase: &str, age: i64| {
        let mut pod = made.clone();
        pod.metadata.uid = Some("scrubber".into());
        pod.metadata.creation_timestamp = Some(kybern_api::meta::v1::Time(at(NOW - age)));
        pod.status.get_or_insert_default().phase = Some(phase.into());
        pod
    };
    assert!(plan(Some(scrubber("Running", 10))).ops.is_empty());
    let done = plan(Some(scrubber("Succeeded", 10)));
    assert_eq!(
        (deleted(&done), events(&done)),
        (vec!["recycler-for-v".into()], vec!["VolumeRecycled: Volume recycled".into()])
    );
    assert_eq!(updated::<PersistentVolume>(&done)[0].spec.clone().unwrap().claim_ref, None);
    // One that was there before, or does something else, proves nothing.
    let other = with(scrubber("Succeeded", 10), |pod| pod.spec.get_or_insert_default().containers[0].args = None);
    for stranger in [scrubber("Succeeded", 200), other] {
        let plan = plan(Some(stranger));
        assert_eq!((deleted(&plan), updated::<PersistentVolume>(&plan).len()), (vec!["recycler-for-v".to_owned()], 0));
    }
    let failed = plan(Some(scrubber("Failed", 10)));
    let cause = "Recycle failed: failed to recycle volume: pod failed, pod.Status.Message unknown.";
    assert_eq!(events(&failed), [format!("VolumeFailedRecycle: {cause}")]);
    assert_eq!((deleted(&failed).len(), failed.requeue_after.map(|time| time.as_secs())), (0, Some(110)));
    let world = world(&[], &[released()], &[]);
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    world.writers.pods.upsert(with(pod("p").build(), |pod| {
        pod.spec.get_or_insert_default().volumes = Some(serde_json::from_value(volumes).unwrap());
    }));
    let used = world.reconcile(&PersistentVolumeBinder, "v");
    assert_eq!(events(&used), ["VolumeFailedRecycle: Volume is used by pods: default/p"]);
}

/// Writes as the API server would: what was made on an old state is refused.
fn put<K: Object>(op: &Op, store: &Store<K>, writer: &StoreWriter<K>) -> Option<bool> {
    let Op::Put { gvr, namespace, name, subresource, body } = op else { return None };
    if *gvr != K::gvr() {
        return None;
    }
    let Some(current) = store.get_in(namespace, name) else { return Some(false) };
    let mut new: Value = serde_json::from_slice(body).unwrap();
    let mut current: Value = serde_json::from_slice(&current.to_json()).unwrap();
    if new["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"] {
        return Some(false);
    }
    let kept = if subresource.is_some() { &mut current } else { &mut new };
    let version = store.resource_version() + 1;
    set(kept, &["metadata", "resourceVersion"], version.to_string());
    if subresource.is_some() {
        current["status"] = new["status"].take();
        new = current;
    } else {
        new["status"] = current["status"].take();
    }
    writer.upsert(K::from_json(new.to_string().as_bytes()).unwrap());
    Some(true)
}

/// Carries out a plan up to the first refusal.
fn carry_out(world: &World, plan: &Plan) {
    for op in &plan.ops {
        let done = match op {
            Op::RequireAbsent { namespace, name, uid, .. } => {
                world.snapshot.claims.get_in(namespace, name).is_none_or(|claim| claim.uid() != uid)
            }
            Op::Fail(_) => false,
            op => {
                let claims = put(op, &world.snapshot.claims, &world.writers.claims);
                claims.or_else(|| put(op, &world.snapshot.volumes, &world.writers.volumes)).unwrap_or(true)
            }
        };
        if !done {
            return;
        }
    }
}

/// No volume is two claims', and what is bound on one side is bound on the other, or was.
fn nothing_is_shared(world: &World) {
    let mut seen = HashSet::new();
    for claim in world.snapshot.claims.list() {
        let name = volume_name(&claim);
        assert!(name.is_empty() || seen.insert(name.to_owned()), "two claims have {name}");
        if let Some(volume) = world.snapshot.volumes.get(name).filter(|_| !name.is_empty()) {
            assert_eq!(claim_ref(&volume).map(claim_uid), Some(claim.uid()), "{name} is another's");
        }
    }
}

proptest! {
    /// Looks that were taken at one time are carried out in any order, as workers that know nothing of each other do.
    #[test]
    fn two_claims_never_get_one_volume(
        claims in prop::collection::vec((1_u8..4, 0_u8..2), 1..7),
        volumes in prop::collection::vec((1_u8..4, 0_u8..2, 0_u8..4), 1..7),
        rounds in prop::collection::vec((any::<u64>(), 0_u8..12), 4..40),
    ) {
        let class = |n: u8| if n == 0 { "" } else { "fast" };
        let claims: Vec<_> = claims.iter().enumerate()
            .map(|(i, (size, n))| claim(&format!("c{i}"), &format!("{size}Gi"), Some(class(*n)))).collect();
        let volumes: Vec<_> = volumes.iter().enumerate().map(|(i, (size, n, kept))| {
            let volume = in_phase(volume(&format!("v{i}"), &format!("{size}Gi"), class(*n)), "Pending");
            // Some are kept for a claim by name.
            if *kept == 0 { kept_for(volume, &format!("c{}", i % claims.len()), "") } else { volume }
        }).collect();
        let world = world(&claims, &volumes, &[]);
        let keys = || {
            let claims = world.snapshot.claims.list().into_iter().map(|c| c.key());
            claims.chain(world.snapshot.volumes.list().into_iter().map(|v| v.key())).collect::<Vec<_>>()
        };
        for (seed, event) in rounds {
            let mut all = keys();
            all.sort_by_key(|key| seed.wrapping_mul(key.bytes().fold(7, |h: u64, b| h.wrapping_mul(31) + u64::from(b))));
            // Somebody deletes a claim now and then.
            if event == 0 && let Some(key) = all.iter().find(|key| key.contains('/')) {
                world.writers.claims.remove(key, &(world.snapshot.claims.resource_version() + 1).to_string());
            }
            let plans: Vec<Plan> = all.iter().take(5).map(|key| world.reconcile(&PersistentVolumeBinder, key)).collect();
            for plan in &plans {
                carry_out(&world, plan);
                nothing_is_shared(&world);
            }
        }
        // Left alone it settles, and whoever has nothing could have nothing.
        for _ in 0..20 {
            keys().iter().for_each(|key| carry_out(&world, &world.reconcile(&PersistentVolumeBinder, key)));
        }
        nothing_is_shared(&world);
        for key in keys() {
            let plan = world.reconcile(&PersistentVolumeBinder, &key);
            prop_assert!(!plan.ops.iter().any(|op| matches!(op, Op::Put { .. })), "{key} never settles: {plan:?}");
        }
        for claim in world.snapshot.claims.list() {
            let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
            let choice = matching::best(&claim, false, &world.snapshot).unwrap();
            prop_assert!(bound || choice.is_none(), "{} waits beside {choice:?}", claim.name());
        }
    }
}
