//! `kybern kube-scheduler`, with upstream's flags.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use http::StatusCode;
use kybern_client::{Client, register_informer_metrics};
use kybern_component_base::{Reply, http as endpoint};

use super::leader_election::{self, LeaderElectionOptions};
use crate::serving::{self, Component, ServingOptions};
use crate::wiring::{explanations, shutdown};

const COMPONENT: Component = Component { name: "kube-scheduler", port: 10259, tolerates_lookup_failure: true };

#[derive(Debug, Args)]
pub(crate) struct KubeScheduler {
    /// Where the API server is, and who this is [default: the file of --config, or the pod's].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// A `KubeSchedulerConfiguration` file.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    leader_election: LeaderElectionOptions,
    #[command(flatten)]
    serving: ServingOptions,
}

pub(crate) async fn run(mut options: KubeScheduler) -> Result<()> {
    let mut kubeconfig = options.kubeconfig.clone();
    let mut config = match &options.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let file: serde_json::Value =
                serde_saphyr::from_str(&text).with_context(|| format!("{} is no YAML", path.display()))?;
            let named = file["clientConnection"]["kubeconfig"].as_str().filter(|path| !path.is_empty());
            // As upstream's: where the file names one, it counts.
            kubeconfig = named.map(PathBuf::from).or(kubeconfig);
            options.serving.profiling = file["enableProfiling"].as_bool().unwrap_or(true);
            let identity = crate::node_address::process_identity()?;
            kybern_scheduler::Config::from_file(&file, &identity)
                .with_context(|| format!("cannot use {}", path.display()))?
        }
        None => kybern_scheduler::Config {
            lease: Some(leader_election::usual(COMPONENT.name)?),
            ..kybern_scheduler::Config::default()
        },
    };
    config.features = options.leader_election.gates()?.of_scheduler();
    config.lease = options.leader_election.lease(COMPONENT.name, config.lease)?;
    let client = match &kubeconfig {
        Some(path) => Client::from_kubeconfig(path).with_context(|| format!("cannot use {}", path.display()))?,
        None => Client::in_cluster().context("there is neither --kubeconfig nor a service account's files")?,
    };
    let mut metrics = Default::default();
    register_informer_metrics(&mut metrics);
    config.metrics.register(&mut metrics);
    let explanations = config.explanations.clone();
    serving::start(&options.serving, &COMPONENT, move |path| match path {
        "/healthz" | "/livez" | "/readyz" => Reply::text(StatusCode::OK, "ok"),
        "/metrics" => endpoint::metrics(&metrics),
        path => match path.strip_prefix(kybern_scheduler::explain::PREFIX) {
            Some(rest) => explanations::answer(&explanations, rest),
            None => Reply::not_found(),
        },
    })
    .await?;
    kybern_scheduler::run(config, client.with_user_agent(COMPONENT.name), shutdown::requested()).await;
    Ok(())
}
