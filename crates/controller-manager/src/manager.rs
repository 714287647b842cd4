//! Starts the controllers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_auth::token::SigningKey;
use kybern_client::{Client, LeaderElector, LeaseConfig};
use tokio::task::JoinSet;
use tracing::info;

use crate::controller::Controller;
use crate::controllers::attach_detach::AttachDetachController;
use crate::controllers::bootstrap_signer::BootstrapSigner;
use crate::controllers::cluster_role_aggregation::ClusterRoleAggregationController;
use crate::controllers::cronjob::CronJobController;
use crate::controllers::csr_approving::CsrApprovingController;
use crate::controllers::csr_cleaner::CsrCleanerController;
use crate::controllers::csr_signing::{ClusterSigning, CsrSigningController};
use crate::controllers::daemonset::DaemonSetController;
use crate::controllers::deployment::DeploymentController;
use crate::controllers::device_taint_eviction::DeviceTaintEvictionController;
use crate::controllers::disruption::DisruptionController;
use crate::controllers::endpoint_slice::EndpointSliceController;
use crate::controllers::endpoint_slice_mirroring::EndpointSliceMirroringController;
use crate::controllers::endpoints::EndpointsController;
use crate::controllers::ephemeral_volume::EphemeralVolumeController;
use crate::controllers::event_ttl::EventTtlController;
use crate::controllers::garbage_collector::GarbageCollector;
use crate::controllers::horizontal::{self, HorizontalController};
use crate::controllers::job::JobController;
use crate::controllers::legacy_token_cleaner::LegacyTokenCleaner;
use crate::controllers::local_path_provisioner::LocalPathProvisioner;
use crate::controllers::namespace::NamespaceController;
use crate::controllers::node_ipam::{NodeIpamController, NodeRanges};
use crate::controllers::node_lifecycle::{self, NodeLifecycleController};
use crate::controllers::persistent_volume_binder::PersistentVolumeBinder;
use crate::controllers::persistent_volume_expander::PersistentVolumeExpander;
use crate::controllers::pod_gc::PodGarbageCollector;
use crate::controllers::policy_status::PolicyStatusController;
use crate::controllers::pv_protection::PvProtectionController;
use crate::controllers::pvc_protection::PvcProtectionController;
use crate::controllers::replicaset::ReplicaSetController;
use crate::controllers::replication_controller::ReplicationControllerController;
use crate::controllers::resource_claim::ResourceClaimController;
use crate::controllers::resource_quota::ResourceQuotaController;
use crate::controllers::root_ca::RootCaPublisher;
use crate::controllers::service_account::ServiceAccountController;
use crate::controllers::service_account_tokens::ServiceAccountTokens;
use crate::controllers::service_cidr::ServiceCidrController;
use crate::controllers::service_lb::{self, ServiceLoadBalancerController};
use crate::controllers::statefulset::StatefulSetController;
use crate::controllers::storage_version_migrator::StorageVersionMigrator;
use crate::controllers::taint_eviction::TaintEvictionController;
use crate::controllers::token_cleaner::TokenCleaner;
use crate::controllers::trust_bundle_publisher::TrustBundlePublisher;
use crate::controllers::ttl_after_finished::TtlAfterFinishedController;
use crate::controllers::vac_protection::VacProtectionController;
use crate::driver::{self, Environment};
use crate::inventory::Inventory;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// Makes the client of one controller, named by its service account in `kube-system`.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What the controllers need to be told.
#[derive(Clone)]
pub struct Config {
    /// Upstream's `--controllers`: `*` is all that are on by default, `name` turns one on, `-name` off. The first match
    /// counts.
    pub controllers: Vec<String>,
    /// PEM, for the ConfigMaps `kube-root-ca.crt`; without it they are not published.
    pub root_ca: Option<String>,
    /// From what nodes get their parts of the pod network; without it they get none.
    pub node_ranges: Option<NodeRanges>,
    /// With what certificate requests are signed; without it they are not. It may be replaced while they run.
    pub signing: Option<Arc<ArcSwap<ClusterSigning>>>,
    /// With what the tokens in Secrets are signed; without it none are made. It may be replaced, too.
    pub token_key: Option<Arc<ArcSwap<SigningKey>>>,
    /// How long such a token may lie unused.
    pub legacy_token_clean_up_period: Duration,
    pub autoscaling: horizontal::Settings,
    /// Where the addresses of Services of type LoadBalancer come from; without it somebody else gives them.
    pub load_balancers: Option<Arc<dyn service_lb::Provider>>,
    pub node_lifecycle: node_lifecycle::Settings,
    /// Upstream's gates DRADeviceTaints and DRADeviceTaintRules: whether pods leave devices with taints, and whether there are
    /// rules that put taints on them.
    pub device_taints: bool,
    pub device_taint_rules: bool,
    /// How many finished pods may stay, upstream's `--terminated-pod-gc-threshold`; zero: all.
    pub terminated_pods_kept: usize,
    pub max_endpoints_per_slice: usize,
    /// Addresses of one subset of Endpoints.
    pub max_mirrored_per_subset: usize,
    /// How many keys a controller works on at once, by its name, where it is not as usual.
    pub workers: BTreeMap<&'static str, usize>,
    /// Work only while this lease is held; `None` where there is one controller manager.
    pub lease: Option<LeaseConfig>,
    /// How long events are kept after they last happened, upstream's `--event-ttl` of the API server. Zero: an API server
    /// that removes them itself.
    pub event_ttl: Duration,
    /// Upstream's `--use-service-account-credentials`: what each controller writes with, so that it may do what its role
    /// allows and no more. Without it all use the one client, which then needs all the roles.
    pub client_for: Option<ClientFor>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: vec!["*".to_owned()],
            root_ca: None,
            node_ranges: None,
            signing: None,
            token_key: None,
            legacy_token_clean_up_period: Duration::from_secs(365 * 86_400),
            autoscaling: horizontal::Settings::default(),
            load_balancers: None,
            node_lifecycle: node_lifecycle::Settings::default(),
            device_taints: false,
            device_taint_rules: false,
            terminated_pods_kept: 12_500,
            max_endpoints_per_slice: EndpointSliceController::default().max_endpoints,
            max_mirrored_per_subset: EndpointSliceMirroringController::default().max_per_subset,
            workers: BTreeMap::new(),
            lease: None,
            client_for: None,
            event_ttl: Duration::from_secs(3600),
            clock: Arc::new(SystemClock),
            metrics: Metrics::default(),
        }
    }
}

