//! An API server with the built-in kinds: what `kybern server` and `kybern kube-apiserver` have in common.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use kybern_apimachinery::json;
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_apiserver::access::Authenticator;
use kybern_apiserver::audit::Audit;
use kybern_apiserver::connect::ObjectsSlot;
use kybern_apiserver::{Options, Server, serve};
use kybern_auth::authn::{
    BearerTokens, BootstrapTokens, LegacyTokens, RequestHeaderNames, ServiceAccountTokens, TokenAuthenticator,
    TokenFile,
};
use kybern_auth::authz::{self, Mode};
use kybern_auth::pki::{KUBELET_CLIENT, Pki, PkiOptions};
use kybern_auth::token::Issuer;
use kybern_component_base::TlsPolicy;
use kybern_registry::bootstrap::{self, BootstrapOptions};
use kybern_registry::{
    AdmissionConfiguration, Aggregation, AggregationOptions, Deps, KubeletClient, PolicyMetrics, Routing,
    ServiceAddresses, ServiceAllocators, TokenLimits, WebhookMetrics,
};
use kybern_webhook::ClientManager;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;

use super::authentication::Authentication;
use super::authorization::Authorization;
use super::certificate::{Certificate, CertificateFiles};
use super::discovery_routes;
use super::identity;
use super::kubelet_access::KubeletAccess;
use super::published_authorities::{ConfigMapChanges, keep_published, publish};
use super::storage::{StorageOptions, report_health};
use super::tokens::Tokens;
use super::trust::Trust;
use super::{profiles, zpages};
use crate::commands::admission;
use crate::commands::api_access::AccessFlags;
use crate::commands::authentication::AuthenticationFlags;
use crate::commands::kube_apiserver::loopback_or;
use crate::commands::runtime_config::RuntimeConfig;
use crate::flags::Gates;
use crate::{preflight, version};

/// What an API server is told.
#[derive(Clone, Debug)]
pub(crate) struct ApiServerOptions {
    pub(crate) storage: StorageOptions,
    /// Holds certificates and keys.
    pub(crate) cert_dir: PathBuf,
    pub(crate) bind_address: IpAddr,
    pub(crate) secure_port: u16,
    /// How others reach this server.
    pub(crate) advertise_address: IpAddr,
    /// One, or one of each family, the default one first.
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) node_ports: std::ops::RangeInclusive<u16>,
    pub(crate) cluster_domain: String,
    /// Further names and addresses in the certificate.
    pub(crate) sans: Vec<String>,
    /// Certificate and key to serve with; `None`: one of the cluster's authority.
    pub(crate) serving: Option<(PathBuf, PathBuf)>,
    /// Authorities of client certificates beside the cluster's own.
    pub(crate) client_ca: Option<PathBuf>,
    /// Authorities of front proxies; `None`: the cluster's own.
    pub(crate) front_proxy_ca: Option<PathBuf>,
    pub(crate) request_headers: RequestHeaderNames,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) authorization: Vec<Mode>,
    /// Webhooks and files of policies.
    pub(crate) access: AccessFlags,
    /// Empty: `https://kubernetes.default.svc.<domain>`.
    pub(crate) issuers: Vec<String>,
    pub(crate) audiences: Vec<String>,
    /// `None`: the key in `cert_dir`.
    pub(crate) signing_key: Option<PathBuf>,
    pub(crate) verifying_keys: Vec<PathBuf>,
    /// The socket of whoever signs tokens instead.
    pub(crate) signing_endpoint: Option<PathBuf>,
    /// Where others find the keys of tokens; empty: below the issuer.
    pub(crate) jwks_uri: String,
    pub(crate) token_limits: TokenLimits,
    /// Issuers of tokens, and anonymous requests.
    pub(crate) authentication: AuthenticationFlags,
    pub(crate) bootstrap_tokens: bool,
    /// Versions of TLS and ciphers.
    pub(crate) tls: TlsPolicy,
    pub(crate) runtime_config: RuntimeConfig,
    pub(crate) gates: Gates,
    /// Admission plugins by name, in addition to those that always run; and those that must not.
    pub(crate) enable_admission: Vec<String>,
    pub(crate) disable_admission: Vec<String>,
    /// What admission plugins are told.
    pub(crate) admission_file: Option<PathBuf>,
    pub(crate) max_requests_in_flight: usize,
    pub(crate) max_mutating_requests_in_flight: usize,
    pub(crate) priority_and_fairness: bool,
    pub(crate) request_timeout: Duration,
    /// Whether `/debug/pprof/` is there.
    pub(crate) profiling: bool,
    pub(crate) audit: Option<Arc<Audit>>,
    /// `None`: kubelets are of the cluster's authority.
    pub(crate) kubelets: Option<KubeletAccess>,
    pub(crate) aggregation: AggregationSettings,
}

