//! The special rules of a kind. A kind without special rules uses [`Plain`].

use std::collections::BTreeSet;

use kybern_apimachinery::field::FieldError;
use kybern_apimachinery::{ApiError, Value};

use crate::BoxFuture;
use crate::access::UserInfo;
use crate::transaction::Transaction;

/// The feature gates that are open, by upstream's names.
#[derive(Clone, Debug, Default)]
pub struct Features(BTreeSet<&'static str>);

impl Features {
    pub fn has(&self, gate: &str) -> bool {
        self.0.contains(gate)
    }
}

impl FromIterator<&'static str> for Features {
    fn from_iter<T: IntoIterator<Item = &'static str>>(gates: T) -> Self {
        Self(gates.into_iter().collect())
    }
}

/// What a strategy may know about the request.
pub struct StrategyContext<'a> {
    pub user: &'a UserInfo,
    pub now: jiff::Timestamp,
    pub dry_run: bool,
    pub features: &'a Features,
}

/// The rules of one kind, on its stored version. Everything but [`Strategy::claim`] is pure. The server itself does what
/// all kinds need: metadata (name, generateName, uid, creationTimestamp, generation, deletion fields), schema defaults,
/// pruning, managed fields, optimistic locking, finalizers.
pub trait Strategy: Send + Sync + 'static {
    /// Defaults that the schema table cannot say, because they depend on other fields.
    fn default(&self, _object: &mut Value) {}

    /// Whether a creator may set `status`, as for nodes; else the server drops it where the kind has that subresource.
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Drops what a creator may not set, and sets what the server owns, such as a first `status.phase`.
    fn prepare_for_create(&self, _ctx: &StrategyContext, _object: &mut Value) {}

    /// What is taken back from every writer besides what is for every kind (`status` where there is such a subresource, and all
    /// but `metadata` where that writes): nobody gets to own it.
    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[]
    }

    /// Takes over from `old` what an update may not change. By default `status` where the kind has a status subresource
    /// (the server does that before it calls this).
    fn prepare_for_update(&self, _ctx: &StrategyContext, _object: &mut Value, _old: &Value) {}

    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Called besides [`Strategy::validate`] for an object that is to be made.
    fn validate_create(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Called besides [`Strategy::validate`], which sees the new object first.
    fn validate_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// [`Strategy::validate_update`] of a kind that warns of what is wrong and was so before.
    fn check_update(&self, object: &Value, old: &Value, _warnings: &mut Vec<String>) -> Vec<FieldError> {
        self.validate_update(object, old)
    }

    /// `Warning` headers.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The `Warning` of every answer about a kind that upstream has deprecated.
    fn deprecation(&self) -> Option<&str> {
        None
    }

    /// Whether finalizers must be Kubernetes' own or name a domain.
    fn qualified_finalizers(&self) -> bool {
        true
    }

    /// What a name must look like; upstream's default is an RFC 1123 subdomain.
    fn validate_name(&self, name: &str) -> Vec<String> {
        kybern_apimachinery::validation::dns1123_subdomain(name)
    }

    /// Whether a PUT to a missing name creates.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether an update without `resourceVersion` is taken as it is.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// For graceful deletion: the seconds to grant, given what was asked for; zero deletes at once. `None` for
    /// kinds that know no grace.
    fn graceful_deletion(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Called when an object's deletion begins but cannot end yet, such as to set a namespace's `status.phase`.
    fn prepare_for_delete(&self, _object: &mut Value) {}

    /// Whether something besides `metadata.finalizers` holds a deleted object, such as a namespace's `spec.finalizers`.
    fn deletion_pending(&self, _object: &Value) -> bool {
        false
    }

    /// Whether upstream orphans dependents by default when this kind is deleted with no propagation policy given.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// The `Warning` of a deletion that does not say what becomes of dependents.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// Whether what is read through it can be shown as a `Table`.
    fn has_table(&self) -> bool {
        true
    }

    /// Whether [`Strategy::claim`] does anything.
    fn claims(&self) -> bool {
        false
    }

    /// Claims what must be unique across objects (cluster IPs, node ports), before the object is prepared and checked: chooses,
    /// writes the choice into the object, and adds what makes it so to the transaction that commits the object. Asked again,
    /// of the object as it was asked for, when somebody else was quicker.
    fn claim<'a>(
        &'a self,
        _ctx: &'a StrategyContext<'a>,
        _object: &'a mut Value,
        _old: Option<&'a Value>,
        _transaction: &'a Transaction,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }

    /// Adds to the transaction that deletes an object for good what frees its claims.
    fn release<'a>(&'a self, _object: &'a Value, _transaction: &'a Transaction) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }
}

/// The strategy of a kind without special rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Strategy for Plain {}
