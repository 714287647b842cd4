//! A store whose values are written as upstream writes them by default: built-in kinds as protobuf, all else as JSON. What is
//! read is told apart by its first bytes (`cache/entry.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kybern_schema::proto::{self, Writer};
use kybern_schema::types::KindType;
use kybern_storage::{BoxFuture, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch, Write};

use crate::resource::Resource;

/// See the module.
pub struct ProtobufStore {
    storage: Arc<dyn Storage>,
    /// By what keys begin with, the slash at its end included.
    kinds: BTreeMap<String, KindType>,
}

/// Upstream's servers of these write JSON.
const JSON_GROUPS: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

impl ProtobufStore {
    pub fn new(storage: Arc<dyn Storage>, rows: &[Resource]) -> Self {
        let stored = rows.iter().filter(|row| row.unstored.is_none() && row.schema.is_none()).map(|row| &row.stored);
        let kinds = stored.filter(|kind| !JSON_GROUPS.contains(&kind.gvk.group.as_str())).filter_map(|kind| {
            let shape = kybern_schema::builtin().kind(&kind.gvk).filter(proto::has_form)?;
            Some((format!("/registry/{}/", kind.prefix), shape))
        });
        Self { storage, kinds: kinds.collect() }
    }

    fn kind(&self, key: &str) -> Option<&KindType> {
        let (prefix, kind) = self.kinds.range(..=key.to_owned()).next_back()?;
        key.starts_with(prefix.as_str()).then_some(kind)
    }

    /// What cannot be written as protobuf stays as it is.
    fn encoded(&self, key: &str, value: &Bytes) -> Option<Bytes> {
        let kind = self.kind(key)?;
        let mut writer = Writer::default();
        writer.body(kind, &kind.gvk.api_version(), &kind.gvk.kind, value).ok()?;
        Some(Bytes::copy_from_slice(writer.written()))
    }
}

impl Storage for ProtobufStore {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        self.storage.revision()
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        self.storage.range(request)
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        self.storage.scan(prefix, at)
    }

    fn txn(&self, mut txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        for write in &mut txn.writes {
            if let Write::Put(key, value) = write
                && let Some(encoded) = self.encoded(key, value)
            {
                *value = encoded;
            }
        }
        self.storage.txn(txn)
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        self.storage.watch(prefix, from)
    }

    fn request_progress(&self) {
        self.storage.request_progress();
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        self.storage.oldest()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        self.storage.compact(revision)
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        self.storage.size()
    }

    fn wants_rewrite(&self, key: &str) -> bool {
        self.storage.wants_rewrite(key)
    }
}
