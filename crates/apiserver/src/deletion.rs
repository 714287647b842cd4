//! How an object is deleted: preconditions, graceful deletion, finalizers, and only then the store.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_apimachinery::{ApiError, GroupResource, Value, object, time};
use kybern_storage::Txn;

use crate::access::UserInfo;
use crate::admission::{AdmissionRequest, Operation};
use crate::audit::Record;
use crate::cache::Entry;
use crate::convert;
use crate::exchange::Exchange;
use crate::options::{DeleteOptions, Propagation};
use crate::resource::Resource;
use crate::server::Server;
use crate::strategy::Strategy;
use crate::transaction::Transaction;
use crate::warnings::Warnings;
use crate::write::{CLAIM_TRIES, Chain, Failure, admitted_namespace, commit, encode, entry};

/// Waits for its owner's dependents to be orphaned.
const ORPHAN: &str = "orphan";
/// Waits for its dependents to be deleted.
const FOREGROUND: &str = "foregroundDeletion";

/// What became of an object.
pub(crate) enum Deleted {
    /// It is marked, and goes when its finalizers or its grace period end.
    Pending(Arc<Entry>),
    /// Its last state.
    Gone(Arc<Entry>),
}

/// One delete request.
pub(crate) struct Deletion<'a> {
    pub(crate) server: &'a Server,
    pub(crate) resource: &'a Resource,
    pub(crate) user: &'a UserInfo,
    pub(crate) options: &'a DeleteOptions,
    pub(crate) now: Timestamp,
    pub(crate) shown: Shown<'a>,
}

/// What admission is shown of a deletion.
#[derive(Clone, Copy)]
pub(crate) enum Shown<'a> {
    /// Nothing: it has seen what the deletion follows from.
    Nothing,
    Object(&'a Warnings, &'a Record),
    /// The object, but no name, as none was asked for.
    OfCollection(&'a Warnings, &'a Record),
}

impl<'a> Deletion<'a> {
    pub(crate) fn new(exchange: &'a Exchange, options: &'a DeleteOptions) -> Self {
        Self {
            server: &exchange.server,
            resource: &exchange.resource,
            user: &exchange.user,
            options,
            now: exchange.now,
            shown: Shown::Object(&exchange.warnings, &exchange.audit),
        }
    }

    /// Deletes an object, as it is when the deletion is committed.
    pub(crate) async fn delete(&self, namespace: &str, name: &str) -> Result<Deleted, ApiError> {
        let resource = self.resource.gvr.group_resource();
        let kind = self.server.kind(self.resource)?;
        let (mut tries, mut attempt) = (self.server.turns.tries(), 1);
        loop {
            self.server.catch_up().await?;
            kind.check_readable(namespace, name)?;
            let old = kind.get(namespace, name).ok_or_else(|| ApiError::not_found(&resource, name))?;
            match self.try_delete(&old).await {
                Err(Failure::Contended) if attempt < CLAIM_TRIES => attempt += 1,
                Err(failure) => {
                    failure
                        .retry(&mut tries, &old.key)
                        .await
                        .map_err(|failure| failure.into_api_error(&resource, name))?;
                }
                Ok(deleted) => return Ok(deleted),
            }
        }
    }

    async fn try_delete(&self, old: &Arc<Entry>) -> Result<Deleted, Failure> {
        let before = convert::internal(self.resource, old).await?;
        self.check_preconditions(old, &before)?;
        self.admit(old, &before).await?;
        let kind = self.server.kind(self.resource)?;
        let mut marked = before.clone();
        match mark(&*self.resource.strategy, &mut marked, self.options, self.now) {
            Mark::Gone => {
                // Nothing may come between what is gone and its answer.
                let value = encode(self.resource, &marked).await;
                let last = |revision| {
                    let value = value.as_ref().ok();
                    let marked = value.and_then(|value| entry(&kind, old.key.clone(), value, revision).ok());
                    marked.unwrap_or_else(|| Arc::new(old.at_revision(revision)))
                };
                if self.options.dry_run {
                    return Ok(Deleted::Gone(last(old.revision)));
                }
                let freed = Transaction::default();
                self.resource.strategy.release(&before, &freed).await?;
                let txn = Txn::delete(old.key.clone(), old.revision);
                let revision = commit(self.server, &old.key, txn, &freed).await?;
                self.server.cache.settle(revision).await;
                Ok(Deleted::Gone(last(revision)))
            }
            Mark::Pending if marked == before => Ok(Deleted::Pending(old.clone())),
            Mark::Pending => {
                let value = encode(self.resource, &marked).await?;
                if self.options.dry_run {
                    return Ok(Deleted::Pending(entry(&kind, old.key.clone(), &value, old.revision)?));
                }
                let txn = Txn::update(old.key.clone(), old.revision, value.clone());
                let revision = commit(self.server, &old.key, txn, &Transaction::default()).await?;
                self.server.cache.settle(revision).await;
                Ok(Deleted::Pending(entry(&kind, old.key.clone(), &value, revision)?))
            }
        }
    }

