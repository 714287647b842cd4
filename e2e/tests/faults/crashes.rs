//! `kill -9`, in a loop and under load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kybern_e2e::{Cluster, eventually};

const CRASHES: u32 = 4;

/// Containers, as the API shows them: a restart or a new container would change this.
fn containers(cluster: &'static Cluster, namespace: &str) -> String {
    let path = "{range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}\n{end}";
    cluster.kubectl().within(namespace).jsonpath(&["pods"], path)
}

#[test]
fn the_server_crashes_under_load() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("crash");
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14", "--replicas=2"]).ok();
    namespace.run(&["expose", "deployment", "web", "--port=80"]).ok();
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let url = format!("http://{}/", namespace.jsonpath(&["service", "web"], "{.spec.clusterIP}"));
    eventually("the Service answers", || cluster.fetch(&url));
    let before = (containers(cluster, &namespace.name), containers(cluster, "kube-system"));
    let (done, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..2_000 {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("item-{number}");
                if namespace.run(&["create", "configmap", &name, "--request-timeout=5s"]).code == Some(0) {
                    acknowledged.lock().unwrap().push(name);
                }
            }
        });
        for crash in 0..CRASHES {
            // At another moment each time.
            std::thread::sleep(Duration::from_millis(700 + 333 * u64::from(crash)));
            cluster.crash_server();
            let page = cluster.fetch(&url);
            // First: the tests after this one need a server whatever comes out.
            cluster.up();
            assert!(page.is_ok(), "the Service must answer without a server: {page:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
    let kept = namespace.run(&["get", "configmaps", "-o", "name"]).ok();
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > 5, "too few writes to tell: {}", acknowledged.len());
    for name in &acknowledged {
        assert!(kept.lines().any(|line| line == format!("configmap/{name}")), "{name} was acknowledged and is lost");
    }
    eventually("the node is Ready", || {
        let ready = cluster.kubectl().jsonpath(&["nodes"], "{.items[0].status.conditions[?(@.type=='Ready')].status}");
        if ready == "True" { Ok(()) } else { Err(ready) }
    });
    let after = (containers(cluster, &namespace.name), containers(cluster, "kube-system"));
    assert_eq!(before, after, "containers must not notice");
    // The restarted server still governs them.
    namespace.run(&["delete", "pods", "--all", "--timeout=60s"]).ok();
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
}

#[test]
fn add_ons_and_shims_crash() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("parts");
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14"]).ok();
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    for words in [&["/kybern", "coredns"][..], &["/kybern", "kube-proxy"], &["shim", cluster.directory("--run-dir")]] {
        let victims = cluster.processes(words);
        assert!(!victims.is_empty(), "no process {words:?}");
        let killed = std::process::Command::new("kill").arg("-9").arg(victims[0].to_string()).status().unwrap();
        assert!(killed.success());
        eventually(&format!("everything runs again after {words:?} died"), || {
            for namespace in ["kube-system", namespace.name.as_str()] {
                let path = "{range .items[*]}{.metadata.name}={.status.containerStatuses[*].ready} {end}";
                let ready = cluster.kubectl().within(namespace).jsonpath(&["pods"], path);
                if ready.is_empty() || ready.contains("false") || cluster.processes(words).len() < victims.len() {
                    return Err(ready);
                }
            }
            Ok(())
        });
    }
    eventually("names resolve again", || {
        let answer = cluster
            .on_node(&cluster.kybern.display().to_string())
            .args(["testapp", "dns", "kubernetes.default.svc.cluster.local.", "--server", "10.96.0.10:53"])
            .output()
            .unwrap();
        if answer.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&answer.stderr).into_owned()) }
    });
}
