//! A whole one-node cluster: start, idle memory and processor time, a pod's life, a rolling update.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kybern_api::apps::v1::Deployment;
use kybern_api::core::v1::Pod;
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, DeleteOptions, Informer, ListOptions, Patch, Store};

use crate::Site;
use crate::memory;
use crate::report::{Budget, Report, percentile};

/// In memory, as `/run` is on most machines, though not on all.
const RUN_DIR: &str = "/dev/shm/kybern-bench";
const STARTS: u32 = 5;
const PODS: u32 = 100;
const BURST: u32 = 20;
/// How often the burst and the rolling update are repeated; their medians are shown.
const REPEATS: u32 = 5;
const IDLE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    let outcome = measure_running(site, &mut report).await;
    kybern(site, "down")?;
    outcome?;
    Ok(report)
}

async fn measure_running(site: &Site, report: &mut Report) -> Result<()> {
    let size = std::fs::metadata(&site.kybern)?.len() as f64 / 1e6;
    report.add("the program's size", size, "MB", Budget::None);
    let mut fresh = Vec::new();
    for run in 1..=STARTS {
        let start = Instant::now();
        kybern(site, "up")?;
        fresh.push(start.elapsed().as_secs_f64());
        if run < STARTS {
            kybern(site, "down")?;
        }
    }
    report.add("up: nothing to node Ready and DNS answering", percentile(&mut fresh, 50.0), "s", Budget::AtMost(2.0));
    idle(site, report).await?;
    let client = Client::from_kubeconfig(&site.folder.join("data/admin.kubeconfig"))?;
    one_at_a_time(&client, report).await?;
    burst(&client, report).await?;
    rolling_update(&client, report).await
}

