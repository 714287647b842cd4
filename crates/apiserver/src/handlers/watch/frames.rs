//! The events of a watch in the form that the client asked for.

use std::sync::Arc;

use bytes::Bytes;
use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{ApiError, Gvk, Value, json, object};
use kybern_schema::proto::{ProtoError, Writer};
use kybern_schema::types::KindType;
use kybern_storage::Revision;

use crate::cache::{self, EventKind, WatchEvent};
use crate::convert::View;
use crate::negotiate::{Encoding, Format, Shape};
use crate::resource::Resource;
use crate::respond::{self, Form, Presentation};
use crate::table::{self, Include};

/// See the module.
pub(super) struct Encoder {
    resource: Arc<Resource>,
    presentation: Presentation,
    /// What objects are in protobuf, where that is the form.
    protobuf: Option<Form>,
    /// A table's columns are sent with its first event only.
    first: bool,
    /// Watchers of equal forms share the events' bytes.
    shared: cache::Form,
    /// Ages in tables are as of an event.
    clock: Arc<dyn Clock>,
}

impl Encoder {
    pub(super) fn new(resource: Arc<Resource>, presentation: Presentation, clock: Arc<dyn Clock>) -> Self {
        let wanted = presentation.format.encoding == Encoding::Protobuf;
        let protobuf = wanted.then(|| Form::new(&resource, presentation.format)).flatten();
        let shared = cache::Form { row: resource.clone(), number: number(presentation) };
        Self { resource, presentation, protobuf, first: true, shared, clock }
    }

    pub(super) fn media_type(&self) -> &'static str {
        match self.presentation.format.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Encoding::Yaml | Encoding::Json => "application/json",
        }
    }

    /// By what watchers know whether they are sent the same; none where this one is sent something of its own next.
    pub(super) fn shared(&self) -> Option<&cache::Form> {
        (self.presentation.format.shape != Shape::Table || !self.first).then_some(&self.shared)
    }

    pub(super) async fn event(&mut self, event: &WatchEvent) -> Bytes {
        let is_shared = self.shared().is_some();
        if is_shared && let Some(bytes) = event.shared(&self.shared) {
            return bytes;
        }
        let name = match event.kind {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        };
        let made = match respond::view(&self.resource, &event.entry, self.presentation).await {
            Ok(view) => self.object(name, event, &view),
            Err(error) => Err(error),
        };
        match made {
            Ok(frame) => {
                let bytes = Bytes::from(frame);
                if is_shared {
                    event.share(&self.shared, &bytes);
                }
                bytes
            }
            // The watcher must not take the object for unchanged.
            Err(error) => {
                tracing::error!(%error, "a watcher is told of an error instead of an object");
                self.status(&error)
            }
        }
    }

    fn object(&mut self, name: &str, event: &WatchEvent, view: &View) -> Result<Vec<u8>, ApiError> {
        let Presentation { format, include, now: _ } = self.presentation;
        if let Some(form) = &self.protobuf {
            return protobuf(name, |out| form.body(out, view, &event.entry));
        }
        Ok(match format.shape {
            Shape::Object => {
                let pieces: Vec<Bytes> = view.served_pieces(&self.resource, &event.entry).collect();
                text(name, &pieces)
            }
            Shape::Metadata => text(name, &[table::metadata(&event.entry, format.version)]),
            Shape::Table => {
                let metadata = json!({"resourceVersion": event.entry.revision.to_string()});
                let first = std::mem::take(&mut self.first);
                let head = table::head(&self.resource, format.version, &metadata, first);
                let now = self.clock.now();
                let row = table::row(&self.resource, &event.entry, view, include, format.version, now);
                text(name, &[head.as_bytes(), &row[..], table::TAIL.as_bytes()])
            }
        })
    }

    /// A bookmark: an object of the kind with nothing but a revision.
    pub(super) fn bookmark(&mut self, revision: Revision, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let version = self.presentation.format.version;
        let partial = |version: &str| json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata});
        let object = match self.presentation.format.shape {
            Shape::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Shape::Metadata => partial(version),
            Shape::Table => {
                let first = std::mem::take(&mut self.first);
                let list_metadata = json!({"resourceVersion": revision.to_string()});
                let head = table::head(&self.resource, version, &list_metadata, first);
                let row = json!({"cells": [], "object": partial("v1")}).to_string();
                return text("BOOKMARK", &[head.as_str(), &row, table::TAIL]).into();
            }
        };
        let kind = self.protobuf.as_ref().map(|form| form.kind.clone());
        self.value("BOOKMARK", &object, kind).into()
    }

    /// An `ERROR` event.
    pub(super) fn status(&self, error: &ApiError) -> Bytes {
        let kind = kybern_schema::builtin().kind(&Gvk::new("", "v1", "Status"));
        self.value("ERROR", &error.to_status(), kind).into()
    }

    /// An event of a tree.
    fn value(&self, name: &str, object: &Value, kind: Option<KindType>) -> Vec<u8> {
        let json = object.to_string();
        let (Encoding::Protobuf, Some(kind)) = (self.presentation.format.encoding, kind) else {
            return text(name, &[json]);
        };
        let body = protobuf(name, |out| {
            let (version, kind_name) = (object::api_version(object), object::kind(object));
            out.body(&kind, version, kind_name, json.as_bytes())
        });
        // What has no such form is sent as JSON within.
        body.or_else(|_: ProtoError| {
            protobuf(name, |out| {
                out.raw(json.as_bytes());
                Ok::<_, std::convert::Infallible>(())
            })
        })
        .unwrap_or_default()
    }
}

/// All of a presentation that events' bytes depend on.
fn number(presentation: Presentation) -> u32 {
    let Presentation { format: Format { encoding, shape, version, pretty: _ }, include, now: _ } = presentation;
    let include = if shape == Shape::Table { include } else { Include::Metadata };
    [encoding as u32, shape as u32, u32::from(version == "v1"), include as u32]
        .into_iter()
        .fold(0, |all, n| all << 4 | n)
}

/// An event in protobuf: a big-endian length, and `WatchEvent{1: type, 2: RawExtension{1: raw}}`, whose object is a whole body
/// of its own.
fn protobuf<E>(name: &str, body: impl FnOnce(&mut Writer) -> Result<(), E>) -> Result<Vec<u8>, E> {
    let mut out = Writer::default();
    body(&mut out)?;
    out.close_field(1, 0);
    out.close_field(2, 0);
    out.bytes_field(1, name.as_bytes());
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out.raw(&length.to_be_bytes());
    Ok(out.written().to_vec())
}

/// An event in JSON, of its object's pieces.
fn text(name: &str, pieces: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let length: usize = pieces.iter().map(|piece| piece.as_ref().len()).sum();
    let mut out = Vec::with_capacity(length + name.len() + 24);
    for piece in [b"{\"type\":\"", name.as_bytes(), b"\",\"object\":"] {
        out.extend_from_slice(piece);
    }
    for piece in pieces {
        out.extend_from_slice(piece.as_ref());
    }
    out.extend_from_slice(b"}\n");
    out
}
