//! Evaluating the rules of a schema for an object.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_cel::{Activation, DeclType, ErrorKind, EvalError, Limits, Value as Cel};

use super::super::compile::Node;
use super::correlate::{Former, unchanged};
use super::{OLD_SELF, Rule, SELF};

/// A message that an expression makes may be so long.
const MAX_MESSAGE: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Everything that rules have against an object, which takes the place of `old`. What they have against parts that stay as
/// they are goes to the warnings. The budget is `None` when it is used up.
pub(in super::super) fn evaluate(
    node: &Node,
    object: &Value,
    old: Option<&Value>,
    under: &FieldPath,
    budget: &mut Option<u64>,
    warnings: &mut Vec<String>,
) -> Vec<FieldError> {
    let Some(left) = *budget else { return Vec::new() };
    let mut run = Run { under, errors: Vec::new(), warnings, left };
    let root = Place { path: None, current: old.map(|old| (node, object, old)), nearest: None };
    *budget = run.check(node, object, old, &root).is_ok().then_some(run.left);
    run.errors
}

/// Nothing more is to be evaluated.
struct Over;

struct Run<'w> {
    /// Where the object is.
    under: &'w FieldPath,
    errors: Vec<FieldError>,
    warnings: &'w mut Vec<String>,
    left: u64,
}

/// A part of the object: its path, and what it was.
#[derive(Clone, Copy)]
struct Place<'p, 'v> {
    path: Option<&'p Step<'p>>,
    current: Option<Pair<'v>>,
    /// Of the nearest part around it that could be told what it was.
    nearest: Option<Pair<'v>>,
}

type Pair<'v> = (&'v Node, &'v Value, &'v Value);

struct Step<'p> {
    before: Option<&'p Step<'p>>,
    name: Name<'p>,
}

#[derive(Clone, Copy)]
enum Name<'p> {
    Field(&'p str),
    Key(&'p str),
    Index(usize),
}

impl<'v> Place<'_, 'v> {
    fn is_unchanged(&self) -> bool {
        self.current.or(self.nearest).is_some_and(|(node, new, old)| unchanged(node, new, old))
    }

    /// What is known of a field.
    fn field(&self, name: &str, node: &'v Node, value: &'v Value) -> (Option<Pair<'v>>, Option<Pair<'v>>) {
        match self.current {
            None => (None, self.nearest),
            // Nobody sees how these change: both are converted to the version at hand.
            Some(_) if self.nearest.is_none() && matches!(name, "apiVersion" | "kind") => (None, None),
            Some((_, _, old)) => (old.get(name).map(|old| (node, value, old)), self.current),
        }
    }

    fn item(&self, node: &'v Node, value: &'v Value, old: Option<&'v Value>) -> (Option<Pair<'v>>, Option<Pair<'v>>) {
        match self.current {
            None => (None, self.nearest),
            Some(_) => (old.map(|old| (node, value, old)), self.current),
        }
    }
}

