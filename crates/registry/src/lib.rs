//! The built-in kinds as data.

pub mod bootstrap;
