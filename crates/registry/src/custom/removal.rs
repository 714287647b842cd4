//! A definition goes with all its objects.

use std::sync::{Arc, Weak};
use std::time::Duration;

use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::Server;
use kybern_apiserver::connect::Objects;

use super::conditions::{Condition, FINALIZER, find, is_true, set};
use super::{GROUP, RESOURCE};
use crate::tree::text;

/// How long objects may take to go before the definition says so.
const PATIENCE: Duration = Duration::from_secs(60);
const TERMINATING: &str = "Terminating";

/// Says that a definition's objects are being deleted.
pub(super) fn begin(definition: &mut Value, now: jiff::Timestamp) {
    let begun =
        find(definition, TERMINATING).is_some_and(|c| !["", "InstanceDeletionPending"].contains(&text(c, "reason")));
    if !begun {
        let message = "CustomResource deletion is in progress";
        set(definition, &Condition::new(TERMINATING, "True", "InstanceDeletionInProgress", message), now);
    }
}

pub(super) fn is_begun(definition: &Value) -> bool {
    object::is_deleting(definition)
        && object::finalizers(definition).any(|f| f == FINALIZER)
        && is_true(definition, TERMINATING)
}

/// Deletes the objects, and then lets the definition go. `ended` is told whether that has to
/// be tried again.
pub(super) fn spawn(server: Weak<Server>, name: String, definition: Value, ended: impl FnOnce(bool) + Send + 'static) {
    tokio::spawn(async move {
        let removed = match server.upgrade() {
            Some(server) => remove(&server, &definition).await,
            None => return,
        };
        let Some(server) = server.upgrade() else { return };
        let now = server.now();
        let (condition, done) = match removed {
            Ok(condition) => (condition, true),
            Err(condition) => (condition, false),
        };
        let change = |definition: &mut Value| {
            set(definition, &condition, now);
            if done {
                let kept: Vec<String> =
                    object::finalizers(definition).filter(|f| *f != FINALIZER).map(str::to_owned).collect();
                object::set(definition, &["metadata", "finalizers"], kept);
            }
            Ok(())
        };
        match server.update(GROUP, RESOURCE, "", &name, &change).await {
            Err(error) if error.reason() == Reason::NotFound => ended(false),
            Ok(_) if done => ended(false),
            _ => {
                tokio::time::sleep(super::RETRY_AFTER).await;
                ended(true);
            }
        }
    });
}

/// The condition that tells how it ended; an error where it did not.
async fn remove(server: &Arc<Server>, definition: &Value) -> Result<Condition, Condition> {
    let spec = &definition["spec"];
    let (group, resource) = (text(spec, "group"), text(&spec["names"], "plural"));
    if !is_true(definition, "Established") {
        return Ok(Condition::new(TERMINATING, "False", "NeverEstablished", "resource was never established"));
    }
    let failed = |what: &str, error: &ApiError| {
        Condition::new(TERMINATING, "True", "InstanceDeletionFailed", format!("could not {what}: {}", error.message()))
    };
    let objects = server.list(group, resource, "").await.map_err(|error| failed("list instances", &error))?;
    let mut problem = None;
    for one in objects {
        let (namespace, name) = (object::namespace(&one), object::name(&one));
        match server.delete(group, resource, namespace, name, Value::Null).await {
            Err(error) if error.reason() != Reason::NotFound => problem = problem.or(Some(error)),
            _ => {}
        }
    }
    if let Some(error) = problem {
        return Err(failed("issue all deletes", &error));
    }
    let emptied = tokio::time::timeout(PATIENCE, emptied(server, &format!("{group}/{resource}"))).await;
    if emptied.is_err() {
        let message = "could not confirm zero CustomResources remaining: timed out waiting for the condition";
        return Err(Condition::new(TERMINATING, "True", "InstanceDeletionCheck", message));
    }
    Ok(Condition::new(TERMINATING, "False", "InstanceDeletionCompleted", "removed all instances"))
}

/// Waits until a kind has no objects.
async fn emptied(server: &Server, prefix: &str) {
    loop {
        let Some(kind) = server.cache().kind(prefix) else { return };
        let mut watch = kind.watch_from_now(&Default::default(), || server.cache().revision());
        // What is told is of no account: what there is is counted after every change.
        while watch.before().is_some() {}
        loop {
            if kind.is_empty() {
                return;
            }
            match watch.read() {
                Ok(events) if !events.is_empty() => continue,
                Ok(_) => {}
                Err(_) => break,
            }
            if watch.wait().await.is_err() {
                break;
            }
        }
    }
}
