//! Starting, reloading, stopping.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::StatusCode;
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_client::{Client, ClientError};
use kybern_component_base::{Reply, Server, metrics as encode_metrics};
use kybern_linux::inotify::FileChanges;
use tokio::task::AbortHandle;

use crate::corefile::CorefileError;
use crate::follow::follow;
use crate::listen::Port;
use crate::message::{Query, rtype};
use crate::metrics::Metrics;
use crate::setup::{self, Setup};
use crate::zone::Cluster;

/// What cluster DNS is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-conf`.
    pub corefile: PathBuf,
    /// `-dns.port`: of zones that name none.
    pub port: u16,
}

/// Why DNS cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    #[error("plugin/kubernetes: cannot tell how to reach the API server: {0}")]
    Connect(ClientError),
    #[error("{what} {address}: {cause}")]
    Listen { what: &'static str, address: SocketAddr, cause: io::Error },
    #[error(
        "plugin/loop: Loop detected for zone {0:?}: a server of this Corefile's forward sends queries back; see https://coredns.io/plugins/loop#troubleshooting"
    )]
    Loop(String),
}

/// Runs cluster DNS until `shutdown`, and then for as long as `lameduck` says. `connect` is asked once the Corefile wants
/// the cluster's names: without them no API server is needed.
pub async fn run(
    config: Config,
    connect: impl Fn() -> Result<Client, ClientError> + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new());
    let cluster = Arc::new(Cluster::default());
    cluster.start_serial(SystemClock.now().as_second() as u32);
    // Watched before it is read, so that no change is missed.
    let watch = watch(&config.corefile);
    let (mut text, setup) = read(&config, &cluster, &metrics)?;
    let mut instance = Instance::start(setup, Box::new(connect), cluster.clone(), metrics.clone()).await?;
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            zone = instance.looped() => return Err(RunError::Loop(zone)),
            () = changed(watch.as_ref()), if instance.setup.load().reload => {}
        }
        if std::fs::read_to_string(&config.corefile).is_ok_and(|now| now == text) {
            continue;
        }
        let reloaded = match read(&config, &cluster, &metrics) {
            Ok((new_text, setup)) => {
                text = new_text;
                instance.reload(setup).await
            }
            Err(error) => Err(error.into()),
        };
        match reloaded {
            Ok(()) => tracing::info!("Reloading complete"),
            Err(error) => {
                metrics.reload_failures.inc();
                tracing::error!(%error, "plugin/reload: Corefile changed but reload failed; the old one stays in force");
            }
        }
    }
    let lameduck = instance.setup.load().lameduck;
    if !lameduck.is_zero() {
        tracing::info!(?lameduck, "plugin/health: Going into lameduck mode");
        tokio::time::sleep(lameduck).await;
    }
    Ok(())
}

fn read(config: &Config, cluster: &Arc<Cluster>, metrics: &Metrics) -> Result<(String, Setup), CorefileError> {
    let file = config.corefile.display().to_string();
    let text = std::fs::read_to_string(&config.corefile)
        .map_err(|cause| CorefileError::Read { file: file.clone(), cause: cause.to_string() })?;
    let setup = setup::load(&text, &file, config.port, cluster, metrics)?;
    Ok((text, setup))
}

fn watch(corefile: &Path) -> Option<FileChanges> {
    FileChanges::of(corefile)
        .inspect_err(|error| tracing::warn!(%error, "cannot watch the Corefile: changes need a restart"))
        .ok()
}

async fn changed(watch: Option<&FileChanges>) {
    let Some(watch) = watch else { return std::future::pending().await };
    if watch.next().await.is_err() {
        std::future::pending().await
    }
}

/// A task that ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Connect = Box<dyn Fn() -> Result<Client, ClientError> + Send + Sync>;

/// All that runs.
struct Instance {
    setup: Arc<ArcSwap<Setup>>,
    ports: BTreeMap<u16, Port>,
    endpoints: BTreeMap<SocketAddr, Task>,
    follower: Option<Task>,
    follows: (bool, bool),
    probes: Vec<Task>,
    connect: Connect,
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
}

