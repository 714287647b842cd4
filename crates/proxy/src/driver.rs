//! Watches Services, EndpointSlices and this Node; plans; applies. The first change after a quiet time goes through at once,
//! further ones are gathered for the minimum period.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use kybern_api::core::v1::{Node, Service};
use kybern_api::discovery::v1::EndpointSlice;
use kybern_apimachinery::time::{Clock, SystemClock, to_rfc3339};
use kybern_client::{Changes, Client, Informer, ListOptions, Store};
use kybern_component_base::{Reply, Server, metrics as encode_metrics};
use kybern_linux::netlink::NetlinkError;
use kybern_linux::nft::{Family, Monitor, Nftables, Table, diff};
use tokio::io::unix::AsyncFd;

use crate::config::{Config, LocalTraffic, NodePorts};
use crate::conntrack::{UdpServices, forget_stale};
use crate::health::{Health, ServiceHealthServers, wanted};
use crate::metrics::Metrics;
use crate::plan::{NodePortAddresses, Settings, TABLE, plan};
use crate::service::{Endpoints, Place, ServicePort, add_slice, service_ports};

/// After a failure the rules are tried again this much later, doubling up to the maximum.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How often a port in use is asked for.
const BIND_RETRY: Duration = Duration::from_secs(5);

/// The families that this kernel has.
fn families() -> impl Iterator<Item = (usize, Family)> {
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    [Family::Ip, Family::Ip6].into_iter().enumerate().filter(move |(_, family)| has_ipv6 || *family == Family::Ip)
}

/// Why kube-proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("failed to start {what} on {address}: {cause}")]
    Bind { what: &'static str, address: SocketAddr, cause: std::io::Error },
}

/// Everything that a plan is made from.
struct Snapshot {
    services: Vec<ServicePort>,
    endpoints: Endpoints,
    settings: Settings,
}

/// Runs kube-proxy until `shutdown`. The rules stay, so that traffic flows on over a restart.
pub async fn run(config: Config, client: Client, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    tracing::info!("Using nftables Proxier");
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::new());
    let servers = serve(&config, &health, &metrics).await?;
    tokio::select! {
        never = proxy(config, client, health, metrics) => match never {},
        () = shutdown => {}
    }
    drop(servers);
    Ok(())
}

/// Removes what kube-proxy put into the kernel of this network namespace.
pub fn cleanup() -> Result<(), NetlinkError> {
    let mut nft = Nftables::open()?;
    families().try_for_each(|(_, family)| nft.delete_table(family, TABLE))
}

/// Aborts its tasks when dropped.
struct Servers(Vec<tokio::task::AbortHandle>);

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

async fn serve(config: &Config, health: &Arc<Health>, metrics: &Arc<Metrics>) -> Result<Servers, RunError> {
    let mut servers = Servers(Vec::new());
    let hard_fail = config.bind_address_hard_fail;
    if let Some(address) = config.healthz_bind_address {
        let health = health.clone();
        let answer = move |path: &str| health.answer(path, &to_rfc3339(SystemClock.now()));
        servers.0.push(keep_serving("healthz server", address, hard_fail, answer).await?);
    }
    if let Some(address) = config.metrics_bind_address {
        let (health, metrics) = (health.clone(), metrics.clone());
        let answer = move |path: &str| match path {
            "/metrics" => encode_metrics(&metrics.registry),
            "/proxyMode" => Reply::text(StatusCode::OK, "nftables"),
            "/healthz" if health.is_live() => Reply::text(StatusCode::OK, "ok"),
            "/healthz" => Reply::text(StatusCode::SERVICE_UNAVAILABLE, "the rules are not in place\n"),
            _ => Reply::not_found(),
        };
        servers.0.push(keep_serving("metrics server", address, hard_fail, answer).await?);
    }
    Ok(servers)
}

/// Serves in a task of its own. Services matter more than these servers: with their port in use kube-proxy goes on, and asks
/// for the port again, unless `hard_fail`.
async fn keep_serving(
    what: &'static str,
    address: SocketAddr,
    hard_fail: bool,
    answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
) -> Result<tokio::task::AbortHandle, RunError> {
    let first = match Server::bind(address).await {
        Err(cause) if hard_fail => return Err(RunError::Bind { what, address, cause }),
        bound => bound,
    };
    let serving = async move {
        let mut bound = first;
        loop {
            match bound {
                Ok(server) => match server.run(answer).await {},
                Err(cause) => {
                    let wait = BIND_RETRY.as_secs();
                    tracing::error!("failed to start {what} on {address}: {cause}; trying again in {wait} s");
                }
            }
            tokio::time::sleep(BIND_RETRY).await;
            bound = Server::bind(address).await;
        }
    };
    Ok(tokio::spawn(serving).abort_handle())
}

