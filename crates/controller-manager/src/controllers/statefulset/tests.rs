use kybern_api::IntOrString;
use kybern_api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy,
};
use kybern_api::core::v1::PodStatus;
use kybern_api::meta::v1::{ObjectMeta, Time};
use kybern_client::Patch;

use super::*;
use crate::controller::Op;
use crate::testing::{self, NOW, World, created, deleted, events, flat, meta, pod, selector, template, updated};

pub(super) const KEY: &str = "default/web";

pub(super) fn set(replicas: i32) -> StatefulSet {
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("www".into()), ..ObjectMeta::default() },
        ..PersistentVolumeClaim::default()
    };
    let rolling = RollingUpdateStatefulSetStrategy { partition: Some(0), max_unavailable: None };
    let strategy = StatefulSetUpdateStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) };
    let spec = StatefulSetSpec {
        replicas: Some(replicas),
        selector: selector("web"),
        service_name: Some("headless".into()),
        template: template("web", "i:1"),
        update_strategy: Some(strategy),
        volume_claim_templates: Some(vec![claim]),
        ..StatefulSetSpec::default()
    };
    StatefulSet { metadata: ObjectMeta { generation: Some(1), ..meta("web") }, spec: Some(spec), status: None }
}

pub(super) fn world(replicas: i32, change: impl FnOnce(&mut StatefulSetSpec)) -> World {
    let (world, mut set) = (World::new(), set(replicas));
    change(set.spec.as_mut().unwrap());
    world.writers.stateful_sets.upsert(set);
    world
}

pub(super) fn run(world: &World) -> Plan {
    world.reconcile(&StatefulSetController, KEY)
}

/// Changes the spec, as a user does.
pub(super) fn change(world: &World, change: impl FnOnce(&mut StatefulSetSpec)) {
    let mut set = (*world.snapshot.stateful_sets.get(KEY).unwrap()).clone();
    change(set.spec.as_mut().unwrap());
    *set.metadata.generation.as_mut().unwrap() += 1;
    set.metadata.resource_version = Some((world.snapshot.stateful_sets.resource_version() + 1).to_string());
    world.writers.stateful_sets.upsert(set);
}

pub(super) fn rolling(spec: &mut StatefulSetSpec) -> &mut RollingUpdateStatefulSetStrategy {
    spec.update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap()
}

/// Carries out a plan: pods that are made are pending, those that are deleted on their way out.
pub(super) fn apply(world: &World, plan: &Plan) {
    world.apply(plan);
    for op in flat(plan) {
        match op {
            Op::Create { gvr, body, .. } if *gvr == Pod::gvr() => {
                let mut pod = Pod::from_json(body).unwrap();
                assert!(world.snapshot.pods.get(&pod.key()).is_none(), "two pods {}", pod.key());
                pod.metadata.uid = Some(format!("uid-{}", world.snapshot.pods.resource_version()));
                pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
                put(world, pod);
            }
            Op::Delete { gvr, name, .. } if *gvr == Pod::gvr() => befall(world, name, Fate::Leaving),
            _ => {}
        }
    }
}

pub(super) fn put(world: &World, mut pod: Pod) {
    pod.metadata.resource_version = Some((world.snapshot.pods.resource_version() + 1).to_string());
    world.writers.pods.upsert(pod);
}

#[derive(Clone, Copy)]
pub(super) enum Fate {
    Ready,
    Unready,
    Failed,
    Leaving,
    Gone,
}

/// What a node, or a user, does to a pod.
pub(super) fn befall(world: &World, name: &str, fate: Fate) {
    let mut new = (*world.snapshot.pods.get_in("default", name).unwrap()).clone();
    let status = |pod: testing::PodBuilder| pod.build().status;
    match fate {
        Fate::Ready => new.status = status(pod(name).ready_at(NOW - 100)),
        Fate::Unready => new.status = status(pod(name)),
        Fate::Failed => new.status = status(pod(name).phase("Failed")),
        Fate::Leaving => new.metadata.deletion_timestamp = Some(Time(testing::now())),
        Fate::Gone => {
            let version = (world.snapshot.pods.resource_version() + 1).to_string();
            return world.writers.pods.remove(&new.key(), &version);
        }
    }
    put(world, new);
}

