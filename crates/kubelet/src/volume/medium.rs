//! What a volume lies on: the node's disk, or its memory (`pkg/volume/emptydir`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kybern_api::core::v1::PodSpec;
use kybern_linux::files;
use rustix::mount::MountFlags;

use crate::pod::resources::pod_resources;

/// Whoever a container runs as may write; a volume that may only be read is mounted so.
const MODE: u32 = 0o777;

/// How much a volume on memory may hold: its own limit and the pod's where they are less than the node's.
pub(super) fn memory_bytes(spec: &PodSpec, limit: Option<i64>, node: i64) -> i64 {
    let pod = pod_resources(spec).memory_limit_in_bytes;
    let least = |most: i64, other: i64| if 0 < other && other < most { other } else { most };
    least(least(node, pod), limit.unwrap_or(0))
}

/// Makes a volume's directory on the disk, unless it is there.
pub(super) fn disk(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    files::make_dirs(path.parent().unwrap_or(path), 0o750)?;
    files::make_dirs(path, MODE)
}

/// Mounts a volume of at most so many bytes of memory, unless that was done by an earlier run.
pub(super) fn memory(path: &Path, bytes: i64) -> io::Result<()> {
    disk(path)?;
    if is_mounted(path)? {
        return Ok(());
    }
    let mount = |more: &str| {
        let options = std::ffi::CString::new(format!("size={bytes}{more}")).unwrap_or_default();
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str()))
    };
    match mount(",noswap") {
        // Before Linux 6.4.
        Err(rustix::io::Errno::INVAL) => mount("")?,
        done => done?,
    }
    Ok(())
}

/// Whether a file system of its own is mounted here.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::symlink_metadata(path)?.dev() != fs::symlink_metadata(parent)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::{container, pod, resources};

    #[test]
    fn the_least_limit_counts() {
        let mut c = container("c");
        c.resources = Some(resources(&[], &[("memory", "100")]));
        let (limited, free) = (pod("p", vec![c]).spec.unwrap(), pod("p", vec![container("c")]).spec.unwrap());
        for (spec, limit, expect) in [
            (&free, None, 1000),
            (&free, Some(10), 10),
            (&free, Some(0), 1000),
            (&free, Some(2000), 1000),
            (&limited, None, 100),
            (&limited, Some(50), 50),
            (&limited, Some(500), 100),
        ] {
            assert_eq!(memory_bytes(spec, limit, 1000), expect, "{limit:?}");
        }
    }
}
