//! What a compiled expression is, and evaluating it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cost::CostEstimate;
use crate::error::EvalError;
use crate::interp::Run;
use crate::plan::Node;
use crate::types::Type;
use crate::value::Value;

/// Upstream's limit for one evaluation: roughly a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// For all rules of an object, or all expressions of a policy's binding.
pub const RUNTIME_COST_BUDGET: u64 = 10_000_000;
/// For the match conditions of a webhook or a binding.
pub const MATCH_CONDITIONS_COST_BUDGET: u64 = 2_500_000;

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    pub(crate) node: Node,
    pub(crate) slots: usize,
    pub(crate) result: Type,
    pub(crate) estimate: CostEstimate,
    pub(crate) variables: BTreeSet<Arc<str>>,
    pub(crate) fields: BTreeSet<Arc<str>>,
}

/// The values of the variables.
pub trait Activation<'a> {
    /// None where there is no such variable.
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;

    /// A field of a variable whose fields are asked for one by one.
    fn field(&self, _variable: &str, _field: &str) -> Option<Result<Value<'a>, EvalError>> {
        None
    }
}

/// A few variables by their names.
#[derive(Clone, Debug, Default)]
pub struct Variables<'a>(Vec<(&'a str, Value<'a>)>);

impl<'a> Variables<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with(mut self, name: &'a str, value: Value<'a>) -> Self {
        self.0.push((name, value));
        self
    }
}

impl<'a> Activation<'a> for Variables<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| Ok(value.clone()))
    }
}

/// What an evaluation may cost, and whether it is to go on.
#[derive(Clone, Copy)]
pub struct Limits<'l> {
    /// The evaluation ends with an error when it costs more.
    pub cost: u64,
    /// Asked now and then; `true` ends the evaluation.
    pub interrupted: Option<&'l dyn Fn() -> bool>,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Self { cost: PER_CALL_LIMIT, interrupted: None }
    }
}

/// How an evaluation ended, and what it cost.
#[derive(Debug)]
pub struct Evaluation<'a> {
    pub result: Result<Value<'a>, EvalError>,
    pub cost: u64,
}

/// What several evaluations may cost together.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u64,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBudget;

impl Budget {
    pub fn new(cost: u64) -> Self {
        Self { left: cost }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes what an evaluation cost; what costs more than is left uses it up.
    pub fn spend(&mut self, cost: u64) -> Result<(), OutOfBudget> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(OutOfBudget)
            }
        }
    }
}

impl Program {
    /// The type of what it evaluates to.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// The least and the most that an evaluation can cost, as far as the types tell.
    pub fn estimate(&self) -> CostEstimate {
        self.estimate
    }

    /// Whether it looks at the variable.
    pub fn references(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// The fields that it may ask for of variables whose fields are asked for one by one.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| &**field)
    }

    /// Evaluates. Objects that the variables refer to stay where they are; so do those that the result refers to.
    pub fn eval<'a>(&self, variables: &dyn Activation<'a>, limits: Limits<'_>) -> Evaluation<'a> {
        let mut run = Run::new(variables, limits, self.slots);
        let result = run.eval(&self.node);
        Evaluation { result, cost: run.cost() }
    }

    /// Evaluates with what is left of a budget, and takes the cost from it.
    pub fn eval_within<'a>(
        &self,
        variables: &dyn Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Result<Value<'a>, EvalError>, OutOfBudget> {
        let Evaluation { result, cost } = self.eval(variables, Limits::default());
        budget.spend(cost)?;
        Ok(result)
    }
}
