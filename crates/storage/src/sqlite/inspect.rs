//! Looking into a store, also one that a server uses.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::snapshot::{self, SnapshotError};
use super::{reader, schema};
use crate::{KeyValue, Revision};

/// The last writes of keys that are not deleted. The table `current` may not know all of them yet.
pub(super) const LIVE: &str = "SELECT id, key, create_revision, value FROM log
    WHERE value IS NOT NULL AND id NOT IN (SELECT prev_id FROM log)";

/// One write of a key's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub create_revision: Revision,
    /// `None`: deleted.
    pub value: Option<Bytes>,
}

/// A key, and the size of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub mod_revision: Revision,
    pub bytes: u64,
}

/// Figures of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub revision: Revision,
    pub oldest: Revision,
    pub keys: u64,
    /// Writes that are kept, with those of [`Stats::keys`].
    pub writes: u64,
    /// Bytes of the values of live keys, and of all writes.
    pub live_bytes: u64,
    pub bytes: u64,
    /// Of the file, and those in it that are free.
    pub file_bytes: u64,
    pub free_bytes: u64,
    /// Live keys and the bytes of their values by the first part of the key below `/registry/`, largest first.
    pub kinds: Vec<(String, u64, u64)>,
}

/// See the module.
pub struct Inspection {
    path: PathBuf,
    connection: Connection,
}

impl Inspection {
    /// Opens a store's file: `state.db` of a server, or a copy.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        Ok(Self { path: path.to_owned(), connection: snapshot::open(path)? })
    }

    fn failed(&self, error: &rusqlite::Error) -> SnapshotError {
        SnapshotError::Io { path: self.path.clone(), cause: error.to_string() }
    }

    /// Live keys under a prefix, in order.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>, SnapshotError> {
        let read = || {
            let mut statement = self.connection.prepare(&format!(
                "SELECT key, id, length(value) FROM ({LIVE}) WHERE key >= ?1 AND key < ?2 ORDER BY key"
            ))?;
            let rows = statement.query_map(params![prefix, reader::end_of(prefix)], |row| {
                Ok(Listed { key: row.get(0)?, mod_revision: schema::revision_of(row.get(1)?), bytes: row.get(2)? })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| self.failed(&e))
    }

    /// A key as it is, or as it was at a revision that is kept.
    pub fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<KeyValue>, SnapshotError> {
        let last = at.map_or(i64::MAX, schema::last_id);
        let read = || {
            // The history of one key has no index: read from its end.
            let found = self
                .connection
                .prepare(
                    "SELECT id, create_revision, value FROM log WHERE key = ?1 AND id <= ?2 ORDER BY id DESC LIMIT 1",
                )?
                .query_row(params![key, last], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, Option<Vec<u8>>>(2)?))
                })
                .optional()?;
            Ok(found.and_then(|(id, create_revision, value)| {
                let mod_revision = schema::revision_of(id);
                Some(KeyValue { key: key.into(), value: value?.into(), create_revision, mod_revision })
            }))
        };
        read().map_err(|e| self.failed(&e))
    }

    /// The writes of a key that are kept, oldest first.
    pub fn history(&self, key: &str) -> Result<Vec<Change>, SnapshotError> {
        let read = || {
            let mut statement =
                self.connection.prepare("SELECT id, create_revision, value FROM log WHERE key = ?1 ORDER BY id")?;
            let rows = statement.query_map([key], |row| {
                Ok(Change {
                    revision: schema::revision_of(row.get(0)?),
                    create_revision: row.get(1)?,
                    value: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| self.failed(&e))
    }

    pub fn stats(&self) -> Result<Stats, SnapshotError> {
        self.read_stats().map_err(|e| self.failed(&e))
    }

    fn read_stats(&self) -> rusqlite::Result<Stats> {
        let transaction = self.connection.unchecked_transaction()?;
        let (writes, bytes) =
            transaction.query_row("SELECT count(*), coalesce(sum(length(value)), 0) FROM log", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let pages = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let page = pages("page_size")?;
        let oldest = schema::compacted(&transaction)?;
        let mut stats = Stats {
            revision: schema::last_revision(&transaction)?.max(oldest),
            oldest,
            writes,
            bytes,
            file_bytes: pages("page_count")? * page,
            free_bytes: pages("freelist_count")? * page,
            ..Stats::default()
        };
        let mut statement = transaction.prepare(&format!(
            "SELECT substr(rest, 1, instr(rest || '/', '/') - 1) AS kind, count(*), sum(size) FROM (
                 SELECT substr(key, 11) AS rest, length(value) AS size FROM ({LIVE})
             ) GROUP BY kind ORDER BY 3 DESC, 1"
        ))?;
        let kinds = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        stats.kinds = kinds.collect::<rusqlite::Result<_>>()?;
        stats.keys = stats.kinds.iter().map(|(_, keys, _)| keys).sum();
        stats.live_bytes = stats.kinds.iter().map(|(_, _, bytes)| bytes).sum();
        Ok(stats)
    }
}

/// What is wrong with a store, if anything is: the database's own check, and then whether the tables agree.
pub(super) fn check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let text: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if text != "ok" {
        return Ok(Some(text));
    }
    // What was written later, the table need not know.
    let applied = schema::last_id(schema::applied(connection)?);
    let first = |query: &str| connection.query_row(query, [applied], |row| row.get::<_, String>(0)).optional();
    let dangling = "SELECT c.key FROM current c LEFT JOIN log l ON l.id = c.id
                    WHERE (l.id IS NULL OR l.key <> c.key OR l.value IS NULL OR l.create_revision <> c.create_revision)
                    AND c.key NOT IN (SELECT key FROM log WHERE id > ?1) LIMIT 1";
    if let Some(key) = first(dangling)? {
        return Ok(Some(format!("the key {key} has no write that made it what it is")));
    }
    // The last write of a key is what it is.
    let stale = "SELECT l.key FROM (SELECT key, max(id) AS id FROM log GROUP BY key) last JOIN log l ON l.id = last.id
                 LEFT JOIN current c ON c.key = l.key
                 WHERE l.id <= ?1 AND ((l.value IS NULL) <> (c.id IS NULL) OR (l.value IS NOT NULL AND c.id <> l.id)) LIMIT 1";
    Ok(first(stale)?.map(|key| format!("the key {key} is not what its last write made it")))
}
