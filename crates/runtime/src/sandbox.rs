//! Pod sandboxes: the namespaces, network and files that a pod's containers share, held by one shim.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kybern_cri::{DnsConfig, Mount, NamespaceMode, PodSandbox, PodSandboxConfig, PodSandboxState, PodSandboxStatus};
use kybern_linux::mount;
use kybern_linux::netns::NetNs;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::engine::Engine;
use crate::network::PodNet;
use crate::shim::client::ShimClient;
use crate::shim::protocol::Request;
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
    /// Shared by those that make something in the sandbox, held alone by whoever takes it down; true once that has begun.
    pub(crate) gate: tokio::sync::RwLock<bool>,
}

#[derive(Clone, Debug, Default)]
struct State {
    ready: bool,
    ips: Vec<String>,
    /// The network may hold something of the sandbox.
    connected: bool,
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
            state: Mutex::new(State { ready: record.ready, ips: record.ips, connected: record.netns.is_some() }),
            netns: record.netns,
            gate: tokio::sync::RwLock::default(),
        }
    }

    /// A sandbox of which nothing exists yet.
    pub(crate) fn unmade(runtime: &Engine, id: String, config: PodSandboxConfig) -> Sandbox {
        let host_network = config.namespaces.network == NamespaceMode::Node;
        let netns = (!host_network).then(|| runtime.config.netns_dir.join(format!("kybern-{}", &id[..32])));
        let sandbox =
            Sandbox::new(runtime, id, Record { config, created_at: now_ns(), netns, ready: false, ips: Vec::new() });
        sandbox.state.lock().connected = false;
        sandbox
    }

    pub(crate) fn load(runtime: &Engine, id: &str) -> io::Result<Sandbox> {
        let record: Record = disk::read_json(&runtime.config.sandboxes_dir().join(id).join(RECORD))?;
        Ok(Sandbox::new(runtime, id.to_owned(), record))
    }

    pub(crate) fn save(&self) -> io::Result<()> {
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

    /// Records that it can take containers.
    pub(crate) fn set_ready(&self, ips: Vec<String>) {
        let mut state = self.state.lock();
        (state.ready, state.ips) = (true, ips);
    }

    /// Records that it can take no containers any more; answers whether it could.
    pub(crate) fn set_not_ready(&self) -> bool {
        std::mem::take(&mut self.state.lock().ready)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.state.lock().connected
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.state.lock().connected = connected;
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

    pub(crate) fn pod_net(&self) -> Option<PodNet> {
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
    pub(crate) fn make_files(&self) -> io::Result<()> {
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

    pub(crate) fn shim_spec(&self) -> ShimSpec {
        ShimSpec {
            netns: self.netns.clone(),
            host_ipc: self.config.namespaces.ipc == NamespaceMode::Node,
            hostname: (!self.host_network()).then(|| self.hostname()),
            shared_pid: self.config.namespaces.pid == NamespaceMode::Pod,
            sysctls: self.config.sysctls.clone().into_iter().collect(),
        }
    }

    /// Ends the shim, by its socket or, when it does not answer, by its pid.
    pub(crate) async fn end_shim(&self) {
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
    pub(crate) fn unmount(&self) -> io::Result<()> {
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
