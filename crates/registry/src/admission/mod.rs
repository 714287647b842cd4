//! The admission plugins, in the order in which they run (upstream's `AllOrderedPlugins`).

mod authorization;
mod blanket;
mod certificates;
mod classes;
mod configuration;
mod event_rate_limit;
mod image_policy;
mod limit_ranger;
mod matching;
mod memory;
mod namespace_lifecycle;
mod namespaces;
mod node_restriction;
mod owner_references;
mod pod_defaults;
mod pod_placement;
mod pod_rules;
mod pod_security;
mod pod_security_metrics;
mod pod_topology;
pub(crate) mod policy;
mod priority;
mod rbac_escalation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_in_use;
mod webhook;

use std::sync::Arc;

use kybern_apiserver::admission::AdmissionPlugin;
use kybern_apiserver::connect::Observer;
use kybern_component_base::transport::Users;
use prometheus_client::registry::Registry;

use crate::Deps;
pub use configuration::AdmissionConfiguration;
pub use policy::PolicyMetrics;
pub use webhook::WebhookMetrics;

/// What the plugins keep of the stored objects, so that a write need not read them.
#[derive(Clone, Default)]
pub struct Views {
    accounts: Arc<service_account::AccountArrivals>,
    classes: Arc<classes::Classes>,
    namespaces: Arc<namespace_lifecycle::Namespaces>,
    priority_classes: Arc<priority::PriorityClasses>,
    webhooks: Arc<webhook::Configurations>,
    mutating_policies: Arc<policy::Policies<policy::MutatingPolicy>>,
    validating_policies: Arc<policy::Policies<policy::ValidatingPolicy>>,
    namespace_objects: Arc<namespaces::NamespaceObjects>,
    quotas: Arc<resource_quota::Quotas>,
    limit_ranges: Arc<limit_ranger::LimitRanges>,
    topology: Arc<pod_topology::NodeTopology>,
    pod_security: Arc<pod_security_metrics::PodSecurityMetrics>,
}

impl Views {
    pub(crate) fn observers(&self) -> [Arc<dyn Observer>; 11] {
        [
            self.accounts.clone(),
            self.classes.clone(),
            self.namespaces.clone(),
            self.priority_classes.clone(),
            self.webhooks.clone(),
            self.mutating_policies.clone(),
            self.validating_policies.clone(),
            self.namespace_objects.clone(),
            self.quotas.clone(),
            self.limit_ranges.clone(),
            self.topology.clone(),
        ]
    }

    /// Makes what the plugins count visible.
    pub fn register(&self, registry: &mut Registry) {
        self.pod_security.register(registry);
    }
}

/// Upstream's that are left out unless they are asked for.
pub const OFF_BY_DEFAULT: [&str; 14] = [
    "AlwaysAdmit",
    "AlwaysDeny",
    "AlwaysPullImages",
    "DenyServiceExternalIPs",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "ImagePolicyWebhook",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "NodeRestriction",
    "OwnerReferencesPermissionEnforcement",
    "PodNodeSelector",
    "PodTolerationRestriction",
];

