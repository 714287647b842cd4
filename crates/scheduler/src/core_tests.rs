//! The state machine, step by step.

use super::*;
use crate::chain::Chain;
use crate::fixture;
use kybern_apimachinery::{Value, json};

fn core() -> Core {
    Core::new(Profiles::default(), Stores::default())
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `pod@node` or `pod: message` of the next decision.
fn next(core: &mut Core, now: Duration) -> String {
    match core.schedule_next(now) {
        None => "nothing".to_owned(),
        Some(Decision::Bind { pod, node, .. }) => format!("{}@{node}", pod.name),
        Some(Decision::Prepare { pod, .. }) => format!("{} is prepared", pod.name),
        Some(Decision::Ask { pod, .. }) => format!("{} is asked about", pod.name),
        Some(Decision::Failed { pod, message }) => format!("{}: {message}", pod.name),
        Some(Decision::Unschedulable { pod, remedy, .. }) if !remedy.victims.is_empty() => {
            let victims: Vec<&str> = remedy.victims.iter().map(|victim| &*victim.name).collect();
            format!("{} instead of {}", pod.name, victims.join(" "))
        }
        Some(Decision::Unschedulable { pod, message, .. }) => {
            let message = message.split(" no new claims to deallocate").next().unwrap_or_default();
            format!("{}: {message}", pod.name)
        }
    }
}

fn bound(name: &str, node: &str, cpu: &str) -> Arc<PodInfo> {
    let mut pod = fixture::requesting(name, cpu, "1Mi");
    pod.node = node.into();
    Arc::new(pod)
}

#[test]
fn a_new_node_helps_those_it_suits() {
    let mut core = core();
    core.set_pod(Arc::new(fixture::pod_named("ssd", json!({"nodeSelector": {"disk": "ssd"}}))), at(0));
    core.set_pod(Arc::new(fixture::requesting("large", "8", "1Gi")), at(1));
    core.set_node(Arc::new(fixture::sized("small", "1", "1Gi")), at(1));
    assert_eq!(
        next(&mut core, at(2)),
        "ssd: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    );
    assert_eq!(next(&mut core, at(2)), "large: 0/1 nodes are available: 1 Insufficient cpu.");
    core.set_node(Arc::new(fixture::sized("other", "2", "1Gi")), at(60));
    assert_eq!(next(&mut core, at(60)), "nothing");
    let node = |labels: Value| json!({"metadata": {"name": "small", "labels": labels}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "9"}}});
    core.set_node(Arc::new(fixture::node(node(json!({"disk": "ssd"})))), at(61));
    assert_eq!(next(&mut core, at(61)), "ssd@small");
    core.set_node(Arc::new(fixture::sized("big", "16", "64Gi")), at(62));
    assert_eq!(next(&mut core, at(62)), "large@big");
}

#[test]
fn a_leaving_pod_makes_room_after_the_backoff() {
    let mut core = core();
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
    core.set_pod(bound("old", "n", "1"), at(0));
    core.set_pod(Arc::new(fixture::requesting("new", "1", "1Mi")), at(0));
    assert_eq!(next(&mut core, at(0)), "new: 0/1 nodes are available: 1 Insufficient cpu.");
    core.remove_pod("old", at(0));
    assert_eq!(next(&mut core, at(0)), "nothing");
    assert_eq!(core.next_deadline(), Some(at(1)));
    core.tick(at(1));
    assert_eq!(next(&mut core, at(1)), "new@n");
    // It counts before it is confirmed, and not twice when it is.
    core.set_pod(Arc::new(fixture::requesting("third", "1", "1Mi")), at(1));
    assert!(next(&mut core, at(1)).starts_with("third: "));
    let new = Arc::new(fixture::requesting("new", "1", "1Mi"));
    core.bound(&new, "n", true, at(1));
    core.set_pod(bound("new", "n", "1"), at(1));
    assert_eq!(core.cluster().node("n").unwrap().requested.milli_cpu, 1000);
}

#[test]
fn a_failed_binding_gives_back_what_it_took() {
    let mut core = core();
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
    let pod = Arc::new(fixture::requesting("p", "1", "1Mi"));
    core.set_pod(pod.clone(), at(0));
    assert_eq!(next(&mut core, at(0)), "p@n");
    core.bound(&pod, "n", false, at(0));
    assert_eq!(core.cluster().node("n").unwrap().requested.milli_cpu, 0);
    core.tick(at(1));
    assert_eq!(next(&mut core, at(1)), "p@n");
    core.remove_pod("p", at(1));
    core.bound(&pod, "n", false, at(1));
    core.tick(at(100));
    assert_eq!(next(&mut core, at(100)), "nothing");
    assert_eq!(core.cluster().node("n").unwrap().requested.milli_cpu, 0);
}

