//! The words every other crate speaks: names, group/version/kind, object metadata, selectors, quantities, field errors
//! and `Status` errors. Pure data and pure functions; nothing here does I/O, reads a clock or draws a random number.
//!
//! An object that no typed struct is needed for is a [`Value`]: a JSON tree with sorted keys, so that encoding is
//! deterministic.

pub mod budget;
pub mod cron;
pub mod field;
pub mod go;
pub mod gvk;
pub mod object;
pub mod percent;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod time;
pub mod tree;
pub mod validation;

pub use budget::{Budget, OverBudget};
pub use gvk::{GroupKind, GroupResource, GroupVersion, Gvk, Gvr};
pub use serde_json::{Map, Value, json};
pub use status::{ApiError, Reason};
