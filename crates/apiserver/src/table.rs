//! `meta.k8s.io` `Table` and `PartialObjectMetadata`: what `kubectl get` and metadata clients ask for.

use bytes::Bytes;
use jiff::Timestamp;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, Value, json};

use crate::cache::Entry;
use crate::convert::View;
use crate::resource::{Columns, Resource};

/// What a row carries of its object (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            "" | "Metadata" => Ok(Self::Metadata),
            other => {
                let detail = "must be 'Metadata', 'Object', 'None', or empty";
                let error = FieldError::invalid(&FieldPath::new("includeObject"), other, detail);
                Err(ApiError::bad_request(format!("Unable to convert to Table as requested: {error}")))
            }
        }
    }
}

/// The JSON of `columnDefinitions`.
pub(crate) fn definitions(columns: &Columns) -> Value {
    let column = |c: &crate::resource::Column| json!({"name": c.name, "type": c.ty, "format": c.format, "description": c.description, "priority": c.priority});
    columns.definitions.iter().map(column).collect()
}

/// A table of objects that are not in the cache; `shown` makes what a row carries of one.
pub(crate) fn of_values(
    columns: &Columns,
    objects: &[Value],
    version: &str,
    now: Timestamp,
    shown: impl Fn(&Value) -> Value,
) -> Value {
    let row = |object: &Value| json!({"cells": (columns.cells)(object, now), "object": shown(object)});
    let rows: Vec<Value> = objects.iter().map(row).collect();
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
        "columnDefinitions": definitions(columns), "rows": rows})
}

/// `{"kind":"PartialObjectMetadata",…}` of an object, without looking into it.
pub(crate) fn metadata(entry: &Entry, version: &str) -> Vec<u8> {
    let metadata = entry.metadata();
    let mut out = Vec::with_capacity(metadata.len() + 90);
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(&metadata);
    out.push(b'}');
    out
}

/// The cells of an object. One that cannot be read is in the table nevertheless, by its name.
fn cells(resource: &Resource, entry: &Entry, view: &View, now: Timestamp) -> Vec<Value> {
    match view.internal_value(entry) {
        Ok(object) => (resource.columns.cells)(&object, now),
        Err(error) => {
            tracing::error!(%error, "an object is shown by its name only");
            let rest = resource.columns.definitions.iter().skip(1).map(|_| Value::from("<unreadable>"));
            std::iter::once(Value::from(entry.name())).chain(rest).collect()
        }
    }
}

/// One row of a table.
pub(crate) fn row(
    resource: &Resource,
    entry: &Entry,
    view: &View,
    include: Include,
    version: &str,
    now: Timestamp,
) -> Bytes {
    let cells = cells(resource, entry, view, now);
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"cells\":");
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut out, &cells);
    match include {
        Include::None => out.extend_from_slice(b",\"object\":null"),
        Include::Metadata => {
            out.extend_from_slice(b",\"object\":");
            out.extend_from_slice(&metadata(entry, version));
        }
        Include::Object => {
            out.extend_from_slice(b",\"object\":");
            for piece in view.served_pieces(resource, entry) {
                out.extend_from_slice(&piece);
            }
        }
    }
    out.push(b'}');
    out.into()
}

/// A table up to its rows: `{…,"rows":[`. `columns` is left out of all but a watch's first event.
pub(crate) fn head(resource: &Resource, version: &str, list_metadata: &Value, columns: bool) -> String {
    let definitions = if columns { definitions(&resource.columns) } else { Value::Null };
    format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{list_metadata},\"columnDefinitions\":{definitions},\"rows\":["
    )
}

/// A table's end.
pub(crate) const TAIL: &str = "]}";
