//! Match conditions: of policies, and of webhooks.

use kybern_cel::MATCH_CONDITIONS_COST_BUDGET;

use super::expression::{Evaluator, Expression, Inputs, OUT_OF_BUDGET, Variables};

/// What match conditions say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Conditions {
    Match,
    /// One is false, whatever the others do.
    NoMatch,
    /// They cannot be evaluated, and none is false.
    Failed(String),
}

pub(crate) fn evaluate<'a>(
    conditions: &[(String, Expression)],
    inputs: Inputs<'a>,
    variables: &'a Variables,
) -> Conditions {
    if conditions.is_empty() {
        return Conditions::Match;
    }
    let mut evaluator = Evaluator::new(inputs, variables, MATCH_CONDITIONS_COST_BUDGET);
    let mut errors: Vec<String> = Vec::new();
    let mut unmet = false;
    for (_, condition) in conditions {
        match evaluator.evaluate(condition) {
            Err(_) => return Conditions::Failed(OUT_OF_BUDGET.to_owned()),
            Ok(Err(error)) => {
                if !errors.contains(&error) {
                    errors.push(error);
                }
            }
            Ok(Ok(value)) => unmet |= value.as_bool() == Some(false),
        }
    }
    if unmet {
        return Conditions::NoMatch;
    }
    match &errors[..] {
        [] => Conditions::Match,
        [only] => Conditions::Failed(only.clone()),
        many => Conditions::Failed(format!("[{}]", many.join(", "))),
    }
}
