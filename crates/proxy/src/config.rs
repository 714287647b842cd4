//! `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`): the file that `--config` names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use kybern_apimachinery::time::parse_duration;
use serde::Deserialize;

/// What kube-proxy is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this machine's Node.
    pub node_name: String,
    pub local_traffic: LocalTraffic,
    /// `nodePortAddresses`: which addresses take node ports.
    pub node_ports: NodePorts,
    pub masquerade_all: bool,
    /// Bit of the packet mark, 0 to 31.
    pub masquerade_bit: u8,
    /// At least this long between two changes of the kernel's rules; the first goes through at once.
    pub min_sync_period: Duration,
    /// `None`: not served.
    pub healthz_bind_address: Option<SocketAddr>,
    pub metrics_bind_address: Option<SocketAddr>,
    /// Whether a port in use ends kube-proxy; otherwise it is tried again and again.
    pub bind_address_hard_fail: bool,
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
}

/// How traffic of this cluster's pods is told from other traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTraffic {
    /// By these networks; none means that nothing is told apart.
    ClusterCidrs(Vec<IpNet>),
    /// By the Node's `spec.podCIDRs`.
    NodeCidrs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// The Node's own addresses, the default of the nftables mode.
    Primary,
    Networks(Vec<IpNet>),
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {cause}", path.display())]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("failed to decode KubeProxyConfiguration: {0}")]
    Decode(String),
    #[error("invalid configuration: {field}: {cause}")]
    Invalid { field: &'static str, cause: String },
    #[error("proxy mode {0:?} is not supported: set mode: nftables (or leave it empty)")]
    Mode(String),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    api_version: String,
    kind: String,
    mode: String,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    detect_local_mode: String,
    hostname_override: String,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    bind_address_hard_fail: bool,
    node_port_addresses: Option<Vec<String>>,
    client_connection: ClientConnection,
    nftables: Nftables,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClientConnection {
    kubeconfig: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Nftables {
    masquerade_all: Option<bool>,
    masquerade_bit: Option<u8>,
    min_sync_period: Option<String>,
}

const DEFAULT_MIN_SYNC_PERIOD: Duration = Duration::from_millis(100);

impl Config {
    /// Reads a file; `node_name` holds where the file has no `hostnameOverride`.
    pub fn load(path: &Path, node_name: &str) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        Self::parse(&text, node_name)
    }

    /// Reads the YAML or JSON of a `KubeProxyConfiguration`.
    pub fn parse(text: &str, node_name: &str) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| ConfigError::Decode(error.to_string()))?;
        if file.kind != "KubeProxyConfiguration" || file.api_version != "kubeproxy.config.k8s.io/v1alpha1" {
            return Err(ConfigError::Decode(format!(
                "no kind {:?} is registered for version {:?}: want KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1",
                file.kind, file.api_version
            )));
        }
        if !matches!(file.mode.as_str(), "" | "nftables") {
            return Err(ConfigError::Mode(file.mode));
        }
        let cluster_cidrs = || -> Result<Vec<IpNet>, ConfigError> {
            let texts = file.cluster_cidr.split(',').map(str::trim).filter(|text| !text.is_empty());
            texts.map(|text| parse_net("clusterCIDR", text)).collect()
        };
        let local_traffic = match file.detect_local_mode.as_str() {
            "" | "ClusterCIDR" => LocalTraffic::ClusterCidrs(cluster_cidrs()?),
            "NodeCIDR" => LocalTraffic::NodeCidrs,
            other => {
                let cause = format!("{other:?} is not supported: want ClusterCIDR or NodeCIDR");
                return Err(ConfigError::Invalid { field: "detectLocalMode", cause });
            }
        };
        let addresses = file.node_port_addresses.unwrap_or_default();
        let node_ports = match addresses.as_slice() {
            [] => NodePorts::Primary,
            [one] if one == "primary" => NodePorts::Primary,
            nets => NodePorts::Networks(
                nets.iter().map(|text| parse_net("nodePortAddresses", text)).collect::<Result<_, _>>()?,
            ),
        };
        let masquerade_bit = file.nftables.masquerade_bit.unwrap_or(14);
        if masquerade_bit > 31 {
            let cause = format!("{masquerade_bit} is not in the range from 0 to 31");
            return Err(ConfigError::Invalid { field: "nftables.masqueradeBit", cause });
        }
        let min_sync_period = match file.nftables.min_sync_period.as_deref() {
            None | Some("" | "0s" | "0") => DEFAULT_MIN_SYNC_PERIOD,
            Some(text) => parse_duration(text).ok_or_else(|| ConfigError::Invalid {
                field: "nftables.minSyncPeriod",
                cause: format!("{text:?} is not a duration such as 1s or 100ms"),
            })?,
        };
        Ok(Self {
            node_name: if file.hostname_override.is_empty() { node_name.into() } else { file.hostname_override },
            local_traffic,
            node_ports,
            masquerade_all: file.nftables.masquerade_all.unwrap_or(false),
            masquerade_bit,
            min_sync_period,
            healthz_bind_address: bind("healthzBindAddress", file.healthz_bind_address, "0.0.0.0:10256", 10256)?,
            metrics_bind_address: bind("metricsBindAddress", file.metrics_bind_address, "127.0.0.1:10249", 10249)?,
            bind_address_hard_fail: file.bind_address_hard_fail,
            kubeconfig: (!file.client_connection.kubeconfig.is_empty())
                .then(|| file.client_connection.kubeconfig.into()),
        })
    }
}

