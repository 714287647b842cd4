//! What a kubelet is told.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use kybern_api::core::v1::Taint;
use kybern_component_base::TlsPolicy;
use kybern_cri::LogRotation;

use crate::server::auth::Authorizer;

/// The kubelet's configuration. Flags and files are read by the program that runs it.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// Holds `pods/<uid>/…`; `<data-dir>/kubelet`.
    pub root_dir: PathBuf,
    /// Holds this node's own volumes, `pvc-<uid>`; `<data-dir>/volumes`.
    pub volumes_dir: PathBuf,
    /// `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// `/var/log/containers`.
    pub container_logs_dir: PathBuf,
    /// The pods' name servers.
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub log_rotation: LogRotation,
    /// The pod network on one node; `None` where a controller assigns it.
    pub pod_cidr: Option<String>,
    pub max_pods: u32,
    /// The node's resolver configuration, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Below which `kubepods` lies; `/`.
    pub cgroup_root: String,
    /// Whether pods get cgroups of their own; needs root.
    pub manage_cgroups: bool,
    /// The port in the node's status, and the server; `None` serves nothing.
    pub server: Option<ServerConfig>,
    pub labels: Vec<(String, String)>,
    pub taints: Vec<Taint>,
    /// A directory of manifests that are run without an API server's word.
    pub static_pods: Option<PathBuf>,
    /// What the node reports as kubelet version, `v1.35.0+kybern0`.
    pub version: String,
}

/// How the kubelet's API is served.
#[derive(Clone)]
pub struct ServerConfig {
    /// `0.0.0.0:10250`.
    pub address: SocketAddr,
    /// Versions of TLS and ciphers.
    pub tls: TlsPolicy,
    /// PEM files of the serving certificate (with its chain) and its key.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// PEM file of the authority whose client certificates are believed; without one nobody's are.
    pub client_ca: Option<PathBuf>,
    /// Whether who shows no credential is `system:anonymous`, about whom the authorizer is asked.
    pub anonymous: bool,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Whether `/debug/pprof/` is there.
    pub profiling: bool,
}

impl Config {
    /// Upstream's defaults for a node of this name and address that keeps its state below `data_dir`.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, data_dir: &std::path::Path) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: vec![node_ip],
            root_dir: data_dir.join("kubelet"),
            volumes_dir: data_dir.join("volumes"),
            pod_logs_dir: "/var/log/pods".into(),
            container_logs_dir: "/var/log/containers".into(),
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            log_rotation: LogRotation { max_bytes: 10 << 20, max_files: 5 },
            pod_cidr: None,
            max_pods: 110,
            resolv_conf: "/etc/resolv.conf".into(),
            cgroup_root: "/".into(),
            manage_cgroups: rustix::process::geteuid().is_root(),
            server: None,
            labels: Vec::new(),
            taints: Vec::new(),
            static_pods: None,
            version: "v1.35.0+kybern0".into(),
        }
    }
}
