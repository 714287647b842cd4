//! Policies with their expressions compiled.

use kybern_apimachinery::Value;
use kybern_cel::Env;

use super::environment::Environments;
use super::expression::{Expression, Returns, Variables};
use super::views::PolicySort;
use crate::tree::{list, text};

const GROUP: &str = "admissionregistration.k8s.io";

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
pub(crate) struct ValidatingPolicy {
    pub(super) failure: FailurePolicy,
    pub(super) variables: Variables,
    /// By their names.
    pub(super) conditions: Vec<(String, Expression)>,
    pub(super) validations: Vec<Validation>,
    /// By their keys.
    pub(super) annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
pub(super) struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    pub reason: String,
}

impl PolicySort for ValidatingPolicy {
    const RESOURCES: [(&'static str, &'static str); 2] =
        [(GROUP, "validatingadmissionpolicies"), (GROUP, "validatingadmissionpolicybindings")];

    fn compile(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let environments = Environments::of(spec);
        let messages = environments.messages();
        let validations = list(spec, "validations")
            .iter()
            .map(|validation| Validation {
                expression: Expression::new(&environments.all, text(validation, "expression"), Returns::Bool),
                message: text(validation, "message").to_owned(),
                message_expression: Some(text(validation, "messageExpression"))
                    .filter(|text| !text.is_empty())
                    .map(|text| Expression::new(&messages, text, Returns::Text)),
                reason: text(validation, "reason").to_owned(),
            })
            .collect();
        Self {
            failure: FailurePolicy::of(spec),
            conditions: named(spec, ("matchConditions", "name", "expression"), &environments.all, Returns::Bool),
            validations,
            annotations: named(
                spec,
                ("auditAnnotations", "key", "valueExpression"),
                &environments.all,
                Returns::TextOrNull,
            ),
            variables: environments.variables,
        }
    }
}

/// The expressions of a list, by what they are called.
fn named(spec: &Value, fields: (&str, &str, &str), env: &Env, returns: Returns) -> Vec<(String, Expression)> {
    let (list_field, name, expression) = fields;
    let expression = |item| Expression::new(env, text(item, expression), returns);
    list(spec, list_field).iter().map(|item| (text(item, name).to_owned(), expression(item))).collect()
}

#[derive(Debug)]
pub(crate) struct MutatingPolicy {
    pub(super) variables: Variables,
    /// By their names.
    pub(super) conditions: Vec<(String, Expression)>,
    pub(super) mutations: Vec<Mutation>,
    /// Whether it wants to see again what others have changed after it.
    pub(super) reinvoke: bool,
}

#[derive(Debug)]
pub(super) enum Mutation {
    /// An object that is merged into the other.
    Configuration(Expression),
    /// Operations of a JSON patch.
    Patch(Expression),
}

impl PolicySort for MutatingPolicy {
    const RESOURCES: [(&'static str, &'static str); 2] =
        [(GROUP, "mutatingadmissionpolicies"), (GROUP, "mutatingadmissionpolicybindings")];

    fn compile(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let environments = Environments::of(spec);
        let patches = environments.patches();
        let mutation = |mutation: &Value| {
            if text(mutation, "patchType") == "JSONPatch" {
                let expression = text(&mutation["jsonPatch"], "expression");
                Mutation::Patch(Expression::new(&patches, expression, Returns::Patches))
            } else {
                let expression = text(&mutation["applyConfiguration"], "expression");
                Mutation::Configuration(Expression::new(&patches, expression, Returns::Object))
            }
        };
        Self {
            conditions: named(spec, ("matchConditions", "name", "expression"), &environments.all, Returns::Bool),
            mutations: list(spec, "mutations").iter().map(mutation).collect(),
            reinvoke: text(spec, "reinvocationPolicy") == "IfNeeded",
            variables: environments.variables,
        }
    }
}
