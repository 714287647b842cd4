//! Copies of a store: taken while it is in use, checked, and put back where no server runs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::schema::{self, Content};
use super::{FILE, inspect};
use crate::Revision;
use crate::lock::{DirectoryLock, LockError};

/// What the names of copies that are made by the clock begin with.
const COPY: &str = "snapshot-";
/// The row of `meta` that holds a copy's digest.
const SEAL: &str = "sha256";

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{path} is not a Kybern store")]
    Foreign { path: PathBuf },
    #[error("the store {path} has format {found}, this version reads format {known}: run the version that wrote it")]
    Format { path: PathBuf, found: i64, known: i64 },
    #[error("{path} is damaged: {cause}")]
    Damaged { path: PathBuf, cause: String },
    #[error("{path} exists already: name another file, or remove it")]
    Exists { path: PathBuf },
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: String },
}

impl SnapshotError {
    fn at(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> Self {
        move |cause| Self::Io { path: path.to_owned(), cause: cause.to_string() }
    }
}

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub revision: Revision,
    pub keys: u64,
    pub bytes: u64,
}

/// Copies the store in `directory` to a new file, whether a server uses it or not: all of one revision with its history.
/// The file has its name only once it is complete, checked and on disk.
pub fn backup(directory: &Path, target: &Path) -> Result<Summary, SnapshotError> {
    let source = directory.join(FILE);
    let failed = SnapshotError::at(target);
    if target.exists() {
        return Err(SnapshotError::Exists { path: target.to_owned() });
    }
    let connection = open(&source)?;
    let partial = beside(target, "partial");
    let _ = fs::remove_file(&partial);
    // Made before SQLite would make it, for its mode.
    private(&partial).map_err(|e| failed(&e))?;
    let copied = connection
        .execute("VACUUM INTO ?1", [&*partial.to_string_lossy()])
        .map_err(|e| failed(&e))
        .and_then(|_| seal(&partial).map_err(|e| failed(&e)))
        .and_then(|()| verify(&partial))
        .and_then(|summary| {
            sync(&partial).map_err(|e| failed(&e))?;
            // Fails where somebody was quicker, as a rename would not.
            fs::hard_link(&partial, target).map_err(|e| failed(&e))?;
            Ok(summary)
        });
    let _ = fs::remove_file(&partial);
    if copied.is_ok() {
        sync(parent(target)).map_err(|e| failed(&e))?;
    }
    copied
}

/// Copies the store to a new file in a folder, named after `now`, and removes the oldest of such copies but `retention`.
pub fn keep_copies(
    directory: &Path,
    folder: &Path,
    now: &str,
    retention: usize,
) -> Result<(PathBuf, Summary), SnapshotError> {
    let failed = SnapshotError::at(folder);
    schema::make_private_directory(folder).map_err(|e| failed(&e))?;
    let path = folder.join(format!("{COPY}{now}.db"));
    let summary = backup(directory, &path)?;
    let is_copy = |name: &str| name.starts_with(COPY) && name.ends_with(".db");
    let names =
        fs::read_dir(folder).map_err(|e| failed(&e))?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut copies: Vec<String> = names.filter(|name| is_copy(name)).collect();
    // Times sort as text.
    copies.sort_unstable();
    let excess = copies.len().saturating_sub(retention.max(1));
    for name in &copies[..excess] {
        fs::remove_file(folder.join(name)).map_err(|e| failed(&e))?;
    }
    Ok((path, summary))
}

/// Puts a copy in the place of the store in `directory`, which no server may be using. What was there stays beside it, and
/// its path is answered.
pub fn restore(copy: &Path, directory: &Path) -> Result<(Summary, Option<PathBuf>), SnapshotError> {
    let target = directory.join(FILE);
    let failed = SnapshotError::at(&target);
    schema::make_private_directory(directory).map_err(|e| failed(&e))?;
    let _lock = DirectoryLock::take(directory)?;
    verify(copy)?;
    let partial = beside(&target, "restoring");
    let _ = fs::remove_file(&partial);
    private(&partial).and_then(|mut file| std::io::copy(&mut File::open(copy)?, &mut file)).map_err(|e| failed(&e))?;
    // Read back: what is put in place is what was meant.
    let summary = verify(&partial)?;
    unseal(&partial).map_err(|e| failed(&e))?;
    sync(&partial).map_err(|e| failed(&e))?;
    let replaced = target.exists().then(|| set_aside(&target)).transpose().map_err(|e| failed(&e))?;
    fs::rename(&partial, &target).map_err(|e| failed(&e))?;
    sync(directory).map_err(|e| failed(&e))?;
    Ok((summary, replaced))
}