fn kybern(site: &Site, command: &str) -> Result<()> {
    let mut kybern = Command::new(&site.kybern);
    let below = |name: &str| site.folder.join(name).display().to_string();
    kybern.arg(command).arg(format!("--data-dir={}", below("data"))).arg(format!("--run-dir={RUN_DIR}"));
    kybern.arg(format!("--cni-conf-dir={}", below("cni"))).arg(format!("--pod-logs-dir={}", below("log/pods")));
    kybern.arg("--cgroup-root=/kybern-bench");
    let output = kybern.output().with_context(|| format!("cannot start kybern {command}"))?;
    if !output.status.success() {
        bail!("kybern {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

async fn idle(site: &Site, report: &mut Report) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let processes = memory::cluster_processes(&site.folder);
    let processor = || processes.iter().copied().map(memory::processor_seconds).sum::<f64>();
    let before = processor();
    tokio::time::sleep(IDLE).await;
    let percent = (processor() - before) / IDLE.as_secs_f64() * 100.0;
    if memory::cluster_processes(&site.folder) != processes {
        bail!("the cluster was not idle: its processes have changed");
    }
    report.add("idle: processor time of one core, over 60 s", percent, "%", Budget::AtMost(0.5));
    let resident: f64 = processes.iter().copied().map(memory::resident).sum();
    let proportional: f64 = processes.iter().copied().map(memory::proportional).sum();
    let what = format!("idle: resident memory, sum of {} processes (RSS)", processes.len());
    report.add(what, resident, "MiB", Budget::AtMost(120.0));
    report.add("idle: the same with shared pages counted once (PSS)", proportional, "MiB", Budget::None);
    Ok(())
}

async fn one_at_a_time(client: &Client, report: &mut Report) -> Result<()> {
    let resource = Gvr::new("", "v1", "pods");
    let pods: Store<Pod> = Informer::new(client.clone(), ListOptions::default()).in_namespace("default").spawn();
    pods.synced().await;
    let (mut started, mut deleted) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let name = format!("one-{number}");
        let start = Instant::now();
        client.raw(&resource).create(&pod(&name)).await?;
        within(&format!("{name} Running"), pods.wait_until(|store| is_running(store, &name))).await?;
        started.push(start.elapsed().as_secs_f64() * 1000.0);
        let start = Instant::now();
        client.raw(&resource).delete("default", &name, &DeleteOptions::default()).await?;
        within(&format!("{name} gone"), pods.wait_until(|store| store.get_in("default", &name).is_none())).await?;
        deleted.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    report.add("pod create → Running, p50 of 100", percentile(&mut started, 50.0), "ms", Budget::AtMost(150.0));
    report.add("pod create → Running, p99 of 100", percentile(&mut started, 99.0), "ms", Budget::AtMost(500.0));
    report.add("pod delete → gone, p50 of 100", percentile(&mut deleted, 50.0), "ms", Budget::None);
    report.add("pod delete → gone, p99 of 100", percentile(&mut deleted, 99.0), "ms", Budget::None);
    Ok(())
}

async fn burst(client: &Client, report: &mut Report) -> Result<()> {
    let resource = Gvr::new("", "v1", "pods");
    let pods: Store<Pod> =
        Informer::new(client.clone(), ListOptions::labels("app=bench")).in_namespace("default").spawn();
    pods.synced().await;
    let all = |store: &Store<Pod>| (0..BURST).all(|number| is_running(store, &format!("burst-{number}")));
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let start = Instant::now();
        for number in 0..BURST {
            client.raw(&resource).create(&pod(&format!("burst-{number}"))).await?;
        }
        within("20 pods Running", pods.wait_until(all)).await?;
        times.push(start.elapsed().as_secs_f64());
        for number in 0..BURST {
            client.raw(&resource).delete("default", &format!("burst-{number}"), &DeleteOptions::default()).await?;
        }
        within("20 pods gone", pods.wait_until(Store::is_empty)).await?;
    }
    report.add("20 pods at once, create → all Running", percentile(&mut times, 50.0), "s", Budget::AtMost(1.0));
    Ok(())
}

async fn rolling_update(client: &Client, report: &mut Report) -> Result<()> {
    let deployments = Gvr::new("apps", "v1", "deployments");
    let template = json!({
        "metadata": {"labels": {"app": "rolling"}},
        "spec": pod("x")["spec"].clone(),
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "rolling", "namespace": "default"},
        "spec": {"replicas": 10, "selector": {"matchLabels": {"app": "rolling"}}, "template": template},
    });
    let store: Store<Deployment> =
        Informer::new(client.clone(), ListOptions::default()).in_namespace("default").spawn();
    store.synced().await;
    client.raw(&deployments).create(&deployment).await?;
    within("10 replicas", store.wait_until(|s| is_rolled_out(s, 1))).await?;
    let mut times = Vec::new();
    for run in 1..=REPEATS {
        let change = json!({"spec": {"template": {"metadata": {"annotations": {"run": run.to_string()}}}}});
        let start = Instant::now();
        client.raw(&deployments).patch("default", "rolling", &Patch::Merge(change), None).await?;
        within("the rolling update", store.wait_until(|s| is_rolled_out(s, 1 + i64::from(run)))).await?;
        times.push(start.elapsed().as_secs_f64());
    }
    report.add("rolling update of 10 replicas", percentile(&mut times, 50.0), "s", Budget::None);
    Ok(())
}

async fn within(what: &str, work: impl Future<Output = ()>) -> Result<()> {
    tokio::time::timeout(LIMIT, work).await.with_context(|| format!("{what}: not within {} s", LIMIT.as_secs()))
}

fn is_running(store: &Store<Pod>, name: &str) -> bool {
    let phase = store.get_in("default", name).and_then(|pod| pod.status.as_ref()?.phase.clone());
    phase.as_deref() == Some("Running")
}

fn is_rolled_out(store: &Store<Deployment>, generation: i64) -> bool {
    let Some(deployment) = store.get_in("default", "rolling") else { return false };
    let Some(status) = &deployment.status else { return false };
    let all = |count: Option<i32>| count == Some(10);
    status.observed_generation >= Some(generation)
        && all(status.replicas)
        && all(status.updated_replicas)
        && all(status.available_replicas)
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "bench"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": format!("kybern.local/kybern:{}", env!("CARGO_PKG_VERSION")),
                "command": ["/kybern", "testapp", "signals"]}],
        },
    })
}
