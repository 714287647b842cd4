//! The Common Expression Language as Kubernetes 1.35 has it.
//!
//! An [`Env`] says which variables and types an expression may use; [`Env::compile`] parses and checks it and answers a
//! [`Program`], or [`CompileError`] with upstream's texts. A program knows its result's type and how much an evaluation can
//! cost ([`Program::estimate`]); [`Program::eval`] evaluates it against the values of an [`Activation`], counts what that
//! costs, and ends when it costs more than its [`Limits`] allow. Values ([`Value`]) refer to the objects that they come from:
//! nothing is copied.
//!
//! ```
//! use kybern_cel::{Env, Limits, Type, Value, Variables};
//!
//! let env = Env::kubernetes().with_variable("object", Type::Dyn);
//! let program = env.compile("object.spec.replicas < 5").expect("it compiles");
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let variables = Variables::new().with("object", Value::json(&object));
//! let evaluation = program.eval(&variables, Limits::default());
//! assert_eq!(evaluation.result.expect("it evaluates").as_bool(), Some(true));
//! assert_eq!(evaluation.cost, 4);
//! ```
//!
//! Objects with a schema are declared with [`DeclType::from_schema`] and [`Env::with_declared`]; their values are made with
//! [`Value::typed`], which gives texts the type of their format.
//!
//! The way of an expression: `lexer` and `parser` (with `macros`) make a tree, `checker` gives it types, `validate` looks at
//! its literals, `cost` estimates, `plan` makes it compact, `interp` evaluates. `functions/` holds the libraries. Hostile
//! expressions are bounded everywhere: length, depth, the growth of macros and types, the sizes of values, the cost.

pub mod admission;
mod ast;
mod call_cost;
mod call_estimate;
mod checker;
mod convert;
mod cost;
mod decl;
pub mod devices;
mod env;
mod error;
mod escape;
mod functions;
mod interp;
mod issues;
mod lexer;
mod list;
mod literal;
mod macros;
mod map;
mod opaque;
mod ops;
mod overload;
mod parser;
mod plan;
mod program;
mod schema;
mod selections;
mod stack;
mod text;
mod time;
mod types;
mod unify;
mod validate;
mod value;

pub use cost::CostEstimate;
pub use env::{CompileError, Env};
pub use error::{ErrorKind, EvalError};
pub use escape::{escape, is_identifier, unescape};
pub use functions::authorizer::{Authorizer, Check, Decision, ResourceCheck, What};
pub use issues::{Issue, Issues};
pub use list::List;
pub use map::{Map, MapKey};
pub use opaque::Opaque;
pub use program::{
    Activation, Budget, Evaluation, Limits, MATCH_CONDITIONS_COST_BUDGET, OutOfBudget, PER_CALL_LIMIT, Program,
    RUNTIME_COST_BUDGET, Variables,
};
pub use schema::{DeclField, DeclKind, DeclType, ListKind, MAX_REQUEST_SIZE};
pub use selections::{Selection, selections};
pub use time::Time;
pub use types::Type;
pub use value::{Str, Struct, Value};
