//! Metrics of policies and of match conditions, under upstream's names.

use std::time::Duration;

use kybern_apiserver::admission::Operation;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::conditions::{Conditions, Matched};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ValidationLabels {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
    enforcement_action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MutationLabels {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    name: String,
    kind: &'static str,
    r#type: &'static str,
    operation: &'static str,
}

/// Whose match conditions were evaluated.
#[derive(Clone, Copy)]
pub(in crate::admission) struct ConditionsOf<'a> {
    pub(in crate::admission) name: &'a str,
    /// `webhook` or `policy`.
    pub(in crate::admission) kind: &'static str,
    /// `admit` or `validate`.
    pub(in crate::admission) r#type: &'static str,
    pub(in crate::admission) operation: Operation,
}

const CHECK_BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];
const CONDITION_BUCKETS: [f64; 7] = [0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25];

type New = fn() -> Histogram;

/// See the module.
pub struct Metrics {
    validations: Family<ValidationLabels, Counter>,
    validation_seconds: Family<ValidationLabels, Histogram, New>,
    mutations: Family<MutationLabels, Counter>,
    mutation_seconds: Family<MutationLabels, Histogram, New>,
    condition_errors: Family<ConditionLabels, Counter>,
    condition_exclusions: Family<ConditionLabels, Counter>,
    condition_seconds: Family<ConditionLabels, Histogram, New>,
}

impl Default for Metrics {
    fn default() -> Self {
        let (check, condition): (New, New) = (|| Histogram::new(CHECK_BUCKETS), || Histogram::new(CONDITION_BUCKETS));
        Self {
            validations: Family::default(),
            validation_seconds: Family::new_with_constructor(check),
            mutations: Family::default(),
            mutation_seconds: Family::new_with_constructor(check),
            condition_errors: Family::default(),
            condition_exclusions: Family::default(),
            condition_seconds: Family::new_with_constructor(condition),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        // The encoder adds `_total` itself.
        registry.register(
            "apiserver_validating_admission_policy_check",
            "What validations of policies led to, by policy, binding, error and action",
            self.validations.clone(),
        );
        registry.register(
            "apiserver_validating_admission_policy_check_duration_seconds",
            "Time that validations of policies took",
            self.validation_seconds.clone(),
        );
        registry.register(
            "apiserver_mutating_admission_policy_check",
            "Mutations by policies, by policy, binding and error",
            self.mutations.clone(),
        );
        registry.register(
            "apiserver_mutating_admission_policy_check_duration_seconds",
            "Time that mutations by policies took",
            self.mutation_seconds.clone(),
        );
        const CONDITIONS: &str = "apiserver_admission_match_condition";
        registry.register(
            format!("{CONDITIONS}_evaluation_errors"),
            "Match conditions that could not be evaluated",
            self.condition_errors.clone(),
        );
        registry.register(
            format!("{CONDITIONS}_exclusions"),
            "Webhooks and policies left out by their match conditions",
            self.condition_exclusions.clone(),
        );
        registry.register(
            format!("{CONDITIONS}_evaluation_seconds"),
            "Time that match conditions took",
            self.condition_seconds.clone(),
        );
    }

    /// `error` is none where the expression evaluated to `true`.
    pub(super) fn validated(
        &self,
        (policy, binding): (&str, &str),
        error: Option<&str>,
        action: &'static str,
        took: Duration,
    ) {
        let labels = ValidationLabels {
            policy: policy.to_owned(),
            policy_binding: binding.to_owned(),
            error_type: error_type(error),
            enforcement_action: action,
        };
        self.validations.get_or_create(&labels).inc();
        self.validation_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(super) fn mutated(&self, (policy, binding): (&str, &str), error: Option<&str>, took: Duration) {
        let (policy, policy_binding) = (policy.to_owned(), binding.to_owned());
        let labels = MutationLabels { policy, policy_binding, error_type: error_type(error) };
        self.mutations.get_or_create(&labels).inc();
        self.mutation_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(in crate::admission) fn matched(&self, of: ConditionsOf<'_>, matched: &Matched) {
        let ConditionsOf { name, kind, r#type, operation } = of;
        let labels = ConditionLabels { name: name.to_owned(), kind, r#type, operation: operation.as_str() };
        if matched.errors > 0 {
            self.condition_errors.get_or_create(&labels).inc_by(matched.errors);
        }
        match &matched.conditions {
            // Upstream takes the time of those alone that leave something out.
            Conditions::Match => return,
            Conditions::NoMatch => drop(self.condition_exclusions.get_or_create(&labels).inc()),
            Conditions::Failed(_) => {}
        }
        self.condition_seconds.get_or_create(&labels).observe(matched.took.as_secs_f64());
    }
}

/// Upstream tells errors by how their texts begin.
fn error_type(error: Option<&str>) -> &'static str {
    match error {
        None => "no_error",
        Some(text) if text.starts_with("compilation") => "compile_error",
        Some(text) if text.starts_with(super::expression::OUT_OF_BUDGET_BEGINS) => "out_of_budget",
        Some(_) => "invalid_error",
    }
}