impl Config {
    fn all(&self, client: &Client) -> Vec<Arc<dyn Controller>> {
        let mut list: Vec<Arc<dyn Controller>> = vec![
            Arc::new(NamespaceController),
            Arc::new(ServiceAccountController),
            Arc::new(DeploymentController),
            Arc::new(ReplicaSetController),
            Arc::new(DaemonSetController::default()),
            Arc::new(StatefulSetController),
            Arc::new(JobController),
            Arc::new(CronJobController::default()),
            Arc::new(TtlAfterFinishedController),
            Arc::new(EndpointsController),
            Arc::new(EndpointSliceController { max_endpoints: self.max_endpoints_per_slice }),
            Arc::new(EndpointSliceMirroringController { max_per_subset: self.max_mirrored_per_subset }),
            Arc::new(ReplicationControllerController),
            Arc::new(GarbageCollector),
            Arc::new(PodGarbageCollector { threshold: self.terminated_pods_kept }),
            Arc::new(NodeLifecycleController::new(self.node_lifecycle)),
            Arc::new(TaintEvictionController::default()),
            Arc::new(ClusterRoleAggregationController),
            Arc::new(BootstrapSigner),
            Arc::new(TokenCleaner),
            Arc::new(CsrApprovingController),
            Arc::new(CsrCleanerController),
            Arc::new(PersistentVolumeBinder),
            Arc::new(AttachDetachController),
            Arc::new(PersistentVolumeExpander),
            Arc::new(EphemeralVolumeController),
            Arc::new(LocalPathProvisioner),
            Arc::new(PvcProtectionController),
            Arc::new(PvProtectionController),
            Arc::new(VacProtectionController),
            Arc::new(ResourceClaimController),
            Arc::new(ResourceQuotaController),
            Arc::new(DisruptionController),
            Arc::new(ServiceCidrController),
            Arc::new(StorageVersionMigrator),
            Arc::new(HorizontalController::new(self.autoscaling)),
            Arc::new(LegacyTokenCleaner { period: self.legacy_token_clean_up_period }),
        ];
        list.push(Arc::new(PolicyStatusController::new(client)));
        if !self.event_ttl.is_zero() {
            list.push(Arc::new(EventTtlController::new(client, self.clock.clone(), self.event_ttl)));
        }
        if self.device_taints {
            list.push(Arc::new(DeviceTaintEvictionController::new(client, self.device_taint_rules)));
        }
        if let Some(ca) = &self.root_ca {
            list.push(Arc::new(RootCaPublisher { ca: ca.clone() }));
            list.push(Arc::new(TrustBundlePublisher { ca: ca.clone() }));
        }
        if let Some(ranges) = &self.node_ranges {
            list.push(Arc::new(NodeIpamController { ranges: ranges.clone() }));
        }
        if let Some(provider) = &self.load_balancers {
            list.push(Arc::new(ServiceLoadBalancerController { provider: provider.clone() }));
        }
        if let Some(signing) = &self.signing {
            list.push(Arc::new(CsrSigningController { signing: signing.clone() }));
        }
        if let Some(key) = &self.token_key {
            list.push(Arc::new(ServiceAccountTokens { key: key.clone(), ca: self.root_ca.clone() }));
        }
        list
    }

