//! What `PodSecurity` decided, counted under upstream's names.

use kybern_apiserver::admission::{AdmissionRequest, Operation};
use kybern_pod_security::{Decision, Level, Version};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Versions beyond it are of the future.
const MINOR: u32 = 35;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EvaluationLabels {
    decision: &'static str,
    policy_level: &'static str,
    policy_version: String,
    mode: &'static str,
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExemptionLabels {
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    fatal: &'static str,
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

#[derive(Default)]
pub(super) struct PodSecurityMetrics {
    evaluations: Family<EvaluationLabels, Counter>,
    exemptions: Family<ExemptionLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
}

fn operation(request: &AdmissionRequest<'_>) -> &'static str {
    if request.operation == Operation::Create { "create" } else { "update" }
}

fn resource(request: &AdmissionRequest<'_>) -> &'static str {
    if request.resource.gvr.resource == "pods" { "pod" } else { "controller" }
}

impl PodSecurityMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "pod_security_evaluations",
            "Number of policy evaluations that occurred, not counting ignored or exempt requests",
            self.evaluations.clone(),
        );
        registry.register(
            "pod_security_exemptions",
            "Number of exempt requests, not counting ignored or out of scope requests",
            self.exemptions.clone(),
        );
        registry.register(
            "pod_security_errors",
            "Number of errors preventing normal evaluation. Non-fatal errors may result in the latest restricted profile \
             being used for evaluation",
            self.errors.clone(),
        );
    }

    pub(super) fn error(&self, request: &AdmissionRequest<'_>, fatal: bool) {
        let labels = ErrorLabels {
            fatal: if fatal { "true" } else { "false" },
            request_operation: operation(request),
            resource: resource(request),
            subresource: request.subresource.to_owned(),
        };
        self.errors.get_or_create(&labels).inc();
    }

    pub(super) fn decided(&self, request: &AdmissionRequest<'_>, decision: &Decision) {
        if decision.failed {
            self.error(request, false);
        }
        if decision.exempt {
            let labels = ExemptionLabels {
                request_operation: operation(request),
                resource: resource(request),
                subresource: request.subresource.to_owned(),
            };
            self.exemptions.get_or_create(&labels).inc();
        }
        for evaluation in &decision.evaluations {
            let policy = evaluation.policy;
            let version = match policy.version {
                // Who is privileged is so in every version.
                _ if policy.level == Level::Privileged => Version::Latest.to_string(),
                Version::Minor(minor) if minor > MINOR => "future".to_owned(),
                version => version.to_string(),
            };
            let labels = EvaluationLabels {
                decision: if evaluation.allowed { "allow" } else { "deny" },
                policy_level: policy.level.as_str(),
                policy_version: version,
                mode: evaluation.mode.as_str(),
                request_operation: operation(request),
                resource: resource(request),
                subresource: request.subresource.to_owned(),
            };
            self.evaluations.get_or_create(&labels).inc();
        }
    }
}
