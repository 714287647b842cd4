//! After `kybern down` the machine is as before.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::Site;
use crate::process::output;

/// Fails and lists what is left of a cluster below `folder`.
pub(super) fn check(site: &Site) -> Result<()> {
    let folder = &site.folder;
    let mut left = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let below = format!("{}/", folder.display());
    left.extend(mounts.lines().filter(|line| line.contains(&below)).map(|line| format!("mount: {line}")));
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(link) = fs::read_link(entry.path().join("exe")) else { continue };
        // `kybern` itself, and what containers ran.
        if link == site.kybern || link.starts_with(folder) {
            left.push(format!("process {}: {}", entry.file_name().display(), link.display()));
        }
    }
    for hierarchy in ["", "memory", "cpu", "pids", "systemd", "unified", "freezer", "cpuset"] {
        let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(site.cgroup_root().trim_start_matches('/'));
        if path.exists() {
            left.push(format!("cgroup: {}", path.display()));
        }
    }
    left.extend(files(site)?.into_iter().map(|path| format!("file: {path}")));
    let netns = format!("--net={}", site.network.node_path().display());
    let node = ["nsenter", &netns, "--"];
    let links = output(&[&node[..], &["ip", "-o", "link"]].concat())?;
    left.extend(links.lines().filter(|l| !l.contains(" lo:") && !l.contains(" eth0")).map(|l| format!("link: {l}")));
    let tables = output(&[&node[..], &["nft", "list", "tables"]].concat())?;
    left.extend(tables.lines().map(|l| format!("nftables: {l}")));
    if left.is_empty() { Ok(()) } else { bail!("left behind:\n  {}", left.join("\n  ")) }
}

/// What is in the cluster's folder, but for what the test has put there: the registries, their settings, kubectl's cache.
fn files(site: &Site) -> Result<Vec<String>> {
    let own = [site.folder.join("registry"), site.home(), site.data_dir().join("registries.yaml")];
    let found = output(&["find", &site.folder.display().to_string(), "-not", "-type", "d"])?;
    let left = found.lines().filter(|path| !own.iter().any(|own| Path::new(path).starts_with(own)));
    Ok(left.map(str::to_owned).collect())
}
