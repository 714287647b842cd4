//! Objects of a kind in another of its versions: the one that is served, the one that strategies see, the one that is
//! stored. What differs in `apiVersion` only is never looked into.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use kybern_apimachinery::{ApiError, Value, object};

use crate::cache::{BadEntry, Entry};
use crate::resource::Resource;

/// One object in another version.
pub(crate) async fn convert(resource: &Resource, object: Value, api_version: &str) -> Result<Value, ApiError> {
    if object::api_version(&object) == api_version {
        return Ok(object);
    }
    let mut converted = convert_all(resource, vec![object], api_version).await?;
    converted.pop().ok_or_else(|| ApiError::internal("the conversion answered no object"))
}

/// Objects in another version, by one call for all that are not in it yet.
pub(crate) async fn convert_all(
    resource: &Resource,
    mut objects: Vec<Value>,
    api_version: &str,
) -> Result<Vec<Value>, ApiError> {
    let other = |object: &Value| object::api_version(object) != api_version;
    let Some(conversion) = &resource.conversion else {
        for object in objects.iter_mut().filter(|object| other(object)) {
            object::set(object, &["apiVersion"], api_version);
        }
        return Ok(objects);
    };
    let places: Vec<usize> = (0..objects.len()).filter(|&i| other(&objects[i])).collect();
    if places.is_empty() {
        return Ok(objects);
    }
    let given = places.iter().map(|&i| objects[i].take()).collect();
    let converted = conversion.convert(given, api_version).await?;
    if converted.len() != places.len() || converted.iter().any(other) {
        let text = format!("the conversion of {} to {api_version} answered something else", resource.gvr.resource);
        return Err(ApiError::internal(text));
    }
    for (place, object) in places.into_iter().zip(converted) {
        objects[place] = object;
    }
    Ok(objects)
}

/// A stored object in the served version.
pub(crate) async fn served(resource: &Resource, entry: &Entry) -> Result<Value, ApiError> {
    convert(resource, entry.value()?, &resource.api_version()).await
}

/// A stored object in the version that strategies see, without what is not stored.
pub(crate) async fn internal(resource: &Resource, entry: &Entry) -> Result<Value, ApiError> {
    let mut object = convert(resource, entry.value()?, &resource.internal.api_version()).await?;
    object::remove(&mut object, &["metadata", "resourceVersion"]);
    Ok(object)
}

/// An object of a request in the version that strategies see.
pub(crate) async fn to_internal(resource: &Resource, served: Value) -> Result<Value, ApiError> {
    convert(resource, served, &resource.internal.api_version()).await
}

/// What a strategy has seen in the served version.
pub(crate) async fn to_served(resource: &Resource, internal: Value) -> Result<Value, ApiError> {
    convert(resource, internal, &resource.api_version()).await
}

/// What a strategy has seen in the version that is stored.
pub(crate) async fn to_stored(resource: &Resource, internal: Value) -> Result<Value, ApiError> {
    convert(resource, internal, &resource.stored.gvk.api_version()).await
}

/// What an answer needs of a stored object besides its bytes: the object in other versions, where those have another
/// shape.
#[derive(Default)]
pub(crate) struct View {
    /// In the served version.
    served: Option<Value>,
    /// In the version that columns see.
    internal: Option<Value>,
}

/// The views of stored objects for an answer that has to `serve` them, or `show` them in columns; conversions are asked
/// once for all of them. `None`: their bytes will do.
pub(crate) async fn views(
    resource: &Resource,
    items: &[Arc<Entry>],
    serve: bool,
    show: bool,
) -> Result<Option<Vec<View>>, ApiError> {
    if resource.conversion.is_none() {
        return Ok(None);
    }
    let all = async |wanted: bool, api_version: String| {
        if !wanted || items.iter().all(|e| e.api_version() == api_version) {
            return Ok(None);
        }
        let trees = items.iter().map(|e| e.value()).collect::<Result<Vec<Value>, _>>()?;
        Ok::<_, ApiError>(Some(convert_all(resource, trees, &api_version).await?))
    };
    let served = all(serve, resource.api_version()).await?;
    let internal = all(show, resource.internal.api_version()).await?;
    if served.is_none() && internal.is_none() {
        return Ok(None);
    }
    let mut views: Vec<View> = items.iter().map(|_| View::default()).collect();
    for (view, served) in views.iter_mut().zip(served.into_iter().flatten()) {
        view.served = Some(served);
    }
    for (view, internal) in views.iter_mut().zip(internal.into_iter().flatten()) {
        view.internal = Some(internal);
    }
    Ok(Some(views))
}

impl View {
    /// Of an object whose bytes will do.
    pub(crate) const PLAIN: Self = Self { served: None, internal: None };

    /// Whether an object's bytes will do for those who are served it.
    pub(crate) fn is_plain(&self) -> bool {
        self.served.is_none()
    }

    /// A stored object as a tree in the served version.
    pub(crate) fn served_value(&self, resource: &Resource, entry: &Entry) -> Result<Value, BadEntry> {
        if let Some(served) = &self.served {
            return Ok(served.clone());
        }
        let mut value = entry.value()?;
        if !resource.is_of_version(object::api_version(&value)) {
            object::set(&mut value, &["apiVersion"], resource.api_version());
        }
        Ok(value)
    }

    /// As columns see it.
    pub(crate) fn internal_value(&self, entry: &Entry) -> Result<Value, BadEntry> {
        self.internal.clone().map_or_else(|| entry.value(), Ok)
    }

    /// The JSON of an object in the served version: one piece, or a new head and the stored rest.
    pub(crate) fn served_pieces(&self, resource: &Resource, entry: &Entry) -> impl Iterator<Item = Bytes> + use<> {
        let pieces = match &self.served {
            Some(served) => [Some(served.to_string().into()), None],
            None if resource.is_of_version(entry.api_version()) => [Some(entry.bytes.clone()), None],
            None => {
                let head = format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",", resource.api_version(), resource.kind);
                [Some(head.into()), Some(entry.body())]
            }
        };
        pieces.into_iter().flatten()
    }

    /// The same in a list: built-in kinds do not repeat there what they are, custom ones do.
    pub(crate) fn item_pieces(&self, resource: &Resource, entry: &Entry) -> [Option<Bytes>; 2] {
        if resource.schema.is_some() {
            let mut pieces = self.served_pieces(resource, entry);
            return [pieces.next(), pieces.next()];
        }
        let Some(served) = &self.served else { return [Some(Bytes::from_static(b"{")), Some(entry.body())] };
        let mut item = served.clone();
        if let Some(fields) = item.as_object_mut() {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
        [Some(item.to_string().into()), None]
    }

    /// JSON in the shape of the served version, whatever version it names.
    pub(crate) fn shape<'e>(&self, entry: &'e Entry) -> Cow<'e, [u8]> {
        self.served.as_ref().map_or(Cow::Borrowed(&*entry.bytes), |served| served.to_string().into_bytes().into())
    }

    /// One piece of [`View::served_pieces`].
    pub(crate) fn served_bytes(&self, resource: &Resource, entry: &Entry) -> Bytes {
        let mut pieces = self.served_pieces(resource, entry);
        match (pieces.next(), pieces.next()) {
            (Some(one), None) => one,
            (first, second) => [first, second].into_iter().flatten().flatten().collect::<Vec<u8>>().into(),
        }
    }
}