/// How other API servers are reached.
#[derive(Clone, Debug)]
pub(crate) struct AggregationSettings {
    /// Certificate and key that they are shown; `None`: those of the cluster's front proxy.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) routing: Routing,
    pub(crate) rejects_redirects: bool,
    /// Whether `metrics.k8s.io` is answered from the kubelets where no other server does it.
    pub(crate) resource_metrics: bool,
}

/// Plugins, and the gates that they are behind.
const GATED: [(&str, &str); 2] =
    [("MutatingAdmissionPolicy", "MutatingAdmissionPolicy"), ("PodTopologyLabels", "PodTopologyLabelsAdmission")];

/// A running API server.
pub(crate) struct ApiServer {
    pub(crate) server: Arc<Server>,
    pub(crate) pki: Pki,
    /// By what clients recognize the server.
    pub(crate) server_ca_pem: String,
}

impl ApiServerOptions {
    pub(crate) fn kubernetes_ip(&self) -> Result<IpAddr> {
        let first = self.service_cidrs.first().and_then(|range| range.hosts().next());
        first.with_context(|| format!("--service-cluster-ip-range {:?} holds no address", self.service_cidrs))
    }

    /// The Services' ranges are one, or one of each family.
    fn check_service_ranges(&self) -> Result<()> {
        match self.service_cidrs.as_slice() {
            [_] => Ok(()),
            [first, second] if first.addr().is_ipv4() != second.addr().is_ipv4() => Ok(()),
            [_, _] => {
                bail!("--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP family")
            }
            _ => bail!("--service-cluster-ip-range must be one range, or two of different IP families"),
        }
    }

    fn pki(&self) -> Result<PkiOptions> {
        let mut node_ips = vec![self.advertise_address];
        let mut extra_names = Vec::new();
        for san in &self.sans {
            match san.parse() {
                Ok(ip) => node_ips.push(ip),
                Err(_) => extra_names.push(san.clone()),
            }
        }
        node_ips.extend((!self.bind_address.is_unspecified()).then_some(self.bind_address));
        Ok(PkiOptions {
            directory: self.cert_dir.clone(),
            service_ip: self.kubernetes_ip()?,
            node_ips,
            extra_names,
            cluster_domain: self.cluster_domain.clone(),
        })
    }
}

