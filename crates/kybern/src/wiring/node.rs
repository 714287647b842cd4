//! A node: container runtime, pod network, kubelet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::IpNet;
use kybern_auth::pki::Pki;
use kybern_client::Client;
use kybern_cni::DefaultNetwork;
use kybern_kubelet::ServerConfig;
use kybern_kubelet::server::auth::Delegated;
use kybern_runtime::{CniNetwork, Runtime};

use super::{Cluster, shutdown};
use crate::paths::Paths;
use crate::version;

/// Where the kubelet's API is served.
pub(super) const KUBELET_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10250);

/// The pod network of a node on which nobody has put another.
pub(crate) fn default_network(paths: &Paths, subnets: Vec<IpNet>) -> DefaultNetwork {
    let data_dir = Some(paths.cni_state().join("networks"));
    DefaultNetwork { subnets, data_dir, ..DefaultNetwork::default() }
}

/// Configures that network, and what it needs of the kernel; answers false where somebody has put another.
pub(crate) fn write_network(paths: &Paths, subnets: Vec<IpNet>) -> Result<bool> {
    let network = default_network(paths, subnets);
    let own = network.write(&paths.cni_config).context("cannot configure the pod network")?;
    if own {
        network.prepare_node().iter().for_each(|missing| tracing::warn!("{missing}"));
    }
    Ok(own)
}

/// The first /24 (IPv6: /64) of the pods' range: what a cluster of one node needs.
pub(crate) fn first_subnet(cluster_cidr: IpNet) -> Result<IpNet> {
    let length = if cluster_cidr.addr().is_ipv4() { 24 } else { 64 };
    if cluster_cidr.prefix_len() >= length {
        return Ok(cluster_cidr);
    }
    cluster_cidr.subnets(length)?.next().with_context(|| format!("--cluster-cidr {cluster_cidr} is too small"))
}

/// The runtime's configuration.
pub(crate) fn runtime_config(paths: &Paths) -> Result<kybern_runtime::Config> {
    Ok(kybern_runtime::Config {
        root_dir: paths.runtime(),
        state_dir: paths.runtime_state(),
        netns_dir: paths.run.join("netns"),
        executable: std::env::current_exe().context("cannot tell this program's own path")?,
        version: version::KYBERN.to_owned(),
        registries_file: paths.registries(),
        network: Some(Arc::new(CniNetwork::new(
            paths.cni_config.clone(),
            vec![paths.cni_bin.clone()],
            paths.cni_state(),
        ))),
    })
}

/// Opens the runtime, which is also the image service.
pub(crate) async fn open_runtime(paths: &Paths) -> Result<Arc<Runtime>> {
    Runtime::open(runtime_config(paths)?).await.context("cannot start the container runtime")
}

/// Starts the node; the answer resolves when its kubelet has ended.
pub(crate) async fn start(
    cluster: &Cluster,
    pki: &Pki,
    client: Client,
) -> Result<impl Future<Output = Result<()>> + use<>> {
    let paths = &cluster.paths;
    let subnet = first_subnet(cluster.cluster_cidr)?;
    write_network(paths, vec![subnet])?;
    let runtime = open_runtime(paths).await?;
    let server = server_config(cluster, pki, client.clone())?;
    let mut config = kybern_kubelet::Config::new(cluster.node_name.clone(), cluster.node_ip, &paths.data);
    config.pod_logs_dir = paths.pod_logs.clone();
    config.cluster_dns = vec![cluster.dns_ip.to_string()];
    config.cluster_domain.clone_from(&cluster.cluster_domain);
    config.pod_cidr = Some(subnet.to_string());
    config.cgroup_root.clone_from(&paths.cgroup_root);
    config.container_logs_dir = paths.container_logs.clone();
    config.server = Some(server);
    config.version = version::KUBERNETES.to_owned();
    let kubelet = kybern_kubelet::run(config, client, runtime.clone(), runtime, shutdown::requested());
    let kubelet = tokio::spawn(kubelet);
    Ok(async move { Ok(kubelet.await??) })
}

/// The kubelet's API asks the API server who may use it.
fn server_config(cluster: &Cluster, pki: &Pki, client: Client) -> Result<ServerConfig> {
    let pair = pki.kubelet_server(&cluster.node_name, &[cluster.node_ip], jiff::Timestamp::now())?;
    let folder = cluster.paths.kubelet().join("pki");
    kybern_linux::files::make_dirs(&folder, 0o700).with_context(|| format!("cannot make {}", folder.display()))?;
    let (certificate, key) = (folder.join("kubelet.crt"), folder.join("kubelet.key"));
    write_private(&certificate, &pair.certificate_pem)?;
    write_private(&key, &pair.key_pem)?;
    Ok(ServerConfig {
        address: KUBELET_ADDRESS,
        tls: Default::default(),
        certificate,
        key,
        client_ca: Some(cluster.paths.pki().join("ca.crt")),
        anonymous: false,
        authorizer: Arc::new(Delegated::new(client, cluster.node_name.clone(), true, Delegated::lifetimes())),
        profiling: true,
    })
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let open = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
    let written = open.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
