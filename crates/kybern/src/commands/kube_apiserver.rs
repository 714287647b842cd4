//! `kybern kube-apiserver`, with upstream's flags.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::IpNet;
use kybern_apimachinery::time;
use kybern_auth::authn::RequestHeaderNames;
use kybern_auth::pki::Kubeconfig;
use kybern_registry::{Routing, TokenLimits};

use super::api_access::AccessFlags;
use super::audit::AuditFlags;
use super::authentication::AuthenticationFlags;
use super::runtime_config::RuntimeConfig;
use super::storage::StorageFlags;
use crate::flags::Gates;
use crate::node_address;
use crate::notify::Notifier;
use crate::serving::TlsFlags;
use crate::wiring::control_plane::{self, AggregationSettings, ApiServerOptions};
use crate::wiring::kubelet_access::KubeletAccess;
use crate::wiring::shutdown;

#[derive(Debug, Args)]
pub(crate) struct KubeApiserver {
    /// The port that the API is served on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// The address that the API is served on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// How others reach this server [default: the bind address, or the default route's].
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Holds the store; certificates, too, unless --cert-dir says otherwise.
    #[arg(long, default_value = "/var/lib/kybern")]
    data_dir: PathBuf,
    #[command(flatten)]
    storage: StorageFlags,
    /// Holds certificates and keys [default: <data-dir>/server/pki].
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// The serving certificate with its chain (PEM) [default: one of the cluster's authority].
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key (PEM).
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsFlags,
    /// PEM file of authorities whose client certificates are believed beside the cluster's own.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// PEM file of authorities whose client certificates are front proxies [default: the cluster's own for them].
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies' certificates; empty: all that the authorities certify.
    #[arg(long, value_delimiter = ',', default_value = "front-proxy-client")]
    requestheader_allowed_names: Vec<String>,
    /// Headers in which a front proxy names the user.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    requestheader_username_headers: Vec<String>,
    /// Headers in which a front proxy names the user's uid.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Uid")]
    requestheader_uid_headers: Vec<String>,
    /// Headers in which a front proxy names the user's groups.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    requestheader_group_headers: Vec<String>,
    /// What the headers in which a front proxy says more begin with.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    requestheader_extra_headers_prefix: Vec<String>,
    /// Static tokens: lines of token,user,uid,"group1,group2".
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// The Services' addresses: one range, or one of each family, the default one first.
    #[arg(long, default_value = "10.96.0.0/12", value_delimiter = ',')]
    service_cluster_ip_range: Vec<IpNet>,
    /// The Services' node ports.
    #[arg(long, default_value = "30000-32767", value_parser = parse_port_range)]
    service_node_port_range: (u16, u16),
    /// The issuer in service-account tokens; further ones are accepted, too.
    #[arg(long)]
    service_account_issuer: Vec<String>,
    /// PEM file of keys that verify service-account tokens; may be repeated.
    #[arg(long)]
    service_account_key_file: Vec<PathBuf>,
    /// PEM file of the key that signs service-account tokens.
    #[arg(long)]
    service_account_signing_key_file: Option<PathBuf>,
    /// The socket of whoever signs service-account tokens instead; @NAME is an abstract one.
    #[arg(long)]
    service_account_signing_endpoint: Option<PathBuf>,
    /// Where others find the keys of service-account tokens [default: below the issuer].
    #[arg(long, default_value = "", value_parser = parse_jwks_uri)]
    service_account_jwks_uri: String,
    /// The longest life of a token that a client asks for, such as 24h; 0 sets no limit [default: none].
    #[arg(long, value_parser = parse_token_limit, default_value = "0s")]
    service_account_max_token_expiration: i64,
    /// Lets the tokens in pods' volumes live on for a year, for clients that do not read new ones.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    service_account_extend_token_expiration: bool,
    /// The audiences that tokens are good for [default: the issuer].
    #[arg(long, value_delimiter = ',')]
    api_audiences: Vec<String>,
    #[command(flatten)]
    access: AccessFlags,
    /// PEM file of the certificate that kubelets are shown [default: one of the cluster's authority].
    #[arg(long, requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// The key of --kubelet-client-certificate (PEM).
    #[arg(long, requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
    /// PEM file of the authorities of kubelets' serving certificates [default: these are not verified].
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// PEM file of the certificate that aggregated API servers are shown [default: the cluster's front proxy's].
    #[arg(long, requires = "proxy_client_key_file")]
    proxy_client_cert_file: Option<PathBuf>,
    /// The key of --proxy-client-cert-file (PEM).
    #[arg(long, requires = "proxy_client_cert_file")]
    proxy_client_key_file: Option<PathBuf>,
    /// Reaches aggregated API servers by the endpoints of their Services instead of by cluster IPs.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    enable_aggregator_routing: bool,
    /// Keeps the redirects of aggregated API servers from clients.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    aggregator_reject_forwarding_redirect: bool,
    /// The types of node addresses by which kubelets are reached, best first.
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")]
    kubelet_preferred_address_types: Vec<String>,
    /// How long a connection to a kubelet may take to stand.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    kubelet_timeout: Duration,
    /// The kubelet's port where a node does not record it.
    #[arg(long, default_value_t = 10250, hide = true)]
    kubelet_port: u16,
    /// Lets bootstrap tokens in, which nodes join with.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    enable_bootstrap_token_auth: bool,
    /// Versions of the API that are served beside the stable ones or not: api/beta=true, apps/v1=false; api/all, api/ga,
    /// api/alpha.
    #[arg(long, value_delimiter = ',')]
    runtime_config: Vec<String>,
    /// Upstream's gates: MutatingAdmissionPolicy=true.
    #[arg(long, value_delimiter = ',', hide = true)]
    feature_gates: Vec<String>,
    /// Admission plugins that must run beside those that always do.
    #[arg(long, value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins that must not run.
    #[arg(long, value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// What admission plugins are told (AdmissionConfiguration): PodSecurity, ResourceQuota, PodNodeSelector,
    /// PodTolerationRestriction, EventRateLimit, ImagePolicyWebhook, and those of webhooks.
    #[arg(long)]
    admission_control_config_file: Option<PathBuf>,
    #[command(flatten)]
    audit: AuditFlags,
    /// Shares the sum of the next two out by flow schemas and priority levels, and lets requests wait for their turn.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    enable_priority_and_fairness: bool,
    /// Requests served at once that only read. 0 sets no limit.
    #[arg(long, default_value_t = 400)]
    max_requests_inflight: usize,
    /// Requests served at once that change something. 0 sets no limit.
    #[arg(long, default_value_t = 200)]
    max_mutating_requests_inflight: usize,
    /// How long a request that is no watch may take.
    #[arg(long, default_value = "1m0s", value_parser = parse_duration)]
    request_timeout: Duration,
    /// Shows administrators below /debug/pprof/ where processor time goes.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    profiling: bool,
    #[command(flatten)]
    authentication: AuthenticationFlags,
}

