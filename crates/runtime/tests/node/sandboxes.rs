//! Pods as a whole.

use std::time::Duration;

use kybern_cri::*;

use crate::fixture::Node;

pub(crate) async fn the_life_of_a_pod() {
    let node = Node::new().await;
    let mut events = node.service().container_events();
    let pod = node.pod("life");
    let sandbox = node.sandbox(&pod).await;
    let status = node.service().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(status.sandbox.state, PodSandboxState::Ready);
    assert_eq!(status.ips, ["127.0.0.1"]);
    let id = node.service().create_container(&sandbox, node.shell("main", "echo hello; exit 3"), pod).await.unwrap();
    assert_eq!(node.status(&id).await.container.state, ContainerState::Created);
    node.service().start_container(&id).await.unwrap();
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    assert_eq!(node.output(&id).await, "hello\n");
    node.service().stop_pod_sandbox(&sandbox).await.unwrap();
    node.service().stop_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(node.service().pod_sandbox_status(&sandbox).await.unwrap().sandbox.state, PodSandboxState::NotReady);
    assert_eq!(node.ended(&id).await.exit_code, 3, "known after the sandbox has stopped");
    node.service().remove_pod_sandbox(&sandbox).await.unwrap();
    node.service().remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(matches!(node.service().container_status(&id).await, Err(CriError::NotFound(_))));
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        assert_eq!(event.pod_uid, "uid-life");
        kinds.push((event.kind, event.container_id.is_empty()));
    }
    use ContainerEventType::*;
    let expect = [
        (Created, true),
        (Started, true),
        (Created, false),
        (Started, false),
        (Stopped, false),
        (Stopped, true),
        (Deleted, false),
        (Deleted, true),
    ];
    assert_eq!(kinds, expect);
    node.finish().await;
}

pub(crate) async fn pods_share_what_they_should() {
    let node = Node::new().await;
    let namespaces =
        "for n in net ipc uts pid; do busybox readlink /proc/self/ns/$n; done; sleep 60 & busybox ps; hostname";
    let namespaces = &namespaces.replace("sleep", "busybox sleep").replace("hostname", "busybox hostname");
    let mut pod = node.pod("shared");
    pod.namespaces.pid = NamespaceMode::Pod;
    let sandbox = node.sandbox(&pod).await;
    let mut outputs = Vec::new();
    for name in ["one", "two"] {
        let mut config = node.shell(name, namespaces);
        config.security.namespaces.pid = NamespaceMode::Pod;
        let id = node.start(&sandbox, config).await;
        node.ended(&id).await;
        outputs.push(node.output(&id).await);
    }
    let mut config = node.shell("long", "busybox sleep 600");
    config.security.namespaces.pid = NamespaceMode::Pod;
    let id = node.start(&sandbox, config).await;
    let ps = ["/bin/busybox", "ps"].map(str::to_owned).into();
    let seen = String::from_utf8(node.service().exec_sync(&id, ps, None).await.unwrap().stdout).unwrap();
    assert!(seen.contains("pause") && seen.contains("sleep 600"), "an exec is in the pod's namespace: {seen}");
    let lines: Vec<Vec<&str>> = outputs.iter().map(|o| o.lines().collect()).collect();
    assert_eq!(lines[0][..4], lines[1][..4], "net, ipc, uts and pid are the pod's");
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(lines[0][0], host.to_str().unwrap());
    assert!(outputs[1].contains("pause"), "process 1 is the pod's: {}", outputs[1]);
    assert!(!outputs[1].contains("sleep 60\n1 "), "what the first left behind was killed");
    assert_eq!(*lines[0].last().unwrap(), "shared");
    node.service().remove_pod_sandbox(&sandbox).await.unwrap();

    let (_, output) = node
        .run(
            |pod, container| {
                let host = NamespaceOptions {
                    network: NamespaceMode::Node,
                    pid: NamespaceMode::Node,
                    ipc: NamespaceMode::Node,
                    ..Default::default()
                };
                pod.namespaces = host.clone();
                container.security.namespaces = host;
            },
            namespaces,
        )
        .await;
    for (line, name) in output.lines().zip(["net", "ipc", "uts", "pid"]) {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(line, host.to_str().unwrap(), "host {name}");
    }
    node.finish().await;
}

