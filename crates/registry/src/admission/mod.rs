//! The admission plugins, in the order in which they run (upstream's `AllOrderedPlugins`).

mod authorization;
mod certificates;
mod classes;
mod configuration;
mod matching;
mod memory;
mod namespace_lifecycle;
mod namespaces;
mod node_restriction;
mod pod_defaults;
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
}

impl Views {
    pub(crate) fn observers(&self) -> [Arc<dyn Observer>; 9] {
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
        ]
    }
}

/// The chain.
pub fn plugins(deps: &Deps) -> Vec<Arc<dyn AdmissionPlugin>> {
    let mut plugins: Vec<Arc<dyn AdmissionPlugin>> = vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(deps.admission_views.namespaces.clone())),
        Arc::new(service_account::ServiceAccount::new(deps.objects.clone(), deps.admission_views.accounts.clone())),
        Arc::new(node_restriction::NodeRestriction::new(deps.objects.clone(), deps.authorizer.clone())),
        Arc::new(pod_defaults::TaintNodesByCondition),
        Arc::new(priority::Priority::new(deps.admission_views.priority_classes.clone())),
        Arc::new(pod_defaults::DefaultTolerationSeconds),
        Arc::new(classes::DefaultStorageClass(deps.admission_views.classes.clone())),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(classes::PersistentVolumeClaimResize(deps.admission_views.classes.clone())),
        Arc::new(runtime_class::RuntimeClass::new(deps.objects.clone())),
    ];
    plugins.extend(certificates::plugins(&deps.authorizer));
    plugins.push(Arc::new(classes::DefaultIngressClass(deps.admission_views.classes.clone())));
    plugins.push(Arc::new(rbac_escalation::RbacEscalation::new(
        deps.objects.clone(),
        deps.authorizer.clone(),
        deps.rbac.clone(),
    )));
    let views = &deps.admission_views;
    let policies = policy::Shared {
        namespaces: views.namespace_objects.clone(),
        objects: deps.objects.clone(),
        authorizer: deps.authorizer.clone(),
        metrics: deps.policy_metrics.clone(),
    };
    let webhooks = webhook::Shared {
        view: views.webhooks.clone(),
        clients: deps.webhooks.clone(),
        authorizer: deps.authorizer.clone(),
        metrics: deps.webhook_metrics.clone(),
        namespaces: views.namespace_objects.clone(),
        policy_metrics: deps.policy_metrics.clone(),
    };
    plugins.push(Arc::new(policy::MutatingAdmissionPolicy::new(views.mutating_policies.clone(), policies.clone())));
    plugins.push(Arc::new(webhook::MutatingAdmissionWebhook(webhooks.clone())));
    plugins.push(Arc::new(policy::ValidatingAdmissionPolicy::new(views.validating_policies.clone(), policies)));
    plugins.push(Arc::new(webhook::ValidatingAdmissionWebhook(webhooks)));
    plugins.push(Arc::new(resource_quota::ResourceQuota::new(
        deps.admission_views.quotas.clone(),
        deps.objects.clone(),
        deps.clock.clone(),
        deps.admission.limited.clone(),
    )));
    plugins
}
