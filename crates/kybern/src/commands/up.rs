//! `kybern up`.

use anyhow::{Context, Result};
use clap::Args;
use kybern_client::Client;

use super::server::ClusterOptions;
use crate::up::background::Starting;
use crate::up::demo::{self, Addresses};
use crate::up::progress::Progress;
use crate::up::wait;

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Deploys a sample application and fetches it.
    #[arg(long)]
    demo: bool,
}

pub(crate) async fn run(options: Up) -> Result<()> {
    let mut progress = Progress::new();
    let result = bring_up(&options, &mut progress).await;
    progress.finish();
    let hints = result?;
    println!("\nThe cluster is up ({:.1} s). To use it:\n", progress.elapsed().as_secs_f64());
    println!("  export KUBECONFIG={}", options.cluster.directories.paths()?.admin_kubeconfig().display());
    println!("  {hints}\n  kybern down                # removes it");
    Ok(())
}

async fn bring_up(options: &Up, progress: &mut Progress) -> Result<String> {
    let cluster = options.cluster.resolve()?;
    let paths = &cluster.paths;
    println!("Starting Kybern {} as node {} ({})", crate::version::KYBERN, cluster.node_name, cluster.node_ip);
    progress.begin("starting the server");
    if let Some(pid) = super::server::running(paths) {
        progress.done(&format!("a server is running already (process {pid})"));
    } else {
        let mut starting = Starting::spawn(paths, &options.cluster.to_arguments())?;
        starting
            .wait_until_ready(|status| {
                progress.done(status);
                progress.begin("starting the server");
            })
            .await?;
        progress.done(&format!("API server ready (process {})", starting.pid()));
    }
    let kubeconfig = paths.admin_kubeconfig();
    let client =
        Client::from_kubeconfig(&kubeconfig).with_context(|| format!("cannot use {}", kubeconfig.display()))?;
    progress.begin("waiting for the node");
    wait::node_ready(&client, &cluster.node_name).await?;
    progress.done("node Ready");
    if cluster.add_ons {
        progress.begin("waiting for cluster DNS");
        wait::deployment_available(&client, "kube-system", "coredns").await?;
        wait::resolve(cluster.dns_ip, &format!("kubernetes.default.svc.{}.", cluster.cluster_domain)).await?;
        progress.done("cluster DNS answers");
    }
    if !options.demo {
        return Ok("kubectl get nodes".to_owned());
    }
    let addresses =
        Addresses { node_ip: cluster.node_ip, dns_ip: cluster.dns_ip, cluster_domain: cluster.cluster_domain.clone() };
    demo::run(&client, &addresses, progress).await
}
