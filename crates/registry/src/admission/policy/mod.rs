//! Policies in the Common Expression Language: ValidatingAdmissionPolicy and MutatingAdmissionPolicy, and what their
//! expressions see.
//!
//! `views` keeps policies with their bindings, `compiled` is a policy whose expressions are compiled, `selection` says which
//! of them a request is for, `params` with what parameters. `decision` evaluates validations, `mutation` makes a change;
//! `validating` and `mutating` are the plugins.

mod compiled;
mod conditions;
mod decision;
mod environment;
mod expression;
mod metrics;
mod mutating;
mod mutation;
mod params;
mod request;
mod rights;
mod selection;
mod validating;
mod views;

use std::sync::Arc;

use kybern_apiserver::access::Authorizer;
use kybern_apiserver::connect::ObjectsSlot;

use super::namespaces::NamespaceObjects;
pub(crate) use compiled::{MutatingPolicy, ValidatingPolicy};
pub(super) use conditions::{Conditions, evaluate as evaluate_conditions};
pub(crate) use environment::{Environments, Options, stateless};
pub(super) use expression::{Authorization, Expression, Inputs};
pub(crate) use expression::{Returns, Variables, compile};
pub(super) use metrics::ConditionsOf;
pub use metrics::Metrics as PolicyMetrics;
pub(crate) use mutating::MutatingAdmissionPolicy;
pub(super) use request::RequestVariable;
pub(crate) use rights::PolicyParameters;
pub(crate) use validating::ValidatingAdmissionPolicy;
pub(crate) use views::Policies;

/// What both plugins share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(super) namespaces: Arc<NamespaceObjects>,
    pub(super) objects: ObjectsSlot,
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) metrics: Arc<PolicyMetrics>,
}
