//! The compact shape table of every kind, and all that is driven by it.

#[cfg(test)]
mod fixture;
pub mod patch;
pub mod types;