/// Starts an API server; when this answers, it serves. `on_step` hears each finished step.
pub(crate) async fn start(options: &ApiServerOptions, on_step: impl Fn(&str)) -> Result<ApiServer> {
    let pki_options = options.pki()?;
    let pki = Pki::load_or_create(&pki_options, jiff::Timestamp::now())?;
    on_step("certificates");
    // Before anything is written: a port in use must leave no trace in the store.
    let listener = listen(SocketAddr::new(options.bind_address, options.secure_port)).await?;
    let storage = options.storage.open().await?;
    on_step("store");

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let slot = ObjectsSlot::default();
    let Tokens { issuer, limits: token_limits, signer } = Tokens::new(options, &pki).await?;
    let server_id = identity::server_id();
    let authorization = Authorization::new(options, &server_id)?;
    let Authorization { list: authorizers, rbac, mut observers, metrics: authorization_metrics } = authorization;
    options.check_service_ranges()?;
    let services = Arc::new(ServiceAllocators::new(&options.service_cidrs, options.node_ports.clone(), slot.clone()));
    let authentication =
        Authentication::new(&options.authentication, issuer.issuers(), Arc::clone(&clock), &server_id)?;
    let tokens = Arc::new(bearer_tokens(options, &issuer, &authentication, &slot, &clock)?);
    let service_addresses =
        Arc::new(ServiceAddresses::of_server(SocketAddr::new(loopback_or(options.bind_address), options.secure_port)));
    let webhook_metrics = Arc::new(WebhookMetrics::default());
    let policy_metrics = Arc::new(PolicyMetrics::default());
    let told = options.admission_file.as_deref().map(AdmissionConfiguration::read).transpose();
    let told = told.map_err(anyhow::Error::msg)?.unwrap_or_default();
    let admission_views = kybern_registry::AdmissionViews::default();
    let deps = Deps {
        objects: slot.clone(),
        clock: Arc::clone(&clock),
        issuer: Arc::clone(&issuer),
        token_limits,
        tokens: Arc::clone(&tokens),
        authorizer: Arc::new(authz::Union(authorizers.clone())),
        rbac,
        services,
        elections: Default::default(),
        admission_views: admission_views.clone(),
        admission: told.with_enabled(options.enable_admission.clone()).map_err(anyhow::Error::msg)?,
        webhooks: Arc::new(ClientManager::new(service_addresses.clone(), "kube-apiserver-admission")),
        webhook_metrics: Arc::clone(&webhook_metrics),
        policy_metrics: Arc::clone(&policy_metrics),
        definitions: Default::default(),
        aggregation: Aggregation::new(service_addresses),
        kubelet: Arc::new(match &options.kubelets {
            Some(access) => access.client(&pki)?,
            None => KubeletClient::of(&pki)?,
        }),
    };
    observers.extend(deps.observers());
    let mut server = Options::new(storage);
    (server.health_timeout, server.readiness_timeout) =
        (options.storage.health_timeout, options.storage.readiness_timeout);
    server.resources = kybern_registry::resources(&deps);
    let (storage, key_health) = options.storage.encrypted(server.storage.clone(), &server.resources).await?;
    server.storage = options.storage.formed(storage, &server.resources);
    options.runtime_config.retain(&mut server.resources, |row| &row.gvr)?;
    server.priorities = kybern_registry::aggregation::priorities;
    server.admission = kybern_registry::admission_plugins(&deps);
    let mut names: Vec<&str> = server.admission.iter().map(|plugin| plugin.name()).collect();
    names.extend(kybern_registry::ADMISSION_OFF_BY_DEFAULT);
    let left_out = admission::left_out(&names, &options.enable_admission, &options.disable_admission)?;
    server.admission.retain(|plugin| !left_out.iter().any(|name| name == plugin.name()));
    let gated = |name| GATED.iter().find(|(plugin, _)| *plugin == name).map(|(_, gate)| *gate);
    server.admission.retain(|plugin| gated(plugin.name()).is_none_or(|gate| options.gates.enabled(gate)));
    server.max_requests_in_flight = options.max_requests_in_flight;
    server.max_mutating_requests_in_flight = options.max_mutating_requests_in_flight;
    server.priority_and_fairness = options.priority_and_fairness;
    server.request_timeout = options.request_timeout;
    server.audit.clone_from(&options.audit);
    let trust = Trust::read(options, &pki)?;
    let config_map_changes = Arc::new(ConfigMapChanges::default());
    observers.push(config_map_changes.clone());
    let certificates = trust.authenticators(options.request_headers.clone());
    server.authenticators = authenticators(&authentication, certificates, tokens);
    server.authorizers = authorizers;
    server.observers = observers;
    server.routes = discovery_routes::of(&issuer);
    server.routes.extend(zpages::routes());
    server.version = version_document();
    server.clock = clock;
    server.features = options.gates.features();
    let server = Server::start(server).await.context("cannot load the store")?;
    if let Some(health) = key_health {
        tokio::spawn(report_health(server.checks().clone(), health));
    }
    server.checks().pass("informer-sync");
    server.checks().started(&["generic-apiserver-start-informers", "start-apiserver-admission-initializer"]);
    server.keep_flow_conditions();
    server.metrics().register(kybern_client::register_informer_metrics);
    server.metrics().register(|registry| webhook_metrics.register(registry));
    server.metrics().register(|registry| admission_views.register(registry));
    server.metrics().register(|registry| authorization_metrics.register(registry));
    server.metrics().register(|registry| policy_metrics.register(registry));
    server.metrics().register(|registry| authentication.metrics.register(registry));
    if let Some(signer) = signer {
        server.metrics().register(|registry| signer.register(registry));
    }
    if options.profiling {
        server.prefixes().set(kybern_profiling::PREFIX, Some(Arc::new(profiles::Pages)));
    }
    slot.fill(server.clone());
    deps.definitions.start(&server, deps.webhooks.clone()).await.context("cannot serve the custom resources")?;
    let hooks = ["start-apiextensions-informers", "start-apiextensions-controllers", "crd-informer-synced"];
    server.checks().started(&hooks);
    let bootstrap = BootstrapOptions {
        advertise_address: options.advertise_address,
        secure_port: options.secure_port,
        kubernetes_ip: options.kubernetes_ip()?,
        service_cidrs: options.service_cidrs.iter().map(ToString::to_string).collect(),
        kubelet_client: own_kubelet_client(options),
        features: options.gates.features(),
    };
    bootstrap::run(server.as_ref(), &bootstrap).await.context("cannot make the cluster's first objects")?;
    // Ranges need no repair: a Service and what it claims are one write.
    server.checks().started(&[
        "bootstrap-controller",
        "start-system-namespaces-controller",
        "start-service-ip-repair-controllers",
        "start-kubernetes-service-cidr-controller",
        "rbac/bootstrap-roles",
        "scheduling/bootstrap-system-priority-classes",
        "priority-and-fairness-config-producer",
    ]);
    deps.aggregation.start(&server, aggregation(options, &pki, &deps)).await;
    if options.gates.enabled("CoordinatedLeaderElection") {
        deps.elections.hold(&server);
    }
    kybern_registry::identity::keep(&server, server_id.clone(), identity::host());
    bootstrap::token_tracking(server.as_ref(), jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date())
        .await
        .context("cannot note since when tokens are tracked")?;
    server.checks().started(&["start-legacy-token-tracking-controller"]);
    let mut authorities = trust.subscribe();
    let first = authorities.borrow_and_update().clone();
    let headers = options.request_headers.clone();
    publish(&server, &headers, &first).await.context("cannot publish the cluster's authorities")?;
    tokio::spawn(keep_published(Arc::clone(&server), headers, authorities, config_map_changes));
    server.checks().started(&["start-cluster-authentication-info-controller"]);
    let (certificate, server_ca_pem) = match &options.serving {
        None => {
            let certificate = Certificate::new(&pki.apiserver)?;
            tokio::spawn(Arc::clone(&certificate).keep_renewed(pki_options, pki.next_renewal()));
            (certificate, pki.ca.certificate_pem().to_owned())
        }
        Some((certificate, key)) => {
            let files = CertificateFiles::read(certificate, key)?;
            let (pair, chain) = files.first()?;
            tokio::spawn(files.follow(Arc::clone(&pair)));
            (pair, chain)
        }
    };
    let policy = options.tls.clone();
    let config = move |roots: &[CertificateDer<'static>]| serve::tls_config(&policy, certificate.clone(), roots);
    let tls = Arc::new(ArcSwap::from_pointee(config(&trust.roots()?)?));
    let current = Arc::clone(&tls);
    tokio::spawn(trust.follow(move |roots| {
        tls.store(Arc::new(config(roots)?));
        Ok(())
    }));
    tokio::spawn(serve::serve(Arc::clone(&server), listener, move || current.load_full()));
    Ok(ApiServer { server, pki, server_ca_pem })
}

fn aggregation(options: &ApiServerOptions, pki: &Pki, deps: &Deps) -> AggregationOptions {
    let AggregationSettings { identity, routing, rejects_redirects, resource_metrics } = &options.aggregation;
    let own = |extension: &str| pki.directory().join(format!("front-proxy-client.{extension}"));
    AggregationOptions {
        identity: Some(identity.clone().unwrap_or_else(|| (own("crt"), own("key")))),
        locate: deps.aggregation.locate(*routing),
        rejects_redirects: *rejects_redirects,
        built_in: resource_metrics.then(|| kybern_registry::resource_metrics(deps)).into_iter().collect(),
    }
}

/// Who the API server is to kubelets, unless a flag names a certificate of others.
fn own_kubelet_client(options: &ApiServerOptions) -> Option<&'static str> {
    let others = options.kubelets.as_ref().is_some_and(|access| access.certificate.is_some());
    (!others).then_some(KUBELET_CLIENT)
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| preflight::cannot_listen(address, "the API", Some("--secure-port"), &error))
}

