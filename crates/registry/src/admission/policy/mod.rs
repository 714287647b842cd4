//! Policies in the Common Expression Language: ValidatingAdmissionPolicy, and what its expressions see.
//!
//! `views` keeps policies with their bindings, `compiled` is a policy whose expressions are compiled, `matching` says which
//! requests it is about, `params` finds its parameters, `decision` evaluates it, `validating` is the plugin.

mod compiled;
mod conditions;
mod decision;
mod environment;
mod expression;
mod matching;
mod params;
mod request;
mod validating;
mod views;

pub(crate) use environment::{Options, environment, stateless};
pub(crate) use expression::{Returns, Variables, compile};
pub(crate) use validating::ValidatingAdmissionPolicy;
pub(crate) use views::{NamespaceObjects, ValidatingPolicies};
