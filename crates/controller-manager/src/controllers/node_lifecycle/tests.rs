use kybern_api::coordination::v1::Lease;
use kybern_api::core::v1::Pod;
use kybern_api::meta::v1::{MicroTime, ObjectMeta};
use kybern_client::WorkQueue;

use super::*;
use crate::testing::{NOW, World, at, events, meta, pod, status_of as written};

fn node(ready: &str) -> Node {
    let mut node = Node { metadata: ObjectMeta { namespace: None, ..meta("n1") }, ..Node::default() };
    let condition = NodeCondition {
        type_: "Ready".into(),
        status: ready.into(),
        last_heartbeat_time: Some(Time(at(NOW - 300))),
        ..NodeCondition::default()
    };
    node.status.get_or_insert_default().conditions = Some(vec![condition]);
    node
}

/// What is known when the kubelet was heard of so many seconds ago.
fn world(node: Node, heard: u64) -> (World, NodeLifecycleController) {
    let world = World::new();
    let controller = NodeLifecycleController::new(Settings::default());
    controller.heard.lock().insert("n1".into(), Instant::now() - Duration::from_secs(heard));
    controller.known.lock().insert("n1".into(), ObjectRef::of(&node));
    world.writers.nodes.upsert(node);
    (world, controller)
}

fn run((world, controller): &(World, NodeLifecycleController)) -> Plan {
    world.reconcile(controller, "n1")
}

/// When it is looked again, in seconds.
fn rounded(plan: &Plan) -> u64 {
    plan.requeue_after.unwrap().as_secs_f64().round() as u64
}

fn taints(plan: &Plan) -> Option<Vec<String>> {
    plan.ops.iter().find_map(|op| match op {
        Op::Patch { patch: Patch::Merge(p), .. } => {
            let text = |t: &kybern_apimachinery::Value| {
                let (key, effect) = (t["key"].as_str().unwrap(), t["effect"].as_str().unwrap());
                format!("{}:{effect}", key.trim_start_matches("node.kubernetes.io/"))
            };
            Some(p["spec"]["taints"].as_array().unwrap().iter().map(text).collect())
        }
        _ => None,
    })
}

#[test]
fn a_living_node_is_looked_at_again_when_its_grace_ends() {
    let plan = run(&world(node("True"), 10));
    assert!(plan.ops.is_empty(), "{plan:?}");
    assert_eq!(rounded(&plan), 40);
}

#[test]
fn a_clock_that_is_set_makes_nobody_silent() {
    let (world, controller) = world(node("True"), 10);
    let context = Context { now: at(NOW + 3600), started: at(NOW - 100), failure: None };
    let plan = controller.reconcile("n1", &world.snapshot, &context);
    assert_eq!((plan.ops.len(), rounded(&plan)), (0, 40), "{plan:?}");
}

#[test]
fn a_silent_node_becomes_unknown_and_its_pods_unready() {
    let known = world(node("True"), 60);
    let world = &known.0;
    world.writers.pods.upsert(pod("a").node("n1").ready_at(NOW - 500).build());
    let plan = run(&known);
    let status = written::<Node>(&plan).unwrap().status.unwrap();
    let ready = condition::find(&status.conditions, "Ready").unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.message.as_deref()),
        ("Unknown", Some("Kubelet stopped posting node status."))
    );
    let memory = condition::find(&status.conditions, "MemoryPressure").unwrap();
    assert_eq!(memory.reason.as_deref(), Some("NodeStatusNeverUpdated"));
    assert_eq!(events(&plan), ["NodeNotReady: Node n1 status is now: NodeNotReady"]);
    world.writers.nodes.upsert(written::<Node>(&plan).unwrap());
    let plan = run(&known);
    assert!(written::<Node>(&plan).is_none());
    assert_eq!(events(&plan), ["NodeNotReady: Node is not ready"]);
    assert!(!pods::is_ready(&written::<Pod>(&plan).unwrap()));
    assert_eq!(taints(&plan).unwrap(), ["unreachable:NoSchedule"], "its pods stay for now");
}