/// The judges of tokens, in the order in which they are asked: those who know first, those who have to ask last.
fn bearer_tokens(
    options: &ApiServerOptions,
    issuer: &Arc<Issuer>,
    authentication: &Authentication,
    slot: &ObjectsSlot,
    clock: &Arc<dyn Clock>,
) -> Result<BearerTokens> {
    let mut judges: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
    if let Some(path) = &options.token_file {
        judges.push(Arc::new(TokenFile::read(path)?));
    }
    judges.push(Arc::new(LegacyTokens::new(Arc::clone(issuer), slot.clone(), Arc::clone(clock))));
    judges.push(Arc::new(ServiceAccountTokens::new(Arc::clone(issuer), slot.clone(), Arc::clone(clock))));
    if options.bootstrap_tokens {
        judges.push(Arc::new(BootstrapTokens::new(slot.clone(), Arc::clone(clock))));
    }
    judges.extend(authentication.issuers.clone().map(|issuers| issuers as Arc<dyn TokenAuthenticator>));
    judges.extend(options.access.token_authenticator()?);
    Ok(BearerTokens::new(judges, issuer.audiences().to_vec()))
}

/// In the order in which they are asked.
fn authenticators(
    authentication: &Authentication,
    certificates: Vec<Arc<dyn Authenticator>>,
    tokens: Arc<BearerTokens>,
) -> Vec<Arc<dyn Authenticator>> {
    let mut list = certificates;
    list.push(tokens);
    list.extend(authentication.anonymous.clone().map(|anonymous| Arc::new(anonymous) as Arc<dyn Authenticator>));
    list
}

/// `version.Info`, the body of `/version`.
fn version_document() -> kybern_apimachinery::Value {
    json!({
        "major": version::KUBERNETES_MAJOR, "minor": version::KUBERNETES_MINOR, "gitVersion": version::KUBERNETES,
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", version::architecture()),
    })
}
