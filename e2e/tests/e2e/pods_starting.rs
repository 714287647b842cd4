//! What runs beside a pod's main containers, and before them: init containers, sidecars, debugging.

use kybern_e2e::{Cluster, Table, eventually};

#[test]
fn a_failing_init_container_is_started_again() {
    let namespace = Cluster::get().namespace("initfail");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: share, emptyDir: {}}]
  initContainers:
  - name: second-try
    image: busybox
    command: [sh, -c, 'test -e /share/tried && exit 0; touch /share/tried; exit 3']
    volumeMounts: [{name: share, mountPath: /share}]
  containers: [{name: main, image: busybox, command: [sleep, '3600']}]
---
apiVersion: v1
kind: Pod
metadata: {name: loops}
spec:
  terminationGracePeriodSeconds: 1
  initContainers: [{name: bad, image: busybox, command: [sh, -c, 'exit 3']}]
  containers: [{name: main, image: busybox, command: [sleep, '3600']}]
---
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  restartPolicy: Never
  initContainers: [{name: bad, image: busybox, command: [sh, -c, 'exit 3']}]
  containers: [{name: main, image: busybox, command: [sleep, '3600']}]
",
    );
    namespace.wait("pod/again", "condition=Ready");
    assert_eq!(namespace.jsonpath(&["pod", "again"], "{.status.initContainerStatuses[0].restartCount}"), "1");
    for (pod, status) in [("loops", "Init:CrashLoopBackOff"), ("ends", "Init:Error")] {
        eventually(&format!("{pod} shows {status}"), || {
            let shown = Table::parse(&namespace.run(&["get", "pod", pod]).ok()).cell(0, "STATUS");
            if shown == status { Ok(()) } else { Err(shown) }
        });
    }
    assert_eq!(namespace.jsonpath(&["pod", "ends"], "{.status.phase}"), "Failed");
    let condition = "{.status.conditions[?(@.type=='Initialized')].message}";
    assert_eq!(namespace.jsonpath(&["pod", "loops"], condition), "containers with incomplete status: [bad]");
}

#[test]
fn a_sidecar_serves_until_the_main_containers_have_ended() {
    let namespace = Cluster::get().namespace("sidecar");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  volumes: [{name: share, emptyDir: {}}]
  initContainers:
  - name: side
    image: busybox
    restartPolicy: Always
    command: [sh, -c, 'trap \"echo stopped; exit 0\" TERM; sleep 1; echo up > /share/up; while true; do sleep 0.1; done']
    startupProbe: {exec: {command: [cat, /share/up]}, periodSeconds: 1, failureThreshold: 30}
    volumeMounts: [{name: share, mountPath: /share}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'cat /share/up; while [ ! -e /share/done ]; do sleep 0.1; done']
    volumeMounts: [{name: share, mountPath: /share}]
",
    );
    namespace.wait("pod/p", "condition=Ready");
    assert_eq!(Table::parse(&namespace.run(&["get", "pod", "p"]).ok()).cell(0, "READY"), "2/2");
    // Had it started before the sidecar was up, it would have found no file.
    eventually("the main container finds what the sidecar has made", || {
        let said = namespace.run(&["logs", "p", "-c", "main"]).ok();
        if said == "up\n" { Ok(()) } else { Err(said) }
    });
    namespace.run(&["exec", "p", "-c", "main", "--", "touch", "/share/done"]).ok();
    namespace.wait("pod/p", "jsonpath={.status.phase}=Succeeded");
    assert_eq!(namespace.run(&["logs", "p", "-c", "side"]).ok(), "stopped\n");
}

#[test]
fn a_running_pod_is_debugged() {
    let namespace = Cluster::get().namespace("debug");
    namespace.apply(&crate::manifests::shell_pod("p", "exec sleep 4321"));
    namespace.wait("pod/p", "condition=Ready");
    let debug = ["debug", "p", "--image=busybox", "--profile=general", "--container=dbg", "--target=main", "--"];
    namespace.run(&[&debug[..], &["sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; echo; sleep 3600"]].concat()).ok();
    eventually("it sees the processes of its target", || {
        let said = namespace.run(&["logs", "p", "-c", "dbg"]);
        if said.stdout == "sleep 4321 \n" { Ok(()) } else { Err(said.to_string()) }
    });
    let pod = namespace.get(&["pod", "p"]);
    assert!(pod["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object(), "{}", pod["status"]);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}