impl Instance {
    async fn start(
        setup: Setup,
        connect: Connect,
        cluster: Arc<Cluster>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RunError> {
        let mut this = Self {
            setup: Arc::new(ArcSwap::from_pointee(setup)),
            ports: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            follower: None,
            follows: (false, false),
            probes: Vec::new(),
            connect,
            cluster,
            metrics,
        };
        this.open().await?;
        Ok(this)
    }

    /// Puts a new setup in force. Ports that stay are not closed; if a new one cannot be opened, all stays as it was.
    async fn reload(&mut self, setup: Setup) -> Result<(), RunError> {
        let old = self.setup.swap(Arc::new(setup));
        let result = self.open().await;
        if result.is_err() {
            self.setup.store(old);
            self.open().await?;
        }
        result
    }

    /// Opens what the setup wants and closes what it does not want.
    async fn open(&mut self) -> Result<(), RunError> {
        let setup = self.setup.load_full();
        if setup.needs_cluster {
            let wanted = (setup.needs_pods, setup.pod_names);
            if self.follower.is_none() || self.follows != wanted {
                let client = (self.connect)().map_err(RunError::Connect)?;
                let task = tokio::spawn(follow(client, self.cluster.clone(), wanted.0, wanted.1));
                self.follower = Some(Task(task.abort_handle()));
                self.follows = wanted;
            }
        }
        for (port, server) in &setup.ports {
            match self.ports.get(port) {
                Some(open) => open.server.store(server.clone()),
                None => {
                    let open = Port::open(*port, server.clone()).await.map_err(|cause| {
                        let address = SocketAddr::from(([0, 0, 0, 0], *port));
                        RunError::Listen { what: "Listen: cannot serve DNS on", address, cause }
                    })?;
                    for zone in server.blocks.iter().flat_map(|block| &block.zones) {
                        tracing::info!("{zone}:{port}");
                    }
                    self.ports.insert(*port, open);
                }
            }
        }
        self.ports.retain(|port, _| setup.ports.contains_key(port));
        let wanted = [setup.health, setup.ready, setup.prometheus];
        for address in wanted.iter().flatten() {
            if !self.endpoints.contains_key(address) {
                let server = Server::bind(*address).await.map_err(|cause| RunError::Listen {
                    what: "cannot serve health or metrics on",
                    address: *address,
                    cause,
                })?;
                let (setup, metrics, address) = (self.setup.clone(), self.metrics.clone(), *address);
                let answer = move |path: &str| answer(&setup.load(), &metrics, address, path);
                self.endpoints.insert(address, Task(tokio::spawn(server.run(answer)).abort_handle()));
            }
        }
        self.endpoints.retain(|address, _| wanted.contains(&Some(*address)));
        self.probes = setup.ports.values().flat_map(probe).collect();
        Ok(())
    }

    /// Resolves when a probe has come back: the zone of the loop.
    async fn looped(&self) -> String {
        let setup = self.setup.load_full();
        let probes = setup.ports.values().flat_map(|server| &server.blocks);
        let mut waits: Vec<_> = probes
            .filter_map(|block| {
                block.loop_probe.as_ref().map(|probe| (Box::pin(probe.detected.notified()), &block.zones[0]))
            })
            .collect();
        std::future::poll_fn(|context| {
            for (wait, zone) in &mut waits {
                if wait.as_mut().poll(context).is_ready() {
                    return std::task::Poll::Ready(zone.to_string());
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Sends the probes of `loop`.
fn probe(server: &Arc<crate::server::PortServer>) -> Vec<Task> {
    (0..server.blocks.len())
        .filter(|i| server.blocks[*i].loop_probe.is_some())
        .map(|i| {
            let server = server.clone();
            let task = tokio::spawn(async move {
                let block = &server.blocks[i];
                let Some(probe) = &block.loop_probe else { return };
                let query = Query::new(0, &probe.name, rtype::HINFO);
                if let Some(forward) = block.forward_for(probe.name.as_wire()) {
                    // Whether it is answered does not matter, only whether it comes back here.
                    let _ = forward.resolve(&query, false).await;
                }
            });
            Task(task.abort_handle())
        })
        .collect()
}

/// What is served on the addresses of `health`, `ready` and `prometheus`, which may be one.
fn answer(setup: &Setup, metrics: &Metrics, address: SocketAddr, path: &str) -> Reply {
    let at = |wanted: Option<SocketAddr>| wanted == Some(address);
    match path {
        "/health" if at(setup.health) => Reply::text(StatusCode::OK, "OK"),
        "/ready" if at(setup.ready) => match setup.not_ready() {
            missing if missing.is_empty() => Reply::text(StatusCode::OK, "OK"),
            missing => Reply::text(StatusCode::SERVICE_UNAVAILABLE, missing.join(",")),
        },
        "/metrics" if at(setup.prometheus) => {
            metrics.set_cache_len(setup.cache_len());
            encode_metrics(&metrics.registry)
        }
        _ => Reply::not_found(),
    }
}
