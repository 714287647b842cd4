//! Pod sandboxes: the namespaces, network and files that a pod's containers share, held by one shim.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kybern_cri::{
    ContainerEventType, CriError, DnsConfig, Mount, NamespaceMode, PodSandbox, PodSandboxConfig, PodSandboxState,
    PodSandboxStatus,
};
use kybern_linux::mount;
use kybern_linux::netns::NetNs;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::disk;
use crate::engine::{Engine, blocking, internal, new_id};
use crate::network::PodNet;
use crate::shim::client::ShimClient;
use crate::shim::protocol::{Reply, Request};
use crate::shim::{CONTAINERS, SHIM_PID};
use crate::spec::{ShimSpec, now_ns};

const RECORD: &str = "sandbox.json";
const RESOLV_CONF: &str = "resolv.conf";
const HOSTNAME: &str = "hostname";
const SHM: &str = "shm";

/// The size of a pod's `/dev/shm`, as every runtime's default.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) created_at: i64,
    pub(crate) dir: PathBuf,
    /// `None` on the host's network.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) shim: ShimClient,
    state: Mutex<State>,
    /// Held by whoever takes the sandbox down.
    stopping: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct State {
    ready: bool,
    ips: Vec<String>,
}

/// A sandbox on disk.
#[derive(Serialize, Deserialize)]
struct Record {
    config: PodSandboxConfig,
    created_at: i64,
    netns: Option<PathBuf>,
    ready: bool,
    ips: Vec<String>,
}

impl Sandbox {
    fn new(runtime: &Engine, id: String, record: Record) -> Sandbox {
        let dir = runtime.config.sandboxes_dir().join(&id);
        Sandbox {
            shim: ShimClient::new(&dir),
            id,
            config: record.config,
            created_at: record.created_at,
            dir,
            netns: record.netns,
            state: Mutex::new(State { ready: record.ready, ips: record.ips }),
            stopping: tokio::sync::Mutex::default(),
        }
    }

    fn load(runtime: &Engine, id: &str) -> io::Result<Sandbox> {
        let record: Record = disk::read_json(&runtime.config.sandboxes_dir().join(id).join(RECORD))?;
        Ok(Sandbox::new(runtime, id.to_owned(), record))
    }

    fn save(&self) -> io::Result<()> {
        let state = self.state.lock().clone();
        let record = Record {
            config: self.config.clone(),
            created_at: self.created_at,
            netns: self.netns.clone(),
            ready: state.ready,
            ips: state.ips,
        };
        disk::replace_json(&self.dir.join(RECORD), &record)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state.lock().ready
    }

    fn host_network(&self) -> bool {
        self.config.namespaces.network == NamespaceMode::Node
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.dir.join(CONTAINERS)
    }

    /// The control group of one of the sandbox's containers.
    pub(crate) fn container_group(&self, id: &str) -> String {
        let parent = match self.config.cgroup_parent.trim_end_matches('/') {
            "" => "/kybern",
            parent => parent,
        };
        format!("{parent}/{id}")
    }

