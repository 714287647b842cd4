//! The pod security standards (`k8s.io/pod-security-admission`): which pods are privileged, baseline or restricted, by which
//! version of the standards, and what a namespace's labels make of it. Pure, on untyped objects.

mod checks;
mod configuration;
mod decision;
mod existing;
mod policy;

pub use checks::{Violation, check, details, reasons};
pub use configuration::Configuration;
pub use decision::{Decision, Evaluation, Mode, Subject, decide, exempt_namespace_warning, is_significant_update};
pub use existing::warnings_about;
pub use policy::{Level, LevelVersion, Policy, Version};

/// What labels of namespaces and annotations of the audit log begin with.
pub const PREFIX: &str = "pod-security.kubernetes.io/";
