//! `kybern server`: every part of a one-node cluster in one process, joined by the in-process transport.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use kybern_apiserver::Server;
use kybern_auth::authz::Mode;
use kybern_auth::pki::{Kubeconfig, Pki};
use kybern_auth::token::SigningKey;
use kybern_client::Sources;
use kybern_controller_manager::controllers::csr_signing::ClusterSigning;
use kybern_controller_manager::controllers::node_ipam::NodeRanges;
use kybern_registry::{Routing, bootstrap};
use kybern_storage::lock::{DirectoryLock, LockError};

use super::control_plane::{self, AggregationSettings, ApiServer, ApiServerOptions};
use super::{Cluster, control_plane_node, explanations, in_process, node, shutdown};
use crate::addons;
use crate::commands::kube_apiserver::loopback_or;
use crate::flags::Gates;
use crate::notify::Notifier;
use crate::ownership::Register;
use crate::{paths, preflight, version};

/// Runs until the process is asked to end. Containers go on.
pub(crate) async fn run(cluster: Cluster) -> Result<()> {
    let notifier = Notifier::from_env();
    preflight::privileges("server")?;
    preflight::machine()?;
    kybern_runtime::check_registries(&cluster.paths.registries()).context("cannot use the registries' settings")?;
    Register::of_machine().check(&cluster.paths)?;
    cluster.paths.make_data()?;
    cluster.paths.make_run()?;
    let lock = DirectoryLock::take(&cluster.paths.data);
    let _lock = lock.map_err(|error| match error {
        LockError::Io { directory, cause } => {
            paths::failure(&format!("cannot lock the data directory {}", directory.display()), cause)
        }
        held => held.into(),
    })?;
    let api = SocketAddr::new(cluster.bind_address, cluster.secure_port);
    preflight::free(api, "the API", Some("--secure-port"))?;
    preflight::free(node::KUBELET_ADDRESS, "the kubelet's API", None)?;
    Register::of_machine().claim(&cluster.paths)?;
    let ApiServer { server, pki, .. } = start_control_plane(&cluster, |step| notifier.status(step)).await?;
    write_admin_kubeconfig(&cluster, &pki)?;
    tracing::info!("serving the API on {}:{}", cluster.bind_address, cluster.secure_port);
    if cluster.add_ons {
        let settings = add_on_settings(&cluster);
        let client = in_process::client(&server, "system:kybern:addons", &["system:masters"]);
        tokio::spawn(addons::keep_applying(client, settings));
    }
    let client = in_process::client(&server, "system:kybern:server", &["system:masters"]);
    tokio::spawn(control_plane_node::mark(client, cluster.node_name.clone()));
    let client = in_process::client(&server, &format!("system:node:{}", cluster.node_name), &["system:nodes"])
        .with_user_agent("kubelet");
    let node = node::start(&cluster, &pki, client).await?;
    notifier.ready();
    tokio::select! {
        ended = node => ended.context("the kubelet ended")?,
        () = shutdown::requested() => tracing::info!("asked to end; containers go on"),
    }
    Ok(())
}

/// The API server with what lets machines join, the controllers and the scheduler.
pub(super) async fn start_control_plane(cluster: &Cluster, on_step: impl Fn(&str)) -> Result<ApiServer> {
    let plane = control_plane::start(&options(cluster), on_step).await?;
    bootstrap::joining(plane.server.as_ref(), &api_server(cluster), plane.pki.ca.certificate_pem())
        .await
        .context("cannot make what lets machines join")?;
    let sources = Sources::default();
    start_controllers(&plane.server, &plane.pki, cluster, &sources);
    start_scheduler(&plane.server, &sources, &cluster.gates);
    Ok(plane)
}

fn options(cluster: &Cluster) -> ApiServerOptions {
    ApiServerOptions {
        storage: cluster.storage.clone(),
        cert_dir: cluster.paths.pki(),
        bind_address: cluster.bind_address,
        secure_port: cluster.secure_port,
        advertise_address: cluster.node_ip,
        service_cidrs: vec![cluster.service_cidr],
        node_ports: 30000..=32767,
        cluster_domain: cluster.cluster_domain.clone(),
        sans: cluster.tls_sans.iter().cloned().chain([cluster.node_name.clone()]).collect(),
        serving: None,
        client_ca: None,
        front_proxy_ca: None,
        request_headers: Default::default(),
        token_file: None,
        authorization: vec![Mode::Node, Mode::Rbac],
        access: Default::default(),
        issuers: Vec::new(),
        audiences: Vec::new(),
        signing_key: None,
        verifying_keys: Vec::new(),
        signing_endpoint: None,
        jwks_uri: String::new(),
        token_limits: Default::default(),
        authentication: Default::default(),
        bootstrap_tokens: true,
        tls: Default::default(),
        runtime_config: cluster.runtime_config.clone(),
        gates: cluster.gates.clone(),
        // Kubelets join: one must not speak for the others.
        enable_admission: vec!["NodeRestriction".to_owned()],
        disable_admission: Vec::new(),
        admission_file: None,
        max_requests_in_flight: 400,
        max_mutating_requests_in_flight: 200,
        priority_and_fairness: true,
        request_timeout: Duration::from_secs(60),
        profiling: true,
        audit: None,
        kubelets: None,
        // This machine may be without kube-proxy when its API server is called.
        aggregation: AggregationSettings {
            identity: None,
            routing: Routing::Endpoints,
            rejects_redirects: true,
            resource_metrics: true,
        },
    }
}

