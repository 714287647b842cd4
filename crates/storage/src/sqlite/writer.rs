//! The one thread that writes. It takes what waits in the queue, commits it with one fsync, and only then answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpointer;
use super::recent::{Latest, Recent, Told};
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
        // The next start has nothing to replay.
        if let Err(error) = self.tell_everything() {
            tracing::warn!(%error, "the store's table of keys is completed at the next start");
        }
    }

    /// Commits a batch and answers it.
    fn commit(&mut self, batch: &mut Vec<(Txn, Answer<Revision>)>) {
        if batch.is_empty() {
            return;
        }
        let mut results = Vec::with_capacity(batch.len());
        let committed = self.connection().and_then(|(connection, shared)| {
            let mut done = Done::default();
            // Read now: opening again may have found more.
            let written = write_batch(connection, shared, batch, &mut results, &mut done);
            written.map(|revision| (revision, done)).map_err(|e| shared.error(&e))
        });
        match committed {
            Ok((revision, Done { events, keys, told })) => {
                self.shared.recent.write().committed(told, keys.into_iter().collect());
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
                let recent = Recent::read(&connection)?;
                Ok((connection, events, recent))
            });
            let (connection, events, recent) = reopened.map_err(|e| self.shared.error(&e))?;
            *self.shared.recent.write() = recent;
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
        if to > self.shared.recent.read().applied() {
            // Rows that are to be replayed must not go.
            self.tell_everything()?;
        }
        let (connection, shared) = self.connection()?;
        // Announced first: a reader that is promised a revision finds all of it.
        shared.oldest.store(to, Ordering::Release);
        compact(connection, from, to).map_err(|e| shared.error(&e))
    }

    /// Has the table of keys know all writes.
    fn tell_everything(&mut self) -> Result<(), StorageError> {
        let (connection, shared) = self.connection()?;
        let told = (|| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let told = shared.recent.read().tell(&transaction, shared.revision(), 0, true)?;
            transaction.commit().map(|()| told)
        })();
        let told = told.map_err(|e| shared.error(&e))?;
        shared.recent.write().committed(told, Vec::new());
        Ok(())
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

/// What a batch makes of the store, to be told once it is on disk.
#[derive(Default)]
struct Done {
    events: Vec<Event>,
    keys: HashMap<Arc<str>, Latest>,
    told: Told,
}

/// Writes every transaction whose guards hold, commits, and answers the new revision. On an error nothing is written.
fn write_batch(
    connection: &mut Connection,
    shared: &Shared,
    batch: &[(Txn, Answer<Revision>)],
    results: &mut Vec<Result<Revision, StorageError>>,
    done: &mut Done,
) -> rusqlite::Result<Revision> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let (before, recent) = (shared.revision(), shared.recent.read());
    let writes = batch.iter().map(|(txn, _)| txn.writes.len()).sum();
    done.told = recent.tell(&transaction, before, writes, false)?;
    let mut revision = before;
    for (txn, _) in batch {
        let keys = Keys { connection: &transaction, recent: &recent, written: &done.keys };
        let guarded = match keys.guarded(txn)? {
            Ok(guarded) => guarded,
            Err(error) => {
                results.push(Err(error));
                continue;
            }
        };
        if write(&transaction, &recent, revision + 1, (txn, &guarded), done)? {
            revision += 1;
        }
        results.push(Ok(revision));
    }
    drop(recent);
    transaction.commit()?;
    Ok(revision)
}

/// A live key's row id and the revision that made it.
type Live = Option<(i64, Revision)>;

/// What keys are, to a transaction of a batch.
struct Keys<'a> {
    connection: &'a Connection,
    recent: &'a Recent,
    /// By the transactions before.
    written: &'a HashMap<Arc<str>, Latest>,
}

impl Keys<'_> {
    fn live(&self, key: &str) -> rusqlite::Result<Live> {
        if let Some(latest) = self.written.get(key).copied().or_else(|| self.recent.get(key)) {
            return Ok(latest.is_live.then_some((latest.id, latest.create_revision)));
        }
        let mut statement = self.connection.prepare_cached("SELECT id, create_revision FROM current WHERE key = ?1")?;
        statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    /// What there is under the keys of a transaction's guards, in their order, or why it must not be written.
    fn guarded(&self, txn: &Txn) -> rusqlite::Result<Result<Vec<Live>, StorageError>> {
        if let Err(error) = txn.check() {
            return Ok(Err(error));
        }
        let mut all = Vec::with_capacity(txn.guards.len());
        for guard in &txn.guards {
            let live = self.live(guard.key())?;
            let current = live.map(|(id, _)| schema::revision_of(id));
            let wanted = match guard {
                Guard::Absent(_) => None,
                Guard::At(_, revision) => Some(*revision),
            };
            if current != wanted {
                return Ok(Err(StorageError::Conflict { key: guard.key().clone(), current }));
            }
            all.push(live);
        }
        Ok(Ok(all))
    }
}

/// Whether anything was written.
fn write(
    connection: &Connection,
    recent: &Recent,
    revision: Revision,
    (txn, guarded): (&Txn, &[Live]),
    done: &mut Done,
) -> rusqlite::Result<bool> {
    let first = schema::first_id(revision);
    let mut id = first;
    for write in &txn.writes {
        let (key, value) = match write {
            Write::Put(key, value) => (key, Some(value)),
            Write::Delete(key) => (key, None),
        };
        // No key is written twice.
        let known = txn.guards.iter().zip(guarded).find(|(guard, _)| guard.key() == key);
        let look = || Keys { connection, recent, written: &done.keys }.live(key);
        let previous = known.map_or_else(look, |(_, live)| Ok(*live))?;
        if previous.is_none() && value.is_none() {
            continue;
        }
        let (previous_id, create_revision) = previous.unwrap_or((0, revision));
        connection
            .prepare_cached("INSERT INTO log (id, key, create_revision, prev_id, value) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![id, &**key, create_revision, previous_id, value.map(|v| &**v)])?;
        done.keys.insert(key.clone(), Latest { id, create_revision, is_live: value.is_some() });
        done.events.push(Event { revision, key: key.clone(), value: value.cloned() });
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
        let shared = Shared {
            path,
            revision: revision.into(),
            oldest: 1.into(),
            hub: Default::default(),
            recent: Default::default(),
        };
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
        write_batch(&mut connection, &writer.shared, &batch, &mut Vec::new(), &mut Done::default()).unwrap();
        drop(connection);
        assert_eq!(put(&mut writer, "/b", 1).unwrap(), 4, "its revision is not given out twice");
        let announced: Vec<_> = [watcher.try_recv().unwrap(), watcher.try_recv().unwrap()]
            .iter()
            .flat_map(|events| events.as_ref().unwrap().events.iter().map(|e| e.key.to_string()).collect::<Vec<_>>())
            .collect();
        assert_eq!(announced, ["/lost", "/b"]);
    }
}
