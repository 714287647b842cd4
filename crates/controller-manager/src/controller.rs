//! The seam between what a controller decides and how it is done.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kybern_api::Object;
use kybern_api::core::v1::PersistentVolumeClaim;
use kybern_apimachinery::{Gvr, Value};
use kybern_client::{DeleteOptions, EventType, ObjectRef, Patch};
use kybern_quota::Evaluator;

use crate::ask::{Ask, Then};
use crate::metrics::{Measure, Metric};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// One control loop. It decides only: `reconcile` reads the snapshot and says what to do; the driver watches, queues,
/// executes, retries and reports.
pub trait Controller: Send + Sync + 'static {
    /// Upstream's name, as in `--controllers`.
    fn name(&self) -> &'static str;

    /// The source of its events, as `kubectl describe` shows it.
    fn component(&self) -> &'static str {
        self.name()
    }

    /// The service account in `kube-system` whose role `system:controller:…` allows what it does; empty: it works as the
    /// controller manager itself.
    fn account(&self) -> &'static str {
        self.name()
    }

    /// Plans that are carried out at once.
    fn workers(&self) -> usize {
        5
    }

    /// Says which changes bring which keys into the queue.
    fn watches(&self, watches: &mut Watches<'_>);

    /// Decides what to do about one key. Called again after every change that concerns the key, and with the failure of
    /// the last attempt if it failed. Must not depend on why it is called.
    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan;
}

/// What `reconcile` may know besides the objects.
#[derive(Clone, Debug)]
pub struct Context {
    pub now: Timestamp,
    /// Since when this process has been watching: what was not heard before may not have been said yet.
    pub started: Timestamp,
    /// Why the last plan for this key could not be carried out.
    pub failure: Option<Failure>,
}

/// An operation that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub verb: Verb,
    /// The plan was made on an old state (conflict, already there): a new look mends it. Never shown to `reconcile`.
    pub stale: bool,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Update,
    Delete,
    Read,
}

/// What to do: operations in order (the first failure ends the plan, and the key is tried again with back-off), and when
/// to look again without a change.
#[derive(Debug, Default)]
pub struct Plan {
    pub ops: Vec<Op>,
    pub requeue_after: Option<Duration>,
    /// What the key waits for, for logs; users read it in conditions and events.
    pub waiting: Option<String>,
    /// What is to be counted once the operations are done.
    pub measures: Vec<Measure>,
}

impl Plan {
    /// Nothing to do.
    pub fn idle() -> Self {
        Self::default()
    }

    pub fn of(ops: Vec<Op>) -> Self {
        Self { ops, ..Self::default() }
    }

    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    pub(crate) fn measure<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], value: f64) {
        self.measures.push(Measure::new(metric, labels, value));
    }

    /// Adds one to a counter.
    pub(crate) fn count<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N]) {
        self.measure(metric, labels, 1.0);
    }

    /// Looks again after a time; of several the shortest counts.
    pub fn requeue(&mut self, after: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(after, |old| old.min(after)));
    }

    /// Looks again at a point in time.
    pub fn requeue_at(&mut self, at: Timestamp, now: Timestamp) {
        let millis = at.duration_since(now).as_millis().max(1);
        self.requeue(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)));
    }
}

