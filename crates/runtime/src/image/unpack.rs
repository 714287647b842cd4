//! Layers to snapshots. A layer is unpacked by a thread whose root is the overlay of the layers below it, so that the
//! kernel does what a tar archive means: a link is followed within the image and never out of it, a directory that the
//! archive only implies keeps the owner and mode it had below, and what is deleted becomes a whiteout.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kybern_linux::{files, process};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use tar::EntryType;

use super::bounds::{BOUNDS, Budget};
use super::install::missing;
use super::manifest::digest_text;
use super::store::{ImageStore, StoreError, snapshot_files};
use crate::disk;

/// The name of the snapshot of a chain of layers.
pub(super) fn snapshot_name(chain_id: &str) -> String {
    // Short, since the kernel takes one page for the names of all layers; 96 bits do not collide.
    chain_id.trim_start_matches("sha256:").chars().take(24).collect()
}

impl ImageStore {
    /// Unpacks the layer in `blob` on top of the snapshots `below` (topmost first) as the snapshot `name`, unless that was
    /// done before. Its contents must have the digest `diff_id`. Blocks.
    pub(super) fn unpack(&self, blob: &Path, diff_id: &str, name: &str, below: &[String]) -> Result<(), StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let target = self.snapshots_dir().join(name);
        if target.exists() {
            return Ok(());
        }
        let archive = File::open(blob).map_err(|error| missing(error, blob))?;
        let unique = format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let scratch = self.ingest_dir().join(unique);
        let made =
            ["snapshot/fs", "work", "root"].iter().try_for_each(|dir| disk::make_dirs(&scratch.join(dir), 0o755));
        if let Err(error) = made {
            disk::remove_all(&scratch)?;
            return Err(error.into());
        }
        let layers: Vec<String> = below.iter().map(|layer| snapshot_files(layer)).collect();
        let layers_dir = self.snapshots_dir();
        let worker = scratch.clone();
        // The thread's changed root ends with it.
        let thread = std::thread::Builder::new().name("unpack".into()).spawn(move || -> io::Result<String> {
            enter(&worker, &layers_dir, &layers)?;
            extract(archive)
        })?;
        let found = thread.join().unwrap_or_else(|_| Err(io::Error::other("unpacking failed")));
        let outcome = found.map_err(StoreError::from).and_then(|found| {
            if found == diff_id {
                Ok(())
            } else {
                Err(StoreError::Invalid(format!(
                    "layer has the digest {found} when unpacked, but its image says {diff_id}"
                )))
            }
        });
        let outcome = outcome.and_then(|()| match fs::rename(scratch.join("snapshot"), &target) {
            // Another pull was faster.
            Err(_) if target.exists() => Ok(()),
            other => Ok(other?),
        });
        disk::remove_all(&scratch)?;
        outcome
    }
}

/// Makes the layer's directory, on top of the others, this thread's root.
fn enter(scratch: &Path, layers_dir: &Path, layers: &[String]) -> io::Result<()> {
    let fs = scratch.join("snapshot/fs");
    if layers.is_empty() {
        process::unshare_directory()?;
        rustix::process::chroot(&fs)?;
    } else {
        process::unshare(process::CLONE_NEWNS)?;
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        std::env::set_current_dir(layers_dir)?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off",
            layers.join(":"),
            fs.display(),
            scratch.join("work").display()
        );
        let options = std::ffi::CString::new(options)?;
        let root = scratch.join("root");
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
        rustix::process::chroot(&root)?;
    }
    std::env::set_current_dir("/")
}

/// Hashes what passes through.
struct Hashing<R> {
    inner: R,
    hash: ring::digest::Context,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

/// A reader of the contents of a possibly compressed stream, which its first bytes tell.
pub(super) fn decompress(file: File) -> io::Result<Box<dyn Read>> {
    use io::{BufRead, Seek};
    let mut reader = BufReader::with_capacity(1 << 17, file);
    let head = reader.fill_buf()?;
    let (gzip, zstd) = (head.starts_with(&[0x1f, 0x8b]), head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    reader.rewind()?;
    Ok(match (gzip, zstd) {
        (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        (_, true) => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        _ => Box::new(reader),
    })
}

/// Unpacks an archive into `/`, this thread's own. Answers the digest of the uncompressed archive.
fn extract(archive: File) -> io::Result<String> {
    let compressed = archive.metadata()?.len();
    let (mut budget, bounded) = Budget::new(decompress(archive)?, compressed, BOUNDS);
    let hashing = Hashing { inner: bounded, hash: ring::digest::Context::new(&ring::digest::SHA256) };
    let mut archive = tar::Archive::new(hashing);
    let mut unpacked = HashSet::new();
    let mut directories: Vec<(PathBuf, u64)> = Vec::new();
    let mut entries = archive.entries()?;
    loop {
        budget.header();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        let path = clean(&entry.path_bytes())?;
        budget.entry(&path)?;
        match whiteout(&path)? {
            Some(Whiteout::Opaque(dir)) => clear(&dir, &unpacked)?,
            Some(Whiteout::File(file)) => disk::remove_all(&file)?,
            None => {
                make(&mut entry, &path, &mut budget).map_err(|error| disk::named(error, &path))?;
                if entry.header().entry_type().is_dir() {
                    directories.push((path.clone(), entry.header().mtime().unwrap_or(0)));
                }
                unpacked.insert(path);
            }
        }
        // Whatever an entry says that it holds is behind it before the next header.
        io::copy(&mut entry, &mut io::sink())?;
    }
    budget.finished();
    // Times last: what is made in a directory changes the directory's.
    for (path, mtime) in directories.iter().rev() {
        set_mtime(path, *mtime)?;
    }
    // The padding after the archive's end belongs to its digest.
    let mut hashing = archive.into_inner();
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(digest_text(hashing.hash.finish().as_ref()))
}

/// An archive's name as a path from `/`. Names that climb are refused; the changed root would stop them, but they are
/// never meant well.
fn clean(name: &[u8]) -> io::Result<PathBuf> {
    let mut path = PathBuf::from("/");
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => {
                let name = String::from_utf8_lossy(name);
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("layer has a path with \"..\": {name}"),
                ));
            }
            _ => {}
        }
    }
    Ok(path)
}

