//! Removing trees that others have filled: however deep they are, without following a link, and never into what is mounted.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat2, renameat, unlinkat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// So deep the removal goes down, with a descriptor and a piece of stack for each level. What is deeper is moved up first.
const DEPTH_MAX: usize = 32;

/// How often a place is tried that others may be filling or mounting on meanwhile.
const ATTEMPTS_MAX: usize = 64;

/// What is to be done about mounts in a tree that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// Nothing is removed there, and the removal fails.
    Refuse,
    /// They are taken off. What they show stays where it is.
    Detach,
}

/// Removes a file or a tree. Succeeds where there is none.
pub fn remove_tree(path: &Path, mounts: Mounts) -> io::Result<()> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} cannot be removed", path.display()));
    let name = path.file_name().ok_or_else(invalid)?;
    let name = std::ffi::CString::new(name.as_bytes())?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    Removal { mounts, top: None, moved: 0 }.remove(parent.as_fd(), &name, 0)
}

struct Removal {
    mounts: Mounts,
    /// The tree itself: where what is too deep is moved to.
    top: Option<OwnedFd>,
    moved: u64,
}

impl Removal {
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        let mut attempts = 0;
        while attempts < ATTEMPTS_MAX {
            attempts += 1;
            match unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(Errno::BUSY) => {
                    self.uncover(parent, name)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(Errno::BUSY) => {
                    self.uncover(parent, name)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if depth == DEPTH_MAX {
                match self.move_up(parent, name) {
                    Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                        self.uncover(parent, name)?;
                        continue;
                    }
                    done => return done,
                }
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = match openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::XDEV) => {
                    self.uncover(parent, name)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let moved = self.moved;
            self.clear(dir, depth)?;
            if self.moved > moved {
                // There is more of the tree than was seen.
                attempts = 0;
            }
        }
        Err(io::Error::other(format!("{} fills again while it is removed", shown(parent, name).display())))
    }

    /// Removes what is in a directory.
    fn clear(&mut self, dir: OwnedFd, depth: usize) -> io::Result<()> {
        if depth == 0 {
            self.top = Some(dir.try_clone()?);
        }
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.remove(dir.as_fd(), entry.file_name(), depth + 1)?;
            }
        }
        Ok(())
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let Some(top) = &self.top else { return Err(io::ErrorKind::NotFound.into()) };
        loop {
            self.moved += 1;
            match renameat(parent, name, top, format!(".removed-{}-{}", std::process::id(), self.moved)) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                done => return Ok(done?),
            }
        }
    }

    /// Takes off what is mounted there.
    fn uncover(&self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        if self.mounts == Mounts::Refuse {
            let shown = shown(parent, name);
            return Err(io::Error::other(format!("{} is mounted; it is not removed", shown.display())));
        }
        let mut place = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        place.extend(name.to_bytes());
        Ok(rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
    }
}

/// The path, as far as it can be told.
fn shown(parent: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let parent = std::fs::read_link(format!("/proc/self/fd/{}", parent.as_raw_fd())).unwrap_or_default();
    parent.join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes directories in each other, deeper than any path can be.
    fn dig(top: &Path, depth: usize) {
        std::fs::create_dir_all(top).unwrap();
        let open = |parent: BorrowedFd<'_>, name: &str| {
            rustix::fs::openat(parent, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
        };
        let mut dir = rustix::fs::open(top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = open(dir.as_fd(), "d");
        }
        rustix::fs::mkdirat(&dir, "last", Mode::RWXU).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_any_stack() {
        let dir = std::env::temp_dir().join(format!("kybern-remove-{}", std::process::id()));
        dig(&dir.join("a"), 5_000);
        dig(&dir.join("b"), 100);
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let removed = small.spawn({
            let dir = dir.clone();
            move || remove_tree(&dir, Mounts::Refuse)
        });
        removed.unwrap().join().unwrap().unwrap();
        assert!(!dir.exists());
        remove_tree(&dir, Mounts::Refuse).unwrap();
        remove_tree(&dir.join("a/b"), Mounts::Refuse).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = std::env::temp_dir().join(format!("kybern-remove-links-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("tree/sub")).unwrap();
        std::fs::create_dir_all(dir.join("kept")).unwrap();
        std::fs::write(dir.join("kept/file"), "x").unwrap();
        for link in ["tree/link", "tree/sub/link"] {
            std::os::unix::fs::symlink(dir.join("kept"), dir.join(link)).unwrap();
        }
        (0..3000).for_each(|i| std::fs::write(dir.join(format!("tree/{i}")), "").unwrap());
        std::os::unix::fs::symlink(dir.join("kept"), dir.join("itself")).unwrap();
        remove_tree(&dir.join("itself"), Mounts::Refuse).unwrap();
        remove_tree(&dir.join("tree"), Mounts::Refuse).unwrap();
        assert!(!dir.join("tree").exists() && !dir.join("itself").is_symlink() && dir.join("kept/file").exists());
        remove_tree(&dir, Mounts::Refuse).unwrap();
    }

    #[test]
    fn mounts_are_refused_or_taken_off_and_never_emptied() {
        if !rustix::process::geteuid().is_root() {
            return kybern_testbed::not_run("mounts_are_refused_or_taken_off_and_never_emptied", "it needs root");
        }
        let dir = std::env::temp_dir().join(format!("kybern-remove-mounts-{}", std::process::id()));
        let (tree, kept) = (dir.join("tree"), dir.join("kept"));
        for made in [tree.join("x/dir"), kept.clone()] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(kept.join("file"), "x").unwrap();
        std::fs::write(tree.join("x/file"), "").unwrap();
        let bind = |from: &Path, to: &Path| rustix::mount::mount_bind(from, to).unwrap();
        bind(&kept, &tree.join("x/dir"));
        bind(&kept, &tree.join("x/dir"));
        bind(&kept.join("file"), &tree.join("x/file"));
        let refused = remove_tree(&tree, Mounts::Refuse).unwrap_err().to_string();
        assert!(refused.contains("tree/x/") && refused.ends_with("is mounted; it is not removed"), "{refused}");
        remove_tree(&tree, Mounts::Detach).unwrap();
        assert!(!tree.exists());
        assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "x");
        bind(&kept, &kept);
        remove_tree(&kept, Mounts::Refuse).unwrap_err();
        assert!(kept.join("file").exists());
        rustix::mount::unmount(&kept, UnmountFlags::DETACH).unwrap();
        remove_tree(&dir, Mounts::Refuse).unwrap();
    }
}
