//! The revisioned key space under the API server: what etcd is to upstream.
//!
//! Every committed transaction has a [`Revision`], one higher than the last. Keys are upstream's
//! (`/registry/pods/default/web-0`), values are bytes that this crate never looks into. Three implementations:
//! [`memory::Memory`] for tests, [`sqlite::Sqlite`] on disk, and [`etcd::Etcd`], which several servers may share. The trait promises only what etcd v3 can keep as well.

pub mod encryption;
pub mod etcd;
mod hub;
pub mod lock;
pub mod memory;
mod scan;
pub mod sqlite;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

pub use hub::Watch;
pub use scan::{Piece, Scan};

/// A boxed future, so that the trait is object safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The number of a committed transaction. The empty store is at revision 1, as etcd's is.
pub type Revision = u64;

/// A key's state after some transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision that made the key.
    pub create_revision: Revision,
    /// The revision that last wrote it.
    pub mod_revision: Revision,
}

/// What must hold for a transaction to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent(Arc<str>),
    /// The key was last written by this revision.
    At(Arc<str>, Revision),
}

impl Guard {
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Absent(key) | Self::At(key, _) => key,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put(Arc<str>, Bytes),
    /// Deleting an absent key changes nothing.
    Delete(Arc<str>),
}

impl Write {
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// At most this many writes, and as many guards, fit into one transaction (etcd's limit).
pub const MAX_WRITES: usize = 128;

/// All guards hold and all writes happen, in one revision, or nothing does. No key is written twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub writes: Vec<Write>,
}

impl Txn {
    /// Makes a key that must not exist.
    pub fn create(key: Arc<str>, value: Bytes) -> Self {
        Self { guards: vec![Guard::Absent(key.clone())], writes: vec![Write::Put(key, value)] }
    }

    /// Replaces a key that must still be at `revision`.
    pub fn update(key: Arc<str>, revision: Revision, value: Bytes) -> Self {
        Self { guards: vec![Guard::At(key.clone(), revision)], writes: vec![Write::Put(key, value)] }
    }

    /// Deletes a key that must still be at `revision`.
    pub fn delete(key: Arc<str>, revision: Revision) -> Self {
        Self { guards: vec![Guard::At(key.clone(), revision)], writes: vec![Write::Delete(key)] }
    }

    /// Whether every store can take it.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        let length = self.writes.len().max(self.guards.len());
        if length > MAX_WRITES {
            return Err(StorageError::TooManyWrites(length));
        }
        let mut keys: Vec<&Arc<str>> = self.writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(StorageError::WrittenTwice(pair[0].clone())),
            None => Ok(()),
        }
    }
}

/// One key's change, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: Arc<str>,
    /// `None`: deleted.
    pub value: Option<Bytes>,
}

/// What a watch brings at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In revision order. Empty where there is nothing but progress to tell.
    pub events: Vec<Event>,
    /// Everything up to this revision was brought now or earlier.
    pub revision: Revision,
}

/// A piece of a range, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The revision that the whole range is read at; pass it as `at` for the next piece.
    pub revision: Revision,
    pub items: Vec<KeyValue>,
    /// Whether there is more after the last item.
    pub more: bool,
}

/// Which keys to read: those that start with `prefix` and sort after `after` (empty: all), at most `limit`.
#[derive(Clone, Debug)]
pub struct RangeRequest<'a> {
    pub prefix: &'a str,
    pub after: &'a str,
    pub limit: usize,
    /// A revision in the history window; `None`: the latest.
    pub at: Option<Revision>,
}

/// How large the store is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes on disk (in memory: of keys and values).
    pub bytes: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// A guard failed. Nothing was written.
    #[error("the guard on key {key} failed: it is now at revision {current:?}")]
    Conflict {
        key: Arc<str>,
        /// `None`: the key does not exist.
        current: Option<Revision>,
    },
    /// The revision lies before the history window.
    #[error("mvcc: required revision has been compacted: revision {requested} is gone, the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("mvcc: required revision is a future revision: {requested} is not reached, the store is at {current}")]
    Future { requested: Revision, current: Revision },
    /// Nothing was written, and nothing that had been is lost; writing works again once there is room.
    #[error("no space left for the store {path}: free some disk space; nothing was written")]
    Full { path: PathBuf },
    /// Nothing that was acknowledged is lost; whether this write is on disk is not known.
    #[error("the store {path} cannot be read or written: {cause}")]
    Io { path: PathBuf, cause: String },
    #[error("a transaction has {0} writes or guards, more than the limit of {MAX_WRITES}")]
    TooManyWrites(usize),
    #[error("a transaction writes the key {0} twice")]
    WrittenTwice(Arc<str>),
    /// The watcher fell too far behind: it watches again from the last revision that it saw.
    #[error("the watcher was dropped after revision {last}")]
    Lagged { last: Revision },
    /// The store is away for now (no leader, no quorum, no connection): later it may be there again. Whether a write
    /// happened is not known.
    #[error("{0}")]
    Unavailable(String),
    /// The store's own refusal of a request. Nothing was written.
    #[error("{0}")]
    Refused(String),
    #[error("the store is closed")]
    Closed,
}

/// A revisioned key space. A call that answers `Ok` to a write has made it durable.
pub trait Storage: Send + Sync + 'static {
    /// The latest committed revision.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>>;

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>>;

    /// Everything under a prefix at a revision, in any order: the quickest way to read a lot.
    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>>;

    /// Commits, and answers the new revision (the current one where there was nothing to write). Dropping the future does
    /// not undo the transaction.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>>;

    /// Every change under a prefix after revision `from`, in order.
    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>>;

    /// Asks for a batch on every open watch that says how far it is, though nothing happened under its prefix. A store that
    /// is busy may leave it out: ask again.
    fn request_progress(&self);

    /// The oldest revision that can be read and watched from.
    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>>;

    /// Forgets what only revisions before `revision` need.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>>;

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>>;

    /// Whether a key's value should be written again though it does not change, as it would be stored otherwise.
    fn wants_rewrite(&self, _key: &str) -> bool {
        false
    }
}
