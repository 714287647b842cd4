//! Objects between the version they are stored in and the one they are served in.

use bytes::Bytes;
use kybern_apimachinery::{Value, object};

use crate::cache::{BadEntry, Entry};
use crate::resource::Resource;

/// An object from the stored version to the served one.
pub(crate) fn to_served(resource: &Resource, mut stored: Value) -> Value {
    if let Some(conversion) = resource.conversion {
        stored = (conversion.from_stored)(stored);
    }
    set_version(&mut stored, &resource.api_version());
    stored
}

/// An object from the served version to the stored one.
pub(crate) fn to_stored(resource: &Resource, mut served: Value) -> Value {
    if let Some(conversion) = resource.conversion {
        served = (conversion.to_stored)(served);
    }
    set_version(&mut served, &resource.stored.gvk.api_version());
    served
}

fn set_version(value: &mut Value, api_version: &str) {
    if object::api_version(value) != api_version {
        object::set(value, &["apiVersion"], api_version);
    }
}

/// A stored object as a tree in the served version.
pub(crate) fn served_value(resource: &Resource, entry: &Entry) -> Result<Value, BadEntry> {
    Ok(to_served(resource, entry.value()?))
}

/// The JSON of an object in the served version; one piece, or a new head and the stored rest.
pub(crate) fn served_pieces(
    resource: &Resource,
    entry: &Entry,
) -> Result<impl Iterator<Item = Bytes> + use<>, BadEntry> {
    let pieces = if resource.serves_stored() {
        [Some(entry.bytes.clone()), None]
    } else if resource.conversion.is_none() {
        let head = format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",", resource.api_version(), resource.kind);
        [Some(head.into()), Some(entry.body())]
    } else {
        [Some(served_value(resource, entry)?.to_string().into()), None]
    };
    Ok(pieces.into_iter().flatten())
}

/// One piece of [`served_pieces`].
pub(crate) fn served_bytes(resource: &Resource, entry: &Entry) -> Result<Bytes, BadEntry> {
    let mut pieces = served_pieces(resource, entry)?;
    Ok(match (pieces.next(), pieces.next()) {
        (Some(one), None) => one,
        (first, second) => [first, second].into_iter().flatten().flatten().collect::<Vec<u8>>().into(),
    })
}
