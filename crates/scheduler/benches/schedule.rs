//! How fast the pure core places pods: 6,000 on 1,000 nodes, as the budget for the whole path has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kybern_client::store::Cached;
use kybern_scheduler::Profiles;
use kybern_scheduler::core::{Core, Decision};
use kybern_scheduler::node::Node;
use kybern_scheduler::pod::PodInfo;
use kybern_scheduler::stores::Stores;

const NODES: usize = 1000;
const PODS: usize = 6000;

fn main() {
    let mut core = Core::new(Profiles::default(), Stores::default());
    let now = Duration::ZERO;
    for n in 0..NODES {
        let zone = n % 3;
        let node = format!(
            r#"{{"metadata":{{"name":"node-{n}","labels":{{"topology.kubernetes.io/zone":"z{zone}"}}}},"status":{{"allocatable":{{"cpu":"4","memory":"32Gi","pods":"110"}}}}}}"#
        );
        core.set_node(Arc::new(Node::decode(node.as_bytes()).expect("a node")), now);
    }
    for n in 0..PODS {
        let pod = format!(
            r#"{{"metadata":{{"name":"pod-{n}","namespace":"default","uid":"{n}"}},"spec":{{"containers":[{{"name":"c","image":"pause","resources":{{"requests":{{"cpu":"100m","memory":"500Mi"}}}}}}]}}}}"#
        );
        core.set_pod(Arc::new(PodInfo::decode(pod.as_bytes()).expect("a pod")), now);
    }
    let start = Instant::now();
    let mut bound = 0;
    while let Some(decision) = core.schedule_next(now) {
        let Decision::Bind { pod, node, .. } = decision else { continue };
        core.bound(&pod, &node, true, now);
        bound += 1;
    }
    let elapsed = start.elapsed();
    assert_eq!(bound, PODS);
    println!("{bound} pods on {NODES} nodes in {elapsed:.2?}: {:.0} pods/s", bound as f64 / elapsed.as_secs_f64());
}
