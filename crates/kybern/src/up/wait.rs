//! Waiting for a usable cluster: the node Ready, cluster DNS available and answering. Each wait ends with what it waits for,
//! not at the next look.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kybern_api::apps::v1::Deployment;
use kybern_api::core::v1::{Node, Pod};
use kybern_client::{Client, Informer, ListOptions, Store};
use kybern_linux::inotify::DirectoryWatch;
use kybern_linux::nft::Monitor;
use tokio::io::unix::AsyncFd;

use super::progress::Progress;
use crate::paths::Paths;
use crate::testapp;

/// The slowest machine that is worth waiting for.
const LIMIT: Duration = Duration::from_secs(180);
/// What goes through a Service is tried again after this even where no rule has changed: a pod may have.
const RETRY: Duration = Duration::from_secs(1);

/// Waits until a server that is on its way up has written the kubeconfig.
pub(crate) async fn kubeconfig(paths: &Paths) -> Result<()> {
    let path = paths.admin_kubeconfig();
    let watch = async_fd(DirectoryWatch::new(&paths.data)?)?;
    let written = async {
        while !path.exists() {
            let mut ready = watch.readable().await?;
            ready.get_inner().drain()?;
            ready.clear_ready();
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(LIMIT, written).await {
        Ok(done) => done,
        Err(_) => bail!("the server has not written {} within {} s", path.display(), LIMIT.as_secs()),
    }
}

// The replacement of `AsyncFd::new` is unsafe because a descriptor might be closed early; what is watched here owns its own.
#[allow(deprecated)]
fn async_fd<T: std::os::fd::AsRawFd>(inner: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::new(inner)
}

/// Waits until the node with this name is Ready.
pub(crate) async fn node_ready(client: &Client, name: &str) -> Result<()> {
    let nodes: Store<Node> =
        Informer::new(client.clone(), ListOptions::fields(format!("metadata.name={name}"))).spawn();
    let ready = nodes.wait_until(|nodes| nodes.get(name).is_some_and(|node| is_ready(&node)));
    if tokio::time::timeout(LIMIT, ready).await.is_err() {
        let seen = nodes.get(name).map_or_else(|| "it has not registered".to_owned(), |node| conditions(&node));
        bail!("node {name} is not Ready after {} s: {seen}", LIMIT.as_secs());
    }
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn conditions(node: &Node) -> String {
    let all = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let texts: Vec<String> =
        all.map(|c| format!("{}={} {}", c.type_, c.status, c.message.as_deref().unwrap_or(""))).collect();
    texts.join("; ")
}

/// Waits until a Deployment has all its replicas available.
pub(crate) async fn deployment_available(
    client: &Client,
    namespace: &str,
    name: &str,
    progress: &Progress,
) -> Result<()> {
    let options = ListOptions::fields(format!("metadata.name={name}"));
    let deployments: Store<Deployment> = Informer::new(client.clone(), options).in_namespace(namespace).spawn();
    let available = deployments.wait_until(|store| {
        store.get_in(namespace, name).is_some_and(|deployment| {
            let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            let status = deployment.status.as_ref();
            let observed = status.and_then(|s| s.observed_generation) >= deployment.metadata.generation;
            let available = status.and_then(|s| s.available_replicas).unwrap_or(0);
            progress.pods(available, wanted);
            observed && available >= wanted
        })
    });
    if tokio::time::timeout(LIMIT, available).await.is_err() {
        bail!(
            "deployment {namespace}/{name} is not available after {} s (`kubectl get events -n {namespace}` tells more): {}",
            LIMIT.as_secs(),
            pod_states(client, namespace).await
        );
    }
    Ok(())
}

/// What the pods of a namespace wait for, for an error message.
async fn pod_states(client: &Client, namespace: &str) -> String {
    let Ok(pods) = client.list::<Pod>(namespace, &ListOptions::default()).await else {
        return "its pods cannot be listed".to_owned();
    };
    let state = |pod: &Pod| {
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or("Unknown");
        let waiting = status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .filter_map(|c| c.state.as_ref()?.waiting.as_ref())
            .map(|w| format!("{} {}", w.reason.as_deref().unwrap_or(""), w.message.as_deref().unwrap_or("")))
            .collect::<Vec<_>>()
            .join(", ");
        let ready = status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
        let why = ready.and_then(|c| c.message.as_deref()).unwrap_or("");
        format!("{} is {phase}: {waiting} {why}", pod.metadata.name.as_deref().unwrap_or(""))
    };
    if pods.is_empty() { "it has no pods".to_owned() } else { pods.iter().map(state).collect::<Vec<_>>().join("; ") }
}

/// Resolves a name at the cluster's DNS server, as pods do.
pub(crate) async fn resolve(dns_ip: IpAddr, name: &str) -> Result<IpAddr> {
    let server = SocketAddr::new(dns_ip, 53);
    let lookup =
        async || testapp::lookup_address(server, name).await?.with_context(|| format!("{name} has no address"));
    through_services(lookup).await.with_context(|| format!("cluster DNS at {server} does not resolve {name}"))
}

/// Tries something that goes through a Service, again whenever kube-proxy has changed its rules: an attempt that began
/// before them would only wait for its own timeout.
pub(crate) async fn through_services<T>(attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    let mut rules = async_fd(Monitor::open()?)?;
    let mut last = anyhow::anyhow!("the rules of Services keep changing");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while tokio::time::Instant::now() < deadline {
        tokio::select! {
            outcome = attempt() => match outcome {
                Ok(value) => return Ok(value),
                Err(error) => last = error,
            },
            changed = rules_changed(&mut rules) => {
                changed?;
                continue;
            }
        }
        // A failure waits for the next change, or for a pod that the rules lead to.
        if let Ok(changed) = tokio::time::timeout(RETRY, rules_changed(&mut rules)).await {
            changed?;
        }
    }
    Err(last).with_context(|| format!("gave up after {} s", LIMIT.as_secs()))
}

async fn rules_changed(rules: &mut AsyncFd<Monitor>) -> Result<()> {
    /// Every change is another's.
    const NO_PORT: u32 = 0;
    loop {
        let mut ready = rules.readable_mut().await?;
        if ready.get_inner_mut().changed_by_others(kybern_proxy::plan::TABLE, NO_PORT)? {
            return Ok(());
        }
        ready.clear_ready();
    }
}
