//! The runtime's pod network, made of CNI plugins.

use std::path::PathBuf;
use std::sync::Arc;

use kybern_cni::{Cni, CniError, ContainerNet};
use kybern_cri::{BoxFuture, PortMapping, Protocol};
use kybern_runtime::{PodNet, PodNetwork};

/// Where CNI finds configuration and plugins, and keeps results. The configuration is read anew for each pod: it may be
/// written, or replaced, while the node runs.
pub(crate) struct CniNetwork {
    pub(crate) config: PathBuf,
    pub(crate) bin: PathBuf,
    pub(crate) state: PathBuf,
}

impl CniNetwork {
    fn load(&self) -> Result<Cni, CniError> {
        Cni::load(&self.config, std::slice::from_ref(&self.bin), &self.state)
    }
}

/// CNI's calls block, so each gets a thread of the blocking pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, CniError> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panicked) => Err(format!("the CNI call did not end: {panicked}")),
    }
}

impl PodNetwork for CniNetwork {
    fn ready(&self) -> Result<(), String> {
        self.load().and_then(|cni| cni.status()).map_err(|e| e.to_string())
    }

    fn add<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<Vec<String>, String>> {
        let (cni, container) = (self.load(), container(net));
        Box::pin(async move {
            let result = blocking(move || cni?.add(&container)).await?;
            Ok(result.ips.iter().map(|ip| ip.address.addr().to_string()).collect())
        })
    }

    fn del<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<(), String>> {
        let (cni, container) = (self.load(), container(net));
        Box::pin(async move { blocking(move || cni?.del(&container)).await })
    }
}

fn container(net: &PodNet) -> ContainerNet {
    let argument = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    ContainerNet {
        container_id: net.sandbox_id.clone(),
        netns: net.netns.clone(),
        if_name: "eth0".to_owned(),
        args: vec![
            argument("IgnoreUnknown", "1"),
            argument("K8S_POD_NAMESPACE", &net.metadata.namespace),
            argument("K8S_POD_NAME", &net.metadata.name),
            argument("K8S_POD_INFRA_CONTAINER_ID", &net.sandbox_id),
            argument("K8S_POD_UID", &net.metadata.uid),
        ],
        port_mappings: net.port_mappings.iter().filter(|p| p.host_port != 0).map(port_mapping).collect(),
    }
}

fn port_mapping(mapping: &PortMapping) -> kybern_cni::PortMapping {
    let protocol = match mapping.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    kybern_cni::PortMapping {
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: protocol.to_owned(),
        host_ip: mapping.host_ip.parse().ok(),
    }
}

/// The usual places.
pub(crate) fn of(paths: &crate::paths::Paths) -> Arc<CniNetwork> {
    Arc::new(CniNetwork { config: paths.cni_config.clone(), bin: paths.cni_bin.clone(), state: paths.cni_state() })
}
