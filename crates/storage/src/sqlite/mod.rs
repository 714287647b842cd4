//! The key space on disk: SQLite in WAL mode behind one writer thread, which gathers the transactions that wait into one
//! durable commit ([`writer`]). Reads take a connection of their own ([`reader`]) and never wait for writes.
//!
//! Tables: `log` has one row per write, whose id is `revision * 128 + ordinal`; `current` maps each live key to its row, but
//! for the last writes ([`recent`]); `meta` holds the format, the compaction point, and which writes `current` knows. A row of
//! `log` that a later one replaced or that marks a deletion is history, and goes when the revision that replaced it is compacted.

mod checkpoint;
mod inspect;
mod parts;
mod reader;
mod recent;
mod schema;
mod snapshot;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use crate::hub::Hub;
use crate::lock::{DirectoryLock, LockError};
use crate::scan::Take;
use crate::{BoxFuture, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch};
pub use inspect::{Change, Inspection, Listed, Stats};
use parts::Parts;
use reader::{Extent, Reader};
use recent::Recent;
use schema::Content;
pub use snapshot::{SnapshotError, Summary, backup, keep_copies, restore, verify};
use writer::{Command, Writer};

/// The database in the directory of a store.
pub const FILE: &str = "state.db";
/// Transactions that may wait for the writer before callers have to wait for a place in the queue.
const QUEUE: usize = 1024;
/// Threads that a scan takes at most, and the numbers of rows that are worth one.
const SCAN_THREADS: usize = 8;
const SCAN_PART: usize = 4096 << 7;

#[derive(Clone, Debug)]
pub struct Options {
    /// Revisions of history to keep, so that watchers can resume and lists go on at an old revision.
    pub history: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { history: 10_000 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot open the store {path}: {cause}")]
    Open { path: PathBuf, cause: String },
    #[error("the store {path} has format {found}, this version reads format {known}: run the version that wrote it")]
    Format { path: PathBuf, found: i64, known: i64 },
    #[error("{path} is a database, but not a Kybern store: name another --data-dir")]
    Foreign { path: PathBuf },
}

/// Revisions that writer and readers agree on without asking SQLite.
pub(crate) struct Shared {
    path: PathBuf,
    revision: AtomicU64,
    oldest: AtomicU64,
    hub: Hub,
    /// Changed by the writer alone, once what it says is on disk.
    recent: RwLock<Recent>,
}

impl Shared {
    fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    fn oldest(&self) -> Revision {
        self.oldest.load(Ordering::Acquire)
    }

    fn check(&self, revision: Revision) -> Result<(), StorageError> {
        let (oldest, current) = (self.oldest(), self.revision());
        if revision < oldest {
            return Err(StorageError::Compacted { requested: revision, oldest });
        }
        if revision > current {
            return Err(StorageError::Future { requested: revision, current });
        }
        Ok(())
    }

    /// What an SQLite error means to a caller.
    fn error(&self, error: &rusqlite::Error) -> StorageError {
        let path = self.path.clone();
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StorageError::Full { path },
            _ => StorageError::Io { path, cause: error.to_string() },
        }
    }
}

/// See the module.
pub struct Sqlite {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    reader: Arc<Mutex<Reader>>,
}

