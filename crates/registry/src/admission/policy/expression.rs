//! Compiled expressions of policies, and evaluating several of them with one budget.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use kybern_apimachinery::Value as Json;
use kybern_apiserver::admission::AdmissionRequest;
use kybern_cel::{Activation, Authorizer, CompileError, Env, EvalError, Limits, PER_CALL_LIMIT, Program, Type, Value};

use super::request::RequestVariable;
use crate::admission::authorization::Answers;

/// An expression, compiled or not.
#[derive(Debug)]
pub(crate) struct Expression {
    pub text: String,
    pub program: Result<Program, String>,
}

/// What an expression has to evaluate to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returns {
    Bool,
    Text,
    TextOrNull,
    Anything,
    /// `Object{}`.
    Object,
    /// A list of `JSONPatch{}`.
    Patches,
}

impl Returns {
    fn accepts(self, t: &Type) -> bool {
        match self {
            Self::Bool => *t == Type::Bool,
            Self::Text => *t == Type::String,
            Self::TextOrNull => matches!(t, Type::String | Type::Null),
            Self::Anything => true,
            Self::Object => *t == Type::object("Object"),
            Self::Patches => *t == Type::list(Type::object("JSONPatch")),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Text => "string",
            Self::TextOrNull => "one of [string null_type]",
            Self::Anything => "any",
            Self::Object => "Object",
            Self::Patches => "list(JSONPatch)",
        }
    }
}

/// Compiles; the error is upstream's.
pub(crate) fn compile(env: &Env, text: &str, returns: Returns) -> Result<Program, String> {
    let program = env.compile(text).map_err(|error| match error {
        CompileError::Issues(issues) => format!("compilation failed: {issues}"),
        CompileError::Instantiation(message) => format!("program instantiation failed: {message}"),
    })?;
    if returns.accepts(program.result_type()) {
        return Ok(program);
    }
    Err(format!("must evaluate to {} but got {}", returns.wanted(), program.result_type().declared_name()))
}

impl Expression {
    pub(crate) fn new(env: &Env, text: &str, returns: Returns) -> Self {
        Self { text: text.to_owned(), program: compile(env, text, returns) }
    }
}

/// The `variables` of a policy: each may use those before it.
#[derive(Debug, Default)]
pub(crate) struct Variables(Vec<Variable>);

#[derive(Debug)]
struct Variable {
    name: String,
    expression: Expression,
    /// Those that it may look at.
    uses: Vec<usize>,
    /// How long the longest chain is that it is at the end of.
    chain: usize,
}

/// Variables at the end of longer chains have all that they may look at evaluated before: each link of a chain takes stack.
const MAX_CHAIN: usize = 16;

impl Variables {
    /// Compiles them in order, and answers the environment that has them as well.
    pub(crate) fn compile<'s>(mut env: Env, specs: impl Iterator<Item = (&'s str, &'s str)>) -> (Self, Env) {
        let mut variables: Vec<Variable> = Vec::new();
        for (name, text) in specs {
            let expression = Expression::new(&env, text, Returns::Anything);
            let of = expression.program.as_ref().map_or(Type::Dyn, |program| program.result_type().of_variable());
            env = env.with_lazy_field("variables", name, of);
            let position = |field: &str| variables.iter().rposition(|v| v.name == field);
            let uses: Vec<usize> =
                expression.program.iter().flat_map(|program| program.fields()).filter_map(position).collect();
            let chain = 1 + uses.iter().map(|i| variables[*i].chain).max().unwrap_or(0);
            variables.push(Variable { name: name.to_owned(), expression, uses, chain });
        }
        (Self(variables), env)
    }

    /// Why one does not compile.
    pub(crate) fn error(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.expression.program.as_ref().err().map(String::as_str)
    }

    /// What is known of their types, for other environments.
    pub(crate) fn types(&self) -> impl Iterator<Item = (&str, Type)> {
        self.0.iter().map(|v| {
            (
                v.name.as_str(),
                v.expression.program.as_ref().map_or(Type::Dyn, |program| program.result_type().of_variable()),
            )
        })
    }
}

/// The values of the variables that always are; null where there is none.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub object: &'a Json,
    pub old_object: &'a Json,
    pub params: &'a Json,
    pub request: RequestVariable<'a>,
    pub namespace: &'a Json,
    pub authorizer: Option<&'a Authorization>,
}

