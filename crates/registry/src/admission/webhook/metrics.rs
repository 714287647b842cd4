//! Metrics of webhooks, under upstream's names.

use std::time::Duration;

use kybern_apiserver::admission::Operation;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::call::Failure;
use super::hook::Hook;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    name: String,
    r#type: &'static str,
}

const BUCKETS: [f64; 7] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0];

/// See the module.
pub struct Metrics {
    durations: Family<DurationLabels, Histogram>,
    requests: Family<RequestLabels, Counter>,
    rejections: Family<RejectionLabels, Counter>,
    failed_open: Family<NameLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram),
            requests: Family::default(),
            rejections: Family::default(),
            failed_open: Family::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        const PREFIX: &str = "apiserver_admission_webhook";
        registry.register(
            format!("{PREFIX}_admission_duration_seconds"),
            "Time that webhooks took, by name, type and operation",
            self.durations.clone(),
        );
        // The encoder adds `_total` itself.
        registry.register(format!("{PREFIX}_request"), "Calls of webhooks, with their codes", self.requests.clone());
        registry.register(
            format!("{PREFIX}_rejection_count"),
            "Requests refused by webhooks or for their sake",
            self.rejections.clone(),
        );
        registry.register(
            format!("{PREFIX}_fail_open_count"),
            "Requests that went on though a webhook could not be asked",
            self.failed_open.clone(),
        );
    }

    pub(super) fn called(
        &self,
        hook: &Hook,
        kind: &'static str,
        operation: Operation,
        took: Duration,
        failure: Option<&Failure>,
    ) {
        let (error_type, code, rejected) = match failure {
            None => ("", 200, false),
            Some(Failure::Calling { code, .. }) => ("calling_webhook_error", *code, !hook.ignore_failure),
            Some(Failure::Rejected(error)) => ("no_error", error.code(), true),
            Some(Failure::Internal(_)) => ("apiserver_internal_error", 0, true),
        };
        let (name, operation) = (hook.name.clone(), operation.as_str());
        let labels = DurationLabels { name: name.clone(), r#type: kind, operation, rejected: rejected.to_string() };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        let labels =
            RequestLabels { name: name.clone(), r#type: kind, operation, code, rejected: rejected.to_string() };
        self.requests.get_or_create(&labels).inc();
        if rejected {
            let labels = RejectionLabels { name, r#type: kind, operation, error_type, rejection_code: code };
            self.rejections.get_or_create(&labels).inc();
        }
    }

    pub(super) fn failed_open(&self, name: &str, kind: &'static str) {
        self.failed_open.get_or_create(&NameLabels { name: name.to_owned(), r#type: kind }).inc();
    }
}