    fn check_preconditions(&self, old: &Entry, before: &Value) -> Result<(), ApiError> {
        // Upstream names the kind where others name the resource.
        let kind = GroupResource::new(self.resource.internal.group.as_str(), self.resource.kind.as_str());
        let refuse = |cause: String| Err(ApiError::conflict(&kind, old.name(), &cause));
        let uid = object::uid(before);
        if let Some(wanted) = self.options.uid.as_deref().filter(|wanted| *wanted != uid) {
            return refuse(format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been \
                 deleted and then recreated"
            ));
        }
        let revision = old.revision.to_string();
        if let Some(wanted) = self.options.resource_version.as_deref().filter(|wanted| *wanted != revision) {
            return refuse(format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
                 ({revision}). The object might have been modified"
            ));
        }
        Ok(())
    }

    async fn admit(&self, old: &Entry, before: &Value) -> Result<(), ApiError> {
        let (warnings, audit, name) = match self.shown {
            Shown::Nothing => return Ok(()),
            Shown::Object(warnings, audit) => (warnings, audit, old.name()),
            Shown::OfCollection(warnings, audit) => (warnings, audit, ""),
        };
        let chain = Chain::default();
        let request = AdmissionRequest {
            user: self.user,
            resource: self.resource,
            subresource: "",
            kind: &self.resource.ty.gvk,
            namespace: admitted_namespace(self.resource, old.namespace(), old.name()),
            name,
            operation: Operation::Delete,
            old: Some(before),
            options: &self.options.object,
            dry_run: self.options.dry_run,
            warnings,
            audit,
            reinvocation: &chain.reinvocation,
            transaction: &chain.transaction,
            versions: self.server,
        };
        self.server.admission.admit(&request, None).await?;
        self.server.admission.validate(&request, None).await
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Gone,
    Pending,
}

/// Decides whether an object can go at once; if not, changes it to what it is while it waits. Pure.
fn mark(strategy: &dyn Strategy, object: &mut Value, options: &DeleteOptions, now: Timestamp) -> Mark {
    set_finalizers(strategy, object, options);
    let granted = strategy.graceful_deletion(object, options.grace_period_seconds);
    let grace = granted.unwrap_or(0).max(0);
    let held = object::finalizers(object).next().is_some() || strategy.deletion_pending(object);
    if object::is_deleting(object) {
        let granted =
            object::at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
        // Only a shorter period changes anything; without one asked for, the first stands.
        let shorter = options.grace_period_seconds.is_some() && grace < granted;
        if granted > 0 && !shorter {
            return Mark::Pending;
        }
        if grace == 0 && !held {
            return Mark::Gone;
        }
        if shorter {
            let ends = object::str_at(object, &["metadata", "deletionTimestamp"]);
            let began = time::parse_rfc3339(ends).unwrap_or(now) - SignedDuration::from_secs(granted);
            set_deletion(object, began + SignedDuration::from_secs(grace), grace);
        }
        return Mark::Pending;
    }
    let gone = grace == 0 && !held;
    // What knows grace is marked even when it gets none.
    if gone && granted.is_none() {
        return Mark::Gone;
    }
    set_deletion(object, now + SignedDuration::from_secs(grace), grace);
    if object::generation(object) > 0 {
        object::set(object, &["metadata", "generation"], object::generation(object) + 1);
    }
    if gone {
        return Mark::Gone;
    }
    strategy.prepare_for_delete(object);
    Mark::Pending
}

