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

#[test]
fn last_words_and_deadlines() {
    let namespace = Cluster::get().namespace("ends");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: words}
spec:
  restartPolicy: Never
  containers:
  - {name: file, image: busybox, command: [sh, -c, 'printf last > /dev/termination-log; exit 2']}
  - {name: own, image: busybox, terminationMessagePath: /tmp/words, command: [sh, -c, 'printf own > /tmp/words']}
  - {name: log, image: busybox, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo said; exit 1']}
---
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  activeDeadlineSeconds: 2
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, '3600']}]
",
    );
    namespace.wait("pod/words", "jsonpath={.status.phase}=Failed");
    let ends = "{range .status.containerStatuses[*]}{.name} {.state.terminated.exitCode} {.state.terminated.reason} {.state.terminated.message};{end}";
    let seen = namespace.jsonpath(&["pod", "words"], ends);
    assert_eq!(seen, "file 2 Error last;own 0 Completed own;log 1 Error said\n;");
    namespace.wait("pod/late", "jsonpath={.status.phase}=Failed");
    assert_eq!(
        namespace.jsonpath(&["pod", "late"], "{.status.reason}: {.status.message}"),
        "DeadlineExceeded: Pod was active on the node longer than the specified deadline"
    );
}

#[test]
fn hooks_that_fail_or_last_too_long() {
    let namespace = Cluster::get().namespace("badhooks");
    let pod = |name: &str, hook: &str| {
        let pod = shell_pod(name, "trap '' TERM; while true; do sleep 0.1; done");
        pod.replace("    command:", &format!("    lifecycle: {{{hook}}}\n    command:"))
    };
    namespace.apply(&pod("start", "postStart: {exec: {command: [sh, -c, 'exit 9']}}"));
    let slow = pod("stop", "preStop: {exec: {command: [sleep, '600']}}");
    namespace.apply(&slow.replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 3"));
    eventually("the failed start is told", || {
        let events = namespace.run(&["get", "events", "--field-selector=involvedObject.name=start"]).ok();
        let all = ["FailedPostStartHook", "PostStartHook failed", "Killing"].iter().all(|part| events.contains(part));
        if all { Ok(()) } else { Err(events) }
    });
    let waiting = eventually("the container is held back", || {
        let state = namespace.jsonpath(&["pod", "start"], "{.status.containerStatuses[0].state.waiting.reason}");
        if state == "CrashLoopBackOff" { Ok(state) } else { Err(state) }
    });
    assert_eq!(waiting, "CrashLoopBackOff");
    namespace.wait("pod/stop", "condition=Ready");
    let start = Instant::now();
    namespace.run(&["delete", "pod", "stop", "--timeout=60s"]).ok();
    assert!(start.elapsed() >= Duration::from_secs(3), "the hook had less than its grace: {:?}", start.elapsed());
}

#[test]
fn another_image_is_tried_at_once() {
    let namespace = Cluster::get().namespace("setimage");
    namespace.apply(&shell_pod("p", "sleep 3600").replace("busybox", "busybox:no-such-tag"));
    let waiting = || namespace.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].state.waiting.reason}");
    eventually("the pull backs off", || match waiting().as_str() {
        "ImagePullBackOff" => Ok(()),
        other => Err(other.to_owned()),
    });
    let refused = namespace.run(&["logs", "p"]).fails();
    let expect = "container \"main\" in pod \"p\" is waiting to start: trying and failing to pull image";
    assert!(refused.contains(expect), "{refused}");
    namespace.run(&["set", "image", "pod/p", "main=busybox"]).ok();
    namespace.wait("pod/p", "condition=Ready");
    assert_eq!(namespace.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].restartCount}"), "0");
}

/// nginx answers `grpc.health.v1.Health/Check` from a file: one frame that says SERVING, or NOT_SERVING.
#[test]
fn grpc_probes() {
    let namespace = Cluster::get().namespace("grpc");
    let config = "user root root; events {} http { access_log off; server { listen 8080 http2; default_type application/grpc; add_header grpc-status 0; \
                  error_page 405 =200 $uri; root /health; } }";
    let folder = std::env::temp_dir().join(&namespace.name);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, status) in [("up", 1_u8), ("down", 2)] {
        std::fs::write(folder.join("Check"), [0, 0, 0, 0, 2, 8, status]).unwrap();
        let from = format!("--from-file={}", folder.join("Check").display());
        namespace.run(&["create", "configmap", name, &from, &format!("--from-literal=nginx.conf={config}")]).ok();
        namespace.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: files, configMap: {{name: {name}}}}}]
  containers:
  - name: nginx
    image: nginx:1.14
    command: [nginx, -c, /files/nginx.conf, -g, 'daemon off;']
    readinessProbe: {{grpc: {{port: 8080}}, periodSeconds: 1}}
    volumeMounts:
    - {{name: files, mountPath: /files}}
    - {{name: files, mountPath: /health/grpc.health.v1.Health/Check, subPath: Check}}
"
        ));
    }
    std::fs::remove_dir_all(&folder).unwrap();
    namespace.wait("pod/up", "condition=Ready");
    eventually("the other's answer is told", || {
        let events = namespace.run(&["get", "events", "--field-selector=involvedObject.name=down"]).ok();
        let expect = "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")";
        if events.contains(expect) { Ok(()) } else { Err(events) }
    });
    assert_eq!(Table::parse(&namespace.run(&["get", "pod", "down"]).ok()).cell(0, "READY"), "0/1");
}
