//! `fsGroup` for volumes that hold something already (`SetVolumeOwnership`). Other pods may be writing there meanwhile: nothing
//! is reached by a path that they could bend.

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Each level of a tree takes a descriptor.
const DEPTH_MAX: usize = 128;
const DIRECTORY: u32 = 0o2770;
const FILE: u32 = 0o660;

/// Gives what is in a directory to a group, which may then read and write it; `on_mismatch`: only where the directory itself is
/// not yet so.
pub(super) fn give(path: &Path, group: u32, on_mismatch: bool) -> io::Result<()> {
    let root = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
    let found = root.metadata()?;
    if on_mismatch && found.gid() == group && found.mode() & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    walk(&root, group, 0)
}

/// What is inside first: the directory itself says that all is done.
fn walk(dir: &File, group: u32, depth: usize) -> io::Result<()> {
    if depth == DEPTH_MAX {
        return Err(io::Error::other(format!("it has more than {DEPTH_MAX} levels of directories")));
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            match one(dir, name, group, depth) {
                // It went, or became something else: whoever did that goes on writing there.
                Err(error)
                    if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR)) => {}
                done => done?,
            }
        }
    }
    own(dir, group, DIRECTORY)
}

fn one(dir: &File, name: &CStr, group: u32, depth: usize) -> io::Result<()> {
    let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let open = |more: OFlags| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
        rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from)
    };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => walk(&open(OFlags::DIRECTORY)?, group, depth + 1),
        FileType::RegularFile => own(&open(OFlags::empty())?, group, FILE),
        // Links, sockets and pipes: of those the mode says little, or nothing.
        _ => {
            let parent = format!("/proc/self/fd/{}", dir.as_raw_fd());
            let path = Path::new(&parent).join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            std::os::unix::fs::lchown(path, None, Some(group))
        }
    }
}

fn own(file: &File, group: u32, mask: u32) -> io::Result<()> {
    let found = file.metadata()?;
    let mode = (found.mode() & 0o7777) | mask;
    if found.gid() != group {
        std::os::unix::fs::fchown(file, None, Some(group))?;
    }
    if file.metadata()?.mode() & 0o7777 != mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn all_that_is_in_it_and_nothing_behind_a_link() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (volume, outside) = (temp.path().join("v"), temp.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        for file in [volume.join("a/b/file"), outside.join("file")] {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, volume.join("dir")).unwrap();
        symlink(outside.join("file"), volume.join("link")).unwrap();
        let seen = |path: &Path| fs::symlink_metadata(path).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
        let before = (seen(&outside), seen(&outside.join("file")));
        give(&volume, 2000, false).unwrap();
        assert_eq!(seen(&volume.join("a/b/file")), (2000, 0o660));
        assert_eq!(seen(&volume.join("a/b")).1 & DIRECTORY, DIRECTORY);
        assert_eq!(seen(&volume).0, 2000);
        assert_eq!(seen(&volume.join("link")).0, 2000);
        assert_eq!((seen(&outside), seen(&outside.join("file"))), before);
        // With the root as it should be nothing below is looked at.
        fs::write(volume.join("new"), "").unwrap();
        std::os::unix::fs::chown(volume.join("new"), None, Some(0)).unwrap();
        give(&volume, 2000, true).unwrap();
        assert_eq!(seen(&volume.join("new")).0, 0);
        give(&volume, 2000, false).unwrap();
        assert_eq!(seen(&volume.join("new")).0, 2000);
    }
}
