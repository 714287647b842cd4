//! Why an evaluation ends without a value.

use std::borrow::Cow;
use std::fmt;

/// An error of an evaluation, with upstream's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The expression failed for these values: `no such key: x`.
    Failed,
    /// It cost more than it may.
    CostLimit,
    /// Whoever asked has given up, or the time is over.
    Interrupted,
}

impl EvalError {
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind: ErrorKind::Failed, message: message.into() }))
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn cost_limit() -> Self {
        let message = Cow::Borrowed("operation cancelled: actual cost limit exceeded");
        Self(Box::new(Inner { kind: ErrorKind::CostLimit, message }))
    }

    pub(crate) fn interrupted() -> Self {
        Self(Box::new(Inner { kind: ErrorKind::Interrupted, message: Cow::Borrowed("operation interrupted") }))
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Ends the evaluation whatever `&&`, `||` and macros make of other errors.
    pub(crate) fn is_fatal(&self) -> bool {
        self.0.kind != ErrorKind::Failed
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for EvalError {}
