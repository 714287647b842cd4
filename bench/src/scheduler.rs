//! 6,000 pods on 1,000 fake nodes, through a real API server: from the first create to the last binding.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use kybern_apimachinery::{Gvr, Value, json, object};
use kybern_client::{Client, Informer, ListOptions, PartialMetadata, Store};

use crate::Site;
use crate::report::{Budget, Report, percentile};
use crate::server::Server;

const NODES: u32 = 1_000;
const PODS: u32 = 6_000;

/// Each run has a store of its own.
const RUNS: u32 = 3;

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut rates = Vec::new();
    for run in 0..RUNS {
        let elapsed = measure_once(site, &format!("scheduler-{run}")).await?;
        rates.push(f64::from(PODS) / elapsed.as_secs_f64());
    }
    let mut report = Report::default();
    let rate = percentile(&mut rates, 50.0);
    report.add("6,000 pods created and bound on 1,000 nodes", rate, "/s", Budget::AtLeast(3_000.0));
    Ok(report)
}

async fn measure_once(site: &Site, name: &str) -> Result<Duration> {
    let (server, _) = Server::start(site, name).await?;
    let client = server.client()?;
    let mut scheduler = Command::new(&site.kybern)
        .args(["kube-scheduler", "--leader-elect=false", "--kubeconfig"])
        .arg(server.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(site.folder.join(format!("{name}-kube-scheduler.log")))?)
        .spawn()
        .context("cannot start kube-scheduler")?;
    let outcome = bind_all(&client).await;
    let _ = scheduler.kill();
    let _ = scheduler.wait();
    outcome
}

async fn bind_all(client: &Client) -> Result<Duration> {
    // As the service account controller would.
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}});
    create(client, &Gvr::new("", "v1", "serviceaccounts"), account).await?;
    let nodes = Gvr::new("", "v1", "nodes");
    stream::iter(0..NODES).map(|n| add_node(client, &nodes, n)).buffer_unordered(32).try_collect::<Vec<()>>().await?;
    let resource = Gvr::new("", "v1", "pods");
    // Read no further than their names: what is measured is the cluster.
    let pods: Store<PartialMetadata> =
        Informer::of(client.clone(), &resource, ListOptions::fields("spec.nodeName!=")).spawn();
    pods.synced().await;
    // The scheduler learns the nodes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    stream::iter(0..PODS)
        .map(|n| create(client, &resource, pod(n)))
        .buffer_unordered(64)
        .try_collect::<Vec<()>>()
        .await?;
    let all = pods.wait_until(|store| store.len() >= PODS as usize);
    if tokio::time::timeout(Duration::from_secs(120), all).await.is_err() {
        bail!("only {} of {PODS} pods are bound after 120 s", pods.len());
    }
    Ok(start.elapsed())
}

async fn add_node(client: &Client, nodes: &Gvr, number: u32) -> Result<()> {
    let capacity = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    let status = json!({
        "capacity": capacity, "allocatable": capacity,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Fake", "message": "fake",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    let name = format!("node-{number}");
    let labels = json!({"kubernetes.io/hostname": name});
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status});
    create(client, nodes, node).await?;
    // As the node controller would, once the node is Ready.
    let patch = kybern_client::Patch::Merge(json!({"spec": {"taints": null}}));
    client.raw(nodes).patch("", &name, &patch, None).await?;
    Ok(())
}

fn pod(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "default", "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "c", "image": "pause", "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}],
            "automountServiceAccountToken": false},
    })
}

async fn create(client: &Client, resource: &Gvr, object: Value) -> Result<()> {
    client.raw(resource).create_briefly(object::namespace(&object), object.to_string()).await?;
    Ok(())
}