/// Everything starts and ends at once. Whether anything did.
pub(super) fn serve(world: &World) -> bool {
    let mut moved = false;
    for pod in world.snapshot.pods.list() {
        if !pod.is_deleting() && (status::is_running_and_ready(&pod) || crate::pods::is_finished(&pod)) {
            continue;
        }
        let fate = if pod.is_deleting() { Fate::Gone } else { Fate::Ready };
        befall(world, pod.name(), fate);
        moved = true;
    }
    moved
}

pub(super) fn settle(world: &World) {
    for _ in 0..300 {
        let plan = run(world);
        apply(world, &plan);
        if !serve(world) && plan.ops.is_empty() {
            return;
        }
    }
    panic!("the set never settles: {:?}", run(world));
}

fn names(plan: &Plan) -> Vec<String> {
    created::<Pod>(plan).iter().map(|pod| pod.name().to_owned()).collect()
}

/// The pods with their images.
pub(super) fn images(world: &World) -> Vec<String> {
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    world.snapshot.pods.list().iter().map(|pod| format!("{} {}", pod.name(), image(pod))).collect()
}

pub(super) fn status_now(world: &World) -> StatefulSetStatus {
    world.snapshot.stateful_sets.get(KEY).unwrap().status.clone().unwrap()
}

#[test]
fn pods_come_one_by_one_after_their_claims() {
    let world = world(2, |_| ());
    let plan = run(&world);
    let revision = created::<ControllerRevision>(&plan).remove(0);
    let order = flat(&plan).into_iter().filter_map(|op| match op {
        Op::Create { gvr, announce, .. } => {
            let texts = announce.as_ref().and_then(|a| a.texts.clone()).unwrap_or_default();
            Some(format!("{}: {}", gvr.resource, texts.0))
        }
        _ => None,
    });
    assert_eq!(
        order.collect::<Vec<_>>(),
        [
            "controllerrevisions: ",
            "persistentvolumeclaims: Create Claim www-web-0 Pod web-0 in StatefulSet web success",
            "pods: Create Pod web-0 in StatefulSet web successful",
        ]
    );
    let made = created::<Pod>(&plan).remove(0);
    let label = |name: &str| made.labels().unwrap()[name].clone();
    assert_eq!(label("controller-revision-hash"), revision.name());
    assert_eq!(label("statefulset.kubernetes.io/pod-name"), "web-0");
    assert_eq!(label("apps.kubernetes.io/pod-index"), "0");
    let spec = made.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-0"), Some("headless")));
    assert!(storage::has_volumes(world.snapshot.stateful_sets.get(KEY).unwrap().spec.as_ref().unwrap(), &made));
    assert_eq!(spec.volumes.as_ref().unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "www-web-0");
    let claim = created::<PersistentVolumeClaim>(&plan).remove(0);
    assert_eq!((claim.labels().unwrap()["app"].as_str(), &claim.metadata.owner_references), ("web", &None));

    apply(&world, &plan);
    apply(&world, &run(&world));
    befall(&world, "web-0", Fate::Unready);
    let plan = run(&world);
    assert!(names(&plan).is_empty(), "the first is not ready");
    apply(&world, &plan);
    befall(&world, "web-0", Fate::Ready);
    assert_eq!(names(&run(&world)), ["web-1"]);
    settle(&world);
    let expect = StatefulSetStatus {
        replicas: 2,
        ready_replicas: Some(2),
        available_replicas: Some(2),
        current_replicas: Some(2),
        updated_replicas: Some(2),
        current_revision: revision.metadata.name.clone(),
        update_revision: revision.metadata.name.clone(),
        observed_generation: Some(1),
        collision_count: Some(0),
        conditions: None,
    };
    assert_eq!(status_now(&world), expect);
    befall(&world, "web-0", Fate::Failed);
    let plan = run(&world);
    assert_eq!(deleted(&plan), ["web-0"], "to be made anew");
    apply(&world, &plan);
    assert!(deleted(&run(&world)).is_empty() && names(&run(&world)).is_empty(), "it is on its way");
}

