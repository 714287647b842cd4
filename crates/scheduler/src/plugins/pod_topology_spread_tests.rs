//! What is said of nodes, given how many pods are where.

use std::sync::Arc;

use super::*;
use crate::fixture;
use crate::plugins::check;
use crate::stores::{Kept, Stores};
use kybern_api::apps::v1::ReplicaSet;
use kybern_api::core::v1::Service;
use kybern_apimachinery::{Value, json};
use kybern_client::Store;

static PLUGIN: PodTopologySpread = PodTopologySpread { defaults: None };
const ZONE: &str = "topology.kubernetes.io/zone";
const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// Nodes by name and zone (none for an empty one), with so many pods of the application x on each.
fn cluster(stores: Stores, nodes: &[(&str, &str, usize)]) -> Cluster {
    let mut cluster = Cluster::new(stores);
    for (name, zone, pods) in nodes {
        let mut labels = json!({"kubernetes.io/hostname": name});
        if !zone.is_empty() {
            labels[ZONE] = (*zone).into();
            labels["rack"] = (*zone).into();
        }
        let taints = json!([{"key": "t", "effect": "NoSchedule"}]);
        let spec = if *zone == "tainted" { json!({"taints": taints}) } else { json!({}) };
        let node = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
        cluster.set_node(Arc::new(fixture::node(node)));
        for n in 0..*pods {
            let pod = fixture::labelled(&format!("{name}-{n}"), json!({"app": "x"}), json!({}));
            cluster.assume(Arc::new(pod), name);
        }
    }
    cluster
}

fn constraint(key: &str, skew: i32, when: &str) -> Value {
    json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "x"}}})
}

fn spread(constraints: &[Value]) -> PodInfo {
    fixture::labelled("p", json!({"app": "x"}), json!({"topologySpreadConstraints": constraints}))
}

/// `.` for a node that fits, `!` for one that does not, `?` for one that lacks a label.
fn verdicts(cluster: &Cluster, pod: &PodInfo) -> String {
    verdicts_of(&PLUGIN, cluster, pod)
}

fn verdicts_of(plugin: &PodTopologySpread, cluster: &Cluster, pod: &PodInfo) -> String {
    let PreFilter::Filter(filter) = plugin.pre_filter(pod, cluster) else { return "skip".to_owned() };
    let one = |info: &NodeInfo| match filter.check(info) {
        Verdict::Fits => '.',
        verdict if verdict == Verdict::unschedulable(SKEWED) => '!',
        verdict if verdict == Verdict::unresolvable(MISSING) => '?',
        verdict => panic!("{verdict:?}"),
    };
    cluster.nodes().map(one).collect()
}

#[test]
fn filters() {
    let hard = |key: &str, skew: i32| constraint(key, skew, "DoNotSchedule");
    let check = |nodes: &[(&str, &str, usize)], constraints: &[Value], expect: &str| {
        let cluster = cluster(Stores::default(), nodes);
        assert_eq!(verdicts(&cluster, &spread(constraints)), expect, "{nodes:?} {constraints:?}");
    };
    let three = [("a1", "a", 2), ("a2", "a", 1), ("b1", "b", 2)];
    for key in [ZONE, "rack"] {
        check(&three, &[hard(key, 1)], "!!.");
        check(&three, &[hard(key, 2)], "...");
    }
    check(&three, &[hard(HOSTNAME, 1)], "!.!");
    check(&three, &[hard(ZONE, 1), hard(HOSTNAME, 1)], "!!!");
    check(&three, &[constraint(ZONE, 1, "ScheduleAnyway")], "skip");
    check(&[("a1", "a", 1), ("b1", "b", 1), ("n", "", 5)], &[hard(ZONE, 1)], "..?");
    let mut domains = hard(ZONE, 1);
    domains["minDomains"] = 3.into();
    check(&[("a1", "a", 1), ("b1", "b", 1)], &[domains.clone()], "!!");
    check(&[("a1", "a", 0), ("b1", "b", 0)], &[domains], "..");
    // A domain into which the pod may not go is no domain to it, unless the constraint says so.
    let tainted = [("a1", "a", 1), ("t1", "tainted", 0)];
    let mut honors = hard(ZONE, 1);
    check(&tainted, &[honors.clone()], "!.");
    honors["nodeTaintsPolicy"] = "Honor".into();
    check(&tainted, &[honors], "..");
    let mut pinned = spread(&[hard(ZONE, 1)]);
    let pin = |pod: &mut PodInfo| pod.wants.as_mut().unwrap().node_selector = vec![(ZONE.to_owned(), "a".to_owned())];
    pin(&mut pinned);
    let two = cluster(Stores::default(), &[("a1", "a", 1), ("b1", "b", 0)]);
    assert_eq!(verdicts(&two, &pinned), "..");
    let mut ignores = hard(ZONE, 1);
    ignores["nodeAffinityPolicy"] = "Ignore".into();
    let mut ignoring = spread(&[ignores]);
    pin(&mut ignoring);
    assert_eq!(verdicts(&two, &ignoring), "!.");
    let mut keyed = hard(ZONE, 1);
    keyed["matchLabelKeys"] = json!(["hash"]);
    let pod = fixture::labelled("p", json!({"app": "x", "hash": "2"}), json!({"topologySpreadConstraints": [keyed]}));
    assert_eq!(verdicts(&two, &pod), "..", "none is of this revision");
}

