use kybern_api::IntOrString;
use kybern_api::apps::v1::{Deployment, DeploymentSpec, StatefulSet, StatefulSetSpec};
use kybern_api::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kybern_api::policy::v1::PodDisruptionBudgetSpec;
use kybern_apimachinery::json;
use kybern_client::PartialMetadata;
use proptest::prelude::*;

use super::*;
use crate::ask::{Ask, Refusal};
use crate::testing::{self, NOW, PodBuilder, World, at, events, meta, pod, replica_set, resource, status_of};

fn amount(text: &str) -> Option<IntOrString> {
    let amount = || text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int);
    Some(text).filter(|text| !text.is_empty()).map(|_| amount())
}

fn budget(min_available: &str, max_unavailable: &str) -> PodDisruptionBudget {
    let spec = PodDisruptionBudgetSpec {
        min_available: amount(min_available),
        max_unavailable: amount(max_unavailable),
        selector: Some(testing::selector("web")),
        unhealthy_pod_eviction_policy: None,
    };
    let metadata = ObjectMeta { generation: Some(3), ..meta("pdb") };
    PodDisruptionBudget { metadata, spec: Some(spec), status: None }
}

fn web(name: &str) -> PodBuilder {
    pod(name).label("app", "web").ready_at(NOW - 100)
}

fn run(world: &World) -> Plan {
    world.reconcile(&DisruptionController, "default/pdb")
}

/// Status after one look, which a second look leaves alone.
fn settled(world: &World) -> PodDisruptionBudgetStatus {
    world.apply(&run(world));
    assert!(status_of::<PodDisruptionBudget>(&run(world)).is_none(), "nothing new");
    world.snapshot.budgets.get("default/pdb").unwrap().status.clone().unwrap()
}

fn reason(status: &PodDisruptionBudgetStatus) -> (&str, &str, &str) {
    let found = condition::find(&status.conditions, ALLOWED).unwrap();
    (&found.status, &found.reason, &found.message)
}

#[test]
fn numbers_and_percentages_of_what_the_owner_wants() {
    // minAvailable, maxUnavailable, wanted, ready, unready; expected, desired, allowed
    let table = [
        ("1", "", 3, 3, 0, (3, 1, 2)),
        ("3", "", 3, 3, 0, (3, 3, 0)),
        ("2", "", 9, 3, 1, (4, 2, 1)),
        ("5", "", 3, 3, 0, (3, 5, 0)),
        ("50%", "", 5, 5, 0, (5, 3, 2)),
        ("28%", "", 7, 7, 0, (7, 2, 5)),
        ("100%", "", 4, 4, 0, (4, 4, 0)),
        ("0%", "", 4, 4, 0, (4, 0, 4)),
        ("", "1", 4, 4, 0, (4, 3, 1)),
        ("", "1", 4, 3, 1, (4, 3, 0)),
        ("", "30%", 10, 10, 0, (10, 7, 3)),
        ("", "25%", 10, 10, 0, (10, 7, 3)),
        ("", "9", 4, 2, 0, (4, 0, 2)),
        ("", "50%", 10, 4, 0, (10, 5, 0)),
    ];
    for (min, max, wanted, ready, unready, expect) in table {
        let world = World::new();
        world.writers.budgets.upsert(budget(min, max));
        world.writers.replica_sets.upsert(replica_set("web", wanted));
        for n in 0..ready + unready {
            let pod = web(&format!("p{n}")).owned_by(&replica_set("web", wanted));
            world.writers.pods.upsert(if n < ready { pod.build() } else { pod.not_ready().build() });
        }
        let status = settled(&world);
        let row = format!("{min:?} {max:?} {wanted} {ready} {unready}");
        assert_eq!((status.expected_pods, status.desired_healthy, status.disruptions_allowed), expect, "{row}");
        assert_eq!((status.current_healthy, status.observed_generation), (ready, Some(3)), "{row}");
        let allowed = if expect.2 > 0 { ("True", "SufficientPods", "") } else { ("False", "InsufficientPods", "") };
        assert_eq!(reason(&status), allowed, "{row}");
    }
}

