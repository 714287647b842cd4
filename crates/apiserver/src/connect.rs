//! Subresources that are neither a read nor a write of the stored object.

use kybern_apimachinery::{ApiError, Value};

use crate::access::UserInfo;
use crate::{Body, BoxFuture};

/// A request to a connect subresource, authorized and admitted.
pub struct ConnectRequest {
    pub user: UserInfo,
    pub namespace: String,
    pub name: String,
    /// What follows the subresource in the path, as in `…/proxy/PATH`.
    pub tail: String,
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

/// The stored objects, as connectors, admission plugins and allocators reach them.
pub trait Objects: Send + Sync {
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
    /// Reads, changes and writes with optimistic locking, repeating on conflict. `change` is pure and may refuse.
    fn update<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
        change: &'a (dyn Fn(&mut Value) -> Result<(), ApiError> + Send + Sync),
    ) -> BoxFuture<'a, Result<Value, ApiError>>;
    fn create<'a>(&'a self, group: &'a str, resource: &'a str, object: Value)
    -> BoxFuture<'a, Result<Value, ApiError>>;
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
