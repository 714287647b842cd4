//! The admission plugins, in the order in which they run (upstream's `AllOrderedPlugins`).

mod namespace_lifecycle;
mod node_restriction;
mod pod_defaults;
mod priority;
mod rbac_escalation;
mod service_account;

use std::sync::Arc;

use kybern_apiserver::access::AdmissionPlugin;

use crate::Deps;

pub use service_account::AccountArrivals;

/// The chain.
pub fn plugins(deps: &Deps) -> Vec<Arc<dyn AdmissionPlugin>> {
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle::new(deps.objects.clone())),
        Arc::new(service_account::ServiceAccount::new(deps.objects.clone(), deps.account_arrivals.clone())),
        Arc::new(node_restriction::NodeRestriction::new(deps.objects.clone())),
        Arc::new(pod_defaults::TaintNodesByCondition),
        Arc::new(priority::Priority::new(deps.objects.clone())),
        Arc::new(pod_defaults::DefaultTolerationSeconds),
        Arc::new(rbac_escalation::RbacEscalation::new(
            deps.objects.clone(),
            deps.authorizer.clone(),
            deps.rbac.clone(),
        )),
    ]
}
