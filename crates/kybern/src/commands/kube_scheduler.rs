//! `kybern kube-scheduler`, with upstream's flags.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kybern_client::{Client, LeaseConfig};

use crate::node_address;
use crate::wiring::shutdown;

#[derive(Debug, Args)]
pub(crate) struct KubeScheduler {
    /// Where the API server is, and who this is.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// A `KubeSchedulerConfiguration` file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Work only while holding the lease kube-system/kube-scheduler.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
}

pub(crate) async fn run(options: KubeScheduler) -> Result<()> {
    let kubeconfig = options.kubeconfig.display();
    let client = Client::from_kubeconfig(&options.kubeconfig).with_context(|| format!("cannot use {kubeconfig}"))?;
    let identity = node_address::process_identity()?;
    let mut config = match &options.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let file = serde_saphyr::from_str(&text).with_context(|| format!("{} is no YAML", path.display()))?;
            kybern_scheduler::Config::from_file(&file, &identity)
                .with_context(|| format!("cannot use {}", path.display()))?
        }
        None => kybern_scheduler::Config::default(),
    };
    if options.leader_elect && config.lease.is_none() {
        config.lease = Some(LeaseConfig::new("kube-system", "kube-scheduler", &identity));
    }
    kybern_scheduler::run(config, client.with_user_agent("kube-scheduler"), shutdown::requested()).await;
    Ok(())
}