#[test]
fn a_pod_is_available_after_its_time() {
    let world = world(2, |spec| spec.min_ready_seconds = Some(130));
    apply(&world, &run(&world));
    befall(&world, "web-0", Fate::Ready);
    let plan = run(&world);
    assert!(names(&plan).is_empty());
    assert_eq!(plan.requeue_after.unwrap().as_secs(), 30);
}

#[test]
fn in_parallel_a_million_replicas_come_in_batches() {
    let world = world(1_000_000, |spec| {
        spec.pod_management_policy = Some("Parallel".into());
        spec.ordinals = Some(StatefulSetOrdinals { start: Some(7) });
    });
    let plan = run(&world);
    assert_eq!((names(&plan).len(), names(&plan)[0].as_str()), (500, "web-7"));
    assert_eq!(created::<PersistentVolumeClaim>(&plan).len(), 500);
    apply(&world, &plan);
    assert_eq!(names(&run(&world))[0], "web-507");
}

#[test]
fn the_last_pod_goes_first() {
    let world = world(4, |_| ());
    settle(&world);
    change(&world, |spec| spec.replicas = Some(1));
    befall(&world, "web-3", Fate::Unready);
    befall(&world, "web-2", Fate::Unready);
    assert!(deleted(&run(&world)).is_empty(), "one before it is worse");
    befall(&world, "web-2", Fate::Ready);
    let plan = run(&world);
    assert_eq!(deleted(&plan), ["web-3"]);
    apply(&world, &plan);
    assert!(deleted(&run(&world)).is_empty(), "it is not gone");
    settle(&world);
    assert_eq!(images(&world), ["web-0 i:1"]);
    assert_eq!(world.snapshot.claims.len(), 4, "claims outlive their pods");
}

#[test]
fn an_update_goes_down_to_its_partition() {
    let world = world(3, |spec| spec.revision_history_limit = Some(0));
    settle(&world);
    change(&world, |spec| {
        spec.template = template("web", "i:2");
        rolling(spec).partition = Some(2);
    });
    settle(&world);
    assert_eq!(images(&world), ["web-0 i:1", "web-1 i:1", "web-2 i:2"]);
    let halfway = status_now(&world);
    assert_eq!((halfway.current_replicas, halfway.updated_replicas), (Some(2), Some(1)));
    assert_ne!(halfway.current_revision, halfway.update_revision);
    befall(&world, "web-0", Fate::Gone);
    settle(&world);
    assert_eq!(images(&world)[0], "web-0 i:1", "below the partition");
    change(&world, |spec| rolling(spec).partition = Some(0));
    let plan = run(&world);
    assert_eq!(deleted(&plan), ["web-1"]);
    settle(&world);
    assert_eq!(images(&world), ["web-0 i:2", "web-1 i:2", "web-2 i:2"]);
    let done = status_now(&world);
    assert_eq!((done.current_revision.as_ref(), done.current_replicas), (done.update_revision.as_ref(), Some(3)));
    assert_eq!(world.snapshot.revisions.len(), 1, "no history is kept");
    // Pods that are deleted by hand only.
    change(&world, |spec| {
        spec.template = template("web", "i:3");
        spec.update_strategy = Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None });
    });
    settle(&world);
    befall(&world, "web-1", Fate::Gone);
    settle(&world);
    assert_eq!(images(&world), ["web-0 i:2", "web-1 i:3", "web-2 i:2"]);
    // Back to the second template, which is there still.
    change(&world, |spec| spec.template = template("web", "i:2"));
    settle(&world);
    let revisions = world.snapshot.revisions.list();
    assert_eq!(revisions.iter().map(|r| r.revision).max(), Some(4), "{revisions:?}");
}

#[test]
fn as_many_pods_as_may_be_unavailable_are_replaced_and_those_that_are_so_already() {
    let world = world(5, |spec| {
        spec.pod_management_policy = Some("Parallel".into());
        rolling(spec).max_unavailable = Some(IntOrString::String("50%".into()));
    });
    settle(&world);
    befall(&world, "web-1", Fate::Unready);
    change(&world, |spec| spec.template = template("web", "i:2"));
    let plan = run(&world);
    assert_eq!(deleted(&plan), ["web-4", "web-1"], "two of five, and one of them is");
    apply(&world, &plan);
    assert!(deleted(&run(&world)).is_empty());
}