impl Sqlite {
    /// Opens or makes the store `state.db` in `directory`, which is made where absent (mode 0700), and locks the
    /// directory for as long as the store is in use.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let path = directory.join(FILE);
        let open = |cause: &dyn std::fmt::Display| OpenError::Open { path: path.clone(), cause: cause.to_string() };
        schema::make_private_directory(directory).map_err(|e| open(&e))?;
        let lock = DirectoryLock::take(directory)?;
        schema::make_private_file(&path).map_err(|e| open(&e))?;
        let connection = schema::open_for_writing(&path).map_err(|e| open(&e))?;
        // What is not ours must not be changed, not even its settings.
        match schema::content(&connection).map_err(|e| open(&e))? {
            Content::Nothing => {}
            Content::Format(found) if schema::READABLE.contains(&found) => {}
            Content::Format(found) => return Err(OpenError::Format { path, found, known: schema::FORMAT }),
            Content::Foreign => return Err(OpenError::Foreign { path }),
        }
        schema::configure(&connection).and_then(|()| schema::prepare(&connection)).map_err(|e| open(&e))?;
        let oldest = schema::compacted(&connection).map_err(|e| open(&e))?;
        let revision = schema::last_revision(&connection).map_err(|e| open(&e))?.max(oldest);
        let shared = Arc::new(Shared {
            path: path.clone(),
            revision: revision.into(),
            oldest: oldest.into(),
            hub: Hub::default(),
            recent: RwLock::new(Recent::read(&connection).map_err(|e| open(&e))?),
        });
        shared.hub.publish(revision, Vec::new());
        let reader = Reader::open(shared.clone()).map_err(|e| open(&e))?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(shared.clone(), connection, options, lock).map_err(|e| open(&e))?;
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|e| open(&e))?;
        Ok(Self { shared, commands, reader: Arc::new(Mutex::new(reader)) })
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> Command,
    ) -> Result<T, StorageError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(make(answer)).await.map_err(|_| StorageError::Closed)?;
        answered.await.map_err(|_| StorageError::Closed)?
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Reader) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || read(&mut reader.lock())).await.map_err(|_| StorageError::Closed)?
    }
}

/// Reads what lives under a prefix, by several threads where it may be much. Each has a connection of its own: a scan must not
/// hold up other readers.
fn scan_in_parts(shared: &Arc<Shared>, prefix: &str, at: Revision, take: &Take) -> Result<(), StorageError> {
    let extent = Reader::open_for_scans(shared.clone()).and_then(|mut reader| reader.extent(at));
    let Extent { first, last, replaced } = extent.map_err(|e| shared.error(&e))?;
    let most = usize::try_from(last - first).unwrap_or(0).div_ceil(SCAN_PART).max(1);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(SCAN_THREADS).min(most));
    let parts = Parts::new(first, last, threads);
    let scan = |thread| {
        let scanned = Reader::open_for_scans(shared.clone())
            .and_then(|mut reader| reader.scan(prefix, &replaced, (&parts, thread), take));
        scanned.map_err(|e| shared.error(&e)).and_then(|()| shared.check(at))
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || scan(thread))).collect();
        let scanned = scan(0);
        others.into_iter().fold(scanned, |all, other| all.and(other.join().unwrap_or(Err(StorageError::Closed))))
    })
}

impl Storage for Sqlite {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        let revision = self.shared.revision();
        Box::pin(std::future::ready(Ok(revision)))
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        let (prefix, after) = (request.prefix.to_owned(), request.after.to_owned());
        Box::pin(self.read(move |reader| {
            reader.range(&RangeRequest { prefix: &prefix, after: &after, limit: request.limit, at: request.at })
        }))
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        Box::pin(async move {
            self.shared.check(at)?;
            let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
            Ok(Scan::of_threads(move |take| scan_in_parts(&shared, &prefix, at, take)))
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(self.command(|answer| Command::Txn(txn, answer)))
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        Box::pin(async move {
            // Registered before the backlog is read: what is committed in between comes twice, and is dropped once.
            let live = self.shared.hub.register(prefix);
            let prefix = prefix.to_owned();
            let (backlog, reached) = self.read(move |reader| reader.events_after(&prefix, from)).await?;
            Ok(Watch::new(from, backlog, reached, live))
        })
    }

    fn request_progress(&self) {
        self.shared.hub.report_progress();
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        let oldest = self.shared.oldest();
        Box::pin(std::future::ready(Ok(oldest)))
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(self.command(move |answer| Command::Compact(revision, answer)))
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        Box::pin(self.read(|reader| reader.size()))
    }
}
