//! Stored objects in protobuf, from their bytes: one, or a list that is made as it is sent.
//!
//! A list's envelope begins with the length of all that follows. So the lengths of the messages are found first; each
//! entry remembers its own once it is known. What is written to find them is kept up to a bound, and sent.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kybern_apimachinery::{ApiError, Gvk, Value};
use kybern_schema::proto::{ProtoError, Writer};
use kybern_schema::types::KindType;

use super::meta_kind;
use crate::cache::Entry;
use crate::convert::View;
use crate::negotiate::{Format, Shape};
use crate::resource::Resource;

/// Objects are written in pieces of about as much JSON.
const PIECE: usize = 56 << 10;
/// Bytes of messages that are kept from when their lengths were found.
const KEPT: usize = 2 << 20;
/// The field of a list that holds its items.
const ITEMS: u32 = 2;

/// What an object, or its metadata alone, is in protobuf.
pub(crate) struct Form {
    pub(crate) kind: KindType,
    api_version: String,
    /// Whether it is the object itself.
    whole: bool,
}

impl Form {
    /// `None` for a table, which has no such form.
    pub(crate) fn new(resource: &Resource, format: Format) -> Option<Self> {
        Some(match format.shape {
            Shape::Object => Self { kind: resource.ty.clone(), api_version: resource.api_version(), whole: true },
            Shape::Metadata => Self {
                kind: meta_kind("PartialObjectMetadata", format.version)?,
                api_version: format!("meta.k8s.io/{}", format.version),
                whole: false,
            },
            Shape::Table => return None,
        })
    }

    fn message(&self, out: &mut Writer, view: &View, entry: &Entry) -> Result<(), ProtoError> {
        if self.whole {
            let (json, known) = (view.shape(entry), view.is_plain() && entry.message_length().is_some());
            return if known { out.message_again(&self.kind, &json) } else { out.message(&self.kind, &json) };
        }
        // All but the metadata is passed over.
        out.message(&self.kind, &entry.bytes)
    }

    /// A body: envelope and message.
    pub(crate) fn body(&self, out: &mut Writer, view: &View, entry: &Entry) -> Result<(), ApiError> {
        let end = out.open_body();
        self.message(out, view, entry).map_err(|error| unreadable(entry, &error))?;
        if self.whole && view.is_plain() && entry.api_version() == self.api_version {
            entry.remember_message_length(out.len() - end);
        }
        out.close_body(&self.api_version, &self.kind.gvk.kind, end);
        Ok(())
    }
}

fn unreadable(entry: &Entry, error: &ProtoError) -> ApiError {
    ApiError::internal(format!("the store holds no valid object under {}: {error}", entry.key))
}

/// A list, on its way.
pub(super) struct Messages {
    form: Form,
    list: KindType,
    /// The version that is served, whose messages' lengths entries remember.
    version: String,
    items: Vec<Arc<Entry>>,
    views: Option<Vec<View>>,
    /// What comes before the items; taken when it is sent.
    head: Option<Bytes>,
    /// The items' messages that are written already; they are the first.
    ready: VecDeque<Bytes>,
    /// The first item that is not written.
    next: usize,
    ended: bool,
    writer: Writer,
}

impl Messages {
    /// `None` where items or list have no such form.
    pub(super) fn new(
        resource: &Resource,
        format: Format,
        items: Vec<Arc<Entry>>,
        views: Option<Vec<View>>,
    ) -> Option<Self> {
        let form = Form::new(resource, format)?;
        let list = match format.shape {
            Shape::Object => {
                let Gvk { group, version, kind } = &resource.ty.gvk;
                kybern_schema::builtin().kind(&Gvk::new(group, version, format!("{kind}List")))?
            }
            _ => meta_kind("PartialObjectMetadataList", format.version)?,
        };
        let version = resource.api_version();
        let (head, ready, next) = (None, VecDeque::new(), 0);
        Some(Self { form, list, version, items, views, head, ready, next, ended: false, writer: Writer::default() })
    }

    pub(super) fn items(&self) -> &[Arc<Entry>] {
        &self.items
    }

    /// The length of all messages and what stands before each, if all lengths are known.
    fn known_total(&self) -> Option<usize> {
        let framed = |length: usize| length + field_head(length);
        if self.is_remembered() { self.items.iter().map(|entry| self.known(entry).map(framed)).sum() } else { None }
    }

    /// As [`Messages::measure`], if the lengths of all messages are known.
    pub(super) fn measure_known(&mut self, metadata: &Value) -> Result<Option<usize>, ApiError> {
        self.known_total().map(|total| self.begin(metadata, total)).transpose()
    }

    /// Whether entries remember the lengths of its messages.
    pub(super) fn is_remembered(&self) -> bool {
        self.form.whole && self.views.is_none()
    }

    fn remembers(&self, entry: &Entry) -> bool {
        self.is_remembered() && entry.api_version() == self.version
    }

    fn known(&self, entry: &Entry) -> Option<usize> {
        if self.remembers(entry) { entry.message_length() } else { None }
    }

