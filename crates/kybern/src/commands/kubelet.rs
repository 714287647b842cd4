//! `kybern kubelet`, with upstream's flags: the kubelet with the built-in container runtime, joined to any API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use kybern_client::Client;
use kybern_kubelet::ServerConfig;

use super::kubelet_config::KubeletFile;
use crate::ownership::Register;
use crate::paths::Directories;
use crate::wiring::{lone_network, node, shutdown};
use crate::{node_address, preflight, version};

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
    /// A `KubeletConfiguration` file; flags win.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The pods' name servers [default: 10.96.0.10].
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Option<Vec<String>>,
    /// The Services' DNS domain [default: cluster.local].
    #[arg(long)]
    cluster_domain: Option<String>,
    /// The most pods that run here [default: 110].
    #[arg(long)]
    max_pods: Option<u32>,
    /// The port of the kubelet's API [default: 10250].
    #[arg(long)]
    port: Option<u16>,
    /// The address of the kubelet's API [default: 0.0.0.0].
    #[arg(long)]
    address: Option<IpAddr>,
    /// The serving certificate. Without it, the kubelet's API is not served.
    #[arg(long)]
    tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key.
    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,
    /// The authority whose client certificates are believed.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
}

pub(crate) async fn run(options: Kubelet) -> Result<()> {
    preflight::privileges("kubelet")?;
    let file = options.config.as_deref().map(KubeletFile::read).transpose()?.unwrap_or_default();
    let server = server(&options, &file)?;
    let client = Client::from_kubeconfig(&options.kubeconfig)
        .with_context(|| format!("cannot use {}", options.kubeconfig.display()))?
        .with_user_agent("kubelet");
    let name = options.hostname_override.clone().map_or_else(node_address::host_name, Ok)?;
    let ip = options.node_ip.map_or_else(node_address::detect, Ok)?;
    let mut paths = options.directories.paths()?;
    paths.pod_logs = file.pod_logs_dir.clone().unwrap_or(paths.pod_logs);
    paths.cgroup_root = file.cgroup_root.clone().unwrap_or(paths.cgroup_root);
    preflight::machine()?;
    Register::of_machine().claim_for_kubelet(&paths)?;
    let runtime = node::open_runtime(&paths).await?;
    tokio::spawn(lone_network::configure(paths.clone(), client.clone(), name.clone(), file.pod_cidr.clone()));
    let mut config = kybern_kubelet::Config::new(name, ip, &paths.data);
    config.pod_logs_dir = paths.pod_logs;
    config.container_logs_dir = paths.container_logs.clone();
    config.log_rotation = file.log_rotation(config.log_rotation)?;
    config.cgroup_root = paths.cgroup_root;
    config.pod_cidr = file.pod_cidr.clone();
    set(&mut config.cluster_dns, options.cluster_dns.or(file.cluster_dns));
    set(&mut config.cluster_domain, options.cluster_domain.or(file.cluster_domain));
    set(&mut config.max_pods, options.max_pods.or(file.max_pods));
    set(&mut config.resolv_conf, file.resolv_conf);
    config.server = server;
    config.version = version::KUBERNETES.to_owned();
    Ok(kybern_kubelet::run(config, client, runtime.clone(), runtime, shutdown::requested()).await?)
}

fn set<T>(field: &mut T, said: Option<T>) {
    if let Some(value) = said {
        *field = value;
    }
}

/// `None` where no certificate is named; a part of what is needed is an error.
fn server(options: &Kubelet, file: &KubeletFile) -> Result<Option<ServerConfig>> {
    let certificate = options.tls_cert_file.as_ref().or(file.tls_cert_file.as_ref());
    let key = options.tls_private_key_file.as_ref().or(file.tls_private_key_file.as_ref());
    let client_ca = options.client_ca_file.as_ref().or(file.client_ca_file());
    let (certificate, key, client_ca) = match (certificate, key, client_ca) {
        (None, None, _) => return Ok(None),
        (Some(certificate), Some(key), Some(client_ca)) => (certificate, key, client_ca),
        _ => bail!(
            "the kubelet's API needs all of --tls-cert-file, --tls-private-key-file and --client-ca-file (in the \
             configuration file tlsCertFile, tlsPrivateKeyFile and authentication.x509.clientCAFile)"
        ),
    };
    let address = options.address.or(file.address).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let address = SocketAddr::new(address, options.port.or(file.port).unwrap_or(10250));
    preflight::free(address, "the kubelet's API", Some("--port"))?;
    Ok(Some(ServerConfig {
        address,
        certificate: certificate.clone(),
        key: key.clone(),
        client_ca: client_ca.clone(),
        authorizer: kybern_kubelet::server::auth::masters_only(),
    }))
}
