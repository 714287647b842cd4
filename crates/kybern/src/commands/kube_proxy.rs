//! `kybern kube-proxy`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kybern_client::Client;

use crate::node_address;
use crate::wiring::shutdown;

#[derive(Debug, Args)]
pub(crate) struct KubeProxy {
    /// A `KubeProxyConfiguration` file.
    #[arg(long)]
    config: PathBuf,
    /// This node's name [default: the host name].
    #[arg(long)]
    hostname_override: Option<String>,
}

pub(crate) async fn run(options: KubeProxy) -> Result<()> {
    let shown = options.config.display();
    let text = std::fs::read_to_string(&options.config).with_context(|| format!("cannot read {shown}"))?;
    let node_name = options.hostname_override.clone().map_or_else(node_address::host_name, Ok)?;
    let config = kybern_proxy::Config::parse(&text, &node_name).with_context(|| format!("cannot use {shown}"))?;
    let client = match &config.kubeconfig {
        Some(path) => Client::from_kubeconfig(path),
        None => Client::in_cluster(),
    }
    .context("cannot tell how to reach the API server")?
    .with_user_agent("kube-proxy");
    Ok(kybern_proxy::run(config, client, shutdown::requested()).await?)
}