fn parse_port_range(text: &str) -> Result<(u16, u16), String> {
    let bounds = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    bounds.filter(|(low, high)| low <= high).ok_or_else(|| format!("{text:?} is not of the form 30000-32767"))
}

/// Go's notation of a duration, in whole seconds; between an hour and 2^32 seconds, as upstream.
fn parse_token_limit(text: &str) -> Result<i64, String> {
    let duration = kybern_apimachinery::time::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration"))?;
    match i64::try_from(duration.as_secs()) {
        Ok(seconds) if seconds == 0 || (3600..=1 << 32).contains(&seconds) => return Ok(seconds),
        _ => {}
    }
    Err("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds".to_owned())
}

fn parse_jwks_uri(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with("https://") {
        return Ok(text.to_owned());
    }
    Err(format!("service-account-jwks-uri requires https scheme, parsed as: {text}"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let positive = time::parse_duration(text).filter(|duration| !duration.is_zero());
    positive.ok_or_else(|| format!("{text:?} is not a positive duration of the form 5s"))
}

pub(crate) async fn run(options: KubeApiserver) -> Result<()> {
    let KubeApiserver { max_requests_inflight, max_mutating_requests_inflight, .. } = options;
    if options.enable_priority_and_fairness && max_requests_inflight + max_mutating_requests_inflight == 0 {
        bail!(
            "invalid configuration: MaxRequestsInFlight={max_requests_inflight} and \
             MaxMutatingRequestsInFlight={max_mutating_requests_inflight}; they must add up to something positive"
        );
    }
    let notifier = Notifier::from_env();
    let authorization = options.access.modes()?;
    let server_options = ApiServerOptions {
        storage: options.storage.options(&options.data_dir),
        cert_dir: options.cert_dir.clone().unwrap_or_else(|| options.data_dir.join("server/pki")),
        bind_address: options.bind_address,
        secure_port: options.secure_port,
        advertise_address: advertise_address(&options),
        service_cidrs: options.service_cluster_ip_range.clone(),
        node_ports: options.service_node_port_range.0..=options.service_node_port_range.1,
        cluster_domain: "cluster.local".to_owned(),
        sans: Vec::new(),
        serving: options.tls_cert_file.clone().zip(options.tls_private_key_file.clone()),
        client_ca: options.client_ca_file.clone(),
        front_proxy_ca: options.requestheader_client_ca_file.clone(),
        request_headers: request_headers(&options),
        token_file: options.token_auth_file.clone(),
        authorization,
        access: options.access.clone(),
        issuers: options.service_account_issuer.clone(),
        audiences: options.api_audiences.clone(),
        signing_key: options.service_account_signing_key_file.clone(),
        verifying_keys: options.service_account_key_file.clone(),
        signing_endpoint: options.service_account_signing_endpoint.clone().filter(|path| !path.as_os_str().is_empty()),
        jwks_uri: options.service_account_jwks_uri.clone(),
        token_limits: TokenLimits {
            max_seconds: Some(options.service_account_max_token_expiration).filter(|seconds| *seconds > 0),
            extend: options.service_account_extend_token_expiration,
        },
        authentication: options.authentication.clone(),
        bootstrap_tokens: options.enable_bootstrap_token_auth,
        tls: options.tls.policy()?,
        runtime_config: RuntimeConfig::parse(&options.runtime_config)?,
        gates: Gates::parse(options.feature_gates.iter().map(String::as_str)).map_err(anyhow::Error::msg)?,
        enable_admission: options.enable_admission_plugins.clone(),
        disable_admission: options.disable_admission_plugins.clone(),
        admission_file: options.admission_control_config_file.clone().filter(|path| !path.as_os_str().is_empty()),
        max_requests_in_flight: options.max_requests_inflight,
        max_mutating_requests_in_flight: options.max_mutating_requests_inflight,
        priority_and_fairness: options.enable_priority_and_fairness,
        request_timeout: options.request_timeout,
        profiling: options.profiling,
        audit: options.audit.audit()?,
        kubelets: Some(KubeletAccess {
            certificate: options.kubelet_client_certificate.clone().zip(options.kubelet_client_key.clone()),
            authority: options.kubelet_certificate_authority.clone(),
            preferred_address_types: options.kubelet_preferred_address_types.clone(),
            port: options.kubelet_port,
            timeout: options.kubelet_timeout,
        }),
        aggregation: AggregationSettings {
            identity: options.proxy_client_cert_file.clone().zip(options.proxy_client_key_file.clone()),
            routing: if options.enable_aggregator_routing { Routing::Endpoints } else { Routing::ClusterIp },
            rejects_redirects: options.aggregator_reject_forwarding_redirect,
            resource_metrics: false,
        },
    };
    let running = control_plane::start(&server_options, |step| notifier.status(step)).await?;
    let admin = running.pki.admin(jiff::Timestamp::now())?;
    let server = format!("https://{}:{}", loopback_or(options.bind_address), options.secure_port);
    // With an etcd and certificates elsewhere nothing has made it yet.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.data_dir)
        .with_context(|| format!("cannot make {}", options.data_dir.display()))?;
    let kubeconfig = options.data_dir.join("admin.kubeconfig");
    Kubeconfig::with_certificate(&server, &running.server_ca_pem, "kubernetes-admin", &admin)
        .write(&kubeconfig)
        .with_context(|| format!("cannot write {}", kubeconfig.display()))?;
    tracing::info!("serving the API on {}:{}", options.bind_address, options.secure_port);
    notifier.ready();
    shutdown::requested().await;
    Ok(())
}

fn request_headers(options: &KubeApiserver) -> RequestHeaderNames {
    // An empty flag is an empty list.
    let names = |list: &[String]| list.iter().filter(|n| !n.is_empty()).cloned().collect();
    RequestHeaderNames {
        allowed: names(&options.requestheader_allowed_names),
        username: names(&options.requestheader_username_headers),
        uid: names(&options.requestheader_uid_headers),
        group: names(&options.requestheader_group_headers),
        extra_prefix: names(&options.requestheader_extra_headers_prefix),
    }
}

/// An address of this machine, for its own kubectl.
pub(crate) fn loopback_or(bind_address: IpAddr) -> IpAddr {
    if bind_address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bind_address }
}

/// Pods cannot reach a loopback address: a server that is bound to one advertises the default route's, as upstream's does.
fn advertise_address(options: &KubeApiserver) -> IpAddr {
    let bound = options.bind_address;
    let reachable = (!bound.is_unspecified() && !bound.is_loopback()).then_some(bound);
    let said = options.advertise_address.or(reachable);
    said.unwrap_or_else(|| node_address::detect().unwrap_or(Ipv4Addr::LOCALHOST.into()))
}
