//! Removing everything: what `kybern down` does when no runtime is running any more.

use std::io;

use kybern_linux::cgroup::Cgroups;
use kybern_linux::mount;
use kybern_linux::netns::NetNs;
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
        let dir = config.sandboxes_dir().join(sandbox);
        kill_shim(&dir);
        for container in image::names(&dir.join(CONTAINERS))? {
            if let Some(group) = cgroup_of(&dir.join(CONTAINERS).join(container)) {
                keep_first(cgroups.kill(&group, Signal::KILL.as_raw()));
                keep_first(cgroups.remove(&group));
            }
        }
        keep_first(mount::detach_below(&dir));
        keep_first(disk::remove_all(&dir));
    }
    for name in image::names(&config.netns_dir)? {
        keep_first(NetNs::remove(&config.netns_dir.join(name)));
    }
    keep_first(disk::remove_all(&config.containers_dir()));
    result
}
