//! Makes and removes the volumes of one pod on disk. Blocking; the driver calls it off the event loop.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use kybern_api::core::v1::{Pod, Volume};
use kybern_apimachinery::quantity::Quantity;
use kybern_linux::files;
use kybern_linux::remove::{Mounts, remove_tree};

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
        None => group.map_or(Ok(()), |group| take_over(&path, group)).map_err(|e| failed(e.to_string())),
    }
}

/// `SetVolumeOwnership` of a volume that is empty at first: what is made in it belongs to the group, which may read and write
/// it. Only the directory is touched: what is in it is a running container's, which may put links in the way.
fn take_over(path: &Path, group: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.gid() == group && meta.mode() & 0o2000 != 0 {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, None, Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode((meta.mode() & 0o7777) | 0o2770))
}

/// Takes off what is mounted in a directory, and removes it: never into what is mounted, and however deep pods have filled it.
fn remove(dir: &Path) -> io::Result<()> {
    remove_tree(dir, Mounts::Detach)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot remove {}: {error}", dir.display())))
}

/// Removes a pod's volumes; its last words stay for its status.
pub fn remove_volumes(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    ["volume-subpaths", "volumes"].iter().try_for_each(|part| remove(&dir.join(part)))
}

/// Removes a pod's directory, and nothing of what is mounted in it.
pub fn remove_pod_dir(root: &Path, uid: &str) -> io::Result<()> {
    remove(&pod_dir(root, uid))
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
