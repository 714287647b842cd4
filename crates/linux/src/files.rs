//! Files and directories that have the mode they are meant to have, whatever umask the process was started with. All that
//! Kybern makes for others to see is made here.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The umask of every process of Kybern's, and that of containers.
const UMASK: u32 = 0o022;

/// Gives this process the usual umask, in place of the one that it was started with. What is made past this module then is
/// writable by its owner alone.
pub fn set_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
}

/// Runs `work` with no umask, in a process of one thread: for device nodes, whose mode is the caller's.
pub fn without_umask<T>(work: impl FnOnce() -> T) -> T {
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let done = work();
    rustix::process::umask(before);
    done
}

/// Makes a directory and those above it that are missing, each with this mode. Those that are there stay as they are.
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    match make_dir(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    make_dirs(parent, mode)?;
    make_dir(path, mode)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens an empty file for writing, made or emptied, with this mode.
pub fn create(path: &Path, mode: u32) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Opens a file for appending. A new one has this mode; one that is there keeps its own.
pub fn append(path: &Path, mode: u32) -> io::Result<File> {
    match File::options().append(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file.set_permissions(Permissions::from_mode(mode)).map(|()| file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().append(true).create(true).mode(mode).open(path)
        }
        Err(error) => Err(error),
    }
}

/// Writes a file's whole content; it has this mode before it holds anything.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> io::Result<()> {
    create(path, mode)?.write_all(bytes.as_ref())
}