/// The owners of each claim that a plan writes.
fn owners(plan: &Plan) -> Vec<String> {
    let claims = updated::<PersistentVolumeClaim>(plan);
    let of = |claim: &PersistentVolumeClaim| {
        let refs = claim.metadata.owner_references.iter().flatten();
        let kinds: Vec<&str> = refs.map(|r| r.kind.as_str()).collect();
        format!("{}: {}", claim.name(), kinds.join(" "))
    };
    claims.iter().map(of).collect()
}

fn policy(deleted: &str, scaled: &str) -> Option<StatefulSetPersistentVolumeClaimRetentionPolicy> {
    let (when_deleted, when_scaled) = (Some(deleted.into()), Some(scaled.into()));
    Some(StatefulSetPersistentVolumeClaimRetentionPolicy { when_deleted, when_scaled })
}

#[test]
fn claims_go_with_whom_the_policy_says() {
    for (when_deleted, when_scaled, kept, condemned) in [
        ("Retain", "Retain", "", ""),
        ("Delete", "Retain", "StatefulSet", ""),
        ("Retain", "Delete", "", "Pod"),
        ("Delete", "Delete", "StatefulSet", "Pod"),
    ] {
        let world = world(2, |_| ());
        settle(&world);
        change(&world, |spec| spec.persistent_volume_claim_retention_policy = policy(when_deleted, when_scaled));
        let plan = run(&world);
        let expect = |name: &str, owner: &str| (!owner.is_empty()).then(|| format!("{name}: {owner}"));
        let both: Vec<_> = ["www-web-0", "www-web-1"].into_iter().filter_map(|name| expect(name, kept)).collect();
        assert_eq!(owners(&plan), both, "{when_deleted} {when_scaled}");
        settle(&world);
        change(&world, |spec| spec.replicas = Some(1));
        let plan = run(&world);
        assert_eq!(owners(&plan), Vec::from_iter(expect("www-web-1", condemned)), "{when_deleted} {when_scaled}");
        assert_eq!(deleted(&plan), ["web-1"], "after its claim has its owner");
        settle(&world);
        change(&world, |spec| spec.replicas = Some(2));
        let plan = run(&world);
        assert_eq!(
            names(&plan).is_empty(),
            condemned == "Pod",
            "a claim that goes with the pod before is no new one's"
        );
        settle(&world);
        if condemned == "Pod" {
            world.writers.claims.remove("default/www-web-1", "999");
            settle(&world);
        }
        let claim = world.snapshot.claims.get("default/www-web-1").unwrap();
        assert_eq!(claim.metadata.owner_references.iter().flatten().count(), usize::from(when_deleted == "Delete"));
        assert_eq!(images(&world).len(), 2);
    }
}

#[test]
fn a_claim_of_another_controller_is_left_alone_and_one_that_goes_is_waited_for() {
    let world = world(1, |_| ());
    settle(&world);
    let mut claim = (*world.snapshot.claims.get("default/www-web-0").unwrap()).clone();
    claim.metadata.owner_references =
        Some(vec![owner::controller_ref(&testing::replica_set("other", 1)), owner::owner_ref(&set(1))]);
    world.writers.claims.upsert(claim.clone());
    change(&world, |spec| spec.persistent_volume_claim_retention_policy = policy("Delete", "Delete"));
    let plan = run(&world);
    assert_eq!(owners(&plan), ["www-web-0: ReplicaSet"]);
    assert!(events(&plan)[0].starts_with("ConflictingController: PersistentVolumeClaim www-web-0 has a conflicting"));
    settle(&world);
    claim.metadata.owner_references = None;
    claim.metadata.deletion_timestamp = Some(Time(testing::now()));
    world.writers.claims.upsert(claim);
    befall(&world, "web-0", Fate::Gone);
    let plan = run(&world);
    let expect = "FailedCreate: Create Pod web-0 in StatefulSet web failed error: pvc www-web-0 is being deleted";
    assert_eq!((names(&plan), events(&plan)), (vec![], vec![expect.to_owned()]));
}