/// Seconds since the epoch.
fn now_seconds() -> f64 {
    SystemClock.now().as_second() as f64
}

async fn proxy(config: Config, client: Client, health: Arc<Health>, metrics: Arc<Metrics>) -> Infallible {
    // Headless services and those of another proxy are not even sent to us.
    let services: Store<Service> =
        Informer::new(client.clone(), ListOptions::labels("!service.kubernetes.io/service-proxy-name")).spawn();
    let slices: Store<EndpointSlice> = Informer::new(
        client.clone(),
        ListOptions::labels("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"),
    )
    .spawn();
    let nodes: Store<Node> =
        Informer::new(client, ListOptions::fields(format!("metadata.name={}", config.node_name))).spawn();
    let (mut service_changes, mut slice_changes, mut node_changes) =
        (services.subscribe(), slices.subscribe(), nodes.subscribe());
    services.synced().await;
    slices.synced().await;
    nodes.synced().await;

    let mut ports = ServiceHealthServers::new(health.clone());
    let mut kernel = Kernel::default();
    let mut monitor = monitor();
    let mut retry = RETRY_MIN;
    loop {
        let node = nodes.get(&config.node_name);
        health.set_node_deleting(node.as_ref().is_some_and(|node| node.metadata.deletion_timestamp.is_some()));
        let snapshot = Arc::new(snapshot(&config, &services, &slices, node.as_deref()));
        let started = Instant::now();
        let synced = kernel.sync(snapshot.clone()).await;
        let ok = match &synced {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, retry_in = ?retry, "nftables sync failed");
                false
            }
        };
        health.set_programmed(ok);
        metrics.synced(ok, started.elapsed(), now_seconds());
        ports.reconcile(wanted(&snapshot.services, &snapshot.endpoints)).await;
        drop(snapshot);

        tokio::time::sleep(config.min_sync_period).await;
        let wait = async {
            tokio::select! {
                changes = service_changes.changed() => (count(&changes), 0),
                changes = slice_changes.changed() => (0, count(&changes)),
                _ = node_changes.changed() => (0, 0),
                () = changed_by_others(monitor.as_mut(), kernel.port) => {
                    tracing::warn!("another program has changed the table kube-proxy: it is put right");
                    kernel.forget();
                    (0, 0)
                }
            }
        };
        if ok {
            retry = RETRY_MIN;
            let (services, slices) = wait.await;
            metrics.queued(services, slices, now_seconds());
        } else {
            // Either a change or the time makes the next attempt.
            let _ = tokio::time::timeout(retry, wait).await;
            retry = (retry * 2).min(RETRY_MAX);
        }
    }
}

/// Without it all works but the repair of what others break.
// Its replacement is unsafe because a descriptor might be closed early; a `Monitor` owns its own.
#[allow(deprecated)]
fn monitor() -> Option<AsyncFd<Monitor>> {
    let monitor = Monitor::open().map_err(std::io::Error::other).and_then(AsyncFd::new);
    monitor.inspect_err(|error| tracing::warn!(%error, "cannot watch nftables")).ok()
}

/// Resolves when another program has changed kube-proxy's tables.
async fn changed_by_others(monitor: Option<&mut AsyncFd<Monitor>>, own_port: u32) {
    let Some(monitor) = monitor else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = monitor.readable_mut().await else { return std::future::pending().await };
        match ready.get_inner_mut().changed_by_others(TABLE, own_port) {
            Ok(true) => return,
            Ok(false) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!(%error, "cannot watch nftables any longer");
                return std::future::pending().await;
            }
        }
    }
}

fn count<K>(changes: &Changes<K>) -> usize {
    match changes {
        Changes::Batch(batch) => batch.len(),
        Changes::Resync => 1,
    }
}

