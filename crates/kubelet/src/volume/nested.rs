//! Places for what is mounted inside a volume that may only be read: the runtime could not make them
//! (`pkg/volume/util/nested_volumes.go`).

use std::path::{Component, Path, PathBuf};

use kybern_api::core::v1::{Pod, Volume};
use kybern_linux::files;

use super::atomic;
use crate::pod::spec;

/// Makes the directories in `dir`, the volume's, on which containers mount other volumes.
pub(super) fn make(pod: &Pod, volume: &Volume, dir: &Path) -> Result<(), String> {
    for place in places(pod, &volume.name)? {
        let path = dir.join(place);
        files::make_dirs(&path, 0o755)
            .map_err(|e| format!("unable to create nested volume mountpoints: {}: {e}", path.display()))?;
    }
    Ok(())
}

/// Where in the volume something is mounted, relative to it; of what is mounted inside that, only the outermost.
fn places(pod: &Pod, volume: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for (_, container) in spec::containers(pod) {
        let mut all = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let path = clean(&mount.mount_path)
                .ok_or_else(|| format!("invalid container mount point {}", mount.mount_path))?;
            all.push((mount.name.as_str(), path));
        }
        all.sort_by(|a, b| a.1.cmp(&b.1));
        for (_, own) in all.iter().filter(|(name, _)| *name == volume) {
            let mut outer: Option<&Path> = None;
            for (_, path) in &all {
                let Ok(inside) = path.strip_prefix(own) else { continue };
                if inside.as_os_str().is_empty() || outer.is_some_and(|outer| path.starts_with(outer)) {
                    continue;
                }
                let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
                if first.is_some_and(|first| atomic::is_own(&first)) {
                    return Err(format!(
                        "invalid container mount point {}: the name is the volume's own",
                        path.display()
                    ));
                }
                outer = Some(path);
                found.push(inside.to_owned());
            }
        }
    }
    Ok(found)
}

/// A path within a container's root, without dots; `None` for one that climbs.
fn clean(path: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return None,
            _ => {}
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::VolumeMount;

    use super::*;
    use crate::pod::testing::{container, pod};

    #[test]
    fn the_outermost_places() {
        let found = |paths: &[(&str, &str)]| {
            let mut c = container("c");
            let mount = |(name, path): &(&str, &str)| VolumeMount {
                name: (*name).into(),
                mount_path: (*path).into(),
                ..Default::default()
            };
            c.volume_mounts = Some(paths.iter().map(mount).collect());
            places(&pod("p", vec![c]), "v")
                .map(|found| found.into_iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(found(&[("v", "/dir/"), ("a", "/dir/nested/other"), ("b", "/dir/nested")]).unwrap(), "nested");
        let beside =
            [("v", "/dir"), ("a", "/dir/nested"), ("b", "/dir/nested-vol"), ("c", "/dir/nested/x"), ("d", "/dir2")];
        assert_eq!(found(&beside).unwrap(), "nested nested-vol");
        assert_eq!(found(&[("a", "/dir"), ("b", "/dir/in")]).unwrap(), "");
        assert_eq!(found(&[("v", "dir"), ("v", "/dir/v"), ("a", "/dir/v/w")]).unwrap(), "v w");
        assert!(found(&[("v", "/dir"), ("a", "/dir/..data/x")]).is_err());
        assert!(found(&[("v", "/dir"), ("a", "/dir/..123")]).is_err());
        assert!(found(&[("v", "/dir"), ("a", "/dir/../x")]).is_err());
    }
}
