use kybern_api::Object;
use kybern_apimachinery::{Value, json};
use kybern_client::StoreWriter;

use super::*;
use crate::config::Profiles;
use crate::core::{Core, Decision};
use crate::fixture;
use crate::stores::Stores;

/// Nodes of one processor each, and who may be told of workloads.
fn core(nodes: usize) -> (Core, StoreWriter<Workload>) {
    let (workloads, writer) = Store::new([]);
    let stores = Stores { gangs: Some(Gangs::new(workloads)), ..Stores::default() };
    let mut core = Core::new(Profiles::default(), stores);
    for node in 0..nodes {
        core.set_node(Arc::new(fixture::sized(&format!("n{node}"), "1", "1Gi")), at(0));
    }
    (core, writer)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Groups `g`, a gang of so many, and `basic`.
fn workload(least: i32) -> Workload {
    let workload = json!({"metadata": {"name": "w", "namespace": "default"}, "spec": {"podGroups": [
        {"name": "g", "policy": {"gang": {"minCount": least}}}, {"name": "basic", "policy": {"basic": {}}},
    ]}});
    Workload::from_json(workload.to_string().as_bytes()).unwrap()
}

fn came(core: &mut Core, writer: &StoreWriter<Workload>, least: i32, now: Duration) {
    writer.upsert(workload(least));
    core.workload_came(Some(("default", "w")), now);
}

/// A pod that takes a node for itself.
fn pod(name: &str, group: &str, replica: &str) -> Arc<PodInfo> {
    let reference = json!({"name": "w", "podGroup": group, "podGroupReplicaKey": replica});
    let container: Value = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
    Arc::new(fixture::pod_named(name, json!({"containers": [container], "workloadRef": reference})))
}

/// All decisions that there are to make: who is bound, and who is not and why.
fn decisions(core: &mut Core, now: Duration) -> Vec<String> {
    let mut all = Vec::new();
    core.tick(now);
    while let Some(decision) = core.schedule_next(now) {
        all.push(match decision {
            Decision::Bind { pod, .. } => pod.name.to_string(),
            Decision::Unschedulable { pod, message, .. } => {
                format!("{}: {}", pod.name, message.split(" no new claims").next().unwrap_or_default())
            }
            other => panic!("{other:?}"),
        });
    }
    all
}

#[test]
fn a_gang_waits_for_its_workload_and_its_pods_and_is_bound_together() {
    let (mut core, writer) = core(4);
    core.set_pod(pod("a", "g", ""), at(0));
    core.set_pod(pod("b", "g", ""), at(0));
    assert!(decisions(&mut core, at(0)).is_empty(), "the workload is not there");
    came(&mut core, &writer, 3, at(1));
    assert!(decisions(&mut core, at(1)).is_empty(), "one is missing");
    // Of another replica, of another group, of none.
    core.set_pod(pod("other", "g", "2"), at(2));
    core.set_pod(pod("alone", "basic", ""), at(2));
    assert_eq!(decisions(&mut core, at(2)), ["alone"]);
    core.set_pod(pod("nobody", "nope", ""), at(2));
    assert!(decisions(&mut core, at(2)).is_empty(), "there is no such group");
    core.set_pod(pod("c", "g", ""), at(3));
    let mut bound = decisions(&mut core, at(3));
    bound.sort();
    assert_eq!(bound, ["a", "b", "c"]);
    assert_eq!(core.held().count(), 0);
    assert_eq!(core.fetch_waits(), [(true, at(0)), (true, at(0))]);
}

#[test]
fn who_came_first_holds_its_node_until_enough_have_one_or_its_time_is_up() {
    let (mut core, writer) = core(2);
    came(&mut core, &writer, 3, at(0));
    for name in ["a", "b", "c"] {
        core.set_pod(pod(name, "g", ""), at(0));
    }
    let told = decisions(&mut core, at(0));
    assert!(told.len() == 1 && told[0].contains(": 0/2 nodes are available: 2 Insufficient cpu."), "{told:?}");
    assert_eq!(core.held().count(), 2, "two hold their nodes");
    assert!(decisions(&mut core, at(299)).len() <= 1 && core.held().count() == 2);
    let told = decisions(&mut core, at(300));
    let rejected =
        told.iter().filter(|text| text.contains("rejected due to timeout after waiting 300s at plugin GangScheduling"));
    assert_eq!(rejected.count(), 2, "{told:?}");
    assert_eq!(core.fetch_waits(), [(false, at(300)), (false, at(300))]);
    // With room for all three, and after their back-off, all go.
    core.set_node(Arc::new(fixture::sized("n2", "1", "1Gi")), at(310));
    let mut bound: Vec<String> = Vec::new();
    for second in 310..330 {
        bound.extend(decisions(&mut core, at(second)).into_iter().filter(|text| !text.contains(':')));
    }
    bound.sort();
    assert_eq!(bound, ["a", "b", "c"]);
}

#[test]
fn pods_that_are_bound_count_and_those_that_are_gone_do_not() {
    let (mut core, writer) = core(3);
    came(&mut core, &writer, 2, at(0));
    let mut running = (*pod("old", "g", "")).clone();
    running.node = "n0".into();
    core.set_pod(Arc::new(running), at(0));
    core.set_pod(pod("a", "g", ""), at(0));
    assert_eq!(decisions(&mut core, at(0)), ["a"], "with the one that runs there are two");
    core.bound(&pod("a", "g", ""), "n1", false, at(1));
    core.remove_pod("old", at(1));
    assert!(decisions(&mut core, at(10)).is_empty());
    assert_eq!(core.held().count(), 1, "it was let in before, and waits at its node");
    core.set_pod(pod("b", "g", ""), at(11));
    let mut bound = decisions(&mut core, at(11));
    bound.sort();
    assert_eq!(bound, ["a", "b"]);
}

#[test]
fn a_workload_that_goes_meanwhile_ends_the_attempt() {
    let (mut core, writer) = core(2);
    came(&mut core, &writer, 1, at(0));
    core.set_pod(pod("a", "g", ""), at(0));
    writer.remove("default/w", "9");
    assert_eq!(
        decisions(&mut core, at(0)),
        [
            "a: running Permit plugin \"GangScheduling\": failed to get workload default/w: workload.scheduling.k8s.io \"w\" not found"
        ]
    );
    assert_eq!(core.held().count(), 0);
}

#[test]
fn without_the_gate_a_group_means_nothing() {
    let mut core = Core::new(Profiles::default(), Stores::default());
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
    core.set_pod(pod("a", "g", ""), at(0));
    assert_eq!(decisions(&mut core, at(0)), ["a"]);
}
