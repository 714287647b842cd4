//! `kybern up`.

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use kybern_client::Client;

use super::server::ClusterOptions;
use crate::ownership::Register;
use crate::paths::Directories;
use crate::preflight;
use crate::up::background::Starting;
use crate::up::demo::{self, Addresses};
use crate::up::progress::Progress;
use crate::up::running::RunningServer;
use crate::up::wait;
use crate::wiring::{Cluster, shutdown};

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Deploys a sample application and fetches it.
    #[arg(long)]
    demo: bool,
}

pub(crate) async fn run(options: Up) -> Result<()> {
    preflight::privileges("up")?;
    let mut progress = Progress::new();
    let directories = &options.cluster.directories;
    let server = tokio::select! {
        found = server(&options, &mut progress) => found,
        () = shutdown::requested() => Err(interrupted(directories)),
    };
    let (server, cluster) = server.inspect_err(|_| progress.finish())?;
    let usable = tokio::select! {
        usable = server.during(wait_until_usable(&options, &cluster, &mut progress)) => usable,
        () = shutdown::requested() => Err(interrupted(directories)),
    };
    progress.finish();
    let hints = usable?;
    println!("\nThe cluster is up ({:.1} s). To use it:\n", progress.elapsed().as_secs_f64());
    println!("  export KUBECONFIG={}", cluster.paths.admin_kubeconfig().display());
    println!("  {hints}\n  kybern down{}                # removes it", directories.unusual());
    Ok(())
}

/// An interrupted `up` leaves the server as it is.
fn interrupted(directories: &Directories) -> anyhow::Error {
    let flags = directories.unusual();
    match directories.paths().and_then(|paths| RunningServer::find(&paths)) {
        Ok(Some(server)) => anyhow!(
            "interrupted. The server goes on in the background (process {}): `kybern up{flags}` waits for it again, \
             `kybern down{flags}` removes it",
            server.pid()
        ),
        _ => anyhow!("interrupted; `kybern down{flags}` removes what was made"),
    }
}

/// The server that runs already, or a new one that has come to serve.
async fn server(options: &Up, progress: &mut Progress) -> Result<(RunningServer, Cluster)> {
    if let Some(server) = RunningServer::find(&options.cluster.directories.paths()?)? {
        let settings = server.settings().unwrap_or_else(|| options.cluster.clone());
        let others = options.cluster.asked_beyond(&settings);
        if !others.is_empty() {
            bail!(
                "a server is running already (process {}) with other settings than {}; leave them out, or stop it first \
                 with `kybern down --keep-data{}`",
                server.pid(),
                others.join(" "),
                options.cluster.directories.unusual()
            );
        }
        progress.begin("finding the server");
        wait::kubeconfig(&options.cluster.directories.paths()?).await?;
        progress.done(&format!("a server is running already (process {})", server.pid()));
        return Ok((server, settings.resolve()?));
    }
    let cluster = options.cluster.resolve()?;
    println!("Starting Kybern {} as node {} ({})", crate::version::KYBERN, cluster.node_name, cluster.node_ip);
    // Not even a log is made where another cluster's things are.
    Register::of_machine().check(&cluster.paths)?;
    progress.begin("starting the server");
    let starting = Starting::spawn(&cluster.paths, &options.cluster.to_arguments())?;
    let on_status = |status: &str| {
        progress.done(status);
        progress.begin("starting the server");
    };
    let server = starting.wait_until_ready(on_status).await?;
    progress.done(&format!("API server ready (process {})", server.pid()));
    Ok((server, cluster))
}

/// Waits until the node is Ready and DNS answers, and shows the demo where asked; answers what to try next.
async fn wait_until_usable(options: &Up, cluster: &Cluster, progress: &mut Progress) -> Result<String> {
    let kubeconfig = cluster.paths.admin_kubeconfig();
    let client =
        Client::from_kubeconfig(&kubeconfig).with_context(|| format!("cannot use {}", kubeconfig.display()))?;
    progress.begin("waiting for the node");
    wait::node_ready(&client, &cluster.node_name).await?;
    progress.done("node Ready");
    if cluster.add_ons {
        progress.begin("waiting for cluster DNS");
        wait::deployment_available(&client, "kube-system", "coredns", progress).await?;
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
