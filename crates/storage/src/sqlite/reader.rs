//! Reading on a connection of its own: a snapshot, never blocked by the writer.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, Row, params};

use super::parts::Parts;
use super::recent::Latest;
use super::{Shared, schema};
use crate::scan::Take;
use crate::{Event, KeyValue, Page, RangeRequest, Revision, Size, StorageError};

/// What the table says was written by then; its keys may be others now.
const CURRENT: &str = "
SELECT key, id, create_revision FROM current
WHERE key >= ?1 AND key > ?2 AND key < ?3 AND id <= ?5 ORDER BY key LIMIT ?4";

/// What was there then and has been replaced or deleted since.
const REPLACED: &str = "
SELECT old.key, old.id, old.create_revision FROM log new JOIN log old ON old.id = new.prev_id
WHERE new.id > ?4 AND new.prev_id > 0 AND new.prev_id <= ?4 AND old.key >= ?1 AND old.key > ?2 AND old.key < ?3";

/// Items in one piece of a scan: few enough for a processor's own cache to hold them until they have been looked at.
const SCAN_PIECE: usize = 64;

/// The rows that a scan is about.
pub(super) struct Extent {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) replaced: HashSet<i64>,
}

pub(super) struct Reader {
    shared: Arc<Shared>,
    connection: Connection,
}

impl Reader {
    pub(super) fn open(shared: Arc<Shared>) -> rusqlite::Result<Self> {
        let connection = schema::open_for_reading(&shared.path)?;
        Ok(Self { shared, connection })
    }

    /// A reader of nearly everything, which is spared a copy of each page.
    pub(super) fn open_for_scans(shared: Arc<Shared>) -> rusqlite::Result<Self> {
        let reader = Self::open(shared)?;
        // As much as SQLite maps at most.
        reader.connection.pragma_update(None, "mmap_size", i64::MAX)?;
        Ok(reader)
    }

    pub(super) fn range(&mut self, request: &RangeRequest) -> Result<Page, StorageError> {
        // A revision's rows are visible before it is announced, never after: read at what was announced.
        let revision = request.at.unwrap_or_else(|| self.shared.revision());
        self.shared.check(revision)?;
        let page = self.page(request, revision).map_err(|e| self.shared.error(&e))?;
        // The rows may have been compacted while they were read.
        self.shared.check(revision)?;
        Ok(page)
    }

    fn page(&mut self, request: &RangeRequest, revision: Revision) -> rusqlite::Result<Page> {
        let (prefix, after, end, at) =
            (request.prefix, request.after, end_of(request.prefix), schema::last_id(revision));
        let transaction = self.connection.transaction()?;
        // What is on disk and what of it the table does not say are looked at together: the first read fixes the former.
        let (last, recent) = {
            let recent = self.shared.recent.read();
            let last = schema::last_revision(&transaction)?;
            let found = recent.range(prefix, after).map(|(key, latest)| (key.clone(), latest));
            (last, found.collect::<Vec<(Arc<str>, Latest)>>())
        };
        let limit = request.limit.saturating_add(1);
        // So many of the table's may not count.
        let most = i64::try_from(limit.saturating_add(recent.len())).unwrap_or(i64::MAX);
        let row = |row: &Row| Ok((row.get::<_, String>(0)?.into(), (row.get(1)?, row.get(2)?)));
        let mut found: BTreeMap<Arc<str>, (i64, Revision)> = transaction
            .prepare_cached(CURRENT)?
            .query_map(params![prefix, after, end, most, at], row)?
            .collect::<rusqlite::Result<_>>()?;
        for (key, latest) in recent {
            match latest.is_live && latest.id <= at {
                true => found.insert(key, (latest.id, latest.create_revision)),
                false => found.remove(&key),
            };
        }
        if last > revision {
            let mut statement = transaction.prepare_cached(REPLACED)?;
            for replaced in statement.query_map(params![prefix, after, end, at], row)? {
                let (key, place) = replaced?;
                found.insert(key, place);
            }
        }
        let more = found.len() >= limit;
        let mut statement = transaction.prepare_cached("SELECT value FROM log WHERE id = ?1")?;
        let mut items = Vec::new();
        for (key, (id, create_revision)) in found.into_iter().take(request.limit) {
            let value = Bytes::from(statement.query_row([id], |row| row.get::<_, Vec<u8>>(0))?);
            items.push(KeyValue { key, value, create_revision, mod_revision: schema::revision_of(id) });
        }
        Ok(Page { revision, items, more })
    }

