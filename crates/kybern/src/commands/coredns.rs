//! `kybern coredns`.

use std::path::PathBuf;

use anyhow::Result;
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
    let connect = move || match &options.kubeconfig {
        Some(path) => Client::from_kubeconfig(path),
        None => Client::in_cluster(),
    };
    let config = kybern_dns::Config { corefile: options.conf, port: options.port };
    let connect = move || connect().map(|client| client.with_user_agent("coredns"));
    Ok(kybern_dns::run(config, connect, shutdown::requested()).await?)
}
