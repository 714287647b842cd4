//! Makes and removes the volumes of one pod on disk. Blocking; the driver calls it off the event loop.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kybern_api::core::v1::{Pod, Volume};
use kybern_apimachinery::quantity::Quantity;
use kybern_linux::files;
use kybern_linux::mount::parse_mountinfo;
use rustix::mount::UnmountFlags;

use super::payload::Payload;
use super::{atomic, hostpath, medium, nested, on_memory, plugin, pod_dir, volume_path};
use crate::pod::spec;

/// Makes a volume: its directory, its files where it has any, and its group. `node_memory` is what the node's pods may use.
pub fn set_up(
    root: &Path,
    pod: &Pod,
    volume: &Volume,
    payload: Option<&Payload>,
    node_memory: i64,
    stamp: &str,
) -> Result<(), String> {
    let failed = |cause: String| format!("MountVolume.SetUp failed for volume {:?} : {cause}", volume.name);
    if plugin(volume).is_none() {
        return Err(failed("no volume plugin matched: this kind of volume is not supported by the node".into()));
    }
    let path = volume_path(root, spec::uid(pod), volume).unwrap_or_default();
    if let Some(host) = &volume.host_path {
        return hostpath::prepare(&path, host.type_.as_deref().unwrap_or("")).map_err(failed);
    }
    let context = spec::spec(pod).security_context.clone().unwrap_or_default();
    let group = context.fs_group.and_then(|g| u32::try_from(g).ok());
    let limit = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref());
    let limit = limit.and_then(|q| Quantity::parse(&q.0).ok()).map(|q| q.value());
    let on_memory =
        on_memory(volume) || volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"));
    if on_memory {
        medium::memory(&path, medium::memory_bytes(spec::spec(pod), limit, node_memory))
    } else {
        medium::disk(&path)
    }
    .map_err(|e| failed(e.to_string()))?;
    match payload {
        Some(payload) => {
            nested::make(pod, volume, &path).map_err(failed)?;
            atomic::write(&path, payload, group, stamp).map(drop).map_err(|e| failed(e.to_string()))
        }
        None => {
            let on_mismatch = context.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
            take_over(&path, group, on_mismatch).map_err(|e| failed(e.to_string()))
        }
    }
}

fn take_over(path: &Path, group: Option<u32>, on_mismatch: bool) -> io::Result<()> {
    match group {
        Some(group) if on_mismatch && owned_by(path, group)? => Ok(()),
        Some(group) => set_group(path, group),
        None => Ok(()),
    }
}

fn owned_by(path: &Path, group: u32) -> io::Result<bool> {
    let meta = fs::symlink_metadata(path)?;
    Ok(meta.gid() == group && meta.mode() & 0o2000 != 0)
}

/// `SetVolumeOwnership`: everything belongs to the group, which may read and write it; links are not followed.
fn set_group(path: &Path, group: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    std::os::unix::fs::lchown(path, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let added = if meta.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode((meta.mode() & 0o7777) | added))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            set_group(&entry?.path(), group)?;
        }
    }
    Ok(())
}

/// The mount points at and beneath a path, deepest first.
fn mounts_beneath(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let entries = parse_mountinfo(&table).into_iter().map(|entry| PathBuf::from(entry.mount_point));
    let mut found: Vec<PathBuf> = entries.filter(|mount| mount.starts_with(path)).collect();
    found.sort_by_key(|mount| std::cmp::Reverse(mount.components().count()));
    Ok(found)
}

/// Unmounts all that a pod has mounted.
pub fn unmount_all(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    for mount in mounts_beneath(&dir)? {
        rustix::mount::unmount(&mount, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// Unmounts and removes a pod's volumes; its last words stay for its status.
pub fn remove_volumes(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    unmount_all(root, uid)?;
    for part in ["volumes", "volume-subpaths"] {
        remove_tree(&dir.join(part))?;
    }
    Ok(())
}

/// Removes a directory in which nothing is mounted.
fn remove_tree(dir: &Path) -> io::Result<()> {
    if let Some(left) = mounts_beneath(dir)?.first() {
        return Err(io::Error::other(format!("{} is still mounted; not removing {}", left.display(), dir.display())));
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes a pod's directory. Refuses while anything is mounted in it, so that what is mounted is never deleted.
pub fn remove_pod_dir(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    unmount_all(root, uid)?;
    remove_tree(&dir)
}

/// Makes the directories that every pod has.
pub fn make_pod_dirs(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    for part in ["volumes", "containers"] {
        files::make_dirs(&dir.join(part), 0o750)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::EmptyDirVolumeSource;

    use super::*;
    use crate::pod::testing::pod;

    #[test]
    fn an_empty_dir_is_open_to_all_and_goes_with_the_pod() {
        let temp = tempfile::tempdir().unwrap();
        let pod = pod("p", vec![]);
        let volume =
            Volume { name: "v".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Default::default() };
        make_pod_dirs(temp.path(), "p-uid").unwrap();
        set_up(temp.path(), &pod, &volume, None, 1 << 30, "1").unwrap();
        let path = temp.path().join("pods/p-uid/volumes/kubernetes.io~empty-dir/v");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
        fs::write(path.join("x"), "").unwrap();
        set_up(temp.path(), &pod, &volume, None, 1 << 30, "2").unwrap();
        assert!(path.join("x").exists());
        remove_pod_dir(temp.path(), "p-uid").unwrap();
        remove_pod_dir(temp.path(), "p-uid").unwrap();
        assert!(!temp.path().join("pods/p-uid").exists());
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let volume = Volume { name: "v".into(), ..Default::default() };
        let error = set_up(Path::new("/nonexistent"), &pod("p", vec![]), &volume, None, 1 << 30, "1").unwrap_err();
        assert!(error.starts_with("MountVolume.SetUp failed for volume \"v\" : no volume plugin matched"), "{error}");
    }
}
