//! Putting the parts together: which part gets which configuration, in which order they start.

mod authentication;
mod authorization;
pub(crate) mod certificate;
pub(crate) mod control_plane;
mod control_plane_node;
mod discovery_routes;
pub(crate) mod explanations;
mod identity;
pub(crate) mod in_process;
pub(crate) mod kubelet_access;
pub(crate) mod kubelet_certificate;
pub(crate) mod lone_network;
pub(crate) mod node;
mod profiles;
mod published_authorities;
pub(crate) mod removal;
pub(crate) mod server;
pub(crate) mod shutdown;
pub(crate) mod storage;
mod tokens;
mod trust;
pub(crate) mod watched_files;
mod zpages;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::commands::load_balancers::LoadBalancers;
use crate::commands::runtime_config::RuntimeConfig;
use crate::flags::Gates;
use crate::paths::Paths;

/// One cluster's settings, complete.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) paths: Paths,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    pub(crate) bind_address: IpAddr,
    pub(crate) secure_port: u16,
    pub(crate) cluster_cidr: IpNet,
    pub(crate) service_cidr: IpNet,
    pub(crate) dns_ip: IpAddr,
    pub(crate) cluster_domain: String,
    pub(crate) tls_sans: Vec<String>,
    pub(crate) storage: storage::StorageOptions,
    pub(crate) load_balancers: LoadBalancers,
    pub(crate) runtime_config: RuntimeConfig,
    pub(crate) gates: Gates,
    pub(crate) add_ons: bool,
}