/// One write (or check) at the API server. Writes carry preconditions, so that a stale plan fails harmlessly.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Creates an object. With `announce`, the outcome becomes an event.
    Create {
        gvr: Gvr,
        namespace: String,
        body: Vec<u8>,
        announce: Option<Announcement>,
    },
    /// Writes a whole object or a subresource; the body's resourceVersion is the precondition.
    Put {
        gvr: Gvr,
        namespace: String,
        name: String,
        subresource: Option<&'static str>,
        body: Vec<u8>,
    },
    Patch {
        gvr: Gvr,
        namespace: String,
        name: String,
        subresource: Option<&'static str>,
        patch: Patch,
    },
    /// An object that is gone already counts as deleted.
    Delete {
        gvr: Gvr,
        namespace: String,
        name: String,
        options: DeleteOptions,
        announce: Option<Announcement>,
    },
    /// Deletes everything of a resource in a namespace.
    DeleteCollection {
        gvr: Gvr,
        namespace: String,
    },
    /// Ends the plan unless the server holds nothing of the resource in the namespace.
    RequireEmpty {
        gvr: Gvr,
        namespace: String,
    },
    /// Ends the plan if the server still has an object of this name and uid (empty: any).
    RequireAbsent {
        gvr: Gvr,
        namespace: String,
        name: String,
        uid: String,
    },
    /// Ends the plan if the server has a pod that uses the claim.
    RequireUnused {
        claim: Arc<PersistentVolumeClaim>,
    },
    /// Asks a node's kubelet, through the API server, to delete what lies at a path of its API.
    DeleteAtNode {
        node: String,
        path: String,
    },
    /// Counts at the server what of a quota is used, and writes its status where the server shows another: what was last
    /// seen of the quota may be older than what was seen of the objects.
    Count {
        namespace: String,
        name: String,
        counted: Vec<Counted>,
    },
    /// Carries out `then` if a SubjectAccessReview with this spec is answered with yes, else `otherwise`.
    IfAllowed {
        review: Value,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    },
    /// Asks the server, and goes on with what is decided on its answers.
    Ask {
        asks: Vec<Ask>,
        then: Then,
    },
    /// Counts what was decided on answers ([`Plan::measures`] otherwise).
    Measure(Measure),
    /// Ends the plan: the key is tried again with back-off, and the log says why.
    Fail(String),
    /// Independent operations: one, then twice as many at once as long as all succeed (`slowStartBatch`), so that what
    /// cannot work is not tried a thousand times.
    SlowStart(Vec<Op>),
    Event {
        about: ObjectRef,
        kind: EventType,
        reason: &'static str,
        message: String,
    },
}

/// Whom the event of an outcome is about, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    pub about: ObjectRef,
    /// What is said when it is done, and what comes before the error when it is not; `None`: what most controllers say.
    /// Of a name that is taken nothing is said then: the stores lag, or the controller says it itself.
    pub texts: Option<(String, String)>,
}

/// A resource of which a quota counts the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    pub gvr: Gvr,
    pub evaluator: Evaluator,
}

impl Op {
    pub fn create<K: Object>(object: &K) -> Self {
        let namespace = object.namespace().to_owned();
        Self::Create { gvr: K::gvr(), namespace, body: object.to_json(), announce: None }
    }

    /// Writes the object's status; its resourceVersion is the precondition.
    pub fn update_status<K: Object>(object: &K) -> Self {
        Self::put(object, Some("status"))
    }

    /// Writes the whole object. Only for kinds whose every field the typed struct knows.
    pub fn update<K: Object>(object: &K) -> Self {
        Self::put(object, None)
    }

    /// Writes a whole object or one of its subresources, as [`Op::update`] does.
    pub fn put<K: Object>(object: &K, subresource: Option<&'static str>) -> Self {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        Self::Put { gvr: K::gvr(), namespace, name, subresource, body: object.to_json() }
    }

    pub fn patch<K: Object>(object: &K, patch: Patch) -> Self {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        Self::Patch { gvr: K::gvr(), namespace, name, subresource: None, patch }
    }

    pub fn patch_status<K: Object>(object: &K, patch: Patch) -> Self {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        Self::Patch { gvr: K::gvr(), namespace, name, subresource: Some("status"), patch }
    }

    /// Deletes this very object (its uid is the precondition).
    pub fn delete<K: Object>(object: &K) -> Self {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        Self::Delete { gvr: K::gvr(), namespace, name, options: DeleteOptions::of_uid(object.uid()), announce: None }
    }

    /// Makes events about `owner` of the outcome: `SuccessfulCreate`, `FailedDelete`, …
    #[must_use]
    pub fn announced(self, owner: &ObjectRef) -> Self {
        self.with_announcement(Announcement { about: owner.clone(), texts: None })
    }

    /// As [`Op::announced`], in other words.
    #[must_use]
    pub fn announced_as(self, owner: &ObjectRef, done: String, failed: String) -> Self {
        self.with_announcement(Announcement { about: owner.clone(), texts: Some((done, failed)) })
    }

    fn with_announcement(mut self, announcement: Announcement) -> Self {
        if let Self::Create { announce, .. } | Self::Delete { announce, .. } = &mut self {
            *announce = Some(announcement);
        }
        self
    }

    pub fn normal<K: Object>(about: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event { about: ObjectRef::of(about), kind: EventType::Normal, reason, message: message.into() }
    }

    pub fn warning<K: Object>(about: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event { about: ObjectRef::of(about), kind: EventType::Warning, reason, message: message.into() }
    }
}