pub(crate) async fn a_container_joins_the_processes_of_another() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("target")).await;
    let target = node.start(&sandbox, node.shell("main", "exec busybox sleep 4321")).await;
    let mut config = node.shell("debug", "busybox cat /proc/1/cmdline; echo; busybox sleep 4322");
    config.security.namespaces.pid = NamespaceMode::Target;
    config.security.namespaces.target_id = target.clone();
    let debug = node.start(&sandbox, config.clone()).await;
    let output = node.until_output(&debug, "4321").await;
    assert!(output.contains("sleep\u{0}4321"), "process 1 is the target's: {output:?}");
    // Both go on their own: the end of one that only looks is not the end of the other.
    node.service().stop_container(&debug, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(node.status(&target).await.container.state, ContainerState::Running);
    node.service().stop_container(&target, std::time::Duration::ZERO).await.unwrap();
    let late = node.service().create_container(&sandbox, config, PodSandboxConfig::default()).await.unwrap();
    let refused = node.service().start_container(&late).await.unwrap_err().to_string();
    assert!(refused.contains("the target container") && refused.contains("is not running"), "{refused}");
    node.finish().await;
}

pub(crate) async fn nothing_is_left() {
    let node = Node::new().await;
    let pod = node.pod("gone");
    let sandbox = node.sandbox(&pod).await;
    let id = node.start(&sandbox, node.shell("main", "busybox sleep 600 & busybox sleep 600")).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let stats = node.service().list_container_stats().await.unwrap();
    assert_eq!(stats.len(), 1);
    assert!(stats[0].memory_working_set_bytes > 0 && stats[0].cpu_usage_ns > 0, "{stats:?}");
    let cgroups = kybern_linux::cgroup::Cgroups::detect().unwrap();
    let group = format!("{}/{id}", pod.cgroup_parent);
    assert_eq!(cgroups.processes(&group).unwrap().len(), 2, "both sleeps");
    node.service().remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(cgroups.directories(&group).iter().all(|dir| !dir.exists()));
    assert_empty(&node);
    node.finish().await;
}

pub(crate) fn assert_empty(node: &Node) {
    for dir in
        [&node.config.netns_dir, &node.config.state_dir.join("sandboxes"), &node.config.root_dir.join("containers")]
    {
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "{}", dir.display());
    }
}

/// Callers that stop waiting at any moment of a pod's start: what is made is known, and can be removed.
pub(crate) async fn cancelled_at_any_time() {
    let node = Node::new().await;
    for i in 0..40_u64 {
        let pod = node.pod(&format!("cancelled-{i}"));
        let start = async {
            let sandbox = node.sandbox(&pod).await;
            node.start(&sandbox, node.shell("main", "busybox sleep 600")).await
        };
        let _ = tokio::time::timeout(Duration::from_micros(i * i * 100), start).await;
        if i % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(i)).await;
        }
        for sandbox in node.service().list_pod_sandbox().await.unwrap() {
            node.service().remove_pod_sandbox(&sandbox.id).await.unwrap();
        }
        assert!(node.service().list_pod_sandbox().await.unwrap().is_empty());
        assert!(node.service().list_containers().await.unwrap().is_empty());
        assert_empty(&node);
    }
    node.finish().await;
}

/// A removal that comes while the sandbox and its containers are being made waits for them and leaves nothing.
pub(crate) async fn removed_while_it_is_made() {
    let node = Node::new().await;
    let mut events = node.service().container_events();
    for i in 0..10_u64 {
        let pod = node.pod(&format!("overtaken-{i}"));
        let remove = async {
            let made = events.recv().await.unwrap();
            assert_eq!((made.kind, made.container_id.as_str()), (ContainerEventType::Created, ""));
            tokio::time::sleep(Duration::from_millis(i * 4)).await;
            node.service().remove_pod_sandbox(&made.pod_sandbox_id).await.unwrap();
        };
        let make = async {
            let sandbox = node.service().run_pod_sandbox(pod.clone(), "").await.unwrap();
            let config = node.shell("main", "busybox sleep 600");
            if let Ok(id) = node.service().create_container(&sandbox, config, pod.clone()).await {
                let _ = node.service().start_container(&id).await;
            }
        };
        tokio::join!(make, remove);
        while events.try_recv().is_ok() {}
        assert_empty(&node);
        assert!(node.service().list_containers().await.unwrap().is_empty());
    }
    node.finish().await;
}

/// A RuntimeClass may name the usual handler; any other is refused before anything is made.
pub(crate) async fn handlers() {
    let node = Node::new().await;
    let pod = node.pod("handled");
    let offered = node.service().status().await.unwrap().runtime_handlers;
    assert_eq!(offered.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["", "runc"]);
    let error = node.service().run_pod_sandbox(pod.clone(), "gvisor").await.unwrap_err();
    assert_eq!(error.to_string(), "failed to get sandbox runtime: no runtime for \"gvisor\" is configured");
    assert_empty(&node);
    node.service().run_pod_sandbox(pod, "runc").await.unwrap();
    node.finish().await;
}
