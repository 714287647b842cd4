//! One committed object: its bytes, encoded once, and what selectors ask for.
//!
//! The store holds `{"apiVersion":…,"kind":…,"metadata":{…},…}` without `metadata.resourceVersion`, as upstream's does. An
//! entry's bytes are the same with the revision spliced in as the first thing in `metadata`, so that GET, LIST and
//! WATCH send them as they are, and parts (the metadata, everything after the kind) are slices.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use kybern_apimachinery::{ApiError, Map, Value};
use kybern_schema::proto;
use kybern_storage::Revision;

use super::extract::{self, Fields, Labels};
use crate::resource::{Reader, StoredKind};

/// See the module.
#[derive(Debug)]
pub struct Entry {
    /// The object's JSON in its stored version.
    pub bytes: Bytes,
    /// The storage key.
    pub key: Arc<str>,
    pub revision: Revision,
    /// Where the key's namespace (or name, when cluster-scoped) starts.
    own_key: u16,
    namespaced: bool,
    /// The store has other bytes, of an earlier schema.
    outdated: bool,
    /// Where `"metadata"` starts in the bytes; before it are `apiVersion` and `kind` only.
    body: u32,
    /// The metadata object's extent in the bytes.
    metadata: Range<u32>,
    labels: Labels,
    fields: Fields,
    /// The length of its protobuf message in its stored version; 0 until it is known.
    message_length: AtomicU32,
}

/// A stored value that is no object of its kind.
#[derive(Debug, thiserror::Error)]
#[error("the store holds no valid object under {key}: {cause}")]
pub struct BadEntry {
    pub key: Arc<str>,
    pub cause: String,
}

impl From<BadEntry> for ApiError {
    fn from(bad: BadEntry) -> Self {
        Self::internal(bad)
    }
}

impl Entry {
    /// Reads a stored value.
    pub fn new(
        kind: &StoredKind,
        prefix: usize,
        key: Arc<str>,
        value: &[u8],
        revision: Revision,
    ) -> Result<Self, BadEntry> {
        let bad = |cause: String| BadEntry { key: key.clone(), cause };
        let refreshed = kind.reader.as_ref().filter(|reader| !reader.knows(value)).map(|reader| refresh(reader, value));
        let refreshed = refreshed.transpose().map_err(bad)?.flatten();
        let (value, outdated) = refreshed.as_deref().map_or((value, false), |value| (value, true));
        let (bytes, body) = match body_offset(value) {
            Some(body) => (splice(value, body, revision), body),
            None => {
                let object = tree(value).map_err(bad)?;
                let value =
                    canonical(&object).ok_or_else(|| bad("it has no apiVersion, kind or metadata".to_owned()))?;
                let body = body_offset(&value).ok_or_else(|| bad("its apiVersion or kind is malformed".to_owned()))?;
                (splice(&value, body, revision), body)
            }
        };
        let metadata = body + METADATA.len() - 1;
        let found = extract::metadata(&bytes, metadata).ok_or_else(|| bad("its metadata does not end".to_owned()))?;
        let (end, labels) = found;
        let labels = Labels::read(&bytes, labels).map_err(|e| bad(e.to_string()))?;
        // None of them is in the metadata.
        let fields = extract::fields(&bytes, end, &kind.selectable).map_err(|e| bad(e.to_string()))?;
        let offset = |n: usize| u32::try_from(n).map_err(|_| bad("it is larger than 4 GiB".to_owned()));
        Ok(Self {
            body: offset(body)?,
            metadata: offset(metadata)?..offset(end)?,
            bytes,
            own_key: prefix as u16,
            namespaced: kind.namespaced,
            outdated,
            key,
            revision,
            labels,
            fields,
            message_length: AtomicU32::new(0),
        })
    }

    /// The same object as of another revision: what a watcher is shown of an object's last state.
    pub fn at_revision(&self, revision: Revision) -> Self {
        let metadata = self.metadata.start as usize;
        // The revision that was spliced in ends at the first comma: digits in quotes hold none.
        let rest = &self.bytes[metadata..];
        let old = rest.iter().position(|b| matches!(b, b',' | b'}')).unwrap_or(rest.len());
        let mut bytes = Vec::with_capacity(self.bytes.len() + 4);
        bytes.extend_from_slice(&self.bytes[..metadata]);
        bytes.extend_from_slice(format!("{{\"resourceVersion\":\"{revision}\"").as_bytes());
        bytes.extend_from_slice(&rest[old..]);
        let longer = bytes.len() as i64 - self.bytes.len() as i64;
        Self {
            bytes: bytes.into(),
            key: self.key.clone(),
            revision,
            own_key: self.own_key,
            namespaced: self.namespaced,
            outdated: self.outdated,
            body: self.body,
            metadata: self.metadata.start..(i64::from(self.metadata.end) + longer) as u32,
            labels: self.labels.moved(longer),
            fields: self.fields.clone(),
            message_length: AtomicU32::new(0),
        }
    }