fn parse_net(field: &'static str, text: &str) -> Result<IpNet, ConfigError> {
    text.parse()
        .map_err(|_| ConfigError::Invalid { field, cause: format!("{text:?} is not a CIDR such as 10.244.0.0/16") })
}

/// An address with or without port. An empty text is the default, as kubeadm writes it.
fn bind(
    field: &'static str,
    text: Option<String>,
    default: &str,
    port: u16,
) -> Result<Option<SocketAddr>, ConfigError> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned());
    let address = text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, port)));
    let cause = || format!("{text:?} is not an IP address with or without port");
    let address: SocketAddr = address.map_err(|_| ConfigError::Invalid { field, cause: cause() })?;
    // Upstream: port 0 turns the endpoint off.
    Ok((address.port() != 0).then_some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn kubeadms_file_is_read() {
        let text = format!(
            "{HEAD}bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection:\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\n\
             clusterCIDR: 10.244.0.0/16\nconfigSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\ndetectLocalMode: \"\"\n\
             healthzBindAddress: \"\"\nmetricsBindAddress: \"\"\nmode: nftables\nnodePortAddresses: null\n\
             nftables:\n  masqueradeAll: false\n  masqueradeBit: null\n  minSyncPeriod: 0s\n  syncPeriod: 0s\n"
        );
        let config = Config::parse(&text, "node-1").unwrap();
        assert_eq!(
            config,
            Config {
                node_name: "node-1".into(),
                local_traffic: LocalTraffic::ClusterCidrs(vec!["10.244.0.0/16".parse().unwrap()]),
                node_ports: NodePorts::Primary,
                masquerade_all: false,
                masquerade_bit: 14,
                min_sync_period: DEFAULT_MIN_SYNC_PERIOD,
                healthz_bind_address: Some("0.0.0.0:10256".parse().unwrap()),
                metrics_bind_address: Some("127.0.0.1:10249".parse().unwrap()),
                bind_address_hard_fail: false,
                kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
            }
        );
    }

    #[test]
    fn a_wrong_file_says_what_is_wrong() {
        for (text, expect) in [
            ("mode: ipvs\n", "proxy mode \"ipvs\" is not supported"),
            ("clusterCIDR: 10.0.0\n", "clusterCIDR: \"10.0.0\" is not a CIDR"),
            ("nodePortAddresses: [x]\n", "nodePortAddresses: \"x\" is not a CIDR"),
            ("nftables: {masqueradeBit: 40}\n", "masqueradeBit: 40 is not in the range"),
            ("nftables: {minSyncPeriod: soon}\n", "\"soon\" is not a duration"),
            ("detectLocalMode: Magic\n", "\"Magic\" is not supported"),
            ("healthzBindAddress: nowhere\n", "\"nowhere\" is not an IP address"),
        ] {
            let error = Config::parse(&format!("{HEAD}{text}"), "n").unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
        assert!(Config::parse("kind: Pod\n", "n").unwrap_err().to_string().contains("no kind \"Pod\""));
    }
}
