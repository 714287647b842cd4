//! What generic client code needs of a typed object.

use std::collections::BTreeMap;

use kybern_apimachinery::{Gvr, object};

/// A typed API object that knows its resource and can be read and written as JSON.
pub trait Object: Clone + Send + Sync + std::fmt::Debug + 'static {
    const GROUP: &'static str;
    const VERSION: &'static str;
    const KIND: &'static str;
    const RESOURCE: &'static str;
    const NAMESPACED: bool;

    /// Decodes a JSON object.
    fn from_json(json: &[u8]) -> Result<Self, DecodeError>;
    /// Encodes with `apiVersion` and `kind`.
    fn to_json(&self) -> Vec<u8>;

    fn name(&self) -> &str;
    /// Empty when cluster-scoped.
    fn namespace(&self) -> &str;
    fn uid(&self) -> &str;
    fn resource_version(&self) -> &str;
    fn labels(&self) -> Option<&BTreeMap<String, String>>;
    fn is_deleting(&self) -> bool;
    /// Removes `metadata.managedFields`, which caches need not hold.
    fn drop_managed_fields(&mut self);

    fn gvr() -> Gvr {
        Gvr::new(Self::GROUP, Self::VERSION, Self::RESOURCE)
    }

    /// `namespace/name`, or `name` when cluster-scoped.
    fn key(&self) -> String {
        object::key_of(self.namespace(), self.name())
    }
}

/// A body that is not the object it should be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot decode {kind}: {cause}")]
pub struct DecodeError {
    pub kind: &'static str,
    pub cause: String,
}
