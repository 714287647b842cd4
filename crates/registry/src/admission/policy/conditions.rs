//! Match conditions: of policies, and of webhooks.

use std::time::{Duration, Instant};

use kybern_cel::MATCH_CONDITIONS_COST_BUDGET;

use super::expression::{Evaluator, Expression, Inputs, OUT_OF_BUDGET, Variables};

/// What match conditions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conditions {
    Match,
    /// One is false, whatever the others do.
    NoMatch,
    /// They cannot be evaluated, and none is false.
    Failed(String),
}

/// An evaluation of conditions, for those who count.
#[derive(Debug)]
pub(crate) struct Matched {
    pub(crate) conditions: Conditions,
    /// How many could not be evaluated.
    pub(crate) errors: u64,
    pub(crate) took: Duration,
}

/// Upstream shows conditions no `namespaceObject`.
pub(crate) fn evaluate<'a>(
    conditions: &[(String, Expression)],
    inputs: Inputs<'a>,
    variables: &'a Variables,
) -> Matched {
    if conditions.is_empty() {
        return Matched { conditions: Conditions::Match, errors: 0, took: Duration::ZERO };
    }
    let started = Instant::now();
    let (conditions, errors) = evaluate_all(conditions, Inputs { namespace: &NULL, ..inputs }, variables);
    Matched { conditions, errors, took: started.elapsed() }
}

const NULL: kybern_apimachinery::Value = kybern_apimachinery::Value::Null;

fn evaluate_all<'a>(
    conditions: &[(String, Expression)],
    inputs: Inputs<'a>,
    variables: &'a Variables,
) -> (Conditions, u64) {
    let mut evaluator = Evaluator::new(inputs, variables, MATCH_CONDITIONS_COST_BUDGET);
    let mut errors: Vec<String> = Vec::new();
    let (mut failed, mut unmet) = (0, false);
    for (_, condition) in conditions {
        match evaluator.evaluate(condition) {
            Err(_) => return (Conditions::Failed(OUT_OF_BUDGET.to_owned()), 0),
            Ok(Err(error)) => {
                failed += 1;
                if !errors.contains(&error) {
                    errors.push(error);
                }
            }
            Ok(Ok(value)) => unmet |= value.as_bool() == Some(false),
        }
    }
    let conditions = match &errors[..] {
        _ if unmet => Conditions::NoMatch,
        [] => Conditions::Match,
        [only] => Conditions::Failed(only.clone()),
        many => Conditions::Failed(format!("[{}]", many.join(", "))),
    };
    (conditions, failed)
}
