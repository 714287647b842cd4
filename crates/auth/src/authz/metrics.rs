//! Metrics of authorizers, under upstream's names.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kybern_apiserver::access::{Answer, Attributes, Authorizer, Decision};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Mode;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    r#type: &'static str,
    name: String,
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    name: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    r#type: &'static str,
    name: String,
}

const CONDITION_BUCKETS: [f64; 7] = [0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25];
const CALL_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// See the module.
pub struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    call_durations: Family<CallLabels, Histogram>,
    failed_open: Family<CallLabels, Counter>,
    condition_errors: Family<NameLabels, Counter>,
    exclusions: Family<NameLabels, Counter>,
    condition_durations: Family<NameLabels, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            decisions: Family::default(),
            calls: Family::default(),
            call_durations: Family::new_with_constructor((|| Histogram::new(CALL_BUCKETS)) as fn() -> Histogram),
            failed_open: Family::default(),
            condition_errors: Family::default(),
            exclusions: Family::default(),
            condition_durations: Family::new_with_constructor(
                (|| Histogram::new(CONDITION_BUCKETS)) as fn() -> Histogram,
            ),
        }
    }
}

impl Metrics {
    /// The encoder adds `_total` to counters itself.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_authorization_decisions",
            "Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision",
            self.decisions.clone(),
        );
        registry.register(
            "apiserver_authorization_webhook_evaluations",
            "Round-trips to authorization webhooks",
            self.calls.clone(),
        );
        registry.register(
            "apiserver_authorization_webhook_duration_seconds",
            "Request latency in seconds",
            self.call_durations.clone(),
        );
        registry.register(
            "apiserver_authorization_webhook_evaluations_fail_open",
            "NoOpinion results due to webhook timeout or error",
            self.failed_open.clone(),
        );
        registry.register(
            "apiserver_authorization_match_condition_evaluation_errors",
            "Reviews of which match conditions could not be evaluated",
            self.condition_errors.clone(),
        );
        registry.register(
            "apiserver_authorization_match_condition_exclusions",
            "Reviews that match conditions kept from a webhook",
            self.exclusions.clone(),
        );
        registry.register(
            "apiserver_authorization_match_condition_evaluation_seconds",
            "Authorization match condition evaluation time in seconds",
            self.condition_durations.clone(),
        );
    }

    pub(super) fn called(&self, name: &str, result: &'static str, took: Duration) {
        let labels = CallLabels { name: name.to_owned(), result };
        self.call_durations.get_or_create(&labels).observe(took.as_secs_f64());
        self.calls.get_or_create(&labels).inc();
    }

    pub(super) fn failed_open(&self, name: &str, result: &'static str) {
        self.failed_open.get_or_create(&CallLabels { name: name.to_owned(), result }).inc();
    }

    pub(super) fn conditions_met(&self, name: &str, result: &Result<bool, String>, took: Duration) {
        let labels = NameLabels { r#type: Mode::Webhook.as_str(), name: name.to_owned() };
        self.condition_durations.get_or_create(&labels).observe(took.as_secs_f64());
        match result {
            Ok(true) => {}
            Ok(false) => {
                self.exclusions.get_or_create(&labels).inc();
            }
            Err(_) => {
                self.condition_errors.get_or_create(&labels).inc();
            }
        }
    }

    /// The same authorizer, with what it decides counted.
    pub fn counted(&self, mode: Mode, name: &str, authorizer: Arc<dyn Authorizer>) -> Arc<dyn Authorizer> {
        let (decisions, name) = (self.decisions.clone(), name.to_owned());
        Arc::new(Counted { authorizer, decisions, mode, name, allowed: OnceLock::new(), denied: OnceLock::new() })
    }
}

struct Counted {
    authorizer: Arc<dyn Authorizer>,
    decisions: Family<DecisionLabels, Counter>,
    mode: Mode,
    name: String,
    /// There once there is something to count.
    allowed: OnceLock<Counter>,
    denied: OnceLock<Counter>,
}

impl Counted {
    fn count(&self, decision: &Decision) {
        let (counter, decision) = match decision {
            Decision::Allow(_) => (&self.allowed, "allowed"),
            Decision::Deny(_) | Decision::Error { deny: true, .. } => (&self.denied, "denied"),
            Decision::NoOpinion(_) | Decision::Error { deny: false, .. } => return,
        };
        let labels = || DecisionLabels { r#type: self.mode.as_str(), name: self.name.clone(), decision };
        counter.get_or_init(|| self.decisions.get_or_create_owned(&labels())).inc();
    }
}

impl Authorizer for Counted {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        match self.authorizer.authorize(attributes) {
            Answer::Now(decision) => {
                self.count(&decision);
                decision.into()
            }
            Answer::Later(later) => Answer::Later(Box::pin(async move {
                let decision = later.await;
                self.count(&decision);
                decision
            })),
        }
    }
}
