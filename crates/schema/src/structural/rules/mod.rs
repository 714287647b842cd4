//! `x-kubernetes-validations`: rules in CEL, compiled when a definition is checked and when it is served, and evaluated for
//! each object that is written. With upstream's texts (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel`).

mod attach;
mod correlate;
mod evaluate;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldErrorType, FieldPath};
use kybern_cel::{CompileError, DeclType, Env, Program, Type};

use super::field_path;
use super::text;

pub(super) use attach::{attach, element_type, property_type};
pub(super) use correlate::{Former, unchanged};
pub(super) use evaluate::evaluate;

/// The variables of a rule.
const SELF: &str = "self";
const OLD_SELF: &str = "oldSelf";
/// The name of the type of `self`, which no rule may rely on.
const SELF_TYPE: &str = "selfType";

/// A rule that was compiled, or not.
#[derive(Debug, Default)]
pub(super) struct Rule {
    /// Trimmed.
    pub(super) rule: String,
    /// Trimmed; empty where there is none.
    pub(super) message: String,
    reason: Option<String>,
    /// Whether `oldSelf` is an optional.
    optional: bool,
    /// `None` of an empty rule.
    pub(super) program: Option<Program>,
    pub(super) error: Option<String>,
    pub(super) uses_old: bool,
    pub(super) message_source: String,
    pub(super) message_program: Option<Program>,
    pub(super) message_error: Option<String>,
    /// Where an error is, below what the rule is for.
    field: Option<String>,
}

/// The rules that a schema has itself, for values of a declared type.
pub(super) fn compile(schema: &Value, declared: &Arc<DeclType>) -> Vec<Rule> {
    let rules = schema["x-kubernetes-validations"].as_array().map_or(&[][..], Vec::as_slice);
    if rules.is_empty() {
        return Vec::new();
    }
    let named = Arc::new((**declared).clone().named(SELF_TYPE));
    let env = Env::kubernetes().with_declared(SELF, named.clone()).with_sizes_of(named.clone());
    let plain = env.clone().with_variable(OLD_SELF, named.cel_type());
    let optional = env.with_variable(OLD_SELF, Type::optional(named.cel_type()));
    let one = |rule: &Value| {
        let is_optional = rule["optionalOldSelf"] == Value::Bool(true);
        let mut compiled = Rule {
            rule: text(rule, "rule").trim().to_owned(),
            message: text(rule, "message").trim().to_owned(),
            reason: rule["reason"].as_str().map(str::to_owned),
            optional: is_optional,
            message_source: text(rule, "messageExpression").to_owned(),
            ..Rule::default()
        };
        compiled.compile(rule, schema, if is_optional { &optional } else { &plain });
        compiled
    };
    rules.iter().map(one).collect()
}

impl Rule {
    fn compile(&mut self, rule: &Value, schema: &Value, env: &Env) {
        if self.rule.is_empty() {
            return;
        }
        let program = match env.compile(text(rule, "rule")) {
            Ok(program) if *program.result_type() == Type::Bool => program,
            Ok(_) => {
                self.error = Some("cel expression must evaluate to a bool".to_owned());
                return;
            }
            Err(error) => {
                self.error = Some(said(&error, "compilation failed", "program instantiation failed"));
                return;
            }
        };
        self.uses_old = program.references(OLD_SELF);
        self.program = Some(program);
        if !self.message_source.is_empty() {
            match env.compile(&self.message_source) {
                Ok(program) if *program.result_type() == Type::String => self.message_program = Some(program),
                Ok(_) => {
                    self.message_error = Some("messageExpression must evaluate to a string".to_owned());
                    return;
                }
                Err(error) => {
                    let failed = "messageExpression compilation failed";
                    self.message_error = Some(said(&error, failed, "messageExpression instantiation failed"));
                    return;
                }
            }
        }
        let field = Some(text(rule, "fieldPath")).filter(|field| !field.is_empty());
        self.field = field.and_then(|f| field_path::find(f, schema, true).ok()).map(|f| f.path.as_str().to_owned());
    }

    /// As texts about the rule name it.
    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.rule } else { &self.message }
    }

    fn failed(&self, path: &FieldPath, value: Option<Value>, detail: String) -> FieldError {
        let error = |kind, value, detail| FieldError { kind, path: path.clone(), value, detail };
        match self.reason.as_deref() {
            Some("FieldValueForbidden") => error(FieldErrorType::Forbidden, None, detail),
            Some("FieldValueRequired") => error(FieldErrorType::Required, None, detail),
            Some("FieldValueDuplicate") => error(FieldErrorType::Duplicate, value, String::new()),
            _ => error(FieldErrorType::Invalid, value, detail),
        }
    }
}

fn said(error: &CompileError, failed: &str, instantiation: &str) -> String {
    match error {
        CompileError::Issues(issues) => format!("{failed}: {issues}"),
        CompileError::Instantiation(problem) => format!("{instantiation}: {problem}"),
    }
}

/// Whether rules are not looked at because of what is wrong already, and what says so.
pub fn blocked(errors: &[FieldError]) -> Option<FieldError> {
    use FieldErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    let blocks = |e: &FieldError| matches!(e.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid);
    errors.iter().any(blocks).then(|| {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        FieldError::invalid(&FieldPath::root(), Value::Null, detail)
    })
}