#[test]
fn a_taint_added_by_hand_gets_its_time() {
    let mut tainted = node("True");
    let mine = Taint { key: "mine".into(), effect: "NoExecute".into(), ..Taint::default() };
    tainted.spec.get_or_insert_default().taints = Some(vec![mine]);
    let plan = run(&world(tainted, 1));
    let Op::Patch { patch: Patch::Merge(patch), .. } = &plan.ops[0] else { panic!("{plan:?}") };
    assert_eq!(patch["spec"]["taints"][0]["timeAdded"], kybern_apimachinery::time::to_rfc3339(crate::testing::now()));
}

#[test]
fn silence_counts_from_when_somebody_listens() {
    let (world, controller) = world(node("True"), 100_000);
    let context = Context { now: world.now, started: at(NOW - 5), failure: None };
    let plan = controller.reconcile("n1", &world.snapshot, &context);
    assert_eq!((plan.ops.len(), rounded(&plan)), (0, 45), "{plan:?}");
}

#[test]
fn a_kubelet_that_never_reported_has_a_longer_grace() {
    let never = Node { status: None, ..node("") };
    assert_eq!(rounded(&run(&world(never.clone(), 55))), 5);
    let status = written::<Node>(&run(&world(never, 60))).unwrap().status.unwrap();
    let ready = condition::find(&status.conditions, "Ready").unwrap();
    assert_eq!((&*ready.status, ready.reason.as_deref()), ("Unknown", Some("NodeStatusNeverUpdated")));
}

#[test]
fn renewals_are_what_changed_whatever_nodes_clocks_say() {
    let lease = |renewed: Option<i64>| {
        let mut lease = Lease::default();
        lease.spec.get_or_insert_default().renew_time = renewed.map(|at_second| MicroTime(at(at_second)));
        Some(Arc::new(lease))
    };
    // Before, after, whether it is news.
    let table = [
        (None, lease(Some(5)), true),
        (lease(Some(5)), lease(Some(5)), false),
        (lease(Some(5)), lease(Some(6)), true),
        (lease(Some(6)), lease(Some(5)), false),
        (lease(None), lease(Some(5)), true),
        (lease(Some(5)), None, false),
    ];
    for (old, new, expect) in table {
        assert_eq!(is_renewed(&Change { old: old.clone(), new: new.clone() }), expect, "{old:?} {new:?}");
    }
}

#[tokio::test]
async fn what_is_heard_is_timed_by_this_clock() {
    let World { snapshot, writers, .. } = World::new();
    let (snapshot, queue) = (Arc::new(snapshot), WorkQueue::new());
    let controller = NodeLifecycleController::new(Settings::default());
    let mut watches = Watches::new(&snapshot, queue.clone());
    controller.watches(&mut watches);
    let feeds: Vec<_> = watches.into_tasks().into_iter().map(tokio::spawn).collect();
    let began = Instant::now();
    // The node's clock stands at the beginning of time.
    let mut lease =
        Lease { metadata: ObjectMeta { namespace: Some(LEASE_NAMESPACE.into()), ..meta("n1") }, ..Lease::default() };
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(at(5)));
    writers.node_leases.upsert(lease.clone());
    assert_eq!(queue.next().await, "n1");
    assert!(controller.heard.lock()["n1"] >= began);
    lease.metadata.namespace = Some("default".into());
    lease.metadata.name = Some("another".into());
    writers.node_leases.upsert(lease);
    writers.node_leases.remove(&format!("{LEASE_NAMESPACE}/n1"), "9");
    queue.done(&"n1".to_owned());
    assert_eq!(queue.next().await, "n1");
    assert!(controller.heard.lock().is_empty(), "nothing stays of what is gone, and nothing counts but nodes' leases");
    feeds.iter().for_each(tokio::task::JoinHandle::abort);
}