fn snapshot(
    config: &Config,
    services: &Store<Service>,
    slices: &Store<EndpointSlice>,
    node: Option<&Node>,
) -> Snapshot {
    let services = services.list().iter().flat_map(|service| service_ports(service)).collect();
    let mut endpoints = Endpoints::new();
    let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone"));
    let place = Place { node: &config.node_name, zone: zone.map_or("", String::as_str) };
    for slice in slices.list() {
        add_slice(&mut endpoints, &slice, place);
    }
    Snapshot { services, endpoints, settings: settings(config, node) }
}

/// What the configuration and the Node say together.
fn settings(config: &Config, node: Option<&Node>) -> Settings {
    let addresses = node.and_then(|node| node.status.as_ref()?.addresses.as_ref());
    let node_ips: Vec<IpAddr> = addresses
        .into_iter()
        .flatten()
        .filter(|a| a.type_ != "Hostname")
        .filter_map(|a| a.address.parse().ok())
        .collect();
    let node_port_addresses = match &config.node_ports {
        NodePorts::Primary => NodePortAddresses::Only(node_ips),
        NodePorts::Networks(nets) if nets.iter().any(|net| net.prefix_len() == 0) => NodePortAddresses::All,
        NodePorts::Networks(nets) => NodePortAddresses::Only(
            local_addresses()
                .into_iter()
                .chain(node_ips)
                .filter(|ip| nets.iter().any(|net| net.contains(ip)))
                .collect(),
        ),
    };
    let cluster_cidrs = match &config.local_traffic {
        LocalTraffic::ClusterCidrs(nets) => nets.clone(),
        LocalTraffic::NodeCidrs => {
            let cidrs = node.and_then(|node| node.spec.as_ref()?.pod_cidrs.as_ref());
            cidrs.into_iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect()
        }
    };
    Settings {
        node_port_addresses,
        cluster_cidrs,
        masquerade_all: config.masquerade_all,
        masquerade_mark: 1 << config.masquerade_bit,
    }
}

/// The machine's own addresses but loopback.
fn local_addresses() -> Vec<IpAddr> {
    let read = || -> Result<Vec<IpAddr>, NetlinkError> {
        let mut rtnl = kybern_linux::rtnl::Rtnl::open()?;
        let mut found = Vec::new();
        for link in rtnl.links()? {
            found.extend(rtnl.addresses(link.index)?.into_iter().map(|net| net.addr()));
        }
        found.retain(|ip| !ip.is_loopback());
        Ok(found)
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the node's addresses: only those of its Node object take node ports");
        Vec::new()
    })
}

/// What is known to be in the kernel.
#[derive(Default)]
struct Kernel {
    /// As last applied; read from the kernel where unknown: at the start and after a failure.
    applied: [Option<Table>; 2],
    udp: UdpServices,
    nft: Option<Nftables>,
    /// The port of `nft`.
    port: u32,
}

impl Kernel {
    /// Reads the tables anew next time.
    fn forget(&mut self) {
        self.applied = [None, None];
    }

    /// Plans and applies the difference, on a thread that may block.
    async fn sync(&mut self, snapshot: Arc<Snapshot>) -> Result<(), NetlinkError> {
        let mut this = std::mem::take(self);
        let work = tokio::task::spawn_blocking(move || {
            let result = this.sync_blocking(&snapshot);
            if result.is_err() {
                this.nft = None;
            }
            (this, result)
        });
        match work.await {
            Ok((this, result)) => {
                *self = this;
                result
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn sync_blocking(&mut self, snapshot: &Snapshot) -> Result<(), NetlinkError> {
        let nft = match &mut self.nft {
            Some(nft) => nft,
            none => none.insert(Nftables::open()?),
        };
        self.port = nft.port()?;
        for (i, family) in families() {
            let applied = &mut self.applied[i];
            let desired = plan(family, &snapshot.services, &snapshot.endpoints, &snapshot.settings);
            let actual = match applied.take() {
                Some(table) => Some(table),
                None => nft.read(family, TABLE)?,
            };
            let ops = diff(&desired, actual.as_ref());
            nft.apply(family, TABLE, &ops)?;
            tracing::debug!(?family, operations = ops.len(), "nftables synced");
            *applied = Some(desired);
        }
        let udp = UdpServices::new(&snapshot.services, &snapshot.endpoints);
        if udp != self.udp {
            for (_, family) in families().filter(|_| !udp.is_empty()) {
                if let Err(error) = forget_stale(&udp, family) {
                    // New flows are right in any case; old ones end by their timeout.
                    tracing::warn!(%error, "cannot clean up stale UDP flows");
                }
            }
            self.udp = udp;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