/// The chain.
pub fn plugins(deps: &Deps) -> Vec<Arc<dyn AdmissionPlugin>> {
    let views = &deps.admission_views;
    let namespaces = || views.namespace_objects.clone();
    let mut plugins: Vec<Arc<dyn AdmissionPlugin>> = vec![
        Arc::new(blanket::AlwaysAdmit),
        Arc::new(blanket::NamespaceAutoProvision { namespaces: namespaces(), objects: deps.objects.clone() }),
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(views.namespaces.clone())),
        Arc::new(blanket::NamespaceExists { namespaces: namespaces() }),
        Arc::new(pod_rules::LimitPodHardAntiAffinityTopology),
        Arc::new(limit_ranger::LimitRanger(views.limit_ranges.clone())),
        Arc::new(service_account::ServiceAccount::new(deps.objects.clone(), views.accounts.clone())),
        Arc::new(node_restriction::NodeRestriction::new(deps.objects.clone(), deps.authorizer.clone())),
        Arc::new(pod_defaults::TaintNodesByCondition),
        Arc::new(pod_rules::AlwaysPullImages),
    ];
    let image_policy = deps.admission.image_policy.clone();
    plugins.extend(image_policy.map(|policy| Arc::new(image_policy::ImagePolicyWebhook::new(policy)) as _));
    let others: Vec<Arc<dyn AdmissionPlugin>> = vec![
        Arc::new(pod_security::PodSecurity {
            namespaces: namespaces(),
            objects: deps.objects.clone(),
            configuration: deps.admission.pod_security.clone(),
            metrics: views.pod_security.clone(),
        }),
        Arc::new(pod_placement::PodNodeSelector {
            namespaces: namespaces(),
            selectors: deps.admission.node_selectors.clone(),
        }),
        Arc::new(priority::Priority::new(views.priority_classes.clone())),
        Arc::new(pod_defaults::DefaultTolerationSeconds),
        Arc::new(pod_placement::PodTolerationRestriction {
            namespaces: namespaces(),
            default: deps.admission.default_tolerations.clone(),
            whitelist: deps.admission.allowed_tolerations.clone(),
        }),
        Arc::new(event_rate_limit::EventRateLimit::new(&deps.admission.event_limits, deps.clock.clone())),
        Arc::new(pod_rules::ExtendedResourceToleration),
        Arc::new(classes::DefaultStorageClass(views.classes.clone())),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(owner_references::OwnerReferencesPermissionEnforcement {
            authorizer: deps.authorizer.clone(),
            objects: deps.objects.clone(),
        }),
        Arc::new(classes::PersistentVolumeClaimResize(views.classes.clone())),
        Arc::new(runtime_class::RuntimeClass::new(deps.objects.clone())),
    ];
    plugins.extend(others);
    plugins.extend(certificates::plugins(&deps.authorizer));
    plugins.push(Arc::new(classes::DefaultIngressClass(views.classes.clone())));
    plugins.push(Arc::new(blanket::DenyServiceExternalIps));
    plugins.push(Arc::new(pod_topology::PodTopologyLabels(views.topology.clone())));
    plugins.push(Arc::new(policy::PolicyParameters::new(deps.objects.clone(), deps.authorizer.clone())));
    let policies = policy::Shared {
        namespaces: views.namespace_objects.clone(),
        objects: deps.objects.clone(),
        authorizer: deps.authorizer.clone(),
        metrics: deps.policy_metrics.clone(),
    };
    let webhooks = |users: &Option<Users>| webhook::Shared {
        view: views.webhooks.clone(),
        clients: Arc::new(deps.webhooks.with_users(users.clone().unwrap_or_default())),
        authorizer: deps.authorizer.clone(),
        metrics: deps.webhook_metrics.clone(),
        namespaces: views.namespace_objects.clone(),
        policy_metrics: deps.policy_metrics.clone(),
    };
    plugins.push(Arc::new(policy::MutatingAdmissionPolicy::new(views.mutating_policies.clone(), policies.clone())));
    plugins.push(Arc::new(webhook::MutatingAdmissionWebhook(webhooks(&deps.admission.mutating_users))));
    // Whatever mutates has mutated, and nothing was judged yet.
    plugins.push(Arc::new(rbac_escalation::RbacEscalation::new(
        deps.objects.clone(),
        deps.authorizer.clone(),
        deps.rbac.clone(),
    )));
    plugins.push(Arc::new(policy::ValidatingAdmissionPolicy::new(views.validating_policies.clone(), policies)));
    plugins.push(Arc::new(webhook::ValidatingAdmissionWebhook(webhooks(&deps.admission.validating_users))));
    plugins.push(Arc::new(resource_quota::ResourceQuota::new(
        views.quotas.clone(),
        deps.objects.clone(),
        deps.clock.clone(),
        deps.admission.limited.clone(),
    )));
    plugins.push(Arc::new(blanket::AlwaysDeny));
    let enabled = |name: &str| deps.admission.enabled.iter().any(|enabled| enabled.trim() == name);
    plugins.retain(|plugin| !OFF_BY_DEFAULT.contains(&plugin.name()) || enabled(plugin.name()));
    plugins
}
