//! The compact shape table of every kind, and all that is driven by it.

pub mod types;
