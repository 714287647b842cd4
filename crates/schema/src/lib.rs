//! The compact shape table of every kind, and all that is driven by it.

pub mod builtin;
#[cfg(test)]
mod fixture;
pub mod patch;
pub mod table;
pub mod types;

pub use builtin::builtin;