    pub(crate) fn summary(&self) -> PodSandbox {
        PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: if self.is_ready() { PodSandboxState::Ready } else { PodSandboxState::NotReady },
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
        }
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        PodSandboxStatus {
            sandbox: self.summary(),
            ips: self.state.lock().ips.clone(),
            namespaces: self.config.namespaces.clone(),
            netns: self.netns.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        }
    }

    fn pod_net(&self) -> Option<PodNet> {
        Some(PodNet {
            sandbox_id: self.id.clone(),
            netns: self.netns.clone()?,
            metadata: self.config.metadata.clone(),
            port_mappings: self.config.port_mappings.clone(),
            dns: self.config.dns_config.clone(),
        })
    }

    /// What every container of the pod sees at these places unless it has a mount of its own there.
    pub(crate) fn default_mounts(&self, host_ipc: bool, read_only: bool) -> Vec<Mount> {
        let make = |container_path: &str, host_path: PathBuf, readonly| Mount {
            container_path: container_path.to_owned(),
            host_path: host_path.display().to_string(),
            readonly,
            ..Default::default()
        };
        let shm = if host_ipc { PathBuf::from("/dev/shm") } else { self.dir.join(SHM) };
        vec![
            make("/dev/shm", shm, false),
            make("/etc/resolv.conf", self.dir.join(RESOLV_CONF), read_only),
            make("/etc/hostname", self.dir.join(HOSTNAME), read_only),
        ]
    }

    /// The name containers see: the pod's, or the machine's on its network.
    pub(crate) fn hostname(&self) -> String {
        if self.host_network() || self.config.hostname.is_empty() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            self.config.hostname.clone()
        }
    }

    /// Makes the shared files and mounts.
    fn make_files(&self) -> io::Result<()> {
        disk::make_dirs(&self.containers_dir(), 0o711)?;
        write_public(&self.dir.join(RESOLV_CONF), &resolv_conf(&self.config.dns_config)?)?;
        write_public(&self.dir.join(HOSTNAME), &format!("{}\n", self.hostname()))?;
        if self.config.namespaces.ipc != NamespaceMode::Node {
            use rustix::mount::MountFlags;
            let shm = self.dir.join(SHM);
            disk::make_dirs(&shm, 0o755)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("shm", &shm, "tmpfs", flags, Some(SHM_OPTIONS))?;
        }
        Ok(())
    }

    fn shim_spec(&self) -> ShimSpec {
        ShimSpec {
            netns: self.netns.clone(),
            host_ipc: self.config.namespaces.ipc == NamespaceMode::Node,
            hostname: (!self.host_network()).then(|| self.hostname()),
            shared_pid: self.config.namespaces.pid == NamespaceMode::Pod,
            sysctls: self.config.sysctls.clone().into_iter().collect(),
        }
    }

    /// Ends the shim, by its socket or, when it does not answer, by its pid.
    async fn end_shim(&self) {
        let asked = tokio::time::timeout(Duration::from_secs(5), async {
            let mut connection = self.shim.connect().await?;
            connection.send(&Request::Shutdown).await?;
            while connection.receive().await?.is_some() {}
            io::Result::Ok(())
        });
        if !matches!(asked.await, Ok(Ok(()))) {
            kill_shim(&self.dir);
        }
    }

    /// Takes off the mounts and removes the namespace's name.
    fn unmount(&self) -> io::Result<()> {
        mount::detach_all(&self.dir.join(SHM))?;
        self.netns.as_deref().map_or(Ok(()), NetNs::remove)
    }
}

/// Kills the shim that a sandbox's directory names, if its pid still is that shim.
pub(crate) fn kill_shim(dir: &Path) {
    let Some(pid) = std::fs::read_to_string(dir.join(SHIM_PID)).ok().and_then(|text| text.parse::<i32>().ok()) else {
        return;
    };
    let Ok(command) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return };
    let ours = command.split(|byte| *byte == 0).any(|arg| arg == dir.as_os_str().as_encoded_bytes());
    if ours {
        let _ = kybern_linux::process::kill(pid, rustix::process::Signal::KILL.as_raw());
    }
}

/// A file that any user of a container may read.
fn write_public(path: &Path, text: &str) -> io::Result<()> {
    kybern_linux::files::write(path, text, 0o644).map_err(|error| disk::named(error, path))
}