/// Pods spread over zones may fit once a zone that had the fewest is no more, or once there are enough zones.
#[test]
fn zones_that_come_and_go_help_spread_pods() {
    let zone = |name: &str, zone: &str| {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        let node =
            json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": {"cpu": "2", "pods": "9"}}});
        Arc::new(fixture::node(node))
    };
    let constraint = json!({"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}});
    let pod = |name: &str, node: &str, cpu: &str, domains: Value| {
        let mut constraint = constraint.clone();
        constraint["minDomains"] = domains;
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let spec = json!({"topologySpreadConstraints": [constraint], "containers": [container]});
        let mut pod = fixture::labelled(name, json!({"app": "x"}), spec);
        pod.node = node.into();
        Arc::new(pod)
    };
    let mut core = core();
    core.set_node(zone("a", "a"), at(0));
    core.set_node(zone("b", "b"), at(0));
    core.set_pod(pod("first", "a", "100m", Value::Null), at(0));
    core.set_pod(pod("fills", "b", "2", Value::Null), at(0));
    core.set_pod(pod("second", "a", "100m", Value::Null), at(0));
    core.set_pod(pod("p", "", "100m", Value::Null), at(0));
    let text =
        "p: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints.";
    assert_eq!(next(&mut core, at(1)), text);
    core.remove_node("b", at(10));
    assert_eq!(next(&mut core, at(10)), "p@a");
    core.set_pod(pod("wide", "", "100m", json!(2)), at(20));
    assert!(next(&mut core, at(20)).starts_with("wide: 0/1 "));
    // It is too small itself, yet makes the second zone.
    core.set_node(zone("b", "b"), at(30));
    core.set_node(zone("c", "c"), at(30));
    assert_eq!(next(&mut core, at(30)), "wide@c");
}

fn important(name: &str, cpu: &str, priority: i32) -> Arc<PodInfo> {
    let mut pod = fixture::requesting(name, cpu, "1Mi");
    pod.priority = priority;
    Arc::new(pod)
}

#[test]
fn a_pod_gets_the_place_of_a_lesser_one() {
    let mut core = core();
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
    core.set_pod(bound("low", "n", "1"), at(0));
    core.set_pod(important("high", "1", 10), at(0));
    assert_eq!(next(&mut core, at(0)), "high instead of low");
    assert_eq!(core.cluster().nomination("high"), Some("n"));
    // Until its victim is gone it has no other, and nobody of its priority or less gets the place.
    core.set_node(Arc::new(fixture::sized("useless", "100m", "1Gi")), at(400));
    core.tick(at(400));
    assert!(next(&mut core, at(400)).starts_with("high: 0/2"));
    core.set_pod(important("equal", "1", 10), at(400));
    assert!(next(&mut core, at(400)).starts_with("equal: 0/2"));
    core.remove_pod("low", at(400));
    core.tick(at(420));
    assert_eq!(next(&mut core, at(420)), "equal: 0/2 nodes are available: 2 Insufficient cpu.");
    assert_eq!(next(&mut core, at(420)), "high@n");
    assert_eq!(core.cluster().nomination("high"), None);
}

#[test]
fn a_victim_that_cannot_be_deleted_is_tried_again() {
    let mut core = core();
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
    let low = bound("low", "n", "1");
    let high = important("high", "1", 10);
    core.set_pod(low.clone(), at(0));
    core.set_pod(high.clone(), at(0));
    assert_eq!(next(&mut core, at(0)), "high instead of low");
    core.preempted(&high, [&*low], at(0));
    core.tick(at(1));
    assert_eq!(next(&mut core, at(1)), "high instead of low");
    core.preempted(&high, [], at(1));
    // What it was promised nobody of lower priority gets, until it is deleted.
    core.remove_pod("low", at(1));
    core.set_pod(important("other", "1", 0), at(1));
    assert!(next(&mut core, at(1)).starts_with("other: "));
    core.remove_pod("high", at(2));
    assert_eq!(next(&mut core, at(2)), "other@n");
    assert!(core.cluster().nominated_on("n").is_empty());
}

/// Holds pods for a minute.
struct Holder;

impl crate::framework::Plugin for Holder {
    fn name(&self) -> &'static str {
        "Holder"
    }
}

impl crate::framework::Permit for Holder {
    fn permit(&self, pod: &PodInfo, _: &crate::node::NodeInfo, _: &crate::cache::Cluster, _: Duration) -> Permission {
        match pod.priority {
            0 => Permission::Wait(Duration::from_secs(60)),
            1.. => Permission::Allow,
            _ => Permission::Reject("never".into()),
        }
    }
}

#[test]
fn a_held_pod_keeps_its_node_until_it_may_go() {
    let chain = Arc::new(Chain { permit: vec![Box::new(Holder)], ..Chain::default() });
    let list = vec![Profile { chain, ..Profile::default() }];
    let mut core = Core::new(Profiles { list, ..Profiles::default() }, Stores::default());
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
    core.set_pod(Arc::new(fixture::requesting("p", "1", "1Mi")), at(0));
    assert_eq!(next(&mut core, at(0)), "nothing");
    assert_eq!((core.held().count(), core.next_deadline()), (1, Some(at(60))));
    core.allow("p", "another", at(1));
    assert!(!core.has_work());
    core.tick(at(60));
    assert_eq!(next(&mut core, at(60)), "p: rejected due to timeout after waiting 60s at plugin Holder");
    assert_eq!(core.cluster().node("n").unwrap().requested.milli_cpu, 0);
    core.tick(at(61));
    assert_eq!(next(&mut core, at(61)), "nothing", "it is held again");
    core.allow("p", "Holder", at(61));
    assert_eq!(next(&mut core, at(61)), "p@n");
    core.bound(&important("p", "1", 0), "n", false, at(61));
    core.tick(at(70));
    assert_eq!(next(&mut core, at(70)), "nothing");
    // One that is only held is not deleted for another, but sent back.
    core.set_pod(important("high", "1", 10), at(71));
    assert!(next(&mut core, at(71)).starts_with("high: "));
    assert_eq!(next(&mut core, at(71)), "p: preempted");
    core.tick(at(80));
    assert_eq!(next(&mut core, at(80)), "high@n");
    core.set_pod(important("bad", "0", -1), at(80));
    assert_eq!(next(&mut core, at(80)), "p: 0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(next(&mut core, at(80)), "bad: never");
}

/// Each profile has its own plugins, and a pod is tried again as those of its own say.
#[test]
fn profiles_schedule_side_by_side() {
    let file = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "profiles": [
            {"schedulerName": "spreads"},
            {
                "schedulerName": "packs",
                "plugins": {"filter": {"disabled": [{"name": "NodeUnschedulable"}]}, "preFilter": {"disabled": [{"name": "NodeUnschedulable"}]}, "score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}, "preScore": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}},
                "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}],
            },
        ],
    });
    let profiles = crate::Config::from_file(&file, "me").unwrap().profiles;
    let mut core = Core::new(profiles, Stores::default());
    core.set_node(Arc::new(fixture::sized("empty", "4", "4Gi")), at(0));
    core.set_node(Arc::new(fixture::sized("used", "4", "4Gi")), at(0));
    core.set_pod(bound("old", "used", "1"), at(0));
    let pod = |name: &str, scheduler: &str, cpu: &str| {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        Arc::new(fixture::pod_named(name, json!({"schedulerName": scheduler, "containers": [container]})))
    };
    core.set_pod(pod("a", "spreads", "1"), at(0));
    core.set_pod(pod("b", "packs", "1"), at(1));
    core.set_pod(pod("c", "default-scheduler", "1"), at(2));
    assert_eq!(next(&mut core, at(3)), "a@empty");
    core.set_pod(bound("older", "used", "500m"), at(3));
    assert_eq!(next(&mut core, at(3)), "b@used");
    assert_eq!(next(&mut core, at(3)), "nothing", "others' pods are left alone");
    core.set_pod(pod("big", "packs", "9"), at(4));
    assert_eq!(next(&mut core, at(4)), "big: 0/2 nodes are available: 2 Insufficient cpu.");
    let big = json!({"metadata": {"name": "big"}, "spec": {"unschedulable": true}, "status": {"allocatable": {"cpu": "9", "pods": "9"}}});
    core.set_node(Arc::new(fixture::node(big)), at(60));
    core.set_pod(pod("other", "spreads", "5"), at(60));
    assert_eq!(next(&mut core, at(60)), "big@big");
    assert!(next(&mut core, at(60)).starts_with("other: 0/3 nodes are available: 1 node(s) were unschedulable, "));
}

/// Of pods that wait for storage, those are tried again whose claims are of a class that has more room.
#[test]
fn more_room_helps_claims_of_its_class() {
    let (claims, writer) = kybern_client::Store::new([]);
    let spec = json!({"storageClassName": "fast"});
    let claim = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": spec});
    let claim: kybern_api::core::v1::PersistentVolumeClaim =
        kybern_api::Object::from_json(claim.to_string().as_bytes()).unwrap();
    writer.upsert(claim);
    let mut core = Core::new(Profiles::default(), Stores { claims, ..Stores::default() });
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    core.set_pod(Arc::new(fixture::pod_named("p", json!({"volumes": [volume]}))), at(0));
    core.set_pod(Arc::new(fixture::requesting("large", "2", "1Mi")), at(0));
    let expect = [
        "large: 0/1 nodes are available: 1 Insufficient cpu.",
        "p: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    ];
    let mut told = [next(&mut core, at(0)), next(&mut core, at(0))];
    told.sort();
    assert_eq!(told.each_ref().map(|told| told.split(" preemption").next().unwrap()), expect);
    core.capacity_grew(&["slow".to_owned()].into(), at(60));
    assert_eq!(next(&mut core, at(60)), "nothing");
    core.capacity_grew(&["fast".to_owned()].into(), at(60));
    assert!(next(&mut core, at(60)).starts_with("p: "));
    assert_eq!(next(&mut core, at(60)), "nothing");
}
