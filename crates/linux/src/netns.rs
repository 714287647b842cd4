//! Network namespaces: naming one by a bind mount, entering one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// An open network namespace. It lives at least as long as this handle.
#[derive(Debug)]
pub struct NetNs(File);

impl NetNs {
    /// Opens the namespace that `path` names (`/run/netns/x`, `/proc/1/ns/net`).
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// The calling thread's own namespace.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Makes a new namespace and names it `path` (an empty file is made there and the namespace mounted on it). The loopback
    /// link is down. Fails if `path` exists.
    pub fn create(path: &Path) -> io::Result<Self> {
        File::options().write(true).create_new(true).open(path)?;
        let made = on_new_thread(|| {
            unshare_net()?;
            rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?;
            Ok(())
        });
        if let Err(error) = made {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Self::open(path)
    }

    /// Removes the name `path`. The namespace itself goes when its last user goes. Succeeds if there is none.
    pub fn remove(path: &Path) -> io::Result<()> {
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs `work` on a thread of its own inside this namespace. What `work` opens (sockets) stays in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_new_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })
    }

    /// The namespace's identity: two handles with the same are the same namespace.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.ino())
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[allow(unsafe_code)]
fn unshare_net() -> io::Result<()> {
    // SAFETY: leaving the network namespace shares no memory or file table that other code relies on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// Runs `work` on a thread of its own in a new namespace, which goes when the thread and what `work` opened are gone.
pub fn in_new<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_new_thread(|| {
        unshare_net()?;
        work()
    })
}

fn on_new_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".into())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("panicked inside the network namespace")))
    })
}