    /// Empty when cluster-scoped.
    pub fn namespace(&self) -> &str {
        if self.namespaced { self.split_key().0 } else { "" }
    }

    pub fn name(&self) -> &str {
        if self.namespaced { self.split_key().1 } else { &self.key[self.own_key as usize..] }
    }

    fn split_key(&self) -> (&str, &str) {
        self.key[self.own_key as usize..].split_once('/').unwrap_or(("", ""))
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(&self.bytes, key)
    }

    /// A selectable field's value by its place in [`StoredKind::selectable`].
    pub fn field(&self, index: usize) -> &str {
        self.fields.get(index)
    }

    /// The version that it is stored in: no row says that for sure, since the version may have changed since.
    pub fn api_version(&self) -> &str {
        let text = &self.bytes[HEAD.len()..self.body as usize];
        let end = text.iter().position(|b| *b == b'"').unwrap_or(text.len());
        std::str::from_utf8(&text[..end]).unwrap_or("")
    }

    /// Whether the store has it in the form of an earlier schema.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// The JSON of `metadata`.
    pub fn metadata(&self) -> Bytes {
        self.bytes.slice(self.metadata.start as usize..self.metadata.end as usize)
    }

    /// `"metadata":{…},…}`: all that follows `apiVersion` and `kind`.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.body as usize..)
    }

    /// The length of its protobuf message in its stored version, once somebody has found it.
    pub fn message_length(&self) -> Option<usize> {
        let length = self.message_length.load(Ordering::Relaxed);
        (length > 0).then_some(length as usize)
    }

    pub fn remember_message_length(&self, length: usize) {
        self.message_length.store(u32::try_from(length).unwrap_or_default(), Ordering::Relaxed);
    }

    /// The object as a tree. Fails for what cannot be read, of which nobody may conclude anything: it is there, but not known.
    pub fn value(&self) -> Result<Value, BadEntry> {
        self.part(|bytes| serde_json::from_slice(bytes))
    }

    /// What is read of its bytes.
    pub(super) fn part<T>(&self, read: impl FnOnce(&[u8]) -> serde_json::Result<T>) -> Result<T, BadEntry> {
        read(&self.bytes).map_err(|e| BadEntry { key: self.key.clone(), cause: e.to_string() })
    }
}

const HEAD: &[u8] = b"{\"apiVersion\":\"";
const METADATA: &[u8] = b"\"metadata\":{";

/// A stored value as its schema has it by now, where that differs.
fn refresh(reader: &Reader, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let stored = tree(value)?;
    let mut object = stored.clone();
    reader.refresh(&mut object);
    Ok(if object == stored { None } else { canonical(&object) })
}

/// A value that someone else wrote: JSON in another order of keys, or protobuf, upstream's form of built-in kinds.
fn tree(value: &[u8]) -> Result<Value, String> {
    if value.starts_with(kybern_storage::encryption::ENCRYPTED) {
        return Err("no key of --encryption-provider-config opens it".to_owned());
    }
    if !value.starts_with(proto::MAGIC) {
        return serde_json::from_slice(value).map_err(|e| e.to_string());
    }
    let envelope = proto::Envelope::open(value).map_err(|e| e.to_string())?;
    let kind = envelope.gvk().and_then(|gvk| kybern_schema::builtin().kind(&gvk));
    let unknown = || format!("it is protobuf of the unknown kind {:?} in {:?}", envelope.kind, envelope.api_version);
    proto::decode(&kind.ok_or_else(unknown)?, value).map_err(|e| e.to_string())
}

/// Where `"metadata"` starts in bytes that begin `{"apiVersion":"…","kind":"…","metadata":{`.
fn body_offset(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for part in [HEAD, b",\"kind\":\""] {
        bytes.get(at..)?.starts_with(part).then_some(())?;
        at += part.len();
        let rest = &bytes[at..];
        let end = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        (rest[end] == b'"').then_some(())?;
        at += end + 1;
    }
    (bytes.get(at) == Some(&b',') && bytes[at + 1..].starts_with(METADATA)).then_some(at + 1)
}

/// What was never committed (a dry run) has no revision.
fn splice(value: &[u8], body: usize, revision: Revision) -> Bytes {
    if revision == 0 {
        return Bytes::copy_from_slice(value);
    }
    let at = body + METADATA.len();
    let comma = if value.get(at) == Some(&b'}') { "" } else { "," };
    let field = format!("\"resourceVersion\":\"{revision}\"{comma}");
    let mut bytes = Vec::with_capacity(value.len() + field.len());
    bytes.extend_from_slice(&value[..at]);
    bytes.extend_from_slice(field.as_bytes());
    bytes.extend_from_slice(&value[at..]);
    bytes.into()
}