/// The pod's `resolv.conf`; without any setting it is the machine's.
fn resolv_conf(dns: &DnsConfig) -> io::Result<String> {
    if *dns == DnsConfig::default() {
        return Ok(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

impl Engine {
    pub(crate) async fn run_sandbox(self: &Arc<Self>, config: PodSandboxConfig) -> Result<String, CriError> {
        let id = new_id()?;
        let host_network = config.namespaces.network == NamespaceMode::Node;
        let netns = (!host_network).then(|| self.config.netns_dir.join(format!("kybern-{}", &id[..32])));
        let record = Record { config, created_at: now_ns(), netns, ready: false, ips: Vec::new() };
        let sandbox = Arc::new(Sandbox::new(self, id.clone(), record));
        match self.set_up(&sandbox).await {
            Ok(()) => {
                self.sandboxes.write().insert(id.clone(), sandbox.clone());
                self.follow(sandbox.clone());
                self.announce(ContainerEventType::Started, &sandbox, "");
                Ok(id)
            }
            Err(error) => {
                // What went wrong first is what the user must hear of.
                if let Err(cleanup) = self.tear_down(&sandbox).await {
                    tracing::warn!(sandbox = id, error = %cleanup, "cannot take down a sandbox that failed to start");
                }
                let _ = disk::remove_all(&sandbox.dir);
                Err(error)
            }
        }
    }

    async fn set_up(&self, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        let making = sandbox.clone();
        blocking(move || {
            disk::make_dirs(&making.dir, 0o711)?;
            making.save()?;
            making.make_files()?;
            making.netns.as_deref().map_or(Ok(()), |path| NetNs::create(path).map(drop))
        })
        .await?
        .map_err(|error| internal("failed to create pod sandbox", error))?;
        // The shim starts while the network is set up.
        let spec = sandbox.shim_spec();
        let shim = async {
            ShimClient::spawn(&sandbox.dir, &self.config.executable, &spec)
                .await
                .map_err(|error| internal("failed to start sandbox", error))
        };
        let network = async {
            match (sandbox.pod_net(), &self.config.network) {
                (None, _) => Ok(Vec::new()),
                (Some(_), None) => {
                    Err(CriError::FailedPrecondition("no pod network is configured on this node".into()))
                }
                (Some(net), Some(network)) => network.add(&net).await.map_err(|error| {
                    CriError::Internal(format!("failed to setup network for sandbox {:?}: {error}", sandbox.id))
                }),
            }
        };
        let (shim, ips) = tokio::join!(shim, network);
        shim?;
        *sandbox.state.lock() = State { ready: true, ips: ips? };
        sandbox.save().map_err(|error| internal("save sandbox", error))
    }

    /// Takes down network, shim, mounts and namespace names. Idempotent.
    async fn tear_down(&self, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        let _one_at_a_time = sandbox.stopping.lock().await;
        if let (Some(net), Some(network)) = (sandbox.pod_net(), &self.config.network)
            && net.netns.exists()
        {
            network.del(&net).await.map_err(|error| {
                CriError::Internal(format!("failed to destroy network for sandbox {:?}: {error}", sandbox.id))
            })?;
        }
        sandbox.end_shim().await;
        let unmounting = sandbox.clone();
        blocking(move || unmounting.unmount()).await?.map_err(|error| internal("failed to unmount sandbox", error))
    }

    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        for container in self.containers_of(id) {
            self.stop(&container, Duration::ZERO).await?;
            // The pod's own group can only go when those in it have gone.
            self.remove_cgroup(&container).await;
        }
        self.tear_down(&sandbox).await?;
        self.mark_not_ready(&sandbox);
        Ok(())
    }

    fn mark_not_ready(&self, sandbox: &Sandbox) {
        let was_ready = std::mem::take(&mut sandbox.state.lock().ready);
        if was_ready {
            if let Err(error) = sandbox.save() {
                tracing::warn!(sandbox = sandbox.id, %error, "cannot record that a sandbox has stopped");
            }
            self.announce(ContainerEventType::Stopped, sandbox, "");
        }
    }

    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(id) {
            self.remove(&container.id).await?;
        }
        disk::remove_all(&sandbox.dir).map_err(|error| internal("failed to remove sandbox", error))?;
        self.sandboxes.write().remove(id);
        self.announce(ContainerEventType::Deleted, &sandbox, "");
        Ok(())
    }

    /// Takes over the sandboxes of a previous run.
    pub(crate) async fn take_over(self: &Arc<Self>) -> io::Result<()> {
        for id in crate::image::names(&self.config.sandboxes_dir())? {
            let Ok(sandbox) = Sandbox::load(self, &id) else {
                // Interrupted before it was recorded: nothing can run in it.
                let dir = self.config.sandboxes_dir().join(&id);
                mount::detach_all(&dir.join(SHM))?;
                disk::remove_all(&dir)?;
                continue;
            };
            let sandbox = Arc::new(sandbox);
            let containers = crate::image::names(&sandbox.containers_dir())?;
            if containers.is_empty() && !sandbox.is_ready() {
                // Interrupted while it was made: nobody knows of it, and its shim and address would never be asked for.
                self.sandboxes.write().insert(id.clone(), sandbox);
                if let Err(error) = self.remove_sandbox(&id).await {
                    tracing::warn!(sandbox = id, %error, "cannot remove a half-made sandbox");
                }
                continue;
            }
            // A start that the previous run asked for may still be under way. The shim answers after it, and only then does
            // what is on disk say what runs.
            let alive = sandbox.shim.call(&Request::Subscribe).await.is_ok();
            for name in containers {
                match Container::load(&sandbox, &name) {
                    Ok(container) => drop(self.containers.write().insert(name, Arc::new(container))),
                    Err(_) => self.discard(&name, &sandbox)?,
                }
            }
            self.sandboxes.write().insert(id.clone(), sandbox.clone());
            if alive {
                self.follow(sandbox);
            } else {
                self.shim_gone(&sandbox).await;
            }
        }
        if let Some(network) = &self.config.network {
            let alive = self.sandboxes.read().keys().cloned().collect();
            if let Err(error) = network.collect_garbage(alive).await {
                tracing::warn!(%error, "cannot release the addresses of sandboxes that are gone");
            }
        }
        let known = self.containers.read();
        for name in crate::image::names(&self.config.containers_dir())? {
            if !known.contains_key(&name) {
                disk::remove_all(&self.config.containers_dir().join(name))?;
            }
        }
        Ok(())
    }

    /// Follows a shim's events until it ends.
    fn follow(self: &Arc<Self>, sandbox: Arc<Sandbox>) {
        let runtime = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let lost = async {
                    let mut connection = sandbox.shim.connect().await?;
                    connection.send(&Request::Subscribe).await?;
                    while let Some((reply, _)) = connection.receive().await? {
                        let Some(runtime) = runtime.upgrade() else { return Ok(()) };
                        match reply {
                            Reply::Exit { container, state } => {
                                let found = runtime.containers.read().get(&container).cloned();
                                if let Some(container) = found {
                                    runtime.exited(&container, state).await;
                                }
                            }
                            // Subscribed: whatever happened before is on disk.
                            Reply::Done => runtime.catch_up(&sandbox).await,
                            _ => {}
                        }
                    }
                    io::Result::Ok(())
                };
                let ended = lost.await;
                let Some(runtime) = runtime.upgrade() else { return };
                if ended.is_err() || sandbox.shim.connect().await.is_err() {
                    runtime.shim_gone(&sandbox).await;
                    return;
                }
            }
        });
    }

    /// Takes the states that the shim wrote while nobody listened.
    async fn catch_up(self: &Arc<Self>, sandbox: &Sandbox) {
        for container in self.containers_of(&sandbox.id) {
            if let Ok(state) = container.read_state()
                && state.exit.is_some()
            {
                self.exited(&container, state).await;
            }
        }
    }

    /// A shim has ended: with it went the streams and namespaces, so what still runs is ended too and reported.
    async fn shim_gone(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        for container in self.containers_of(&sandbox.id) {
            self.lost(&container).await;
        }
        if sandbox.is_ready() {
            tracing::warn!(sandbox = sandbox.id, pod = sandbox.config.metadata.name, "the sandbox's shim has ended");
        }
        self.mark_not_ready(sandbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_text() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".into(), "1.1.1.1".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        let expect = "search a.svc svc\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns).unwrap(), expect);
    }
}
