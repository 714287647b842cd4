//! Waiting for a usable cluster: the node Ready, cluster DNS available and answering.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kybern_api::apps::v1::Deployment;
use kybern_api::core::v1::{Node, Pod};
use kybern_client::{Client, Informer, ListOptions, Store};

use crate::testapp;

/// The slowest machine that is worth waiting for.
const LIMIT: Duration = Duration::from_secs(180);

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
pub(crate) async fn deployment_available(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let options = ListOptions::fields(format!("metadata.name={name}"));
    let deployments: Store<Deployment> = Informer::new(client.clone(), options).in_namespace(namespace).spawn();
    let available = deployments.wait_until(|store| {
        store.get_in(namespace, name).is_some_and(|deployment| {
            let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            let status = deployment.status.as_ref();
            let observed = status.and_then(|s| s.observed_generation) >= deployment.metadata.generation;
            observed && status.and_then(|s| s.available_replicas).unwrap_or(0) >= wanted
        })
    });
    if tokio::time::timeout(LIMIT, available).await.is_err() {
        bail!(
            "deployment {namespace}/{name} is not available after {} s: {}",
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
        format!("{} is {phase} {waiting}", pod.metadata.name.as_deref().unwrap_or(""))
    };
    if pods.is_empty() { "it has no pods".to_owned() } else { pods.iter().map(state).collect::<Vec<_>>().join("; ") }
}

/// Resolves a name at the cluster's DNS server, as pods do. Repeats while kube-proxy still writes its rules.
pub(crate) async fn resolve(dns_ip: IpAddr, name: &str) -> Result<IpAddr> {
    let server = SocketAddr::new(dns_ip, 53);
    let mut last = anyhow::anyhow!("not asked yet");
    for _ in 0..100 {
        match testapp::lookup_address(server, name).await {
            Ok(Some(address)) => return Ok(address),
            Ok(None) => last = anyhow::anyhow!("{name} has no address"),
            Err(error) => last = error,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(last).with_context(|| format!("cluster DNS at {server} does not resolve {name}"))
}
