//! `kybern kube-controller-manager`, with upstream's flags.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use http::StatusCode;
use kybern_auth::pem;
use kybern_client::{CertificateAuthorities, Client, RestConfig, register_informer_metrics};
use kybern_component_base::{Reply, http as endpoint};

use super::controller_limits::{AutoscalingOptions, NodeOptions};
use super::controller_settings::{NetworkOptions, SigningOptions, TokenOptions, own_accounts};
use super::controller_workers::WorkerOptions;
use super::leader_election::{self, LeaderElectionOptions};
use super::load_balancers::LoadBalancers;
use crate::serving::{self, Component, ServingOptions};
use crate::wiring::shutdown;

const COMPONENT: Component =
    Component { name: "kube-controller-manager", port: 10257, tolerates_lookup_failure: false };

#[derive(Debug, Args)]
pub(crate) struct KubeControllerManager {
    /// Where the API server is, and who this is [default: the pod's].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Which controllers run: `*` is all, `name` one, `-name` all but one.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Published to every namespace as kube-root-ca.crt [default: the kubeconfig's authority].
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Each controller works as its own service account in kube-system, with what its role allows [default: false].
    #[arg(long)]
    use_service_account_credentials: Option<bool>,
    #[command(flatten)]
    signing: SigningOptions,
    #[command(flatten)]
    tokens: TokenOptions,
    #[command(flatten)]
    autoscaling: AutoscalingOptions,
    #[command(flatten)]
    nodes: NodeOptions,
    #[command(flatten)]
    workers: WorkerOptions,
    #[command(flatten)]
    network: NetworkOptions,
    /// Where Services of type LoadBalancer get their addresses from.
    #[arg(long, value_enum, default_value = "none")]
    load_balancers: LoadBalancers,
    #[command(flatten)]
    leader_election: LeaderElectionOptions,
    #[command(flatten)]
    serving: ServingOptions,
}

pub(crate) async fn run(options: KubeControllerManager) -> Result<()> {
    let reach = match &options.kubeconfig {
        Some(path) => RestConfig::from_kubeconfig(path).with_context(|| format!("cannot use {}", path.display()))?,
        None => RestConfig::in_cluster().context("there is neither --kubeconfig nor a service account's files")?,
    };
    let known = authorities(&reach.ca);
    let client = Client::from_config(&reach)?.with_user_agent(COMPONENT.name);
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let usual = leader_election::usual(COMPONENT.name)?;
    let mut config = kybern_controller_manager::Config {
        controllers: options.controllers,
        root_ca: match &options.root_ca_file {
            Some(path) => Some(read(path)?),
            None => known,
        },
        signing: options.signing.signing()?,
        token_key: options.tokens.key()?,
        legacy_token_clean_up_period: options.tokens.clean_up_period(),
        autoscaling: options.autoscaling.settings(),
        node_lifecycle: options.nodes.lifecycle(),
        terminated_pods_kept: options.nodes.terminated_pods_kept(),
        node_ranges: options.network.node_ranges()?,
        load_balancers: options.load_balancers.provider(),
        client_for: match options.use_service_account_credentials {
            Some(true) => Some(own_accounts(&reach, &client)?),
            _ => None,
        },
        lease: options.leader_election.lease(COMPONENT.name, Some(usual))?,
        ..kybern_controller_manager::Config::default()
    };
    options.workers.put_into(&mut config);
    options.leader_election.gates()?.put_into(&mut config);
    let mut metrics = Default::default();
    register_informer_metrics(&mut metrics);
    config.metrics.register(&mut metrics);
    serving::start(&options.serving, &COMPONENT, move |path| match path {
        "/healthz" => Reply::text(StatusCode::OK, "ok"),
        "/metrics" => endpoint::metrics(&metrics),
        _ => Reply::not_found(),
    })
    .await?;
    kybern_controller_manager::run(config, client, shutdown::requested()).await;
    Ok(())
}

/// By what the API server is recognized here, pods can recognize it, too.
pub(crate) fn authorities(known: &CertificateAuthorities) -> Option<String> {
    match known {
        CertificateAuthorities::These(list) => {
            Some(list.iter().map(|certificate| pem::encode("CERTIFICATE", certificate)).collect())
        }
        CertificateAuthorities::System | CertificateAuthorities::Anyone => None,
    }
}