#[test]
fn who_counts() {
    let mut cluster = cluster(Stores::default(), &[("a1", "a", 1), ("b1", "b", 0)]);
    let pod = spread(&[constraint(ZONE, 1, "DoNotSchedule")]);
    assert_eq!(verdicts(&cluster, &pod), "!.");
    let mut leaving = fixture::labelled("a1-0", json!({"app": "x"}), json!({"nodeName": "a1"}));
    leaving.is_deleting = true;
    cluster.set_bound(Arc::new(leaving));
    assert_eq!(verdicts(&cluster, &pod), "..", "one that is being deleted does not");
    let mut elsewhere = fixture::labelled("e", json!({"app": "x"}), json!({}));
    elsewhere.namespace = "elsewhere".into();
    cluster.assume(Arc::new(elsewhere), "a1");
    cluster.assume(Arc::new(fixture::labelled("y", json!({"app": "y"}), json!({}))), "a1");
    assert_eq!(verdicts(&cluster, &pod), "..");
}

#[test]
fn shifts() {
    let cluster = cluster(Stores::default(), &[("a1", "a", 2), ("b1", "b", 1), ("c1", "c", 1)]);
    let pod = spread(&[constraint(ZONE, 1, "DoNotSchedule")]);
    let PreFilter::Filter(mut filter) = PLUGIN.pre_filter(&pod, &cluster) else { panic!("it matters") };
    let other = fixture::labelled("o", json!({"app": "x"}), json!({}));
    let mut check = |shifts: &[(&str, i64)], expect: &str| {
        for (name, by) in shifts {
            filter.shift(&other, &cluster.node(name).unwrap().node, *by);
        }
        let found: String =
            cluster.nodes().map(|info| if filter.check(info) == Verdict::Fits { '.' } else { '!' }).collect();
        assert_eq!(found, expect, "after {shifts:?}");
    };
    check(&[], "!..");
    check(&[("a1", -1)], "...");
    check(&[("b1", -1)], "!.!");
    check(&[("b1", 1), ("b1", 1), ("c1", 1)], ".!!");
    check(&[("b1", -1), ("c1", -1), ("a1", 1)], "!..");
}

#[test]
fn scoring() {
    let check = |nodes: &[(&str, &str, usize)], constraints: &[Value], expect: &[i64]| {
        let cluster = cluster(Stores::default(), nodes);
        assert_eq!(check::score_in(&PLUGIN, &spread(constraints), &cluster), expect, "{nodes:?} {constraints:?}");
    };
    let soft = |key: &str| constraint(key, 1, "ScheduleAnyway");
    check(&[("a1", "a", 0), ("b1", "b", 0)], &[soft(ZONE)], &[100, 100]);
    check(&[("a1", "a", 2), ("a2", "a", 0), ("b1", "b", 1)], &[soft(HOSTNAME)], &[0, 100, 33]);
    check(&[("a1", "a", 3), ("a2", "a", 1), ("b1", "b", 0)], &[soft(ZONE)], &[0, 0, 100]);
    check(&[("a1", "a", 3), ("a2", "a", 1), ("b1", "b", 0)], &[soft("rack")], &[0, 0, 100]);
    check(&[("a1", "a", 2), ("n", "", 0)], &[soft(ZONE)], &[100, 0]);
    check(&[("a1", "a", 2)], &[constraint(ZONE, 1, "DoNotSchedule")], &[]);
}

#[test]
fn pods_of_services_and_controllers_are_spread() {
    let stores = Stores::default();
    let (services, writer) = Store::new([]);
    let (replica_sets, sets) = Store::new([]);
    let stores = Stores { services, replica_sets, ..stores };
    let cluster = cluster(stores, &[("a1", "a", 2), ("b1", "b", 0), ("n", "", 1)]);
    let plain = |owner: Value| {
        let metadata =
            json!({"name": "p", "namespace": "default", "uid": "p", "labels": {"app": "x"}, "ownerReferences": owner});
        let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "c"}]}});
        <PodInfo as kybern_client::store::Cached>::decode(pod.to_string().as_bytes()).unwrap()
    };
    assert!(check::score_in(&PLUGIN, &plain(json!([])), &cluster).is_empty(), "nobody says that they belong together");
    let set = json!({"metadata": {"name": "r", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {}}});
    let set: ReplicaSet = kybern_api::Object::from_json(set.to_string().as_bytes()).unwrap();
    sets.upsert(Kept::of(&set));
    let owned = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]);
    let expect = [33, 83, 100];
    assert_eq!(check::score_in(&PLUGIN, &plain(owned), &cluster), expect);
    let service = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "x"}}});
    let service: Service = kybern_api::Object::from_json(service.to_string().as_bytes()).unwrap();
    writer.upsert(Kept::of(&service));
    assert_eq!(check::score_in(&PLUGIN, &plain(json!([])), &cluster), expect);
    // The profile may say otherwise what such pods are spread by, and even require it.
    let listed = |when: &str| {
        let constraint = json!({"topologyKey": ZONE, "maxSkew": 1, "whenUnsatisfiable": when});
        let constraint = serde_json::from_value(constraint).unwrap();
        PodTopologySpread { defaults: Some(vec![constraint]) }
    };
    let (hard, soft, none) =
        (listed("DoNotSchedule"), listed("ScheduleAnyway"), PodTopologySpread { defaults: Some(Vec::new()) });
    let pod = plain(json!([]));
    assert_eq!(verdicts_of(&hard, &cluster, &pod), "!.?");
    assert!(hard.may_fit_without(&pod, &pod) && check::score_in(&hard, &pod, &cluster).is_empty());
    assert_eq!(verdicts_of(&soft, &cluster, &pod), "skip");
    assert_eq!(check::score_in(&soft, &pod, &cluster), [0, 100, 0]);
    assert!(check::score_in(&none, &pod, &cluster).is_empty());
    // Constraints of its own are all that count.
    assert_eq!(verdicts_of(&hard, &cluster, &spread(&[constraint(ZONE, 9, "DoNotSchedule")])), "..?");
}