/// Keeps the present store under another name. It stays in its place until the copy takes that, so that a crash in between
/// leaves one of the two.
fn set_aside(store: &Path) -> std::io::Result<PathBuf> {
    // What is in its log goes into it; were a log left, it would be taken for the copy's.
    if let Ok(connection) = schema::open_for_writing(store) {
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
    let free = |n: u32| beside(store, &format!("replaced-{n}"));
    let kept = (1..).map(free).find(|path| !path.exists()).unwrap_or_else(|| free(0));
    fs::hard_link(store, &kept)?;
    for log in ["-wal", "-shm"] {
        let with = |path: &Path| PathBuf::from(format!("{}{log}", path.display()));
        match fs::rename(with(store), with(&kept)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(kept)
}

/// Reads all of a store that nobody writes, and answers what it holds.
pub fn verify(path: &Path) -> Result<Summary, SnapshotError> {
    let connection = open(path)?;
    let damaged = |cause: String| SnapshotError::Damaged { path: path.to_owned(), cause };
    let text = inspect::check(&connection).map_err(|e| damaged(e.to_string()))?;
    if let Some(cause) = text {
        return Err(damaged(cause));
    }
    let sealed = connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [SEAL], |row| row.get::<_, Vec<u8>>(0))
        .optional()
        .map_err(|e| damaged(e.to_string()))?;
    if let Some(sealed) = sealed
        && digest(&connection).map_err(|e| damaged(e.to_string()))? != sealed
    {
        return Err(damaged("its contents are not those that were copied".to_owned()));
    }
    summary(&connection).map_err(|e| damaged(e.to_string()))
}

/// Notes in a copy what it holds: SQLite's own check does not see a value that changed.
fn seal(path: &Path) -> rusqlite::Result<()> {
    let connection = schema::open_for_writing(path)?;
    let digest = digest(&connection)?;
    connection.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", params![SEAL, digest]).map(drop)
}

fn unseal(path: &Path) -> rusqlite::Result<()> {
    schema::open_for_writing(path)?.execute("DELETE FROM meta WHERE name = ?1", [SEAL]).map(drop)
}

/// SHA-256 of every write and of the point of compaction.
fn digest(connection: &Connection) -> rusqlite::Result<Vec<u8>> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(&schema::compacted(connection)?.to_le_bytes());
    let mut statement = connection.prepare("SELECT id, key, create_revision, prev_id, value FROM log ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key = row.get_ref(1)?.as_str()?;
        let value = row.get_ref(4)?.as_blob_or_null()?;
        for number in [row.get(0)?, row.get(2)?, row.get(3)?, key.len() as i64, value.map_or(-1, |v| v.len() as i64)] {
            context.update(&number.to_le_bytes());
        }
        context.update(key.as_bytes());
        context.update(value.unwrap_or_default());
    }
    Ok(context.finish().as_ref().to_vec())
}

fn summary(connection: &Connection) -> rusqlite::Result<Summary> {
    let revision = schema::last_revision(connection)?.max(schema::compacted(connection)?);
    let keys = connection.query_row(&format!("SELECT count(*) FROM ({})", inspect::LIVE), [], |row| row.get(0))?;
    let pages = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok(Summary { revision, keys, bytes: pages("page_count")? * pages("page_size")? })
}

/// Opens a store for reading, whoever else has it open.
pub(super) fn open(path: &Path) -> Result<Connection, SnapshotError> {
    let failed = SnapshotError::at(path);
    if !path.exists() {
        return Err(failed(&"there is no such store"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| failed(&e))?;
    match schema::content(&connection).map_err(|e| failed(&e))? {
        Content::Format(found) if schema::READABLE.contains(&found) => Ok(connection),
        Content::Format(found) => Err(SnapshotError::Format { path: path.to_owned(), found, known: schema::FORMAT }),
        Content::Nothing | Content::Foreign => Err(SnapshotError::Foreign { path: path.to_owned() }),
    }
}

fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}.{ending}", path.display()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