    /// Has entries remember the lengths that nobody has found yet, by so many threads.
    pub(super) fn find_lengths(&self, threads: usize) -> Result<(), ApiError> {
        let is_unknown = |entry: &&Entry| self.remembers(entry) && entry.message_length().is_none();
        let unknown: Vec<&Entry> = self.items.iter().map(|entry| &**entry).filter(is_unknown).collect();
        let find = |part: &[&Entry]| {
            let mut writer = Writer::default();
            part.iter().try_for_each(|entry| {
                writer.clear();
                self.form.message(&mut writer, &View::PLAIN, entry).map_err(|error| unreadable(entry, &error))?;
                entry.remember_message_length(writer.len());
                Ok(())
            })
        };
        let mut parts = unknown.chunks(unknown.len().div_ceil(threads).max(1));
        let own = parts.next();
        std::thread::scope(|scope| {
            let others: Vec<_> = parts.map(|part| scope.spawn(move || find(part))).collect();
            let mut found = own.map_or(Ok(()), find);
            for other in others {
                let other = other.join().unwrap_or_else(|_| Err(ApiError::internal("a list could not be measured")));
                found = found.and(other);
            }
            found
        })
    }

    /// Where the piece ends that begins with an item.
    fn piece(&self, start: usize) -> usize {
        let mut weight = 0;
        let of_one = |entry: &Arc<Entry>| if self.form.whole { entry.bytes.len() } else { entry.metadata().len() };
        let more = self.items[start..].iter().take_while(|entry| {
            let before = weight;
            weight += of_one(entry);
            before < PIECE
        });
        start + more.count()
    }

    /// Writes a piece, and answers the length of its items' fields.
    fn write(&mut self, start: usize, end: usize) -> Result<(), ApiError> {
        self.writer.clear();
        for place in (start..end).rev() {
            let entry = &self.items[place];
            let before = self.writer.len();
            let view = self.views.as_ref().and_then(|views| views.get(place)).unwrap_or(&View::PLAIN);
            self.form.message(&mut self.writer, view, entry).map_err(|error| unreadable(entry, &error))?;
            if self.remembers(entry) {
                entry.remember_message_length(self.writer.len() - before);
            }
            self.writer.close_field(ITEMS, before);
        }
        Ok(())
    }

    /// Finds the length of the whole, and writes what comes first. Answers that length.
    pub(super) fn measure(&mut self, metadata: &Value) -> Result<usize, ApiError> {
        let (mut total, mut start, mut kept) = (0, 0, 0);
        while start < self.items.len() {
            let end = self.piece(start);
            let known = self.items[start..end].iter().map(|entry| self.known(entry)).sum::<Option<usize>>();
            match known {
                Some(length) => {
                    let framed = |entry: &Arc<Entry>| field_head(self.known(entry).unwrap_or_default());
                    total += length + self.items[start..end].iter().map(framed).sum::<usize>();
                }
                None => {
                    self.write(start, end)?;
                    total += self.writer.len();
                    if self.next == start && kept + self.writer.len() <= KEPT {
                        kept += self.writer.len();
                        self.ready.push_back(Bytes::copy_from_slice(self.writer.written()));
                        self.next = end;
                    }
                }
            }
            start = end;
        }
        self.begin(metadata, total)
    }

    /// Writes what comes before messages of a length in total. Answers the length of the whole.
    fn begin(&mut self, metadata: &Value, total: usize) -> Result<usize, ApiError> {
        let json = format!("{{\"metadata\":{metadata}}}");
        self.writer.clear();
        self.writer.message(&self.list, json.as_bytes()).map_err(ApiError::internal)?;
        let length = self.writer.len() + total;
        let Gvk { kind, .. } = &self.list.gvk;
        let list_version = if self.form.whole { &self.version } else { &self.form.api_version };
        self.writer.head_of_body(list_version, kind, length);
        let head = Bytes::copy_from_slice(self.writer.written());
        let whole = head.len() + total + END.len();
        self.head = Some(head);
        Ok(whole)
    }

    /// The next bytes to send.
    fn piece_to_send(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        if self.next < self.items.len() {
            let (start, end) = (self.next, self.piece(self.next));
            // It was written once already, or remembered its length when it was: if it fails now, the body ends too early,
            // and the client sees that.
            self.write(start, end).inspect_err(|error| tracing::error!(%error, "a list ends too early")).ok()?;
            self.next = end;
            return Some(Bytes::copy_from_slice(self.writer.written()));
        }
        (!std::mem::replace(&mut self.ended, true)).then_some(Bytes::from_static(END))
    }
}

/// The empty content encoding and type that end an envelope.
const END: &[u8] = b"\x1a\0\x22\0";

impl Iterator for Messages {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.piece_to_send()
    }
}

/// How many bytes a field's number, of one byte, and its length take.
fn field_head(length: usize) -> usize {
    let bits = usize::BITS - (length | 1).leading_zeros();
    1 + bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_fields_are_measured_as_they_are_written() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 300_000_000] {
            let mut writer = Writer::default();
            writer.head_of_field(ITEMS, length);
            assert_eq!(writer.len(), field_head(length), "{length}");
        }
    }
}
