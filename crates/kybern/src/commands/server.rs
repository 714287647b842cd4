//! `kybern server`: control plane and node in one process.

use std::net::IpAddr;

use anyhow::{Context, Result};
use clap::{Args, Parser};
use ipnet::IpNet;

use super::load_balancers::LoadBalancers;
use super::runtime_config::RuntimeConfig;
use super::storage::StorageFlags;
use crate::flags::Gates;
use crate::node_address;
use crate::paths::Directories;
use crate::wiring::{Cluster, server};

#[derive(Debug, Args)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) cluster: ClusterOptions,
}

/// What `up` and `server` share.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterOptions {
    #[command(flatten)]
    pub(crate) directories: Directories,
    /// This node's name [default: the host name].
    #[arg(long)]
    node_name: Option<String>,
    /// This node's address [default: the default route's].
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// The address that the API is served on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port that the API is served on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// The pods' addresses.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: IpNet,
    /// The Services' addresses.
    #[arg(long, default_value = "10.96.0.0/12")]
    service_cluster_ip_range: IpNet,
    /// The Services' DNS domain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// A further name or address that the API server's certificate holds; may be repeated.
    #[arg(long)]
    tls_san: Vec<String>,
    /// Versions of the API that are served beside the stable ones or not, such as api/beta=true; may be repeated.
    #[arg(long, value_delimiter = ',')]
    runtime_config: Vec<String>,
    /// Where Services of type LoadBalancer get their addresses from.
    #[arg(long, value_enum, default_value = "node-addresses")]
    load_balancers: LoadBalancers,
    /// Upstream's gates of the API server, such as MutatingAdmissionPolicy=true; may be repeated.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<String>,
    #[command(flatten)]
    storage: StorageFlags,
    /// Leaves kube-proxy and coredns out.
    #[arg(long)]
    no_add_ons: bool,
}

/// What holds where nothing is said.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    cluster: ClusterOptions,
}

impl ClusterOptions {
    /// Fills in what was not said.
    pub(crate) fn resolve(&self) -> Result<Cluster> {
        let paths = self.directories.paths()?;
        let node_name = self.node_name.as_deref().map_or_else(node_address::host_name, node_address::check_name)?;
        let node_ip = self.node_ip.map_or_else(node_address::detect, node_address::check)?;
        let service_ip = |index: usize| {
            let range = self.service_cluster_ip_range;
            range.hosts().nth(index).with_context(|| format!("--service-cluster-ip-range {range} is too small"))
        };
        Ok(Cluster {
            paths,
            node_name,
            node_ip,
            bind_address: self.bind_address,
            secure_port: self.secure_port,
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cluster_ip_range,
            dns_ip: service_ip(9)?,
            cluster_domain: self.cluster_domain.clone(),
            tls_sans: self.tls_san.clone(),
            storage: self.storage.options(&self.directories.data_dir),
            load_balancers: self.load_balancers,
            runtime_config: RuntimeConfig::parse(&self.runtime_config)?,
            gates: Gates::parse(self.feature_gates.iter().map(String::as_str)).map_err(anyhow::Error::msg)?,
            add_ons: !self.no_add_ons,
        })
    }

    /// What was asked for here and is not so there, as flags.
    pub(crate) fn asked_beyond(&self, there: &Self) -> Vec<String> {
        let (usual, there) = (Defaults::parse_from(["kybern"]).cluster.to_arguments(), there.to_arguments());
        self.to_arguments().into_iter().filter(|flag| !usual.contains(flag) && !there.contains(flag)).collect()
    }

    /// The same options as arguments of another `kybern`.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = self.directories.to_arguments();
        arguments.extend([
            format!("--bind-address={}", self.bind_address),
            format!("--secure-port={}", self.secure_port),
            format!("--cluster-cidr={}", self.cluster_cidr),
            format!("--service-cluster-ip-range={}", self.service_cluster_ip_range),
            format!("--cluster-domain={}", self.cluster_domain),
        ]);
        arguments.extend(self.storage.to_arguments());
        arguments.extend(self.node_name.iter().map(|name| format!("--node-name={name}")));
        arguments.extend(self.node_ip.iter().map(|ip| format!("--node-ip={ip}")));
        arguments.extend(self.tls_san.iter().map(|san| format!("--tls-san={san}")));
        arguments.extend(self.feature_gates.iter().map(|gate| format!("--feature-gates={gate}")));
        arguments.extend(self.runtime_config.iter().map(|setting| format!("--runtime-config={setting}")));
        if self.load_balancers == LoadBalancers::None {
            arguments.push("--load-balancers=none".to_owned());
        }
        if self.no_add_ons {
            arguments.push("--no-add-ons".to_owned());
        }
        arguments
    }
}

pub(crate) async fn run(options: Server) -> Result<()> {
    server::run(options.cluster.resolve()?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_beyond_a_running_servers_settings() {
        let options = |flags: &[&str]| Defaults::parse_from([&["kybern"], flags].concat()).cluster;
        let running = options(&["--node-name=n", "--secure-port=7443"]);
        assert!(options(&[]).asked_beyond(&running).is_empty(), "what is not said is as it is");
        assert!(options(&["--secure-port=7443"]).asked_beyond(&running).is_empty());
        let flags = ["--node-name=m", "--secure-port=7443", "--no-add-ons"];
        assert_eq!(options(&flags).asked_beyond(&running), ["--node-name=m", "--no-add-ons"]);
    }
}
