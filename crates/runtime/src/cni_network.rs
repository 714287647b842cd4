//! The pod network through CNI.

use std::path::PathBuf;

use kybern_cni::{Cni, ContainerNet};
use kybern_cri::{BoxFuture, Protocol};

use crate::network::{Alive, PodNet, PodNetwork};

/// The link inside a pod.
const LINK: &str = "eth0";

/// Runs the plugins of the network that the CNI directory configures. The directory is read anew for each sandbox, so a
/// network may be installed or changed while the node runs.
#[derive(Debug)]
pub struct CniNetwork {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    cache_dir: PathBuf,
}

impl CniNetwork {
    /// `conf_dir` is `/etc/cni/net.d`, `bin_dirs` hold executables of plugins that are not built in, `cache_dir` keeps results.
    pub fn new(conf_dir: PathBuf, bin_dirs: Vec<PathBuf>, cache_dir: PathBuf) -> CniNetwork {
        CniNetwork { conf_dir, bin_dirs, cache_dir }
    }

    fn load(&self) -> Result<Cni, String> {
        Cni::load(&self.conf_dir, &self.bin_dirs, &self.cache_dir).map_err(|error| error.to_string())
    }
}

fn container(net: &PodNet) -> ContainerNet {
    let pod = &net.metadata;
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &net.sandbox_id),
        ("K8S_POD_UID", &pod.uid),
    ];
    let port_mappings = net.port_mappings.iter().filter(|m| m.host_port != 0).map(|m| kybern_cni::PortMapping {
        host_port: m.host_port,
        container_port: m.container_port,
        protocol: match m.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
        .to_owned(),
        // An unspecified address means every address.
        host_ip: m.host_ip.parse::<std::net::IpAddr>().ok().filter(|ip| !ip.is_unspecified()),
    });
    ContainerNet {
        container_id: net.sandbox_id.clone(),
        netns: net.netns.clone(),
        if_name: LINK.to_owned(),
        args: args.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        port_mappings: port_mappings.collect(),
    }
}

/// Runs a plugin chain where blocking is allowed.
async fn on_worker<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("worker failed: {error}"))?
}

impl PodNetwork for CniNetwork {
    fn ready(&self) -> Result<(), String> {
        let cni = self.load().map_err(|_| "cni plugin not initialized".to_owned())?;
        cni.status().map_err(|error| error.to_string())
    }

    fn add<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<Vec<String>, String>> {
        let (loaded, container) = (self.load(), container(net));
        Box::pin(on_worker(move || {
            let result = loaded?.add(&container).map_err(|error| error.to_string())?;
            Ok(result.container_ips().map(|ip| ip.to_string()).collect())
        }))
    }

    fn collect_garbage(&self, alive: Alive) -> BoxFuture<'_, Result<(), String>> {
        let loaded = self.load();
        Box::pin(on_worker(move || match loaded {
            Ok(cni) => cni.collect_garbage(|id| alive(id)).map(drop).map_err(|error| error.to_string()),
            Err(_) => Ok(()),
        }))
    }

    fn del<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<(), String>> {
        let (loaded, container) = (self.load(), container(net));
        Box::pin(on_worker(move || match loaded {
            Ok(cni) => cni.del(&container).map_err(|error| error.to_string()),
            // Without a configuration nothing is known to undo; the namespace's own links go with it.
            Err(_) => Ok(()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use kybern_cri::{PodSandboxMetadata, PortMapping};

    use super::*;

    #[test]
    fn a_sandbox_for_the_plugins() {
        let mapping = |host_port, host_ip: &str| PortMapping {
            host_port,
            container_port: 80,
            host_ip: host_ip.into(),
            ..Default::default()
        };
        let net = PodNet {
            sandbox_id: "s".into(),
            netns: "/n".into(),
            metadata: PodSandboxMetadata {
                name: "web".into(),
                uid: "u".into(),
                namespace: "default".into(),
                attempt: 0,
            },
            port_mappings: vec![mapping(0, ""), mapping(8080, "0.0.0.0"), mapping(8081, "127.0.0.1")],
            dns: Default::default(),
        };
        let container = container(&net);
        assert!(container.args.contains(&("K8S_POD_NAME".into(), "web".into())));
        let ports: Vec<_> = container.port_mappings.iter().map(|m| (m.host_port, m.host_ip)).collect();
        assert_eq!(ports, [(8080, None), (8081, Some([127, 0, 0, 1].into()))]);
    }
}
