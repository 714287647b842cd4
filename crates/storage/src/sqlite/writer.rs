//! The one thread that writes. It takes what waits in the queue, commits it with one fsync, and only then answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpointer;
use super::{Options, Shared, reader, schema};
use crate::lock::DirectoryLock;
use crate::{Event, Guard, Revision, StorageError, Txn, Write};

/// Transactions that share one commit at most.
const BATCH: usize = 256;
/// Revisions that one compaction step covers at most, so that writers never wait long.
const COMPACTION_STEP: u64 = 1000;

type Answer<T> = oneshot::Sender<Result<T, StorageError>>;

pub(super) enum Command {
    Txn(Txn, Answer<Revision>),
    Compact(Revision, Answer<()>),
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// `None` after an I/O error, until opening again succeeds.
    connection: Option<Connection>,
    options: Options,
    checkpointer: Checkpointer,
    /// Let go of last.
    _lock: DirectoryLock,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        mut connection: Connection,
        options: Options,
        lock: DirectoryLock,
    ) -> Result<Self, String> {
        let checkpointer = Checkpointer::start(shared.path.clone()).map_err(|e| e.to_string())?;
        checkpointer.attach(&mut connection).map_err(|e| e.to_string())?;
        Ok(Self { shared, connection: Some(connection), options, checkpointer, _lock: lock })
    }

    /// Serves until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Txn(txn, answer) => batch.push((txn, answer)),
                    Command::Compact(revision, answer) => {
                        self.commit(&mut batch);
                        let _ = answer.send(self.compact_all(revision));
                    }
                }
                if batch.len() < BATCH {
                    next = queue.try_recv().ok();
                }
            }
            self.commit(&mut batch);
            self.keep_history_short();
            if let Some(connection) = &self.connection {
                self.checkpointer.finish(connection);
            }
        }
    }

    /// Commits a batch and answers it.
    fn commit(&mut self, batch: &mut Vec<(Txn, Answer<Revision>)>) {
        if batch.is_empty() {
            return;
        }
        let mut results = Vec::with_capacity(batch.len());
        let committed = self.connection().and_then(|(connection, shared)| {
            let mut events = Vec::new();
            // Read now: opening again may have found more.
            let done = write_batch(connection, shared.revision(), batch, &mut results, &mut events);
            done.map(|revision| (revision, events)).map_err(|e| shared.error(&e))
        });
        match committed {
            Ok((revision, events)) => {
                self.shared.revision.store(revision, Ordering::Release);
                self.shared.hub.publish(revision, events);
                for ((_, answer), result) in batch.drain(..).zip(results) {
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot commit");
                if !matches!(error, StorageError::Full { .. }) {
                    // What SQLite and the disk hold now is not known: open again and look.
                    self.connection = None;
                }
                for (_, answer) in batch.drain(..) {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// The connection; opened again after an error, when whatever of the failed commit did reach the disk is announced.
    fn connection(&mut self) -> Result<(&mut Connection, &Shared), StorageError> {
        if self.connection.is_none() {
            let reopened = schema::open_for_writing(&self.shared.path).and_then(|mut connection| {
                self.checkpointer.attach(&mut connection)?;
                let events = reader::events_after(&connection, "", self.shared.revision())?;
                Ok((connection, events))
            });
            let (connection, events) = reopened.map_err(|e| self.shared.error(&e))?;
            if let Some(last) = events.back() {
                self.shared.revision.store(last.revision, Ordering::Release);
            }
            self.shared.hub.publish(self.shared.revision(), events.into());
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut().ok_or(StorageError::Closed)?;
        Ok((connection, &self.shared))
    }

    fn compact_all(&mut self, revision: Revision) -> Result<(), StorageError> {
        self.shared.check(revision)?;
        while self.shared.oldest() < revision {
            self.compact_step(revision)?;
        }
        Ok(())
    }

    /// One step towards `revision`.
    fn compact_step(&mut self, revision: Revision) -> Result<(), StorageError> {
        let from = self.shared.oldest();
        let to = revision.min(from + COMPACTION_STEP);
        let (connection, shared) = self.connection()?;
        // Announced first: a reader that is promised a revision finds all of it.
        shared.oldest.store(to, Ordering::Release);
        compact(connection, from, to).map_err(|e| shared.error(&e))
    }

    fn keep_history_short(&mut self) {
        let excess = self.shared.revision().saturating_sub(self.shared.oldest()).saturating_sub(self.options.history);
        if excess >= COMPACTION_STEP
            && let Err(error) = self.compact_step(self.shared.oldest() + excess)
        {
            tracing::warn!(%error, "cannot compact the history; it is tried again after later writes");
        }
    }
}

/// Writes every transaction whose guards hold, commits, and answers the new revision. On an error nothing is written.
fn write_batch(
    connection: &mut Connection,
    before: Revision,
    batch: &[(Txn, Answer<Revision>)],
    results: &mut Vec<Result<Revision, StorageError>>,
    events: &mut Vec<Event>,
) -> rusqlite::Result<Revision> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut revision = before;
    for (txn, _) in batch {
        let live = match guarded(&transaction, txn)? {
            Ok(live) => live,
            Err(error) => {
                results.push(Err(error));
                continue;
            }
        };
        if write(&transaction, revision + 1, txn, &live, events)? {
            revision += 1;
        }
        results.push(Ok(revision));
    }
    transaction.commit()?;
    Ok(revision)
}

/// A live key's row id and the revision that made it.
type Live = Option<(i64, Revision)>;

/// What there is under the keys of a transaction's guards, or why it must not be written.
fn guarded<'a>(connection: &Connection, txn: &'a Txn) -> rusqlite::Result<Result<Vec<(&'a str, Live)>, StorageError>> {
    if let Err(error) = txn.check() {
        return Ok(Err(error));
    }
    let mut all = Vec::with_capacity(txn.guards.len());
    for guard in &txn.guards {
        let live = live(connection, guard.key())?;
        let current = live.map(|(id, _)| schema::revision_of(id));
        let wanted = match guard {
            Guard::Absent(_) => None,
            Guard::At(_, revision) => Some(*revision),
        };
        if current != wanted {
            return Ok(Err(StorageError::Conflict { key: guard.key().clone(), current }));
        }
        all.push((&**guard.key(), live));
    }
    Ok(Ok(all))
}

fn live(connection: &Connection, key: &str) -> rusqlite::Result<Live> {
    let mut statement = connection.prepare_cached("SELECT id, create_revision FROM current WHERE key = ?1")?;
    statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Whether anything was written. `guarded` is what there is under some keys.
fn write(
    connection: &Connection,
    revision: Revision,
    txn: &Txn,
    guarded: &[(&str, Live)],
    events: &mut Vec<Event>,
) -> rusqlite::Result<bool> {
    let first = schema::first_id(revision);
    let mut id = first;
    for write in &txn.writes {
        let (key, value) = match write {
            Write::Put(key, value) => (key, Some(value)),
            Write::Delete(key) => (key, None),
        };
        // No key is written twice.
        let known = guarded.iter().find(|(guarded, _)| **guarded == **key);
        let previous = known.map_or_else(|| live(connection, key), |(_, live)| Ok(*live))?;
        if previous.is_none() && value.is_none() {
            continue;
        }
        let (previous_id, create_revision) = previous.unwrap_or((0, revision));
        connection
            .prepare_cached("INSERT INTO log (id, key, create_revision, prev_id, value) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![id, &**key, create_revision, previous_id, value.map(|v| &**v)])?;
        if value.is_some() {
            connection
                .prepare_cached("INSERT OR REPLACE INTO current (key, id, create_revision) VALUES (?1, ?2, ?3)")?
                .execute(params![&**key, id, create_revision])?;
        } else {
            connection.prepare_cached("DELETE FROM current WHERE key = ?1")?.execute([&**key])?;
        }
        events.push(Event { revision, key: key.clone(), value: value.cloned() });
        id += 1;
    }
    Ok(id > first)
}

/// Removes the rows that revisions in `from < revision <= to` replaced, and their marks of deletion.
fn compact(connection: &mut Connection, from: Revision, to: Revision) -> rusqlite::Result<()> {
    let (after, last) = (schema::last_id(from), schema::last_id(to));
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction
        .prepare_cached(
            "DELETE FROM log WHERE id IN (SELECT prev_id FROM log WHERE id > ?1 AND id <= ?2 AND prev_id > 0)",
        )?
        .execute([after, last])?;
    transaction
        .prepare_cached("DELETE FROM log WHERE id > ?1 AND id <= ?2 AND value IS NULL")?
        .execute([after, last])?;
    transaction.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'compacted'")?.execute([to])?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::OpenError;
    use std::path::Path;

    fn writer(directory: &Path) -> Result<Writer, OpenError> {
        let path = directory.join("state.db");
        schema::make_private_file(&path).unwrap();
        let connection = schema::open_for_writing(&path).unwrap();
        schema::prepare(&connection).unwrap();
        let revision = schema::last_revision(&connection).unwrap().max(1);
        let shared = Shared { path, revision: revision.into(), oldest: 1.into(), hub: Default::default() };
        let lock = DirectoryLock::take(directory)?;
        Ok(Writer::new(Arc::new(shared), connection, Options::default(), lock).unwrap())
    }

    fn put(writer: &mut Writer, key: &str, bytes: usize) -> Result<Revision, StorageError> {
        let (answer, mut answered) = oneshot::channel();
        writer.commit(&mut vec![(Txn::create(key.into(), vec![b'x'; bytes].into()), answer)]);
        answered.try_recv().unwrap()
    }

    fn revisions(writer: &Writer) -> Vec<Revision> {
        let connection = schema::open_for_reading(&writer.shared.path).unwrap();
        reader::events_after(&connection, "", 0).unwrap().into_iter().map(|e| e.revision).collect()
    }

    #[test]
    fn a_full_disk_refuses_and_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path()).unwrap();
        assert_eq!(put(&mut writer, "/a", 100).unwrap(), 2);
        let limit = |writer: &mut Writer, pages: i64| {
            let connection = writer.connection.as_ref().unwrap();
            connection.pragma_update(None, "max_page_count", pages).unwrap();
        };
        limit(&mut writer, 1);
        let error = put(&mut writer, "/b", 1 << 20).unwrap_err();
        assert!(matches!(error, StorageError::Full { .. }), "{error}");
        assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
        assert_eq!((revisions(&writer), writer.shared.revision()), (vec![2], 2));
        limit(&mut writer, 1 << 20);
        assert_eq!(put(&mut writer, "/b", 1 << 20).unwrap(), 3);
    }

    #[test]
    fn after_an_io_error_the_store_is_opened_again_and_caught_up_with() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path()).unwrap();
        put(&mut writer, "/a", 1).unwrap();
        let mut watcher = writer.shared.hub.register("/");
        // A commit whose answer was an error, and that reached the disk all the same.
        let mut connection = writer.connection.take().unwrap();
        let (answer, _) = oneshot::channel();
        let batch = [(Txn::create("/lost".into(), Default::default()), answer)];
        write_batch(&mut connection, 2, &batch, &mut Vec::new(), &mut Vec::new()).unwrap();
        drop(connection);
        assert_eq!(put(&mut writer, "/b", 1).unwrap(), 4, "its revision is not given out twice");
        let announced: Vec<_> = [watcher.try_recv().unwrap(), watcher.try_recv().unwrap()]
            .iter()
            .flat_map(|events| events.as_ref().unwrap().events.iter().map(|e| e.key.to_string()).collect::<Vec<_>>())
            .collect();
        assert_eq!(announced, ["/lost", "/b"]);
    }
}