#[test]
fn what_counts_is_the_topmost_owner() {
    let world = World::new();
    world.writers.budgets.upsert(budget("", "50%"));
    let spec = DeploymentSpec { replicas: Some(6), selector: testing::selector("web"), ..DeploymentSpec::default() };
    let deployment = Deployment { metadata: meta("web"), spec: Some(spec), status: None };
    for (name, size) in [("old", 2), ("new", 5)] {
        let mut set = replica_set(name, size);
        set.metadata.owner_references = Some(vec![owner::controller_ref(&deployment)]);
        world.writers.pods.upsert(web(name).owned_by(&set).build());
        world.writers.replica_sets.upsert(set);
    }
    world.writers.deployments.upsert(deployment);
    let spec = StatefulSetSpec { replicas: Some(3), ..StatefulSetSpec::default() };
    let set = StatefulSet { metadata: meta("db"), spec: Some(spec), status: None };
    world.writers.pods.upsert(web("db-0").owned_by(&set).build());
    world.writers.stateful_sets.upsert(set);
    let status = settled(&world);
    assert_eq!((status.expected_pods, status.desired_healthy), (9, 4));
}

#[test]
fn no_pods_and_pods_of_nobody_are_told() {
    let world = World::new();
    world.writers.budgets.upsert(budget("", "1"));
    assert_eq!(events(&run(&world)), ["NoPods: No matching pods found"]);
    assert_eq!(settled(&world).disruptions_allowed, 0);
    world.writers.pods.upsert(web("a").build());
    let told = events(&run(&world));
    assert!(
        told[0].starts_with(
            "UnmanagedPods: Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},\
             MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged."
        ),
        "{told:?}"
    );
    assert_eq!(settled(&world).disruptions_allowed, 0);
    // A number needs no owner.
    world.writers.budgets.upsert(budget("0", ""));
    assert_eq!(settled(&world).disruptions_allowed, 1);
    let mut all = budget("0", "");
    all.spec.as_mut().unwrap().selector = Some(LabelSelector::default());
    world.writers.pods.upsert(pod("b").build());
    world.writers.budgets.upsert(all.clone());
    assert_eq!(settled(&world).expected_pods, 2, "an empty selector selects everything");
    all.spec.as_mut().unwrap().selector = None;
    world.writers.budgets.upsert(all);
    assert_eq!(settled(&world).expected_pods, 0, "none selects nothing");
}

#[test]
fn kinds_that_no_store_holds_are_asked_for_their_scale() {
    let refused = |not_found: bool| Err(Refusal { not_found, conflict: false, message: "no".into() });
    let scale = |uid: &str| Ok(json!({"metadata": {"uid": uid}, "spec": {"replicas": 4}}));
    // Answer, whether the object is there; allowed, the condition's reason and message, and whether it is tried again.
    let no_scale = "things.example.com does not implement the scale subresource";
    let none = "found no controllers for pod \"a\"";
    let table = [
        (scale("uid-x"), true, (1, "SufficientPods", "", false)),
        (scale("uid-x"), false, (1, "SufficientPods", "", false)),
        (scale("another"), true, (0, "SyncFailed", none, false)),
        (refused(true), true, (0, "SyncFailed", no_scale, false)),
        (refused(true), false, (0, "SyncFailed", none, false)),
        (refused(false), true, (0, "SyncFailed", "no", true)),
    ];
    for (answer, exists, expect) in table {
        let world = World::with_resources([resource("example.com", "things", "Thing", true)]);
        world.writers.budgets.upsert(budget("", "3"));
        for name in ["a", "b"] {
            let mut pod = web(name).build();
            pod.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "example.com/v1".into(),
                kind: "Thing".into(),
                name: "x".into(),
                uid: "uid-x".into(),
                controller: Some(true),
                block_owner_deletion: None,
            }]);
            world.writers.pods.upsert(pod);
        }
        if exists {
            let (name, namespace, uid) = ("x".into(), "default".into(), "uid-x".into());
            world.inventory["things"].upsert(PartialMetadata { name, namespace, uid, ..PartialMetadata::default() });
        }
        let plan = run(&world);
        let [Op::Ask { asks, then }] = &plan.ops[..] else { panic!("{plan:?}") };
        let path = "/apis/example.com/v1/namespaces/default/things/x/scale";
        assert_eq!(asks, &[Ask::Get(path.to_owned())], "once for both");
        let plan = Plan::of(then.decide(vec![answer]));
        let status = status_of::<PodDisruptionBudget>(&plan).unwrap().status.unwrap();
        let fails = plan.ops.iter().any(|op| matches!(op, Op::Fail(_)));
        let (_, reason, message) = reason(&status);
        assert_eq!((status.disruptions_allowed, reason, message, fails), expect);
        let told =
            format!("CalculateExpectedPodCountFailed: Failed to calculate the number of expected pods: {message}");
        assert_eq!(events(&plan), if reason == "SyncFailed" { vec![told] } else { Vec::new() });
    }
    let world = World::new();
    world.writers.budgets.upsert(budget("", "3"));
    let mut strange = web("a").owned_by(&replica_set("web", 1)).build();
    strange.metadata.owner_references.as_mut().unwrap()[0].kind = "Wonder".into();
    world.writers.pods.upsert(strange);
    let status = settled(&world);
    assert_eq!(reason(&status), ("False", "SyncFailed", "no matches for kind \"Wonder\" in version \"apps/v1\""));
}

