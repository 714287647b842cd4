//! Whether the rules of a schema have their form, compile, and cost no more than they may.

use std::sync::Arc;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json};
use kybern_cel::{DeclType, MAX_REQUEST_SIZE, Program};

use super::super::rules::{Rule, compile};
use super::super::{field_path, text};
use super::nested;

/// What the evaluations of one expression for one object may cost, as it is estimated.
const EXPRESSION_LIMIT: u64 = 10_000_000;
/// What all expressions of a definition's schema may cost.
const TOTAL_LIMIT: u64 = 100_000_000;
/// So many of the most expensive are told when the total is too much.
const TOLD: usize = 4;
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The fields of rules, whatever their expressions say.
pub(super) fn forms(schema: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let path = path.child("x-kubernetes-validations");
    for (i, rule) in nested(schema, "x-kubernetes-validations").iter().enumerate() {
        let at = |field: &str| path.index(i).child(field);
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
        let lines = |text: &str| text.contains(['\n', '\r']);
        if source.is_empty() {
            errors.push(FieldError::required(&at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(&at("message"), message, "must be non-empty if specified"));
        } else if lines(message.trim()) {
            errors.push(FieldError::invalid(&at("message"), message, "must not contain line breaks"));
        } else if lines(source) && message.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&at("message"), detail));
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at("messageExpression"), detail));
        }
        if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
            errors.push(FieldError::not_supported(&at("reason"), reason, &REASONS));
        }
        let field = text(rule, "fieldPath");
        let mut invalid = |detail: &str| errors.push(FieldError::invalid(&at("fieldPath"), field, detail));
        if field.is_empty() {
            continue;
        }
        if field.trim().is_empty() {
            invalid("must be non-empty if specified");
        }
        if lines(field) {
            invalid("must not contain line breaks");
        }
        if field_path::find(field, schema, true).is_err() {
            invalid("must be a valid path");
        }
    }
}

/// Where rules are.
pub(super) struct Place<'p> {
    pub(super) path: &'p FieldPath,
    pub(super) declared: &'p Arc<DeclType>,
    /// How many values there can be; `None`: nobody says.
    pub(super) cardinality: Option<u64>,
    /// The list around it whose items cannot be told from one another.
    pub(super) apart: Option<&'p FieldPath>,
    /// Each expression may cost what it costs.
    pub(super) may_cost: bool,
}

/// What the expressions of a schema cost together.
#[derive(Default)]
pub(super) struct Costs {
    total: u64,
    /// The most expensive first.
    most: Vec<(FieldPath, u64)>,
}

impl Costs {
    fn add(&mut self, path: FieldPath, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost >= TOTAL_LIMIT / 100 {
            let place = self.most.partition_point(|(_, other)| *other >= cost);
            self.most.insert(place, (path, cost));
            self.most.truncate(TOLD);
        }
    }

    /// What is said when it is too much.
    pub(super) fn over(&self, path: &FieldPath) -> Vec<FieldError> {
        if self.total <= TOTAL_LIMIT {
            return Vec::new();
        }
        let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let mut errors: Vec<FieldError> =
            self.most.iter().map(|(path, _)| FieldError::forbidden(path, detail)).collect();
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(path, exceeds(what, self.total, TOTAL_LIMIT)));
        errors
    }
}

/// The expressions of a schema's rules.
pub(super) fn check(schema: &Value, place: &Place<'_>, costs: &mut Costs, errors: &mut Vec<FieldError>) {
    let path = place.path.child("x-kubernetes-validations");
    // Values that take no more than this, and a comma, can be so many in a request.
    let times = place
        .cardinality
        .unwrap_or_else(|| u64::try_from(MAX_REQUEST_SIZE / (place.declared.min_size + 1)).unwrap_or_default());
    let most = |program: Option<&Program>| program.map_or(0, |program| program.estimate().max);
    let given = nested(schema, "x-kubernetes-validations");
    for (i, (rule, given)) in compile(schema, place.declared).iter().zip(given).enumerate() {
        let at = |field: &str| path.index(i).child(field);
        let cost = most(rule.program.as_ref()).saturating_mul(times);
        if !place.may_cost && cost > EXPRESSION_LIMIT {
            let detail = exceeds("estimated rule cost", cost, EXPRESSION_LIMIT);
            errors.push(FieldError::forbidden(&at("rule"), detail));
        }
        costs.add(at("rule"), cost);
        if let Some(error) = &rule.error {
            errors.push(FieldError::invalid(&at("rule"), shown(given), error.as_str()));
        }
        message(rule, given, &at("messageExpression"), place.may_cost, costs, errors);
        match (rule.uses_old, place.apart) {
            (true, Some(list)) => {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {}",
                    list.as_str()
                );
                errors.push(FieldError::invalid(&at("rule"), text(given, "rule"), detail));
            }
            (true, None) => {}
            (false, _) => {
                if let Some(optional) = given["optionalOldSelf"].as_bool() {
                    let detail = "may not be set if oldSelf is not used in rule";
                    errors.push(FieldError::invalid(&at("optionalOldSelf"), optional, detail));
                }
            }
        }
    }
}

fn message(
    rule: &Rule,
    given: &Value,
    path: &FieldPath,
    may_cost: bool,
    costs: &mut Costs,
    errors: &mut Vec<FieldError>,
) {
    if let Some(error) = &rule.message_error {
        errors.push(FieldError::invalid(path, shown(given), error.as_str()));
    } else if let Some(program) = &rule.message_program {
        let cost = program.estimate().max;
        if !may_cost && cost > EXPRESSION_LIMIT {
            let detail = exceeds("estimated messageExpression cost", cost, EXPRESSION_LIMIT);
            errors.push(FieldError::forbidden(path, detail));
        }
        costs.add(path.clone(), cost);
    }
}

/// A rule as upstream's internal type is written.
fn shown(rule: &Value) -> Value {
    json!({
        "Rule": text(rule, "rule"),
        "Message": text(rule, "message"),
        "MessageExpression": text(rule, "messageExpression"),
        "Reason": rule["reason"],
        "FieldPath": text(rule, "fieldPath"),
        "OptionalOldSelf": rule["optionalOldSelf"],
    })
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
