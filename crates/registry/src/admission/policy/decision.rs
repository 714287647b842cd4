//! What a policy decides about a request.

use std::time::{Duration, Instant};

use kybern_cel::{RUNTIME_COST_BUDGET, Value};

use super::compiled::{FailurePolicy, ValidatingPolicy, Validation};
use super::conditions::Conditions;
use super::expression::{Evaluator, Inputs, OUT_OF_BUDGET};

/// Longer messages of expressions are not used.
const MAX_MESSAGE: usize = 5 * 1024;

/// An evaluation that costs more has kept others waiting.
const LONG: u64 = 100_000;

/// Why a request is not to be let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    pub message: String,
    /// Empty where evaluating failed.
    pub reason: String,
    /// How long the expression took.
    pub took: Duration,
}

impl Denial {
    /// Evaluating failed.
    pub(super) fn failure(message: impl Into<String>, took: Duration) -> Self {
        Self { message: message.into(), reason: String::new(), took }
    }
}

/// What one parameter of a binding leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decisions {
    /// By the index of the validation.
    pub denials: Vec<(usize, Denial)>,
    /// What would deny, if failures were not to be ignored.
    pub ignored: Vec<Denial>,
    /// Key and value.
    pub annotations: Vec<(String, String)>,
    /// Annotations that cannot be evaluated deny, whatever the binding's actions.
    pub annotation_errors: Vec<Denial>,
}

impl Decisions {
    /// Nothing but a failure of the whole policy.
    fn failed(policy: &ValidatingPolicy, message: &str, took: Duration) -> Self {
        let failure = Denial::failure(message, took);
        match policy.failure {
            FailurePolicy::Ignore => Self { ignored: vec![failure], ..Self::default() },
            FailurePolicy::Fail => Self { denials: vec![(0, failure)], ..Self::default() },
        }
    }
}

/// Others get their turn between expressions. `conditions` are what the policy's own say.
pub(super) async fn decide<'a>(policy: &'a ValidatingPolicy, conditions: &Conditions, inputs: Inputs<'a>) -> Decisions {
    let mut decisions = Decisions::default();
    match conditions {
        Conditions::Match => {}
        Conditions::NoMatch => return decisions,
        // Failures of conditions leave no trace where they are to be ignored.
        Conditions::Failed(_) if policy.failure == FailurePolicy::Ignore => return decisions,
        Conditions::Failed(message) => return Decisions::failed(policy, message, Duration::ZERO),
    }
    let mut evaluator = Evaluator::new(inputs, &policy.variables, RUNTIME_COST_BUDGET);
    let mut results = Vec::with_capacity(policy.validations.len());
    let mut started = Instant::now();
    for validation in &policy.validations {
        let before = evaluator.budget();
        match evaluator.evaluate(&validation.expression) {
            Ok(result) => {
                let ended = Instant::now();
                results.push((result, ended - started));
                started = ended;
                if before - evaluator.budget() > LONG {
                    tokio::task::yield_now().await;
                    started = Instant::now();
                }
            }
            Err(_) => return Decisions::failed(policy, OUT_OF_BUDGET, started.elapsed()),
        }
    }
    deny(policy, inputs, evaluator.budget(), results, &mut decisions);
    annotate(policy, inputs, &mut decisions);
    decisions
}

/// What an expression evaluated to, and how long that took.
type Outcome<'a> = (Result<Value<'a>, String>, Duration);

fn deny<'a>(
    policy: &'a ValidatingPolicy,
    inputs: Inputs<'a>,
    budget: u64,
    results: Vec<Outcome<'a>>,
    decisions: &mut Decisions,
) {
    // Messages are evaluated where one is needed; upstream evaluates them all, with what is left of the budget.
    let needed = results.iter().any(|(result, _)| !matches!(result, Ok(Value::Bool(true))));
    let messages = if needed { messages(policy, inputs, budget) } else { Ok(Vec::new()) };
    for (index, (validation, (result, took))) in policy.validations.iter().zip(results).enumerate() {
        let failed = match (&result, &messages) {
            (Err(error), _) => Some(error.clone()),
            (Ok(_), Err(())) => Some(format!("failed messageExpression: {OUT_OF_BUDGET}")),
            (Ok(_), Ok(_)) => None,
        };
        let denial = match (failed, result) {
            (Some(message), _) if policy.failure == FailurePolicy::Ignore => {
                decisions.ignored.push(Denial::failure(message, took));
                continue;
            }
            (Some(message), _) => Denial::failure(message, took),
            (None, Ok(Value::Bool(true))) => continue,
            (None, _) => {
                let evaluated = messages.as_ref().ok().and_then(|all| all.get(index)).and_then(Option::as_ref);
                let reason = if validation.reason.is_empty() { "Invalid" } else { &validation.reason };
                Denial { message: message(validation, evaluated), reason: reason.to_owned(), took }
            }
        };
        decisions.denials.push((index, denial));
    }
}

fn messages<'a>(policy: &'a ValidatingPolicy, inputs: Inputs<'a>, budget: u64) -> Result<Vec<Option<String>>, ()> {
    let without = Inputs { authorizer: None, ..inputs };
    let mut evaluator = Evaluator::new(without, &policy.variables, budget);
    let mut messages = Vec::with_capacity(policy.validations.len());
    for validation in &policy.validations {
        let text = match &validation.message_expression {
            None => None,
            Some(expression) => {
                let result = evaluator.evaluate(expression).map_err(|_| ())?;
                result.ok().and_then(|value| value.as_str().map(|text| text.trim().to_owned()))
            }
        };
        messages.push(text);
    }
    Ok(messages)
}

fn message(validation: &Validation, evaluated: Option<&String>) -> String {
    if let Some(text) = evaluated.filter(|text| !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')) {
        return text.clone();
    }
    let fixed = validation.message.trim();
    if fixed.is_empty() {
        format!("failed expression: {}", validation.expression.text.trim())
    } else {
        fixed.to_owned()
    }
}

fn annotate<'a>(policy: &'a ValidatingPolicy, inputs: Inputs<'a>, decisions: &mut Decisions) {
    let without = Inputs { authorizer: None, ..inputs };
    let mut evaluator = Evaluator::new(without, &policy.variables, RUNTIME_COST_BUDGET);
    for (key, expression) in &policy.annotations {
        let started = Instant::now();
        match evaluator.evaluate(expression) {
            Err(_) => {
                // Nothing else of the policy counts then, as upstream has it.
                *decisions = Decisions::failed(policy, OUT_OF_BUDGET, started.elapsed());
                return;
            }
            Ok(Err(error)) if policy.failure == FailurePolicy::Fail => {
                decisions.annotation_errors.push(Denial::failure(error, started.elapsed()));
            }
            Ok(Err(_)) => {}
            Ok(Ok(value)) => {
                if let Some(text) = value.as_str().map(str::trim).filter(|text| !text.is_empty()) {
                    decisions.annotations.push((key.clone(), text.to_owned()));
                }
            }
        }
    }
}
