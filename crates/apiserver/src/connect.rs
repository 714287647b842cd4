//! Subresources that are neither a read nor a write of the stored object, and how they and other parts of the server
//! reach the stored objects.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use kybern_apimachinery::{ApiError, Gvk, Gvr, Value};

use crate::access::UserInfo;
use crate::audit::Record;
use crate::held::Held;
use crate::warnings::Warnings;
use crate::{Body, BoxFuture};

/// A request to a connect subresource, authorized and admitted.
pub struct ConnectRequest {
    pub user: UserInfo,
    pub namespace: String,
    pub name: String,
    /// What follows the subresource in the path, as it came: `/PATH` of `…/proxy/PATH`.
    pub tail: String,
    /// Everything is checked, nothing is changed. Only for what is created.
    pub dry_run: bool,
    /// What the client is told besides the answer.
    pub warnings: Arc<Warnings>,
    /// To which the audit log's annotations go.
    pub audit: Arc<Record>,
    /// To be kept by whatever works on when the answer is given, such as a stream's task.
    pub held: Held,
    /// Without the caller's credentials.
    pub request: http::Request<Body>,
}

/// Serves one connect subresource: `pods/log`, `pods/exec`, `pods/binding`, `serviceaccounts/token`, …
pub trait Connector: Send + Sync + 'static {
    /// `server` gives access to the objects, through the same path as any client's.
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<http::Response<Body>, ApiError>>;
}

/// What is stored under a key.
#[derive(Clone, Debug)]
pub struct Stored {
    pub key: Arc<str>,
    pub value: bytes::Bytes,
    /// Zero for what is not stored yet.
    pub revision: u64,
}

/// Where the objects of a kind are.
#[derive(Clone, Debug)]
pub struct Place {
    pub gvr: Gvr,
    pub namespaced: bool,
}

/// The stored objects, as connectors, admission plugins and allocators reach them.
pub trait Objects: Send + Sync {
    /// Where the objects of a kind are.
    fn place(&self, kind: &Gvk) -> Option<Place>;
    /// Objects of a kind in the version that it names.
    fn shown<'a>(&'a self, kind: &'a Gvk, objects: Vec<Value>) -> BoxFuture<'a, Result<Vec<Value>, ApiError>>;
    /// From the watch cache, in the stored version.
    fn get<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Value, ApiError>>;
    /// Every object of a resource in a namespace (empty: all namespaces).
    fn list<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>>;
    /// Those of them that have such labels and fields; of fields only what a client may select by.
    fn select<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        labels: &'a LabelSelector,
        fields: &'a FieldSelector,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>>;
    /// Reads, changes and writes with optimistic locking, repeating on conflict. `change` is pure and may refuse; what it
    /// writes is its own responsibility: neither admission nor the kind's strategy looks at it (a binding sets
    /// `spec.nodeName`, which no client may). Answers the revision that it has then.
    fn update<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
        change: &'a (dyn Fn(&mut Value) -> Result<(), ApiError> + Send + Sync),
    ) -> BoxFuture<'a, Result<u64, ApiError>>;
    fn create<'a>(&'a self, group: &'a str, resource: &'a str, object: Value)
    -> BoxFuture<'a, Result<Value, ApiError>>;
    /// A new object, of the internal version, as it is stored, with what the server fills into its metadata: for a transaction
    /// that makes it together with another.
    fn made<'a>(&'a self, group: &'a str, resource: &'a str, object: Value) -> BoxFuture<'a, Result<Stored, ApiError>>;
    /// An object in the internal version, its key and revision, from the watch cache as it is now, for a transaction that
    /// replaces it.
    fn current<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<(Value, Stored)>, ApiError>>;
    /// An object of the internal version as it is stored.
    fn encoded<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<bytes::Bytes, ApiError>>;
    /// An object of the internal version with another status in place of `old`, as it is stored when the server itself writes
    /// that: for a transaction that replaces it.
    fn with_status<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        old: &'a Value,
        object: Value,
    ) -> BoxFuture<'a, Result<bytes::Bytes, ApiError>>;
    /// What is stored under a key that is no object's, read from the store.
    fn raw<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Stored>, ApiError>>;
    /// Waits until the watch cache, and whoever observes it, knows all that was committed before this call.
    fn caught_up(&self) -> BoxFuture<'_, Result<(), ApiError>>;
    /// Deletes with a grace period (`None`: the kind's own), as a DELETE request would.
    fn delete<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
        options: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>>;
}

/// A place for the [`Objects`] of a server that is not built yet: authenticators, admission plugins and allocators are
/// handed to the server when it is built, and need it once it runs. It does not keep the server alive, which holds them.
#[derive(Clone, Default)]
pub struct ObjectsSlot(Arc<OnceLock<Weak<dyn Objects>>>);

impl ObjectsSlot {
    /// Fills the slot; a second call changes nothing.
    pub fn fill(&self, objects: Arc<dyn Objects>) {
        let _ = self.0.set(Arc::downgrade(&objects));
    }

    /// The objects, or the refusal of a server that is still starting or has stopped.
    pub fn get(&self) -> Result<Arc<dyn Objects>, ApiError> {
        let unavailable = |text| ApiError::new(kybern_apimachinery::Reason::ServiceUnavailable, text);
        let objects = self.0.get();
        let objects =
            objects.ok_or_else(|| unavailable("the server is starting: its objects are not loaded yet; try again"))?;
        objects.upgrade().ok_or_else(|| unavailable("the server is shutting down: try again"))
    }
}

/// A committed object that is read when somebody wants to know what is in it.
#[derive(Clone)]
pub struct Unread {
    bytes: Bytes,
    read: Arc<ReadLater>,
}

/// What reads an object's JSON.
pub type ReadLater = dyn Fn(&[u8]) -> serde_json::Result<Value> + Send + Sync;

impl Unread {
    pub fn new(bytes: Bytes, read: Arc<ReadLater>) -> Self {
        Self { bytes, read }
    }

    /// What the observer said that it reads.
    pub fn read(&self) -> serde_json::Result<Value> {
        (self.read)(&self.bytes)
    }
}

/// Keeps a view of some resources' objects, such as the RBAC snapshot. The server shows it every object when it has loaded
/// the store, and after that every committed change, in order and before the write is answered: whoever was told that
/// a role binding exists is authorized by it.
pub trait Observer: Send + Sync + 'static {
    /// Group and resource of what it wants to see.
    fn observes(&self) -> &'static [(&'static str, &'static str)];

    /// The paths to what it reads of a resource's objects, through lists as if they were not there; empty: all. What nobody
    /// names is not parsed, and may be missing from what is shown.
    fn reads(&self, _group: &str, _resource: &str) -> &'static [&'static [&'static str]] {
        &[]
    }

    /// The path to a text that is all it needs of a resource's objects at first. It is shown that and the object unread, by
    /// [`Observer::sorted`], in place of [`Observer::changed`].
    fn sorts_by(&self, _group: &str, _resource: &str) -> Option<&'static [&'static str]> {
        None
    }

    /// An object by its text (empty where it has none), or that it is gone.
    fn sorted(&self, _group: &str, _resource: &str, _namespace: &str, _name: &str, _object: Option<(&str, Unread)>) {}

    /// An object in its stored version, as committed; `None` when it is gone. One that cannot be read is not shown: what was
    /// known of it stands. Must be quick: it runs in the commit path.
    fn changed(&self, group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>);
}