#[test]
fn nodes_are_told_of_and_labelled() {
    let mut labelled = node("True");
    let labels = [("kubernetes.io/os", "linux"), ("kubernetes.io/arch", "arm64"), ("beta.kubernetes.io/arch", "s390x")];
    labelled.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let known = world(labelled, 1);
    known.1.known.lock().clear();
    let plan = run(&known);
    assert_eq!(events(&plan), ["RegisteredNode: Node n1 event: Registered Node n1 in Controller"]);
    let Some(Op::Patch { patch: Patch::Merge(patch), .. }) = plan.ops.last() else { panic!("{plan:?}") };
    let expect = json!({"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "arm64"});
    assert_eq!(patch["metadata"]["labels"], expect);
    known.0.writers.nodes.remove("n1", "99");
    assert_eq!(events(&run(&known)), ["RemovingNode: Node n1 event: Removing Node n1 from Controller"]);
    assert!(run(&known).ops.is_empty());
}

#[test]
fn taints_follow_conditions_and_leave_others_alone() {
    let mut not_ready = node("False");
    let mine = Taint { key: "mine".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let stale = Taint { key: UNREACHABLE.into(), effect: "NoExecute".into(), ..Taint::default() };
    not_ready.spec.get_or_insert_default().taints = Some(vec![mine, stale]);
    not_ready.spec.as_mut().unwrap().unschedulable = Some(true);
    let plan = run(&world(not_ready.clone(), 1));
    let expect = ["mine:NoSchedule", "not-ready:NoSchedule", "not-ready:NoExecute", "unschedulable:NoSchedule"];
    assert_eq!(taints(&plan).unwrap(), expect);
    not_ready.spec.as_mut().unwrap().unschedulable = None;
    not_ready.status = node("True").status;
    assert_eq!(taints(&run(&world(not_ready, 1))).unwrap(), ["mine:NoSchedule"]);
}

/// A node of a zone, not ready since so many seconds ago, or ready.
fn zoned(name: &str, zone: &str, ready: &str, since: i64) -> Node {
    let mut node = Node { metadata: ObjectMeta { namespace: None, ..meta(name) }, ..node(ready) };
    node.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), zone.to_owned())].into());
    let conditions = &mut node.status.as_mut().unwrap().conditions;
    conditions.as_mut().unwrap()[0].last_transition_time = Some(Time(at(NOW - since)));
    node
}

/// Which nodes get other taints, and when it is looked again.
fn judged(controller: &NodeLifecycleController, nodes: &[Node], now: i64) -> (Vec<String>, Option<u64>) {
    let nodes: Vec<Arc<Node>> = nodes.iter().cloned().map(Arc::new).collect();
    let plan = controller.judge_zones(&nodes, at(now));
    let name = |op: &Op| match op {
        Op::Patch { name, .. } => name.clone(),
        other => panic!("{other:?}"),
    };
    (plan.ops.iter().map(name).collect(), plan.requeue_after.map(|after| after.as_secs()))
}

