//! `kybern coredns`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kybern_client::Client;

use crate::wiring::shutdown;

#[derive(Debug, Args)]
pub(crate) struct Coredns {
    /// The Corefile. CoreDNS' spelling, `-conf`, is understood, too.
    #[arg(long = "conf", default_value = "Corefile")]
    conf: PathBuf,
    /// The port of server blocks that name none.
    #[arg(long = "dns.port", default_value_t = 53)]
    port: u16,
    /// Where the API server is, for one who is not in a pod.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

pub(crate) async fn run(options: Coredns) -> Result<()> {
    let client = match &options.kubeconfig {
        Some(path) => Client::from_kubeconfig(path).with_context(|| format!("cannot use {}", path.display()))?,
        None => {
            Client::in_cluster().context("cannot tell how to reach the API server; pass --kubeconfig outside a pod")?
        }
    };
    let config = kybern_dns::Config { corefile: options.conf, port: options.port };
    Ok(kybern_dns::run(config, client.with_user_agent("coredns"), shutdown::requested()).await?)
}
