//! A policy with its expressions compiled.

use kybern_apimachinery::Value;

use super::environment::{Options, environment};
use super::expression::{Expression, Returns, Variables};
use crate::tree::{has, list, text};

/// What to do when a policy cannot be evaluated or configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailurePolicy {
    Fail,
    Ignore,
}

impl FailurePolicy {
    pub(super) fn of(spec: &Value) -> Self {
        if text(spec, "failurePolicy") == "Ignore" { Self::Ignore } else { Self::Fail }
    }
}

#[derive(Debug)]
pub(super) struct ValidatingPolicy {
    pub failure: FailurePolicy,
    pub variables: Variables,
    /// By their names.
    pub conditions: Vec<(String, Expression)>,
    pub validations: Vec<Validation>,
    /// By their keys.
    pub annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
pub(super) struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    pub reason: String,
}

impl ValidatingPolicy {
    pub(super) fn compile(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let params = has(spec, "paramKind");
        let specs = || list(spec, "variables").iter().map(|v| (text(v, "name"), text(v, "expression")));
        let with_authorizer = environment(Options { params, authorizer: true, patches: false });
        let (variables, env) = Variables::compile(with_authorizer, specs());
        // Messages are not to depend on what others may do, except by variables.
        let mut messages = environment(Options { params, authorizer: false, patches: false });
        for (name, of) in variables.types() {
            messages = messages.with_lazy_field("variables", name, of);
        }
        let validations = list(spec, "validations")
            .iter()
            .map(|validation| Validation {
                expression: Expression::new(&env, text(validation, "expression"), Returns::Bool),
                message: text(validation, "message").to_owned(),
                message_expression: Some(text(validation, "messageExpression"))
                    .filter(|text| !text.is_empty())
                    .map(|text| Expression::new(&messages, text, Returns::Text)),
                reason: text(validation, "reason").to_owned(),
            })
            .collect();
        let named = |field: &str, name: &str, expression: &str, returns: Returns| {
            list(spec, field)
                .iter()
                .map(|item| (text(item, name).to_owned(), Expression::new(&env, text(item, expression), returns)))
                .collect()
        };
        Self {
            failure: FailurePolicy::of(spec),
            conditions: named("matchConditions", "name", "expression", Returns::Bool),
            validations,
            annotations: named("auditAnnotations", "key", "valueExpression", Returns::TextOrNull),
            variables,
        }
    }
}