    /// The first row and the last that was written by a revision, and the rows that others had replaced by then: the rest,
    /// but for marks of deletion, is what lived then. Later rows have replaced no others that are gone.
    pub(super) fn extent(&mut self, at: Revision) -> rusqlite::Result<Extent> {
        let transaction = self.connection.transaction()?;
        let last = schema::last_id(at);
        let bound = |query: &str| transaction.query_row(query, [last], |row| row.get::<_, Option<i64>>(0));
        let first = bound("SELECT min(id) FROM log WHERE id <= ?1")?.unwrap_or(0);
        let last = bound("SELECT max(id) FROM log WHERE id <= ?1")?.unwrap_or(-1);
        // What was replaced before is compacted.
        let after = schema::last_id(schema::compacted(&transaction)?);
        let mut statement =
            transaction.prepare("SELECT prev_id FROM log WHERE id > ?1 AND id <= ?2 AND prev_id > 0")?;
        let replaced = statement.query_map([after, last], |row| row.get(0))?;
        Ok(Extent { first, last, replaced: replaced.collect::<rusqlite::Result<_>>()? })
    }

    /// Reads what lives under a prefix, in the order in which it lies on disk: several times faster than by key.
    pub(super) fn scan(
        &mut self,
        prefix: &str,
        replaced: &HashSet<i64>,
        (parts, thread): (&Parts, usize),
        take: &Take,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let mut statement = transaction.prepare_cached(
            "SELECT id, key, create_revision, value FROM log WHERE id >= ?1 AND id <= ?2 AND value IS NOT NULL ORDER BY id",
        )?;
        let mut piece = Vec::with_capacity(SCAN_PIECE);
        while let Some((first, last)) = parts.find(thread) {
            let mut taken = first - 1;
            let mut rows = statement.query([first, last])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                if id > taken {
                    let Some(more) = parts.take(thread, id) else { break };
                    taken = more;
                }
                let key = row.get_ref(1)?.as_str()?;
                if !key.starts_with(prefix) || replaced.contains(&id) {
                    continue;
                }
                piece.push(KeyValue {
                    key: key.into(),
                    create_revision: row.get(2)?,
                    value: Bytes::copy_from_slice(row.get_ref(3)?.as_blob()?),
                    mod_revision: schema::revision_of(id),
                });
                if piece.len() == SCAN_PIECE {
                    let full = std::mem::replace(&mut piece, Vec::with_capacity(SCAN_PIECE));
                    if !take(full) {
                        return Ok(());
                    }
                }
            }
            parts.finish(thread);
        }
        if !piece.is_empty() {
            take(piece);
        }
        Ok(())
    }

    /// The events under a prefix after a revision, and the revision that they reach to.
    pub(super) fn events_after(
        &mut self,
        prefix: &str,
        from: Revision,
    ) -> Result<(VecDeque<Event>, Revision), StorageError> {
        self.shared.check(from)?;
        // Read first: what is committed afterwards is in the live queue, whether or not it is here too.
        let reached = self.shared.revision();
        let events = events_after(&self.connection, prefix, from).map_err(|e| self.shared.error(&e))?;
        self.shared.check(from)?;
        let reached = events.back().map_or(reached, |last| last.revision.max(reached));
        Ok((events, reached))
    }

    pub(super) fn size(&mut self) -> Result<Size, StorageError> {
        let pages = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let bytes = pages("page_count").and_then(|count| Ok(count * pages("page_size")?));
        Ok(Size { bytes: bytes.map_err(|e| self.shared.error(&e))? as u64 })
    }
}

/// Every write under a prefix after a revision, in order.
pub(super) fn events_after(connection: &Connection, prefix: &str, from: Revision) -> rusqlite::Result<VecDeque<Event>> {
    let mut statement = connection
        .prepare_cached("SELECT id, key, value FROM log WHERE id > ?1 AND key >= ?2 AND key < ?3 ORDER BY id")?;
    let rows = statement.query_map(params![schema::last_id(from), prefix, end_of(prefix)], |row| {
        Ok(Event {
            revision: schema::revision_of(row.get(0)?),
            key: row.get::<_, String>(1)?.into(),
            value: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from),
        })
    })?;
    rows.collect()
}

/// The least string that sorts after every string with the prefix.
pub(super) fn end_of(prefix: &str) -> String {
    // Keys are ASCII paths; this character sorts after all that can follow a prefix.
    format!("{prefix}\u{10ffff}")
}