#[test]
fn who_may_go_counts_as_gone_for_two_minutes() {
    for (since, healthy, promised, told) in [(30, 1, 1, false), (119, 1, 1, false), (121, 2, 0, true)] {
        let world = World::new();
        let disrupted =
            [("a", since), ("gone", 5), ("going", 5)].map(|(name, ago)| (name.to_owned(), Time(at(NOW - ago))));
        let status = PodDisruptionBudgetStatus { disrupted_pods: Some(disrupted.into()), ..Default::default() };
        world.writers.budgets.upsert(PodDisruptionBudget { status: Some(status), ..budget("1", "") });
        for pod in [web("a"), web("b"), web("going").deleting()] {
            world.writers.pods.upsert(pod.build());
        }
        let plan = run(&world);
        let expect = ["NotDeleted: Pod was expected by PDB default/pdb to be deleted but it wasn't"];
        assert_eq!(events(&plan), expect[..usize::from(told)], "{since}");
        assert_eq!(plan.requeue_after.map(|after| after.as_secs()), (!told).then(|| 120 - since.unsigned_abs()));
        let status = status_of::<PodDisruptionBudget>(&plan).unwrap().status.unwrap();
        assert_eq!(
            (status.current_healthy, status.disrupted_pods.map_or(0, |p| p.len())),
            (healthy, promised),
            "{since}"
        );
        assert_eq!(status.disruptions_allowed, healthy - 1);
    }
}

#[test]
fn a_mark_of_which_nothing_came_is_taken_back() {
    let marked = |reason: &str, seconds: i64| {
        let mut pod = web("a").build();
        let mark = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            last_transition_time: Some(Time(at(NOW - seconds))),
            ..PodCondition::default()
        };
        condition::set(&mut pod.status.as_mut().unwrap().conditions, mark);
        pod
    };
    let run = |pod: Pod| {
        let world = World::new();
        let change = Change { old: None, new: Some(Arc::new(pod.clone())) };
        let keys = keys_of_pod(&change, &world.snapshot);
        world.writers.pods.upsert(pod);
        let plan = world.reconcile(&DisruptionController, "pod:default/a");
        assert_eq!(keys.is_empty(), plan.ops.is_empty() && plan.requeue_after.is_none());
        plan
    };
    let plan = run(marked("EvictionByEvictionAPI", 121));
    let conditions = status_of::<Pod>(&plan).unwrap().status.unwrap().conditions;
    let mark = condition::find(&conditions, "DisruptionTarget").unwrap();
    assert_eq!(
        (mark.status.as_str(), &mark.reason, &mark.last_transition_time),
        ("False", &None, &Some(Time(at(NOW))))
    );
    assert!(condition::is_true(&conditions, "Ready"), "the others stay");
    let plan = run(marked("EvictionByEvictionAPI", 20));
    assert_eq!((plan.ops.len(), plan.requeue_after.unwrap().as_secs()), (0, 100));
    let mut going = marked("EvictionByEvictionAPI", 500);
    going.metadata.deletion_timestamp = Some(Time(testing::now()));
    let mut finished = marked("EvictionByEvictionAPI", 500);
    finished.status.as_mut().unwrap().phase = Some("Failed".into());
    for pod in [marked("TerminationByKubelet", 500), going, finished] {
        assert!(run(pod).ops.is_empty());
    }
}

