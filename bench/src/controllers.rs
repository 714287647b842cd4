//! API server, controllers and scheduler as three processes, at the size of a large cluster: 10,000 replicas, a node that is
//! lost with all its pods, a namespace full of objects, and what 150,000 pods on 5,000 nodes cost in memory.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use kybern_api::core::v1::Node;
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, DeleteOptions, Informer, ListOptions, PartialMetadata, Patch, Store};

use crate::memory::{processor_seconds, resident};
use crate::report::{Budget, Report};
use crate::server::Server;
use crate::{Site, large};

const REPLICAS: usize = 10_000;
const NODES: u32 = 5_000;
const PODS: u32 = 150_000;
const AT_ONCE: usize = 64;
const CLIENTS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(180);
/// How long an idle control plane is looked at.
const IDLE: Duration = Duration::from_secs(60);
/// On which all pods run first.
const LOST: &str = "lost";

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    let (server, _) = Server::start(site, "controllers").await?;
    // Nobody sends heartbeats for these nodes.
    let manager = component(site, &server, "kube-controller-manager", &["--node-monitor-grace-period=24h"])?;
    let scheduler = component(site, &server, "kube-scheduler", &[])?;
    let parts = [("server", server.pid()), ("controllers", manager.0.id()), ("scheduler", scheduler.0.id())];
    let clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect::<Result<_>>()?;
    let client = &clients[0];
    add_node(client, LOST, "11k").await?;
    let waited = Instant::now();
    while client.raw(&core("serviceaccounts")).get("default", "default").await.is_err() {
        if waited.elapsed() > PATIENCE {
            bail!("no default service account after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let bound = watch(client, "spec.nodeName!=").await;
    let begun = Instant::now();
    client.raw(&Gvr::new("apps", "v1", "deployments")).create(&deployment()).await?;
    reaches(&bound, "bound", |count| count >= REPLICAS).await?;
    let took = begun.elapsed().as_secs_f64();
    report.add("a Deployment of 10,000 replicas: create to all bound", took, "s", Budget::AtMost(5.0));
    drop(bound);

    for some in (0..NODES).collect::<Vec<_>>().chunks(AT_ONCE) {
        let added = some.iter().map(|number| async move { add_node(client, &format!("node-{number}"), "110").await });
        futures_util::future::try_join_all(added).await?;
    }
    ready(client).await?;
    let elsewhere = watch(client, &format!("spec.nodeName!=,spec.nodeName!={LOST}")).await;
    let begun = Instant::now();
    let taint = json!({"spec": {"taints": [{"key": "bench", "effect": "NoExecute"}]}});
    client.raw(&core("nodes")).patch("", LOST, &Patch::Merge(taint), None).await?;
    reaches(&elsewhere, "replaced", |count| count >= REPLICAS).await?;
    let took = begun.elapsed().as_secs_f64();
    report.add("10,000 pods of an evicted node: all replaced and bound", took, "s", Budget::AtMost(10.0));
    drop(elsewhere);

    report.add("a namespace of 10,000 objects: delete to gone", namespace(&clients).await?, "s", Budget::AtMost(5.0));

    // With those that the Deployment has, and those of the lost node, which nobody ends.
    let more = PODS - 2 * REPLICAS as u32;
    let all = stream::iter(0..more).map(|number| {
        let client = &clients[number as usize % CLIENTS];
        async move { client.raw(&core("pods")).create(&large::pod(number)).await.map(drop) }
    });
    all.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.context("cannot create a pod")?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut total = 0.0;
    for (name, pid) in parts {
        let held = resident(pid) / 1024.0;
        total += held;
        report.add(format!("… of which the {name}"), held, "GiB", Budget::None);
    }
    let limit = 2.5e9 / f64::from(1 << 30);
    report.add("150,000 pods and 5,000 nodes: memory of all three", total, "GiB", Budget::AtMost(limit));
    let before: f64 = parts.iter().map(|(_, pid)| processor_seconds(*pid)).sum();
    tokio::time::sleep(IDLE).await;
    let used = parts.iter().map(|(_, pid)| processor_seconds(*pid)).sum::<f64>() - before;
    report.add("… idle: processor time of one core", used / IDLE.as_secs_f64() * 100.0, "%", Budget::AtMost(2.0));
    Ok(report)
}

/// Ends when it is dropped.
struct Component(Child);

impl Drop for Component {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn component(site: &Site, server: &Server, name: &str, arguments: &[&str]) -> Result<Component> {
    let started = Command::new(&site.kybern)
        .args([name, "--leader-elect=false", "--kubeconfig"])
        .arg(server.kubeconfig())
        // So that whoever holds the bench's token can take profiles.
        .arg(format!("--authentication-kubeconfig={}", server.kubeconfig().display()))
        .arg(format!("--authorization-kubeconfig={}", server.kubeconfig().display()))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(site.folder.join(format!("{name}.log")))?)
        .spawn();
    Ok(Component(started.with_context(|| format!("cannot start {name}"))?))
}

fn core(resource: &str) -> Gvr {
    Gvr::new("", "v1", resource)
}

async fn watch(client: &Client, fields: &str) -> Store<PartialMetadata> {
    let pods = Informer::metadata(client.clone(), &core("pods"), ListOptions::fields(fields)).spawn();
    pods.synced().await;
    pods
}

async fn reaches(
    pods: &Store<PartialMetadata>,
    what: &str,
    enough: impl Fn(usize) -> bool + Send + Sync,
) -> Result<()> {
    if tokio::time::timeout(PATIENCE, pods.wait_until(|store| enough(store.len()))).await.is_err() {
        bail!("only {} pods are {what} after {} s", pods.len(), PATIENCE.as_secs());
    }
    Ok(())
}

async fn add_node(client: &Client, name: &str, pods: &str) -> Result<()> {
    let capacity = json!({"cpu": "32k", "memory": "64Ti", "pods": pods});
    let labels = json!({"kubernetes.io/hostname": name});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {"capacity": capacity, "allocatable": capacity, "conditions": [{
            "type": "Ready", "status": "True", "reason": "Fake", "message": "fake",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    client.raw(&core("nodes")).create(&node).await?;
    Ok(())
}

/// Waits until the controllers have taken from the nodes what keeps pods off new ones.
async fn ready(client: &Client) -> Result<()> {
    let nodes = Informer::<Node>::new(client.clone(), ListOptions::default()).spawn();
    let is_open = |node: &Node| node.spec.as_ref().is_none_or(|spec| spec.taints.iter().flatten().next().is_none());
    let begun = Instant::now();
    while nodes.len() <= NODES as usize || !nodes.list().iter().all(|node| is_open(node)) {
        if begun.elapsed() > PATIENCE {
            bail!("some nodes still have taints after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many", "namespace": "default"},
        "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "many"}}, "template": {
            "metadata": {"labels": {"app": "many"}},
            "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "pause",
                "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]}}}})
}

/// Seconds from the namespace's deletion until it is gone.
async fn namespace(clients: &[Client]) -> Result<f64> {
    let client = &clients[0];
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "full"}});
    client.raw(&core("namespaces")).create(&made).await?;
    let one = |number: usize| async move {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
            "metadata": {"name": format!("map-{number}"), "namespace": "full"}});
        clients[number % CLIENTS].raw(&core("configmaps")).create(&map).await.map(drop)
    };
    stream::iter(0..REPLICAS).map(one).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let there: Store<PartialMetadata> =
        Informer::metadata(client.clone(), &core("namespaces"), ListOptions::fields("metadata.name=full")).spawn();
    there.synced().await;
    let begun = Instant::now();
    client.raw(&core("namespaces")).delete("", "full", &DeleteOptions::default()).await?;
    if tokio::time::timeout(PATIENCE, there.wait_until(|store| store.is_empty())).await.is_err() {
        bail!("the namespace is still there after {} s", PATIENCE.as_secs());
    }
    Ok(begun.elapsed().as_secs_f64())
}
