//! `kybern kubelet`, with upstream's flags: the kubelet with the built-in container runtime, joined to any API server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kybern_client::Client;
use kybern_kubelet::ServerConfig;

use crate::node_address;
use crate::paths::Directories;
use crate::wiring::{node, shutdown};

#[derive(Debug, Args)]
pub(crate) struct Kubelet {
    /// Where the API server is, and who this is.
    #[arg(long)]
    kubeconfig: PathBuf,
    #[command(flatten)]
    directories: Directories,
    /// This node's name [default: the host name].
    #[arg(long)]
    hostname_override: Option<String>,
    /// This node's address [default: the default route's].
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// The pods' name servers.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.10")]
    cluster_dns: Vec<String>,
    /// The Services' DNS domain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// The most pods that run here.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// The port of the kubelet's API.
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// The address of the kubelet's API.
    #[arg(long, default_value = "0.0.0.0")]
    address: IpAddr,
    /// The serving certificate. Without it, the kubelet's API is not served.
    #[arg(long, requires = "tls_private_key_file", requires = "client_ca_file")]
    tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key.
    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,
    /// The authority whose client certificates are believed.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
}

pub(crate) async fn run(options: Kubelet) -> Result<()> {
    let client = Client::from_kubeconfig(&options.kubeconfig)
        .with_context(|| format!("cannot use {}", options.kubeconfig.display()))?
        .with_user_agent("kubelet");
    let name = options.hostname_override.clone().map_or_else(node_address::host_name, Ok)?;
    let ip = options.node_ip.map_or_else(node_address::detect, Ok)?;
    let paths = options.directories.paths()?;
    let runtime = node::open_runtime(&paths).await?;
    let mut config = kybern_kubelet::Config::new(name, ip, &paths.data);
    config.cluster_dns.clone_from(&options.cluster_dns);
    config.cluster_domain.clone_from(&options.cluster_domain);
    config.pod_logs_dir = paths.pod_logs.clone();
    config.container_logs_dir = paths.container_logs.clone();
    config.cgroup_root.clone_from(&paths.cgroup_root);
    config.max_pods = options.max_pods;
    config.server = server(&options);
    Ok(kybern_kubelet::run(config, client, runtime.clone(), runtime, shutdown::requested()).await?)
}

fn server(options: &Kubelet) -> Option<ServerConfig> {
    Some(ServerConfig {
        address: SocketAddr::new(options.address, options.port),
        certificate: options.tls_cert_file.clone()?,
        key: options.tls_private_key_file.clone()?,
        client_ca: options.client_ca_file.clone()?,
        authorizer: kybern_kubelet::server::auth::masters_only(),
    })
}