#[test]
fn a_pod_wakes_its_budgets_and_no_others() {
    let world = World::new();
    let named = |name: &str, namespace: &str, pairs: &[(&str, &str)]| {
        let mut budget = budget("1", "");
        budget.metadata = ObjectMeta { namespace: Some(namespace.into()), ..meta(name) };
        budget.spec.as_mut().unwrap().selector.as_mut().unwrap().match_labels = Some(testing::labels(pairs));
        world.writers.budgets.upsert(budget);
    };
    named("web", "default", &[("app", "web")]);
    named("both", "default", &[("app", "web"), ("tier", "front")]);
    named("db", "default", &[("app", "db")]);
    named("all", "default", &[]);
    named("else", "elsewhere", &[("app", "web")]);
    let keys = |old: Option<Pod>, new: Option<Pod>| {
        keys_of_pod(&Change { old: old.map(Arc::new), new: new.map(Arc::new) }, &world.snapshot)
    };
    let a = || web("a").label("tier", "back").build();
    assert_eq!(keys(None, Some(a())), ["default/all", "default/web", "pod:default/a"]);
    world.writers.pods.upsert(a());
    let told = events(&world.reconcile(&DisruptionController, "pod:default/a"));
    let text = "Pod \"default\"/\"a\" matches multiple PodDisruptionBudgets.  Chose \"web\" arbitrarily.";
    assert_eq!(told, [format!("MultiplePodDisruptionBudgets: {text}")]);
    assert_eq!(keys(Some(a()), None), ["default/all", "default/web"]);
    assert!(keys(Some(a()), Some(a())).is_empty(), "nothing that matters has changed");
    let moved = web("a").label("app", "db").label("tier", "back").build();
    assert_eq!(keys(Some(a()), Some(moved)), ["default/all", "default/db", "default/web", "pod:default/a"]);
    assert_eq!(
        keys(Some(a()), Some(web("a").label("tier", "back").not_ready().build())),
        ["default/all", "default/web", "pod:default/a"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is evicted, goes, comes and is counted in which order: those that stay are as many as were promised.
    #[test]
    fn evictions_never_go_below_what_is_wanted(
        size in 1..8_i32,
        share in 0..101_i32,
        is_max in any::<bool>(),
        steps in prop::collection::vec((0..4_u8, 0..8_usize), 0..60),
    ) {
        let mut world = World::new();
        let share = format!("{share}%");
        world.writers.budgets.upsert(if is_max { budget("", &share) } else { budget(&share, "") });
        world.writers.replica_sets.upsert(replica_set("web", size));
        let (mut made, mut version) = (0, 100);
        let mut make = |world: &World| {
            made += 1;
            world.writers.pods.upsert(web(&format!("p{made}")).owned_by(&replica_set("web", size)).build());
        };
        (0..size).for_each(|_| make(&world));
        world.apply(&run(&world));
        let desired = world.snapshot.budgets.get("default/pdb").unwrap().status.as_ref().unwrap().desired_healthy;
        for (step, which) in steps {
            let mut now = (*world.snapshot.budgets.get("default/pdb").unwrap()).clone();
            let status = now.status.as_mut().unwrap();
            let pods = world.snapshot.pods.list();
            match step {
                // As the eviction subresource does.
                0 if status.disruptions_allowed > 0 && !pods.is_empty() => {
                    let name = pods[which % pods.len()].name().to_owned();
                    if status.disrupted_pods.get_or_insert_default().insert(name, Time(world.now)).is_none() {
                        status.disruptions_allowed -= 1;
                    }
                    version += 1;
                    now.metadata.resource_version = Some(version.to_string());
                    world.writers.budgets.upsert(now);
                }
                1 => {
                    if let Some(gone) = pods.iter().find(|pod| promised(&now, pod).is_some()) {
                        world.writers.pods.remove(&gone.key(), "1");
                    }
                }
                2 if pods.len() < size.unsigned_abs() as usize => make(&world),
                _ => world.apply(&run(&world)),
            }
            world.now = world.now.checked_add(SignedDuration::from_millis(10)).unwrap();
            let now = world.snapshot.budgets.get("default/pdb").unwrap();
            let staying = world.snapshot.pods.list().iter().filter(|pod| promised(&now, pod).is_none()).count();
            prop_assert!(staying >= desired.unsigned_abs() as usize, "{staying} of {desired}");
        }
    }
}