fn set_deletion(object: &mut Value, at: Timestamp, grace: i64) {
    object::set(object, &["metadata", "deletionTimestamp"], time::to_rfc3339(at));
    object::set(object, &["metadata", "deletionGracePeriodSeconds"], grace);
}

/// The garbage collector's finalizers, by what is to become of dependents.
fn set_finalizers(strategy: &dyn Strategy, object: &mut Value, options: &DeleteOptions) {
    let before: Vec<String> = object::finalizers(object).map(str::to_owned).collect();
    let gc = |f: &String| f == ORPHAN || f == FOREGROUND;
    let propagation = match options.propagation {
        Some(propagation) => propagation,
        // What was decided before stands.
        None if before.iter().any(gc) => return,
        None if strategy.orphans_by_default() => Propagation::Orphan,
        None => return,
    };
    let mut after: Vec<String> = before.iter().filter(|f| !gc(f)).cloned().collect();
    match propagation {
        Propagation::Orphan => after.push(ORPHAN.to_owned()),
        Propagation::Foreground => after.push(FOREGROUND.to_owned()),
        Propagation::Background => {}
    }
    if after.is_empty() {
        object::remove(object, &["metadata", "finalizers"]);
    } else if after != before {
        object::set(object, &["metadata", "finalizers"], after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Plain;
    use kybern_apimachinery::json;

    /// Grants what is asked for, 30 seconds by default.
    struct Graceful;
    impl Strategy for Graceful {
        fn graceful_deletion(&self, _: &Value, requested: Option<i64>) -> Option<i64> {
            Some(requested.unwrap_or(30))
        }
    }

    fn check(strategy: &dyn Strategy, metadata: Value, query: &str, expect: Option<Value>) {
        let options = DeleteOptions::parse(&crate::options::Query::parse(query), Value::Null).unwrap();
        let mut object = json!({"metadata": metadata});
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mark = mark(strategy, &mut object, &options, now);
        assert_eq!(mark == Mark::Gone, expect.is_none(), "{object}");
        if let Some(expect) = expect {
            assert_eq!(object["metadata"], expect);
        }
    }

    #[test]
    fn without_grace_or_finalizers_it_goes_at_once() {
        check(&Plain, json!({}), "", None);
        check(&Plain, json!({}), "gracePeriodSeconds=30", None);
        check(&Graceful, json!({}), "gracePeriodSeconds=0", None);
        check(&Plain, json!({"finalizers": ["orphan"]}), "propagationPolicy=Background", None);
    }

    #[test]
    fn what_knows_grace_is_marked_when_it_gets_none() {
        let options = DeleteOptions::parse(&crate::options::Query::parse("gracePeriodSeconds=0"), Value::Null).unwrap();
        let mut object = json!({"metadata": {"generation": 1}});
        assert_eq!(mark(&Graceful, &mut object, &options, "2026-01-01T00:00:00Z".parse().unwrap()), Mark::Gone);
        let marked = json!({
            "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0
        });
        assert_eq!(object["metadata"], marked);
    }

    #[test]
    fn finalizers_hold_it() {
        let marked = json!({
            "finalizers": ["a/b"], "generation": 2,
            "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0
        });
        check(&Plain, json!({"finalizers": ["a/b"], "generation": 1}), "", Some(marked.clone()));
        check(&Plain, marked.clone(), "", Some(marked));
        let foreground = json!({
            "finalizers": ["foregroundDeletion"],
            "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0
        });
        check(&Plain, json!({}), "propagationPolicy=Foreground", Some(foreground));
    }

    #[test]
    fn grace_is_granted_once_and_can_be_shortened() {
        let granted = json!({"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30});
        check(&Graceful, json!({}), "", Some(granted.clone()));
        check(&Graceful, granted.clone(), "", Some(granted.clone()));
        check(&Graceful, granted.clone(), "gracePeriodSeconds=60", Some(granted.clone()));
        let shorter = json!({"deletionTimestamp": "2026-01-01T00:00:05Z", "deletionGracePeriodSeconds": 5});
        check(&Graceful, granted.clone(), "gracePeriodSeconds=5", Some(shorter));
        check(&Graceful, granted, "gracePeriodSeconds=0", None);
    }
}