#[derive(Debug, PartialEq, Eq)]
enum Whiteout {
    /// This path of the layers below is gone.
    File(PathBuf),
    /// Everything in this directory that comes from the layers below is gone.
    Opaque(PathBuf),
}

/// What a name says about the layers below (OCI image spec, "Whiteouts").
fn whiteout(path: &Path) -> io::Result<Option<Whiteout>> {
    let hidden = path.file_name().and_then(|name| name.as_bytes().strip_prefix(b".wh."));
    let (Some(hidden), Some(dir)) = (hidden, path.parent()) else { return Ok(None) };
    Ok(Some(match hidden {
        b".wh..opq" => Whiteout::Opaque(dir.to_path_buf()),
        // Would remove the directory itself, or the one above.
        b"" | b"." | b".." => {
            let text = format!("layer has a whiteout that hides nothing: {}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // Other names of this form are aufs' own and mean nothing.
        _ if hidden.starts_with(b".wh.") => Whiteout::File(dir.join(OsStr::from_bytes(b".wh..wh.aufs"))),
        _ => Whiteout::File(dir.join(OsStr::from_bytes(hidden))),
    }))
}

/// Removes what a directory holds from the layers below, and keeps what this layer has put there already.
fn clear(dir: &Path, unpacked: &HashSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if !unpacked.contains(&path) {
            disk::remove_all(&path)?;
        } else if path.is_dir() && !path.is_symlink() {
            clear(&path, unpacked)?;
        }
    }
    Ok(())
}

fn make(entry: &mut tar::Entry<'_, impl Read>, path: &Path, budget: &mut Budget) -> io::Result<()> {
    let kind = entry.header().entry_type();
    let known = matches!(
        kind,
        EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    );
    if !known {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        budget.made(parent.components().count() as u64)?;
        files::make_dirs(parent, 0o755)?;
    }
    let existing = fs::symlink_metadata(path).ok();
    let merges = kind.is_dir() && existing.as_ref().is_some_and(fs::Metadata::is_dir);
    if existing.is_some() && !merges {
        disk::remove_all(path)?;
    }
    let mode = entry.header().mode()? & 0o7777;
    let mtime = entry.header().mtime().unwrap_or(0);
    match kind {
        EntryType::Directory if merges => {}
        EntryType::Directory => fs::create_dir(path)?,
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
            std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?;
        }
        EntryType::Link => {
            let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
            // Owner and mode are those of the file it names.
            return fs::hard_link(clean(&target)?, path);
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let file_type = match kind {
                EntryType::Char => FileType::CharacterDevice,
                EntryType::Block => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            let number = |part: io::Result<Option<u32>>| Ok::<_, io::Error>(part?.unwrap_or(0));
            let device =
                rustix::fs::makedev(number(entry.header().device_major())?, number(entry.header().device_minor())?);
            rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(mode), device)?;
        }
        _ => {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
            budget.file(entry.size(), Path::new("/"))?;
            io::copy(entry, &mut file)?;
        }
    }
    let old = entry.header().as_old();
    let (uid, gid) = (owner(&old.uid, entry.header().uid())?, owner(&old.gid, entry.header().gid())?);
    let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        // After the owner, whose change clears setuid.
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    }
    set_attributes(entry, path)?;
    if !kind.is_dir() {
        set_mtime(path, mtime)?;
    }
    Ok(())
}

/// An owner's number; a blank field is zero, as Go reads it.
fn owner(field: &[u8], parsed: io::Result<u64>) -> io::Result<u32> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    u32::try_from(parsed?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "owner out of range"))
}

/// Extended attributes, as GNU tar and Go write them.
fn set_attributes(entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
        // The overlay's own would change what other layers mean.
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        match rustix::fs::lsetxattr(path, OsStr::from_bytes(name), extension.value_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn set_mtime(path: &Path, seconds: u64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds.min(i64::MAX as u64) as i64, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        // Replaced by a later entry.
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_from_the_root() {
        for (name, expect) in [("./a/b", "/a/b"), ("/etc//passwd", "/etc/passwd"), ("./", "/"), ("a/./b/", "/a/b")] {
            assert_eq!(clean(name.as_bytes()).unwrap(), Path::new(expect), "{name}");
        }
        assert!(clean(b"a/../../etc/passwd").is_err());
    }

    #[test]
    fn whiteouts() {
        let check = |path: &str, expect| assert_eq!(whiteout(Path::new(path)).unwrap(), expect, "{path}");
        check("/a/b", None);
        check("/a/.wh.b", Some(Whiteout::File("/a/b".into())));
        check("/a/.wh..wh..opq", Some(Whiteout::Opaque("/a".into())));
        check("/a/.whale", None);
        check("/", None);
        for bad in ["/a/.wh.", "/a/.wh..", "/.wh..."] {
            assert!(whiteout(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
