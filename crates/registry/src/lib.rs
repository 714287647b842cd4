//! The built-in kinds as data for the generic API server: the resource table, the rules of the kinds that have some,
//! admission, columns, allocation of addresses and ports, the connect subresources, and the objects that a cluster
//! starts with.

pub mod admission;
pub mod aggregation;
pub mod allocation;
pub mod bootstrap;
mod columns;
pub mod connect;
mod conversion;
mod custom;
mod elections;
pub mod identity;
mod selectable;
mod service_addresses;
mod strategy;
mod table;
mod validation;

use std::sync::Arc;

use kybern_apimachinery::time::Clock;
pub(crate) use kybern_apimachinery::tree;
use kybern_apiserver::access::Authorizer;
use kybern_apiserver::connect::{ObjectsSlot, Observer};
use kybern_auth::authn::BearerTokens;
use kybern_auth::authz::rbac::Rbac;
use kybern_auth::token::Issuer;
use kybern_webhook::ClientManager;

pub use admission::{
    AdmissionConfiguration, OFF_BY_DEFAULT as ADMISSION_OFF_BY_DEFAULT, PolicyMetrics, Views as AdmissionViews,
    WebhookMetrics, plugins as admission_plugins,
};
pub use aggregation::{Aggregation, AggregationOptions, BuiltIn};
pub use allocation::ServiceAllocators;
pub use connect::TokenLimits;
pub use connect::kubelet::{KubeletClient, KubeletOptions};
pub use connect::resource_metrics::built_in as resource_metrics;
pub use custom::Definitions;
pub use elections::Elections;
pub use service_addresses::{Routing, ServiceAddresses};
pub use table::resources;

/// What the built-in kinds need of the rest of the server.
#[derive(Clone)]
pub struct Deps {
    pub objects: ObjectsSlot,
    pub clock: Arc<dyn Clock>,
    /// Issues the tokens of `serviceaccounts/token`.
    pub issuer: Arc<Issuer>,
    pub token_limits: TokenLimits,
    /// Judges the tokens of `tokenreviews`.
    pub tokens: Arc<BearerTokens>,
    /// The whole authorizer, for access reviews and admission.
    pub authorizer: Arc<dyn Authorizer>,
    /// RBAC alone, for rule reviews and escalation checks; `None` when it is off.
    pub rbac: Option<Arc<Rbac>>,
    pub services: Arc<ServiceAllocators>,
    /// Elections of leaders by the server, to be held once it is started.
    pub elections: Arc<Elections>,
    pub admission_views: AdmissionViews,
    /// What plugins are told by `--admission-control-config-file`.
    pub admission: AdmissionConfiguration,
    /// Makes clients of the webhooks that objects name.
    pub webhooks: Arc<ClientManager>,
    pub webhook_metrics: Arc<WebhookMetrics>,
    pub policy_metrics: Arc<PolicyMetrics>,
    /// Custom resources; to be started once the server is.
    pub definitions: Definitions,
    /// Other servers' groups; to be started once the server is.
    pub aggregation: Aggregation,
    /// Reaches kubelets for logs, exec and the like.
    pub kubelet: Arc<KubeletClient>,
}

impl Deps {
    /// What of this has to see the stored objects.
    pub fn observers(&self) -> Vec<Arc<dyn Observer>> {
        let mut observers: Vec<Arc<dyn Observer>> =
            vec![self.services.clone(), self.definitions.observer(), self.elections.clone()];
        observers.extend(self.aggregation.observers());
        observers.extend(self.admission_views.observers());
        observers
    }
}