    /// Whether a controller is asked for, by its name or by the one that it had before.
    fn is_enabled(&self, name: &str) -> bool {
        let is_named = |text: &str| canonical(text) == name;
        for entry in &self.controllers {
            match entry.strip_prefix('-') {
                Some(off) if is_named(off) => return false,
                None if is_named(entry) => return true,
                _ => {}
            }
        }
        !OFF_BY_DEFAULT.contains(&name) && self.controllers.iter().any(|entry| entry == "*")
    }
}

/// What runs only when it is named.
const OFF_BY_DEFAULT: &[&str] = &["bootstrap-signer-controller", "token-cleaner-controller"];

/// Upstream's old names that are not the new one without `-controller`.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("resource-claim-controller", "resourceclaim-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("svm", "storage-version-migrator-controller"),
    ("tokencleaner", "token-cleaner-controller"),
];

/// The name of today.
fn canonical(name: &str) -> Cow<'_, str> {
    match ALIASES.iter().find(|(old, _)| *old == name) {
        Some((_, new)) => Cow::Borrowed(new),
        None if name.ends_with("-controller") => Cow::Borrowed(name),
        None => Cow::Owned(format!("{name}-controller")),
    }
}

/// Runs the controllers until `shutdown` resolves, or until the lease is lost.
pub async fn run(config: Config, client: Client, shutdown: impl Future<Output = ()>) {
    let work = work(&config, &client);
    match &config.lease {
        Some(lease) => LeaderElector::new(client.clone(), lease.clone()).lead(work, shutdown).await,
        None => tokio::select! {
            () = work => {}
            () = shutdown => {}
        },
    }
}

async fn work(config: &Config, client: &Client) {
    let mut tasks = JoinSet::new();
    let inventory = Arc::new(Inventory::default());
    let snapshot = Arc::new(Snapshot::spawn(client, inventory.clone()));
    config.metrics.count_in(&snapshot);
    let environment = Arc::new(Environment {
        client_for: {
            let (own, others) = (client.clone(), config.client_for.clone());
            Arc::new(move |account| match &others {
                Some(others) if !account.is_empty() => others(account),
                _ => own.clone(),
            })
        },
        snapshot: snapshot.clone(),
        clock: config.clock.clone(),
        metrics: config.metrics.clone(),
        workers: config.workers.clone(),
        started: config.clock.now(),
    });
    snapshot.synced().await;
    let controllers = config.all(client).into_iter().filter(|c| config.is_enabled(c.name()));
    for controller in controllers {
        info!(controller = controller.name(), "started");
        driver::start(controller, &environment, &mut tasks);
    }
    // Listeners are in place: nothing of the inventory's first lists is missed.
    tasks.spawn(inventory.run(client.clone()));
    while tasks.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_chosen_as_upstream_does() {
        let check = |list: &[&str], name: &str, expect: bool| {
            let config = Config { controllers: list.iter().map(|s| (*s).to_owned()).collect(), ..Config::default() };
            assert_eq!(config.is_enabled(name), expect, "{list:?} {name}");
        };
        check(&["*"], "replicaset-controller", true);
        check(&["*", "-replicaset"], "replicaset-controller", false);
        check(&["-replicaset-controller", "*"], "replicaset-controller", false);
        check(&["deployment"], "replicaset-controller", false);
        check(&["deployment"], "deployment-controller", true);
        check(&[], "deployment-controller", false);
        check(&["*", "-podgc"], "pod-garbage-collector-controller", false);
        check(&["*"], "token-cleaner-controller", false);
        check(&["*", "tokencleaner"], "token-cleaner-controller", true);
    }
}