impl Run<'_> {
    fn check<'v>(
        &mut self,
        node: &'v Node,
        value: &'v Value,
        old: Option<&'v Value>,
        place: &Place<'_, 'v>,
    ) -> Result<(), Over> {
        if !node.ruled || value.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        self.rules(node, value, old, place)?;
        match value {
            Value::Array(items) => {
                let Some(item) = node.items.as_deref().filter(|item| item.ruled) else { return Ok(()) };
                let former = Former::of(node, old);
                for (i, value) in items.iter().enumerate() {
                    let old = former.get(value);
                    let step = Step { before: place.path, name: Name::Index(i) };
                    let (current, nearest) = place.item(item, value, old);
                    self.check(item, value, old, &Place { path: Some(&step), current, nearest })?;
                }
            }
            Value::Object(fields) => {
                let child = |run: &mut Self, name: Name<'_>, key: &str, node: &'v Node, value: &'v Value| {
                    let step = Step { before: place.path, name };
                    let (current, nearest) = place.field(key, node, value);
                    let old = old.and_then(|old| old.get(key));
                    run.check(node, value, old, &Place { path: Some(&step), current, nearest })
                };
                if let Some(additional) = node.additional.as_deref().filter(|additional| additional.ruled) {
                    for (key, value) in fields {
                        child(self, Name::Key(key), key, additional, value)?;
                    }
                }
                for (key, property) in node.properties.iter().filter(|(_, property)| property.ruled) {
                    if let Some(value) = fields.get(key) {
                        child(self, Name::Field(key), key, property, value)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(&mut self, node: &Node, value: &Value, old: Option<&Value>, place: &Place<'_, '_>) -> Result<(), Over> {
        let (Some(declared), false) = (&node.declared, node.rules.is_empty()) else { return Ok(()) };
        let ty = node.type_name();
        if self.left == 0 {
            return self.over(place, ty, OUT_OF_BUDGET);
        }
        let values = Values { value, old, declared, optional: false };
        for rule in &node.rules {
            if let Some(error) = &rule.error {
                self.fault(place, ty, format!("rule compile error: {error}"));
                continue;
            }
            let Some(program) = &rule.program else { continue };
            if rule.uses_old && old.is_none() && !rule.optional {
                continue;
            }
            let evaluation = program.eval(&Values { optional: rule.optional, ..values }, Limits::default());
            let Some(left) = self.left.checked_sub(evaluation.cost) else {
                return self.over(place, ty, OUT_OF_BUDGET);
            };
            self.left = left;
            match evaluation.result {
                Ok(result) if result.as_bool() == Some(true) => {}
                Ok(_) => self.failed(rule, node, &values, place)?,
                Err(error) => self.erred(rule, &error, place, ty)?,
            }
        }
        Ok(())
    }

    /// A rule could not be evaluated.
    fn erred(&mut self, rule: &Rule, error: &EvalError, place: &Place<'_, '_>, ty: &str) -> Result<(), Over> {
        let (shown, text) = (rule.shown(), error.to_string());
        if error.kind() == ErrorKind::CostLimit {
            let detail = format!(
                "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
            );
            return self.over(place, ty, &detail);
        }
        let detail = if text.starts_with("no such overload") {
            format!(
                "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
            )
        } else {
            format!("{text} evaluating rule: {shown}")
        };
        self.fault(place, ty, detail);
        Ok(())
    }

    /// A rule does not hold.
    fn failed(&mut self, rule: &Rule, node: &Node, values: &Values<'_>, place: &Place<'_, '_>) -> Result<(), Over> {
        let mut path = self.path(place);
        if let Some(field) = &rule.field {
            path = path.child(field);
        }
        let detail = match self.message(rule, values) {
            Message::Made(message) => message,
            Message::None => {
                let plain = Some(&rule.message).filter(|message| !message.is_empty());
                plain.cloned().unwrap_or_else(|| format!("failed rule: {}", rule.shown()))
            }
            Message::Over(detail) => {
                self.tell(rule, FieldError::invalid(&path, node.type_name(), detail), place);
                return Err(Over);
            }
        };
        let scalar = !matches!(node.type_name(), "object" | "array");
        self.tell(rule, rule.failed(&path, scalar.then(|| values.value.clone()), detail), place);
        Ok(())
    }

    /// An error, or a warning of what was wrong before and is not touched.
    fn tell(&mut self, rule: &Rule, error: FieldError, place: &Place<'_, '_>) {
        if !rule.uses_old && place.is_unchanged() {
            self.warnings.push(error.to_string());
        } else {
            self.errors.push(error);
        }
    }

    fn message(&mut self, rule: &Rule, values: &Values<'_>) -> Message {
        let Some(program) = &rule.message_program else { return Message::None };
        let evaluation = program.eval(values, Limits::default());
        let Some(left) = self.left.checked_sub(evaluation.cost) else {
            let detail = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
            return Message::Over(detail.to_owned());
        };
        let result = match evaluation.result {
            Err(error) if error.kind() == ErrorKind::CostLimit => {
                let source = &rule.message_source;
                return Message::Over(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {source:?}"
                ));
            }
            result => result,
        };
        self.left = left;
        let Ok(Cel::String(text)) = result else { return Message::None };
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_MESSAGE || text.contains('\n') {
            return Message::None;
        }
        Message::Made(text.to_owned())
    }

    fn over(&mut self, place: &Place<'_, '_>, ty: &str, detail: &str) -> Result<(), Over> {
        self.fault(place, ty, detail.to_owned());
        Err(Over)
    }

    fn fault(&mut self, place: &Place<'_, '_>, ty: &str, detail: String) {
        self.errors.push(FieldError::invalid(&self.path(place), ty, detail));
    }

    fn path(&self, place: &Place<'_, '_>) -> FieldPath {
        let mut names = Vec::new();
        let mut step = place.path;
        while let Some(Step { before, name }) = step {
            names.push(*name);
            step = *before;
        }
        names.into_iter().rev().fold(self.under.clone(), |path, name| match name {
            Name::Field(name) => path.child(name),
            Name::Key(key) => path.key(key),
            Name::Index(i) => path.index(i),
        })
    }
}

/// What a `messageExpression` makes.
enum Message {
    Made(String),
    /// Nothing that can be used.
    None,
    /// It cost too much.
    Over(String),
}

/// The variables of a rule.
#[derive(Clone, Copy)]
struct Values<'v> {
    value: &'v Value,
    old: Option<&'v Value>,
    declared: &'v DeclType,
    optional: bool,
}

impl<'v> Activation<'v> for Values<'v> {
    fn variable(&self, name: &str) -> Option<Result<Cel<'v>, EvalError>> {
        match (name, self.old, self.optional) {
            (SELF, ..) => Some(Cel::typed(self.value, self.declared)),
            (OLD_SELF, Some(old), false) => Some(Cel::typed(old, self.declared)),
            (OLD_SELF, Some(old), true) => Some(Cel::typed(old, self.declared).map(|old| Cel::optional(Some(old)))),
            (OLD_SELF, None, true) => Some(Ok(Cel::optional(None))),
            _ => None,
        }
    }
}