/// Who answers `authorizer`, and what the request is about.
pub(crate) struct Authorization {
    pub authorizer: Arc<dyn Authorizer>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Authorization {
    pub(crate) fn of(request: &AdmissionRequest<'_>, answers: &Arc<Answers>) -> Self {
        let own = &request.resource.gvr;
        Self {
            authorizer: answers.clone(),
            group: own.group.clone(),
            resource: own.resource.clone(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.to_owned(),
        }
    }
}

/// The budget is used up: nothing more is evaluated.
pub(crate) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";
pub(super) const OUT_OF_BUDGET_BEGINS: &str = "validation failed due to running out of cost budget";

#[derive(Debug)]
pub(crate) struct OutOfBudget;

/// Evaluates expressions one after the other; `variables` that one of them has looked at are there for the others.
pub(crate) struct Evaluator<'a> {
    scope: Scope<'a>,
}

struct Scope<'a> {
    inputs: Inputs<'a>,
    variables: &'a Variables,
    values: RefCell<Vec<Option<Result<Value<'a>, EvalError>>>>,
    /// What the evaluation of variables has cost that is not yet taken from the budget.
    spent: Cell<u64>,
    budget: Cell<u64>,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(inputs: Inputs<'a>, variables: &'a Variables, budget: u64) -> Self {
        let values = RefCell::new(vec![None; variables.0.len()]);
        Self { scope: Scope { inputs, variables, values, spent: Cell::new(0), budget: Cell::new(budget) } }
    }

    /// The value, or why there is none.
    pub(crate) fn evaluate(&mut self, expression: &Expression) -> Result<Result<Value<'a>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(error) => return Ok(Err(format!("compilation error: {error}"))),
        };
        let evaluation = program.eval(&self.scope, Limits::default());
        for cost in [self.scope.spent.take(), evaluation.cost] {
            let left = self.scope.budget.get().checked_sub(cost).ok_or(OutOfBudget)?;
            self.scope.budget.set(left);
        }
        Ok(evaluation.result.map_err(|error| format!("expression '{}' resulted in error: {error}", expression.text)))
    }

    pub(crate) fn budget(&self) -> u64 {
        self.scope.budget.get()
    }
}

impl<'a> Activation<'a> for Scope<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let inputs = &self.inputs;
        Some(Ok(match name {
            "object" => Value::json(inputs.object),
            "oldObject" => Value::json(inputs.old_object),
            "params" => Value::json(inputs.params),
            "request" => Value::json(inputs.request.get()),
            "namespaceObject" => Value::json(inputs.namespace),
            "authorizer" => Value::authorizer(inputs.authorizer?.authorizer.clone()),
            "authorizer.requestResource" => {
                let about = inputs.authorizer?;
                Value::resource_check(
                    about.authorizer.clone(),
                    &about.group,
                    &about.resource,
                    &about.subresource,
                    &about.namespace,
                    &about.name,
                )
            }
            _ => return None,
        }))
    }

    fn field(&self, _variable: &str, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let index = self.variables.0.iter().rposition(|v| v.name == name)?;
        if self.variables.0[index].chain > MAX_CHAIN {
            let mut wanted = vec![false; index + 1];
            wanted[index] = true;
            for i in (0..=index).rev() {
                if wanted[i] && self.values.borrow()[i].is_none() {
                    self.variables.0[i].uses.iter().for_each(|used| wanted[*used] = true);
                }
            }
            for i in (0..index).filter(|i| wanted[*i]) {
                // Kept: an error is told to whoever uses the value.
                let _ = self.value(i);
            }
        }
        Some(self.value(index))
    }
}

impl<'a> Scope<'a> {
    fn value(&self, index: usize) -> Result<Value<'a>, EvalError> {
        if let Some(value) = &self.values.borrow()[index] {
            return value.clone();
        }
        let Variable { name, expression, .. } = &self.variables.0[index];
        let outcome = match &expression.program {
            Err(error) => Err(EvalError::new(format!("composited variable {name:?} fails to compile: {error}"))),
            Ok(program) => {
                let left = self.budget.get().saturating_sub(self.spent.get());
                let limits = Limits { cost: PER_CALL_LIMIT.min(left), ..Limits::default() };
                let evaluation = program.eval(self, limits);
                self.spent.set(self.spent.get().saturating_add(evaluation.cost));
                evaluation
                    .result
                    .map_err(|error| EvalError::new(format!("composited variable {name:?} fails to evaluate: {error}")))
            }
        };
        self.values.borrow_mut()[index] = Some(outcome.clone());
        outcome
    }
}
