//! `kybern kube-proxy`, with upstream's flags. As with upstream's, a file counts where one is named, and the flags do not,
//! except for the node's name.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kybern_apimachinery::{Value, json};
use kybern_client::Client;

use crate::node_address;
use crate::wiring::shutdown;

#[derive(Debug, Args)]
pub(crate) struct KubeProxy {
    /// A `KubeProxyConfiguration` file. The flags below then do not count.
    #[arg(long)]
    config: Option<PathBuf>,
    /// This node's name [default: the host name].
    #[arg(long)]
    hostname_override: Option<String>,
    /// Where the API server is, and who this is [default: the pod's].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The pods' addresses, by which traffic of the cluster is told from other traffic.
    #[arg(long)]
    cluster_cidr: Option<String>,
    /// How traffic of the cluster is told: ClusterCIDR or NodeCIDR.
    #[arg(long)]
    detect_local_mode: Option<String>,
    /// nftables; nothing else is there.
    #[arg(long)]
    proxy_mode: Option<String>,
    /// Networks of the addresses that take node ports, or primary for the node's own.
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Masquerades all traffic to Services.
    #[arg(long)]
    masquerade_all: Option<bool>,
    /// The bit of the packet mark that asks for masquerading.
    #[arg(long)]
    iptables_masquerade_bit: Option<u8>,
    /// At least this long between two changes of the kernel's rules.
    #[arg(long)]
    iptables_min_sync_period: Option<String>,
    /// Where health is served.
    #[arg(long)]
    healthz_bind_address: Option<String>,
    /// Where metrics are served.
    #[arg(long)]
    metrics_bind_address: Option<String>,
    /// Ends where one of these is in use.
    #[arg(long)]
    bind_address_hard_fail: Option<bool>,
}

impl KubeProxy {
    /// The file that says what the flags say.
    fn file(&self) -> Value {
        let mut file = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "nftables": {
                "masqueradeAll": self.masquerade_all, "masqueradeBit": self.iptables_masquerade_bit,
                "minSyncPeriod": self.iptables_min_sync_period,
            },
            "healthzBindAddress": self.healthz_bind_address, "metricsBindAddress": self.metrics_bind_address,
        });
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                file[field] = value;
            }
        };
        set("clusterCIDR", self.cluster_cidr.clone().map(Value::from));
        set("detectLocalMode", self.detect_local_mode.clone().map(Value::from));
        set("mode", self.proxy_mode.clone().map(Value::from));
        set("bindAddressHardFail", self.bind_address_hard_fail.map(Value::from));
        set("nodePortAddresses", (!self.nodeport_addresses.is_empty()).then(|| json!(self.nodeport_addresses)));
        set("clientConnection", self.kubeconfig.as_ref().map(|path| json!({"kubeconfig": path})));
        file
    }
}

pub(crate) async fn run(options: KubeProxy) -> Result<()> {
    let named = options.hostname_override.as_ref().map(|name| name.trim().to_lowercase());
    let named = named.filter(|name| !name.is_empty());
    let node_name = named.clone().map_or_else(node_address::host_name, Ok)?;
    let (text, shown) = match &options.config {
        Some(path) => {
            let shown = path.display().to_string();
            (std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?, shown)
        }
        None => (options.file().to_string(), "the flags".to_owned()),
    };
    let mut config = kybern_proxy::Config::parse(&text, &node_name).with_context(|| format!("cannot use {shown}"))?;
    if let Some(name) = named {
        config.node_name = name;
    }
    let client = match &config.kubeconfig {
        Some(path) => Client::from_kubeconfig(path),
        None => Client::in_cluster(),
    }
    .context("cannot tell how to reach the API server")?
    .with_user_agent("kube-proxy");
    Ok(kybern_proxy::run(config, client, shutdown::requested()).await?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: KubeProxy,
    }

    #[test]
    fn flags_say_what_a_file_says() {
        let read = |line: &[&str]| {
            let options = Line::parse_from([&["x"], line].concat()).options;
            kybern_proxy::Config::parse(&options.file().to_string(), "n").map_err(|error| error.to_string())
        };
        let usual = read(&[]).unwrap();
        assert_eq!((usual.masquerade_bit, usual.kubeconfig), (14, None));
        let said = read(&[
            "--kubeconfig=/k",
            "--cluster-cidr=10.1.0.0/16",
            "--iptables-masquerade-bit=3",
            "--iptables-min-sync-period=2s",
            "--nodeport-addresses=10.0.0.0/8",
            "--healthz-bind-address=127.0.0.1:9",
            "--masquerade-all=true",
        ])
        .unwrap();
        assert_eq!((said.masquerade_bit, said.masquerade_all, said.min_sync_period.as_secs()), (3, true, 2));
        assert_eq!((said.kubeconfig, said.healthz_bind_address.unwrap().port()), (Some("/k".into()), 9));
        assert!(read(&["--proxy-mode=ipvs"]).unwrap_err().contains("ipvs"));
    }
}