/// An object as it is stored: `apiVersion`, `kind` and `metadata` first, then the rest in order, and no
/// `metadata.resourceVersion`. `None` without those three.
pub(crate) fn canonical(object: &Value) -> Option<Vec<u8>> {
    let object = object.as_object()?;
    let metadata = object.get("metadata")?.as_object()?;
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"apiVersion\":");
    write_json(&mut out, object.get("apiVersion").filter(|v| v.is_string())?);
    out.extend_from_slice(b",\"kind\":");
    write_json(&mut out, object.get("kind").filter(|v| v.is_string())?);
    out.extend_from_slice(b",\"metadata\":{");
    write_members(&mut out, metadata, &["resourceVersion"], true);
    out.push(b'}');
    write_members(&mut out, object, &["apiVersion", "kind", "metadata"], false);
    out.push(b'}');
    Some(out)
}

fn write_members(out: &mut Vec<u8>, map: &Map<String, Value>, without: &[&str], mut first: bool) {
    for (key, value) in map.iter().filter(|(k, _)| !without.contains(&k.as_str())) {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        let _ = serde_json::to_writer(&mut *out, key);
        out.push(b':');
        write_json(out, value);
    }
}

fn write_json(out: &mut Vec<u8>, value: &Value) {
    // Writing a tree to memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::{Gvk, json, object};

    fn kind() -> StoredKind {
        StoredKind {
            prefix: "pods".into(),
            gvk: Gvk::new("", "v1", "Pod"),
            resource: "pods".into(),
            namespaced: true,
            selectable: Vec::new(),
            refusal: None,
            reader: None,
        }
    }

    fn check(value: &str, expect: &str) {
        let entry = Entry::new(&kind(), 3, "/p/ns/a".into(), value.as_bytes(), 7).unwrap();
        assert_eq!(std::str::from_utf8(&entry.bytes).unwrap(), expect);
        assert_eq!((entry.namespace(), entry.name()), ("ns", "a"));
        let metadata: Value = serde_json::from_slice(&entry.metadata()).unwrap();
        assert_eq!(metadata, entry.value().unwrap()["metadata"]);
        let later = entry.at_revision(12345);
        let metadata = later.value().unwrap()["metadata"].clone();
        assert_eq!(metadata["resourceVersion"], "12345");
        assert_eq!(serde_json::from_slice::<Value>(&later.metadata()).unwrap(), metadata);
        assert_eq!(later.bytes.len(), entry.bytes.len() + 4);
    }

    #[test]
    fn the_revision_is_spliced_in() {
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"}"},"name":"a"},"spec":{"x":"\"{"}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","labels":{"a":"}"},"name":"a"},"spec":{"x":"\"{"}}"#,
        );
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7"}}"#,
        );
        // As upstream's server orders it.
        check(
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","name":"a"}}"#,
        );
    }

    #[test]
    fn upstreams_protobuf_is_read_as_its_json() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m"}}}]}
        });
        let ty = kybern_schema::builtin().kind(&Gvk::new("", "v1", "Pod")).unwrap();
        let value = proto::encode(&ty, &object).unwrap();
        let entry = Entry::new(&kind(), 3, "/p/ns/a".into(), &value, 7).unwrap();
        let read = entry.value().unwrap();
        assert_eq!((entry.label("a"), object::resource_version(&read)), (Some("b"), "7"));
        assert_eq!(read["spec"]["containers"][0]["resources"], object["spec"]["containers"][0]["resources"]);
        for end in [0, 4, 5, 10, value.len() / 2, value.len() - 1] {
            assert!(Entry::new(&kind(), 3, "/p/ns/a".into(), &value[..end], 7).is_err(), "{end} bytes");
        }
        let unknown = proto::enclose("example.com/v1", "Widget", b"");
        let refusal = Entry::new(&kind(), 3, "/p/ns/a".into(), &unknown, 7).unwrap_err().to_string();
        assert!(refusal.contains("/p/ns/a") && refusal.contains("\"Widget\""), "{refusal}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in
            ["", "[]", "{}", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"#, r#"{"apiVersion":"v1","metadata":{}}"#]
        {
            assert!(Entry::new(&kind(), 3, "/p/ns/a".into(), bad.as_bytes(), 7).is_err(), "{bad}");
        }
    }

    #[test]
    fn canonical_order_is_stable_and_drops_the_revision() {
        let object = json!({"spec": 1, "metadata": {"name": "a", "resourceVersion": "3"}, "kind": "Pod", "apiVersion": "v1", "data": {}});
        let bytes = canonical(&object).unwrap();
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"data":{},"spec":1}"#
        );
    }
}
