//! Tables, settings and files of the store.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::Revision;

/// The version of the tables below. In the first one `current` knew all writes.
pub(super) const FORMAT: i64 = 2;
/// Those that can be read.
pub(super) const READABLE: std::ops::RangeInclusive<i64> = 1..=FORMAT;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS log (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    create_revision INTEGER NOT NULL,
    prev_id INTEGER NOT NULL,
    value BLOB
);
CREATE TABLE IF NOT EXISTS current (
    key TEXT PRIMARY KEY,
    id INTEGER NOT NULL,
    create_revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// The id of a revision's first row.
pub(super) fn first_id(revision: Revision) -> i64 {
    (revision << 7) as i64
}

/// The highest id that a revision's rows can have.
pub(super) fn last_id(revision: Revision) -> i64 {
    ((revision << 7) | 127) as i64
}

pub(super) fn revision_of(id: i64) -> Revision {
    (id as u64) >> 7
}

pub(super) fn make_private_directory(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// SQLite gives its WAL the mode of the database, so the database is made before SQLite would make it.
pub(super) fn make_private_file(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

/// A connection with what holds for it alone, and not for the file.
pub(super) fn open_for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.pragma_update(None, "journal_size_limit", 32 << 20)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// What holds for the file.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // page_size counts only for a new file, and only before WAL mode is on.
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(())
}

pub(super) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "cache_size", -1024)?;
    Ok(connection)
}

/// What a store holds before anything is made in it.
pub(super) enum Content {
    Nothing,
    /// Tables of this format.
    Format(i64),
    /// Tables that no version of Kybern has made.
    Foreign,
}

pub(super) fn content(connection: &Connection) -> rusqlite::Result<Content> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(Content::Nothing);
    }
    let has_meta = connection.table_exists(None, "meta")?;
    let format = |row: &rusqlite::Row<'_>| row.get(0);
    let found = if has_meta {
        connection.query_row("SELECT value FROM meta WHERE name = 'format'", [], format).optional()?
    } else {
        None
    };
    Ok(found.map_or(Content::Foreign, Content::Format))
}

/// Makes the tables where absent and brings older ones up to date, all or none.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?1), ('compacted', 1)", [FORMAT])?;
    let applied = last_revision(&transaction)?.max(compacted(&transaction)?);
    transaction.execute("INSERT OR IGNORE INTO meta VALUES ('applied', ?1)", [applied])?;
    transaction.execute("UPDATE meta SET value = ?1 WHERE name = 'format'", [FORMAT])?;
    transaction.commit()
}

/// Up to which revision `current` knows what writes made of keys.
pub(super) fn applied(connection: &Connection) -> rusqlite::Result<Revision> {
    let applied = connection.query_row("SELECT value FROM meta WHERE name = 'applied'", [], |row| row.get(0));
    // A store of the first format that nobody has opened for writing since.
    Ok(applied.optional()?.unwrap_or(i64::MAX as Revision >> 8))
}

pub(super) fn set_applied(connection: &Connection, revision: Revision) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'applied'")?.execute([revision]).map(drop)
}

/// The oldest revision that can be read.
pub(super) fn compacted(connection: &Connection) -> rusqlite::Result<Revision> {
    connection.query_row("SELECT value FROM meta WHERE name = 'compacted'", [], |row| row.get(0))
}

/// The revision of the last row; 0 where there is none.
pub(super) fn last_revision(connection: &Connection) -> rusqlite::Result<Revision> {
    let id: Option<i64> = connection.query_row("SELECT max(id) FROM log", [], |row| row.get(0)).optional()?.flatten();
    Ok(id.map_or(0, revision_of))
}
