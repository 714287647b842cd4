//! `kybern kube-controller-manager`, with upstream's flags.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kybern_auth::pem;
use kybern_client::{CertificateAuthorities, Client, RestConfig};

use crate::node_address;
use crate::wiring::shutdown;

#[derive(Debug, Args)]
pub(crate) struct KubeControllerManager {
    /// Where the API server is, and who this is.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Which controllers run: `*` is all, `name` one, `-name` all but one.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Published to every namespace as kube-root-ca.crt [default: the kubeconfig's authority].
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Work only while holding the lease kube-system/kube-controller-manager.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
}

pub(crate) async fn run(options: KubeControllerManager) -> Result<()> {
    let kubeconfig = options.kubeconfig.display();
    let client = Client::from_kubeconfig(&options.kubeconfig).with_context(|| format!("cannot use {kubeconfig}"))?;
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let config = kybern_controller_manager::Config {
        controllers: options.controllers,
        root_ca: match &options.root_ca_file {
            Some(path) => Some(read(path)?),
            None => authorities(&RestConfig::from_kubeconfig(&options.kubeconfig)?.ca),
        },
        leader_elect: options.leader_elect.then(node_address::process_identity).transpose()?,
        ..kybern_controller_manager::Config::default()
    };
    let client = client.with_user_agent("kube-controller-manager");
    kybern_controller_manager::run(config, client, shutdown::requested()).await;
    Ok(())
}

/// By what the API server is recognized here, pods can recognize it, too.
fn authorities(known: &CertificateAuthorities) -> Option<String> {
    match known {
        CertificateAuthorities::These(list) => {
            Some(list.iter().map(|certificate| pem::encode("CERTIFICATE", certificate)).collect())
        }
        CertificateAuthorities::System | CertificateAuthorities::Anyone => None,
    }
}