#[test]
fn orphans_are_adopted_and_a_name_that_is_taken_is_told() {
    let world = world(2, |_| ());
    for orphan in ["web-0", "web-01", "web-x", "other-0"] {
        put(&world, pod(orphan).label("app", "web").build());
    }
    let patched = |plan: &Plan| -> Vec<String> {
        let name = |op: &Op| match op {
            Op::Patch { name, patch: Patch::Strategic(_), .. } => name.clone(),
            other => panic!("{other:?}"),
        };
        plan.ops.iter().map(name).collect()
    };
    assert_eq!(patched(&run(&world)), ["web-0"]);
    // It gets the labels of its name; volumes it cannot get.
    put(&world, pod("web-0").label("app", "web").owned_by(&set(2)).ready_at(NOW - 100).build());
    let plan = run(&world);
    let expect =
        ["SuccessfulUpdate: Update Pod web-0 in StatefulSet web successful", "FailedUpdate: Update Pod web-0 in"];
    assert!(events(&plan).iter().zip(expect).all(|(have, want)| have.starts_with(want)), "{:?}", events(&plan));
    assert_eq!((events(&plan).len(), names(&plan).len()), (2, 0));
    put(&world, pod("web-0").label("app", "another").build());
    let expect = "FailedCreate: Create Pod web-0 in StatefulSet web failed error: pods \"web-0\" already exists";
    assert_eq!(events(&run(&world)), [expect]);
    let gone = Change { old: world.snapshot.pods.get("default/web-0"), new: None };
    assert_eq!(keys_of_pod(&gone, &world.snapshot), [KEY], "then there is room");
    befall(&world, "web-0", Fate::Leaving);
    assert!(events(&run(&world)).is_empty());
    befall(&world, "web-0", Fate::Gone);
    settle(&world);
    let claim = world.snapshot.claims.get("default/www-web-0").unwrap();
    assert_eq!(sets_of_claim(&claim, &world.snapshot), [KEY]);
    // A revision that lost its owner is adopted before another is made.
    let mut revision = (*world.snapshot.revisions.list()[0]).clone();
    revision.metadata.owner_references = None;
    let name = revision.name().to_owned();
    world.writers.revisions.upsert(revision.clone());
    assert_eq!(patched(&run(&world)), [name.as_str()]);
    // One of somebody else's is not, and its name is taken.
    revision.metadata.owner_references = Some(vec![owner::controller_ref(&testing::replica_set("other", 1))]);
    world.writers.revisions.upsert(revision);
    let plan = run(&world);
    assert_ne!(created::<ControllerRevision>(&plan)[0].name(), name);
    apply(&world, &plan);
    assert_eq!(status_now(&world).collision_count, Some(1));
}

#[test]
fn a_set_that_goes_makes_nothing() {
    let world = world(2, |_| ());
    let mut leaving = set(2);
    leaving.metadata.deletion_timestamp = Some(Time(testing::now()));
    world.writers.stateful_sets.upsert(leaving);
    let plan = run(&world);
    assert_eq!(plan.ops.len(), 1, "its status: {plan:?}");
    apply(&world, &plan);
    assert!(run(&world).ops.is_empty());
}

#[test]
fn how_many_are_unavailable_is_shown_until_the_set_goes() {
    let shown = |world: &World| run(world).measures.iter().map(|m| m.shown()).collect::<Vec<_>>();
    let world = world(3, |spec| rolling(spec).max_unavailable = Some(IntOrString::String("70%".into())));
    settle(&world);
    befall(&world, "web-1", Fate::Unready);
    let names =
        ["unavailable_replicas", "max_unavailable"].map(|name| format!("statefulset_controller_statefulset_{name}"));
    let labels = |policy| format!("statefulset_namespace=default,statefulset_name=web,pod_management_policy={policy}");
    let line = |name: usize, policy, value| format!("{}{{{}}} {value}", names[name], labels(policy));
    assert_eq!(shown(&world), [line(0, "OrderedReady", "1"), line(1, "OrderedReady", "2")]);
    world.writers.stateful_sets.remove(KEY, "999999");
    assert_eq!(shown(&world).len(), 4);
    assert!(shown(&world).contains(&line(1, "Parallel", "NaN")));
}
