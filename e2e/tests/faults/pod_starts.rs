//! `kill -9` while pods are being made: the node ends with what the API says, and with nothing half-made.

use std::time::Duration;

use kybern_e2e::{Cluster, eventually};

const CRASHES: u32 = 5;
const PODS_PER_CRASH: u32 = 4;

#[test]
fn crashes_while_pods_start_leave_nothing_half_made() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("starts");
    for crash in 0..CRASHES {
        let pods = (0..PODS_PER_CRASH).map(|number| pod(&format!("p{crash}-{number}")));
        namespace.apply(&pods.collect::<String>());
        // At another moment of their starts each time.
        std::thread::sleep(Duration::from_millis(30 * u64::from(crash)));
        cluster.crash_server();
        cluster.up();
    }
    let path = "{range .items[*]}{.metadata.name} {.status.phase} {.status.containerStatuses[*].ready} {.status.containerStatuses[*].restartCount}\n{end}";
    eventually("all of them run, and none was restarted", || {
        let seen = namespace.jsonpath(&["pods"], path);
        let running = seen.lines().filter(|line| line.ends_with(" Running true true 0 0")).count();
        if running == (CRASHES * PODS_PER_CRASH) as usize { Ok(()) } else { Err(seen) }
    });
    eventually("the node holds those pods and nothing else", || cluster.holds_what_its_pods_need());
    namespace.run(&["delete", "pods", "--all", "--timeout=60s"]).ok();
    eventually("nothing is left of them", || cluster.holds_what_its_pods_need());
}

fn pod(name: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: scratch, emptyDir: {{medium: Memory}}}}]
  containers:
  - {{name: a, image: busybox, command: [sleep, '3600'], volumeMounts: [{{name: scratch, mountPath: /scratch}}]}}
  - {{name: b, image: busybox, command: [sleep, '3600']}}
"
    )
}
