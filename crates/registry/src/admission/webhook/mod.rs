//! `MutatingAdmissionWebhook` and `ValidatingAdmissionWebhook`: objects are shown to webhooks that the cluster's own objects
//! name, before they are written.
//!
//! What configurations say is compiled when they are committed, not when a request comes: a request that no webhook is about
//! costs a look at the rules.

mod call;
mod hook;
mod metrics;
mod mutating;
mod review;
mod validating;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kybern_apimachinery::Value;
use kybern_apiserver::access::Authorizer;
use kybern_apiserver::admission::AdmissionRequest;
use kybern_apiserver::connect::Observer;
use kybern_webhook::ClientManager;
use parking_lot::Mutex;

use super::namespaces::NamespaceObjects;
use super::policy::PolicyMetrics;
use hook::Hook;
pub use metrics::Metrics as WebhookMetrics;
pub(super) use mutating::MutatingAdmissionWebhook;
pub(super) use validating::ValidatingAdmissionWebhook;

const GROUP: &str = "admissionregistration.k8s.io";

/// What both plugins share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) view: Arc<Configurations>,
    pub(super) clients: Arc<ClientManager>,
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) metrics: Arc<WebhookMetrics>,
    pub(super) namespaces: Arc<NamespaceObjects>,
    pub(super) policy_metrics: Arc<PolicyMetrics>,
}

/// The webhooks of all configurations.
#[derive(Default)]
pub(super) struct Configurations {
    mutating: Webhooks,
    validating: Webhooks,
}

/// The webhooks of one kind, in the order of their configurations' names.
#[derive(Default)]
struct Webhooks {
    by_configuration: Mutex<BTreeMap<String, Vec<Arc<Hook>>>>,
    all: ArcSwap<Vec<Arc<Hook>>>,
}

impl Webhooks {
    fn changed(&self, name: &str, configuration: Option<&Value>) {
        let mut by_configuration = self.by_configuration.lock();
        match configuration {
            Some(configuration) => drop(by_configuration.insert(name.to_owned(), hook::compile(configuration))),
            None => drop(by_configuration.remove(name)),
        }
        self.all.store(Arc::new(by_configuration.values().flatten().cloned().collect()));
    }
}

impl Observer for Configurations {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, "mutatingwebhookconfigurations"), (GROUP, "validatingwebhookconfigurations")]
    }

    fn changed(&self, _group: &str, resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let webhooks = if resource == "mutatingwebhookconfigurations" { &self.mutating } else { &self.validating };
        webhooks.changed(name, object);
    }
}

/// Whether a request changes what says who looks at requests: no webhook may stand in the way of its own removal.
fn is_exempt(request: &AdmissionRequest<'_>) -> bool {
    const KINDS: [&str; 6] = [
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
    ];
    request.kind.group == GROUP && KINDS.contains(&request.kind.kind.as_str())
}
