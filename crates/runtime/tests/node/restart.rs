//! What survives the end of a process.

use std::time::Duration;

use kybern_cri::*;

use crate::fixture::Node;

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

pub(crate) async fn kybern_dies_and_comes_back() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("survivor")).await;
    let running = node
        .start(&sandbox, node.shell("running", "i=0; while :; do echo $i; i=$((i+1)); busybox sleep 0.05; done"))
        .await;
    let brief =
        node.start(&sandbox, node.shell("brief", "while [ ! -e /stop ]; do busybox sleep 0.02; done; exit 5")).await;
    let before = node.status(&running).await;
    node.service().exec_sync(&brief, ["/bin/busybox", "touch", "/stop"].map(str::to_owned).into(), None).await.unwrap();
    node.crash().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.open().await;
    let after = node.status(&running).await;
    assert_eq!(after, before, "the same container, still running");
    assert_eq!(after.container.state, ContainerState::Running);
    assert_eq!(node.ended(&brief).await.exit_code, 5, "what ended meanwhile is known");
    assert_eq!(node.service().list_pod_sandbox().await.unwrap()[0].state, PodSandboxState::Ready);
    let output = node.output(&running).await;
    let numbers: Vec<u32> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 5 && numbers.iter().copied().eq(0..numbers.len() as u32), "no line lost: {output}");
    node.service().stop_container(&running, Duration::ZERO).await.unwrap();
    assert_eq!(node.status(&running).await.exit_code, 137, "events are followed again");
    node.finish().await;
}

pub(crate) async fn a_start_under_way_is_taken_over() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("starting")).await;
    let config = node.shell("main", "busybox sleep 600");
    let id = node.service().create_container(&sandbox, config, PodSandboxConfig::default()).await.unwrap();
    let shim = shim_pid(&node, &sandbox);
    kybern_linux::process::kill(shim, SIGSTOP).unwrap();
    // The shim has been asked and cannot answer when the runtime goes.
    let start = node.service().start_container(&id);
    assert!(tokio::time::timeout(Duration::from_secs(1), start).await.is_err(), "a stopped shim starts nothing");
    node.crash().await;
    let resume = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        kybern_linux::process::kill(shim, SIGCONT).unwrap();
    };
    tokio::join!(node.open(), resume);
    assert_eq!(node.status(&id).await.container.state, ContainerState::Running);
    node.finish().await;
}

pub(crate) async fn a_container_that_was_being_made_is_removed() {
    let mut node = Node::new().await;
    let pod = node.pod("half");
    let sandbox = node.sandbox(&pod).await;
    let whole = node.start(&sandbox, node.shell("whole", "busybox sleep 600")).await;
    let config = node.shell("half", "busybox sleep 600");
    let half = node.service().create_container(&sandbox, config, PodSandboxConfig::default()).await.unwrap();
    node.crash().await;
    // As if the crash had come before the record was written, which is the last step.
    let containers = node.config.state_dir.join("sandboxes").join(&sandbox).join("containers");
    std::fs::remove_file(containers.join(&half).join("container.json")).unwrap();
    node.open().await;
    let known: Vec<String> =
        node.service().list_containers().await.unwrap().into_iter().map(|container| container.id).collect();
    assert_eq!(known, [whole]);
    let cgroups = kybern_linux::cgroup::Cgroups::detect().unwrap();
    let groups = cgroups.directories(&format!("{}/{half}", pod.cgroup_parent));
    let layer = node.config.root_dir.join("containers").join(&half);
    for left in groups.into_iter().chain([containers.join(&half), layer]) {
        assert!(!left.exists(), "{} is left", left.display());
    }
    node.finish().await;
}

fn shim_pid(node: &Node, sandbox: &str) -> i32 {
    let path = node.config.state_dir.join("sandboxes").join(sandbox).join("shim.pid");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

pub(crate) async fn a_shim_dies() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("orphan")).await;
    let id = node.start(&sandbox, node.shell("main", "busybox sleep 600")).await;
    let pid = shim_pid(&node, &sandbox);
    let rss = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = rss.lines().find(|l| l.starts_with("RssAnon")).unwrap();
    println!("  shim: {}", rss.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut events = node.service().container_events();
    kybern_linux::process::kill(pid, 9).unwrap();
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert!(status.message.contains("shim"), "{}", status.message);
    assert_eq!(events.recv().await.unwrap().kind, ContainerEventType::Stopped);
    node.service().remove_pod_sandbox(&sandbox).await.unwrap();
    node.finish().await;
}

pub(crate) async fn purge_removes_everything() {
    let mut node = Node::new().await;
    let pod = node.pod("purged");
    let sandbox = node.sandbox(&pod).await;
    let id = node.start(&sandbox, node.shell("main", "busybox sleep 600")).await;
    let cgroups = kybern_linux::cgroup::Cgroups::detect().unwrap();
    let group = format!("{}/{id}", pod.cgroup_parent);
    assert_eq!(cgroups.processes(&group).unwrap().len(), 1);
    node.crash().await;
    kybern_runtime::purge(&node.config).unwrap();
    kybern_runtime::purge(&node.config).unwrap();
    assert!(cgroups.processes(&group).unwrap().is_empty());
    node.open().await;
    assert!(node.service().list_pod_sandbox().await.unwrap().is_empty());
    node.finish().await;
}
