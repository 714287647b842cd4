//! Probes, hooks, restarts and ends.

use std::time::{Duration, Instant};

use kybern_e2e::{Cluster, Table, eventually, eventually_within};

use crate::manifests::shell_pod;

#[test]
fn probes_decide_readiness_and_restarts() {
    let namespace = Cluster::get().namespace("probes");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: readiness}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'sleep 2; touch /tmp/ready; sleep 3600']
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: liveness}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'touch /tmp/alive; sleep 2; rm /tmp/alive; sleep 3600']
    livenessProbe: {exec: {command: [cat, /tmp/alive]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: startup}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: nginx
    image: nginx:1.14
    startupProbe: {tcpSocket: {port: 80}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
",
    );
    let restarts = |pod: &str| namespace.jsonpath(&["pod", pod], "{.status.containerStatuses[0].restartCount}");
    namespace.wait("pod/readiness", "condition=Ready");
    namespace.wait("pod/startup", "condition=Ready");
    eventually("the dead one restarts", || {
        let count = restarts("liveness");
        if count != "0" { Ok(()) } else { Err(count) }
    });
    let events = namespace.run(&["get", "events"]).ok();
    assert!(events.contains("Liveness probe failed") && events.contains("Readiness probe failed"), "{events}");
    assert_eq!((restarts("readiness"), restarts("startup")), ("0".into(), "0".into()));
}

#[test]
fn crash_loops_back_off() {
    let namespace = Cluster::get().namespace("crash");
    namespace.apply(&shell_pod("p", "echo dying; exit 7"));
    eventually("it backs off", || {
        let table = Table::parse(&namespace.run(&["get", "pod", "p"]).ok());
        let status = table.cell(0, "STATUS");
        if status == "CrashLoopBackOff" { Ok(()) } else { Err(status) }
    });
    let status = namespace.get(&["pod", "p"])["status"]["containerStatuses"][0].clone();
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 7);
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off ") && message.contains("restarting failed container=main"), "{message}");
    let described = namespace.run(&["describe", "pod", "p"]).ok();
    for part in ["CrashLoopBackOff", "Exit Code:    7", "BackOff", "Back-off restarting failed container"] {
        assert!(described.contains(part), "no {part:?} in\n{described}");
    }
}

#[test]
fn restart_policies() {
    let namespace = Cluster::get().namespace("policies");
    for (name, policy, code) in [("never", "Never", 1), ("onfailure", "OnFailure", 0)] {
        namespace.apply(
            &shell_pod(name, &format!("exit {code}"))
                .replace("spec:\n", &format!("spec:\n  restartPolicy: {policy}\n")),
        );
    }
    namespace.wait("pod/never", "jsonpath={.status.phase}=Failed");
    namespace.wait("pod/onfailure", "jsonpath={.status.phase}=Succeeded");
    let table = Table::parse(&namespace.run(&["get", "pods"]).ok());
    assert_eq!(table.cell(table.row("never"), "STATUS"), "Error");
    assert_eq!(table.cell(table.row("onfailure"), "STATUS"), "Completed");
}

#[test]
fn hooks_and_grace() {
    let namespace = Cluster::get().namespace("hooks");
    let host = std::env::temp_dir().join(&namespace.name);
    std::fs::create_dir_all(&host).unwrap();
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{{name: host, hostPath: {{path: {}}}}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'trap \"echo term >> /host/log; exit 0\" TERM; while true; do sleep 0.1; done']
    volumeMounts: [{{name: host, mountPath: /host}}]
    lifecycle:
      postStart: {{exec: {{command: [sh, -c, 'echo start >> /host/log']}}}}
      preStop: {{exec: {{command: [sh, -c, 'echo stop >> /host/log']}}}}
",
        host.display()
    ));
    namespace.wait("pod/p", "condition=Ready");
    let start = Instant::now();
    namespace.run(&["delete", "pod", "p", "--timeout=60s"]).ok();
    assert!(start.elapsed() < Duration::from_secs(15), "it ended by itself, but took {:?}", start.elapsed());
    assert_eq!(std::fs::read_to_string(host.join("log")).unwrap(), "start\nstop\nterm\n");
    std::fs::remove_dir_all(&host).unwrap();
}

#[test]
fn any_answer_to_an_http_hook_will_do() {
    let namespace = Cluster::get().namespace("httphook");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: nginx
    image: nginx:1.14
    ports: [{name: web, containerPort: 80}]
    readinessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1}
    lifecycle: {preStop: {httpGet: {path: /absent, port: web}}}
",
    );
    namespace.wait("pod/p", "condition=Ready");
    namespace.run(&["delete", "pod", "p", "--timeout=60s"]).ok();
    eventually("the stop is told", || {
        let events = namespace.run(&["get", "events"]).ok();
        assert!(!events.contains("FailedPreStopHook"), "{events}");
        if events.contains("Stopping container nginx") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn a_deaf_process_is_killed_after_its_grace() {
    let namespace = Cluster::get().namespace("deaf");
    let pod = shell_pod("p", "trap '' TERM; while true; do sleep 0.1; done");
    namespace.apply(&pod.replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 3"));
    namespace.wait("pod/p", "condition=Ready");
    let start = Instant::now();
    namespace.run(&["delete", "pod", "p", "--wait=false"]).ok();
    let status = Table::parse(&namespace.run(&["get", "pod", "p"]).ok()).cell(0, "STATUS");
    assert_eq!(status, "Terminating");
    eventually_within(Duration::from_secs(20), "it is gone", || {
        let found = namespace.run(&["get", "pod", "p"]);
        if found.code == Some(0) { Err(found.stdout) } else { Ok(()) }
    });
    assert!(start.elapsed() >= Duration::from_secs(3), "killed too early: {:?}", start.elapsed());
}
