//! Pods that come and go faster than they start: of those that are gone nothing stays, of those that stay nothing goes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kybern_cri::RuntimeService;

use crate::fixture::Machine;

/// What a node holds, counted.
async fn held(machine: &Machine) -> BTreeMap<&'static str, usize> {
    let entries = |path: &str| std::fs::read_dir(machine.dir.join(path)).map_or(0, Iterator::count);
    let dir = machine.dir.display().to_string();
    let lines_with = |file: &str, word: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().filter(|line| line.contains(word)).count()
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("{dir}/state"))
    });
    let cgroups = kybern_linux::cgroup::Cgroups::detect().unwrap();
    let groups = cgroups.directories(&format!("{}/kubepods", machine.cgroup()));
    let addresses = std::fs::read_dir(machine.dir.join("cni/networks/cbr0")).into_iter().flatten().flatten();
    let addresses = addresses.filter(|e| e.file_name().to_string_lossy().parse::<std::net::IpAddr>().is_ok());
    BTreeMap::from([
        ("sandboxes", machine.runtime.list_pod_sandbox().await.unwrap().len()),
        ("containers", machine.runtime.list_containers().await.unwrap().len()),
        ("shims", processes.count()),
        ("sandbox directories", entries("state/sandboxes")),
        ("network namespaces", entries("netns")),
        ("links", lines_with("/proc/thread-self/net/dev", "veth")),
        ("addresses", addresses.count()),
        ("attachments", entries("cni/results")),
        ("layers", entries("root/containers")),
        ("control groups", groups.iter().map(|dir| directories_below(dir)).sum()),
        ("mounts", lines_with("/proc/self/mountinfo", &dir)),
        ("pod directories", entries("kubelet/pods")),
        ("log directories", entries("pod-logs")),
        ("log links", entries("container-logs")),
    ])
}

fn directories_below(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| 1 + directories_below(&e.path())).sum()
}

async fn until_as_before(machine: &Machine, before: &BTreeMap<&'static str, usize>) {
    let mut now = BTreeMap::new();
    for _ in 0..600 {
        now = held(machine).await;
        if now == *before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the node holds {now:#?}, not {before:#?}");
}

pub(crate) async fn pods_deleted_while_they_start_leave_nothing() {
    let machine = Arc::new(Machine::with_addresses().await);
    machine.create("keeper", "sleep 600", |_| {});
    machine.until("keeper", |pod| pod["status"]["phase"] == "Running").await;
    let before = held(&machine).await;
    assert_eq!(
        (before["sandboxes"], before["addresses"], before["shims"], before["links"]),
        (1, 1, 1, 1),
        "{before:?}"
    );
    let count = std::env::var("KYBERN_CHURN_PODS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let begun = std::time::Instant::now();
    let at_a_time = Arc::new(tokio::sync::Semaphore::new(40));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..count {
        let turn = at_a_time.clone().acquire_owned().await.unwrap();
        let machine = machine.clone();
        tasks.spawn(async move {
            let (name, key) = (format!("p{i}"), format!("default/p{i}"));
            machine.create(&name, "sleep 600", |pod| {
                let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
                volumes.push(kybern_apimachinery::json!({"name": "e", "emptyDir": {"medium": "Memory"}}));
            });
            tokio::time::sleep(Duration::from_millis(i * 7 % 61)).await;
            match i % 3 {
                0 => drop(machine.api.remove("pods", &key)),
                grace => machine.api.delete_gracefully(&key, grace as i64 - 1),
            }
            machine.api.until("pods", &key, |pod| pod.is_none()).await;
            drop(turn);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let churned = begun.elapsed();
    until_as_before(&machine, &before).await;
    println!("  {count} pods in {churned:.1?}, all gone after {:.1?}", begun.elapsed());
    assert_eq!(machine.pod("keeper")["status"]["phase"], "Running");
    Arc::into_inner(machine).expect("the tasks have ended").clean_up().await;
}