fn write_admin_kubeconfig(cluster: &Cluster, pki: &Pki) -> Result<()> {
    let admin = pki.admin(jiff::Timestamp::now())?;
    let server = format!("https://{}:{}", loopback_or(cluster.bind_address), cluster.secure_port);
    let path = cluster.paths.admin_kubeconfig();
    let written =
        Kubeconfig::with_certificate(&server, pki.ca.certificate_pem(), "kubernetes-admin", &admin).write(&path);
    let Err(error) = written else { return Ok(()) };
    // A full disk keeps no server from starting: the certificate of an earlier start is good for a year.
    if std::fs::read_to_string(&path).is_ok_and(|before| before.contains(&server)) {
        tracing::warn!(%error, path = %path.display(), "the administrator's kubeconfig stays as it was");
        return Ok(());
    }
    Err(error).with_context(|| format!("cannot write {}", path.display()))
}

fn start_controllers(server: &Arc<Server>, pki: &Pki, cluster: &Cluster, sources: &Sources) {
    let client = in_process::client(server, "system:kube-controller-manager", &[]).with_sources(sources);
    let signing = ClusterSigning::by(pki.ca.request_signer(), ClusterSigning::DURATION);
    // The API server reads the same key, and does not start without it.
    let token_key = SigningKey::from_pem(&pki.service_account_key_pem).ok();
    let token_key = token_key.map(|key| Arc::new(ArcSwap::from_pointee(key)));
    let mut config = kybern_controller_manager::Config {
        controllers: ["*", "bootstrapsigner", "tokencleaner"].map(str::to_owned).to_vec(),
        root_ca: Some(pki.ca.certificate_pem().to_owned()),
        node_ranges: node_ranges(cluster),
        signing: Some(Arc::new(ArcSwap::from_pointee(signing))),
        token_key,
        load_balancers: cluster.load_balancers.provider(),
        client_for: Some(controllers_own_clients(Arc::clone(server))),
        event_ttl: if cluster.storage.expires_events() { Duration::ZERO } else { Duration::from_secs(3600) },
        ..kybern_controller_manager::Config::default()
    };
    cluster.gates.put_into(&mut config);
    server.metrics().register(|registry| config.metrics.register(registry));
    tokio::spawn(kybern_controller_manager::run(config, client, std::future::pending()));
}

/// From what nodes that join get their parts of the pod network. This node has the first, and says so itself: it need not
/// wait for a controller.
fn node_ranges(cluster: &Cluster) -> Option<NodeRanges> {
    let first = node::first_subnet(cluster.cluster_cidr).ok()?;
    let mask = first.prefix_len();
    let ranges = NodeRanges::new(&[cluster.cluster_cidr], &[cluster.service_cidr], mask, mask);
    ranges.inspect_err(|error| tracing::warn!("nodes that join get no part of the pod network: {error}")).ok()
}

/// Each controller writes as its own service account, so that it may do what its role allows and no more.
fn controllers_own_clients(server: Arc<Server>) -> kybern_controller_manager::ClientFor {
    const GROUPS: &[&str] = &["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    Arc::new(move |account| {
        in_process::client(&server, &format!("system:serviceaccount:kube-system:{account}"), GROUPS)
    })
}

fn start_scheduler(server: &Arc<Server>, sources: &Sources, gates: &Gates) {
    let client = in_process::client(server, "system:kube-scheduler", &[]).with_sources(sources);
    let config = kybern_scheduler::Config { features: gates.of_scheduler(), ..kybern_scheduler::Config::default() };
    server.metrics().register(|registry| config.metrics.register(registry));
    let pages = explanations::Pages(config.explanations.clone());
    server.prefixes().set(kybern_scheduler::explain::PREFIX, Some(Arc::new(pages)));
    tokio::spawn(kybern_scheduler::run(config, client, std::future::pending()));
}

/// Where others than this machine reach the API.
fn api_server(cluster: &Cluster) -> String {
    format!("https://{}", SocketAddr::new(cluster.node_ip, cluster.secure_port))
}

fn add_on_settings(cluster: &Cluster) -> addons::Settings {
    addons::Settings {
        image: version::image(),
        api_server: api_server(cluster),
        cluster_domain: cluster.cluster_domain.clone(),
        cluster_cidr: cluster.cluster_cidr.to_string(),
        dns_ip: cluster.dns_ip.to_string(),
    }
}
