//! Files that are whole at any instant: written beside their place and renamed into it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use kybern_linux::files;
use kybern_linux::remove::{Mounts, remove_tree};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replaces `path` by `bytes`, readable by its owner only. `durable` also puts it on disk before it returns. When it fails,
/// `path` is as before, and nothing lies beside it.
pub(crate) fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let beside = path.with_extension("new");
    let written = write_new(&beside, bytes, durable).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&beside);
        return Err(named(error, path));
    }
    if durable && let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let mut file = files::create(path, 0o600)?;
    file.write_all(bytes)?;
    if durable { file.sync_all() } else { Ok(()) }
}

/// [`replace`] with the JSON of `value`, without waiting for the disk.
pub(crate) fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?, false)
}

/// Reads JSON; the error names the file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = fs::read(path).map_err(|error| named(error, path))?;
    serde_json::from_slice(&bytes).map_err(|error| named(error.into(), path))
}

/// Adds the path to an error that lacks it.
pub(crate) fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a directory and those above it that are missing, with this mode; the error names the directory.
pub(crate) fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    files::make_dirs(path, mode).map_err(|error| named(error, path))
}

/// Removes a tree or file; succeeds when there is none.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    remove_tree(path, Mounts::Refuse).map_err(|error| named(error, path))
}
