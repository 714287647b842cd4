//! `kill -9` while pods come and go: the next server serves at once, and the node ends with what its pods need.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kybern_e2e::{Cluster, churn, churn_size, eventually, eventually_within};

const CRASHES: u64 = 3;
/// Also on a machine that is busy with other things.
const SERVES_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn crashes_while_pods_come_and_go() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("crashes");
    namespace.run(&["create", "deployment", "keeper", "--image=nginx:1.14"]).ok();
    namespace.run(&["rollout", "status", "deployment/keeper", "--timeout=90s"]).ok();
    let keeper =
        || namespace.jsonpath(&["pods", "-l", "app=keeper"], "{.items[*].status.containerStatuses[*].containerID}");
    let (before, stop) = (keeper(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&namespace, churn_size(10_000), &stop));
        for crash in 0..CRASHES {
            std::thread::sleep(Duration::from_millis(2_000 + 777 * crash));
            cluster.crash_server();
            let begun = Instant::now();
            let mut up = cluster.up_command();
            let mut up = up.stdout(Stdio::null()).spawn().expect("kybern starts");
            eventually_within(SERVES_WITHIN, "the next server serves", || {
                let ready = cluster.kubectl().run(&["get", "--raw", "/readyz", "--request-timeout=2s"]);
                if ready.code == Some(0) { Ok(()) } else { Err(ready.to_string()) }
            });
            println!("it serves {:.1?} after its start", begun.elapsed());
            assert!(up.wait().expect("kybern ends").success());
        }
        stop.store(true, Ordering::Relaxed);
        let made = churning.join().expect("the churn goes through the crashes");
        assert!(made > 20, "too few pods to tell: {made}");
    });
    eventually_within(Duration::from_secs(300), "the node holds what its pods need", || {
        let left = namespace.run(&["get", "pods", "-l", "app=churn", "-o", "name"]).ok();
        if left.is_empty() { cluster.holds_what_its_pods_need() } else { Err(left) }
    });
    assert_eq!(keeper(), before, "a pod that stays does not notice");
    namespace.run(&["delete", "deployment", "keeper", "--timeout=60s"]).ok();
    eventually("nothing is left", || cluster.holds_what_its_pods_need());
}
