//! Watching a directory for files that come, go or are rewritten: how a mounted ConfigMap is seen to change.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// An editor, and a mounted ConfigMap, change a file in several steps: they are taken together.
const SETTLE: Duration = Duration::from_millis(100);

/// Waits for a file to change, be it rewritten or replaced.
#[derive(Debug)]
pub struct FileChanges(AsyncFd<DirectoryWatch>);

impl FileChanges {
    /// From now on: whoever reads the file after this misses nothing. Must be called within a tokio runtime.
    // Its replacement is unsafe because a descriptor might be closed early; a `DirectoryWatch` owns its own.
    #[allow(deprecated)]
    pub fn of(file: &Path) -> io::Result<Self> {
        let directory = file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self(AsyncFd::new(DirectoryWatch::new(directory)?)?))
    }

    /// Something in the file's directory has changed; whether the file has is for the caller to find out.
    pub async fn next(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        tokio::time::sleep(SETTLE).await;
        self.0.get_ref().drain()?;
        ready.clear_ready();
        Ok(())
    }
}

/// A watch on one directory. Its descriptor is readable when something has changed.
#[derive(Debug)]
pub struct DirectoryWatch(OwnedFd);

impl DirectoryWatch {
    pub fn new(directory: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, flags)?;
        Ok(Self(fd))
    }

    /// Takes all pending events; what exactly has changed is for the caller to find out.
    pub fn drain(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for DirectoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for DirectoryWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_makes_it_readable() {
        let directory = std::env::temp_dir().join(format!("kybern-inotify-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let watch = DirectoryWatch::new(&directory).unwrap();
        let readable = || {
            let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!readable());
        std::fs::write(directory.join("a"), "x").unwrap();
        assert!(readable());
        watch.drain().unwrap();
        assert!(!readable());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
