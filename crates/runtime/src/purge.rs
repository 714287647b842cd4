//! Removing everything: what `kybern down` does when no runtime is running any more.

use std::io;
use std::path::Path;

use kybern_linux::cgroup::Cgroups;
use kybern_linux::netns::NetNs;
use kybern_linux::remove::{Mounts, remove_tree};
use rustix::process::Signal;

use crate::container::cgroup_of;
use crate::sandbox::kill_shim;
use crate::shim::CONTAINERS;
use crate::{Config, disk, image};

/// Kills every shim and container of a state directory, and removes their mounts, network namespaces, control groups and
/// files. Images stay. The network's own traces (addresses, rules) are the network's to remove. Blocks; idempotent.
///
/// # Errors
/// Of what could not be removed the first; the rest is tried all the same.
pub fn purge(config: &Config) -> io::Result<()> {
    let cgroups = Cgroups::detect()?;
    let mut result = Ok(());
    let mut keep_first = |outcome: io::Result<()>| {
        if result.is_ok() {
            result = outcome;
        }
    };
    for sandbox in image::names(&config.sandboxes_dir())? {
        keep_first(purge_sandbox(&cgroups, &config.sandboxes_dir().join(sandbox)));
    }
    for name in image::names(&config.netns_dir)? {
        keep_first(NetNs::remove(&config.netns_dir.join(name)));
    }
    keep_first(disk::remove_all(&config.containers_dir()));
    result
}

/// Kills what runs of the sandbox in a directory, and removes its mounts, control groups and files.
pub(crate) fn purge_sandbox(cgroups: &Cgroups, dir: &Path) -> io::Result<()> {
    kill_shim(dir);
    let mut result = Ok(());
    for container in image::names(&dir.join(CONTAINERS))? {
        if let Some(group) = cgroup_of(&dir.join(CONTAINERS).join(container)) {
            let gone = cgroups.kill(&group, Signal::KILL.as_raw()).and_then(|()| cgroups.remove(&group));
            result = result.and(gone);
        }
    }
    let removed = remove_tree(dir, Mounts::Detach).map_err(|error| disk::named(error, dir));
    result.and(removed)
}
