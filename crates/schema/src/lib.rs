//! The compact shape table of every kind, and all that is driven by it.

pub mod apply;
pub mod builtin;
pub mod decode;
pub mod defaults;
pub mod duration;
#[cfg(test)]
mod fixture;
pub mod jsonpath;
pub mod lenient;
pub mod openapi;
pub mod patch;
pub mod proto;
mod prune;
pub mod structural;
pub mod table;
pub mod types;

pub use builtin::builtin;
pub use decode::{DecodeError, Strictness, decode, decode_value, decode_yaml, json_object_fault};
pub use defaults::apply_defaults;
pub use prune::prune;