#[test]
fn the_health_of_a_zone_decides_how_fast_its_nodes_lose_pods() {
    // Nodes that are ready and not, in a zone beside a healthy one; when the second one's turn is.
    let table = [
        (5, 2, Some(10)),
        (1, 2, Some(10)),
        (2, 3, None),
        (3, 3, Some(10)),
        (0, 3, Some(10)),
        (20, 31, Some(100)),
        (24, 26, Some(10)),
        (22, 28, None),
    ];
    for (ready, unready, next) in table {
        let controller = NodeLifecycleController::new(Settings::default());
        let mut nodes = vec![zoned("other", "healthy", "True", 0)];
        nodes.extend((0..ready).map(|i| zoned(&format!("r{i}"), "z", "True", 0)));
        nodes.extend((0..unready).map(|i| zoned(&format!("u{i}"), "z", "Unknown", 100 + i)));
        let (first, again) = judged(&controller, &nodes, NOW);
        let last = format!("u{}", unready - 1);
        let expect = next.map(|_| last).into_iter().collect::<Vec<_>>();
        assert_eq!((first, again), (expect, next), "{ready} {unready}");
        let Some(next) = next else { continue };
        // Its write came too late, and it is tried again without waiting for another turn.
        let retried = judged(&controller, &nodes, NOW + 1);
        assert_eq!(retried, (vec![format!("u{}", unready - 1)], Some(next - 1)), "{ready} {unready}");
        // The first has its taint; the second must wait, and then has its turn.
        let tainted = nodes.last_mut().unwrap();
        let taint = Taint { key: UNREACHABLE.into(), effect: "NoExecute".into(), ..Taint::default() };
        tainted.spec.get_or_insert_default().taints = Some(vec![taint]);
        let wait = i64::try_from(next).unwrap();
        assert_eq!(judged(&controller, &nodes, NOW + 1), (vec![], Some(next - 1)), "{ready} {unready}");
        assert_eq!(judged(&controller, &nodes, NOW + wait).0, [format!("u{}", unready - 2)], "{ready} {unready}");
    }
}

#[test]
fn zones_are_counted_until_they_are_gone() {
    let controller = NodeLifecycleController::new(Settings::default());
    let shown = |nodes: &[Node]| {
        let nodes: Vec<_> = nodes.iter().cloned().map(std::sync::Arc::new).collect();
        let plan = controller.judge_zones(&nodes, at(NOW));
        plan.measures.iter().map(|measure| measure.shown().replace("node_collector_", "")).collect::<Vec<_>>()
    };
    let zone = |size, health, unhealthy| {
        let line = |name: &str, value: f64| format!("{name}{{zone=:\0:z}} {value}");
        [line("zone_size", size), line("zone_health", health), line("unhealthy_nodes_in_zone", unhealthy)]
    };
    let (up, down) = (zoned("up", "z", "True", 0), zoned("down", "z", "Unknown", 100));
    let mut expect = zone(2.0, 50.0, 1.0).to_vec();
    expect.push("evictions_total{zone=:\0:z} 1".to_owned());
    assert_eq!(shown(&[up, down]), expect);
    assert_eq!(shown(&[]), zone(0.0, 100.0, 0.0));
    assert!(shown(&[]).is_empty());
}

#[test]
fn where_nothing_is_ready_nobody_loses_pods() {
    let controller = NodeLifecycleController::new(Settings::default());
    let taint = Taint { key: NOT_READY.into(), effect: "NoExecute".into(), ..Taint::default() };
    let mut a = zoned("a", "x", "False", 9);
    a.spec.get_or_insert_default().taints = Some(vec![taint]);
    let mut nodes = [a, zoned("b", "x", "Unknown", 9), zoned("c", "y", "False", 9)];
    assert_eq!(judged(&controller, &nodes, NOW), (vec!["a".to_owned()], None), "taints go");
    nodes[0].spec = None;
    assert_eq!(judged(&controller, &nodes, NOW), (vec![], None));
    // One that does not count makes no difference, one that does begins it: a node of each zone.
    let mut apart = zoned("d", "y", "True", 9);
    apart.metadata.labels.as_mut().unwrap().insert("node.kubernetes.io/exclude-disruption".into(), String::new());
    let with = |node: Node| judged(&controller, &[&nodes[..], &[node]].concat(), NOW).0;
    assert!(with(apart).is_empty());
    assert_eq!(with(zoned("d", "y", "True", 9)), ["a", "c"]);
    // A node of which nothing is known is not ready, and loses nothing.
    assert!(judged(&controller, &[zoned("d", "z", "True", 9), zoned("e", "z", "", 9)], NOW).0.is_empty());
}
