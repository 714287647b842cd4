//! `subPath` without a race: the path is opened beneath the volume, following no link out of it, and the open file is
//! what gets mounted (`pkg/volume/util/subpath`).

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use kybern_linux::files;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Opens `sub_path` beneath `volume`, making missing directories.
pub fn open(volume: &Path, sub_path: &str) -> Result<OwnedFd, String> {
    let fail = |cause: &dyn std::fmt::Display| {
        format!("failed to prepare subPath {sub_path:?} of {}: {cause}", volume.display())
    };
    let relative = Path::new(sub_path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(fail(&"it must be relative and must not contain '..'"));
    }
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| fail(&e))?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath);
    match open(relative) {
        Err(rustix::io::Errno::NOENT) => {}
        opened => return opened.map_err(|e| fail(&e)),
    }
    // As the volume itself: whoever may write there may write here.
    let mode = rustix::fs::fstat(&root).map_err(|e| fail(&e))?.st_mode & 0o7777;
    let mut here = PathBuf::new();
    let mut parent = rustix::io::fcntl_dupfd_cloexec(&root, 0).map_err(|e| fail(&e))?;
    for part in relative.components() {
        here.push(part);
        let made = match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(e) => return Err(fail(&e)),
        };
        parent = open(&here).map_err(|e| fail(&e))?;
        if made {
            let made = format!("/proc/self/fd/{}", parent.as_raw_fd());
            fs::set_permissions(made, fs::Permissions::from_mode(mode)).map_err(|e| fail(&e))?;
        }
    }
    Ok(parent)
}

/// Mounts `sub_path` of `volume` on `target`, in place of an earlier mount there.
pub fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<(), String> {
    let fail = |cause: &dyn std::fmt::Display| {
        format!("failed to mount subPath {sub_path:?} on {}: {cause}", target.display())
    };
    let source = open(volume, sub_path)?;
    let is_dir = rustix::fs::fstat(&source).map_err(|e| fail(&e))?.st_mode & 0o170_000 == 0o040_000;
    kybern_linux::mount::detach_all(target).map_err(|e| fail(&e))?;
    if is_dir {
        files::make_dirs(target, 0o750).map_err(|e| fail(&e))?;
    } else {
        files::make_dirs(target.parent().unwrap_or(target), 0o750).map_err(|e| fail(&e))?;
        files::create(target, 0o640).map_err(|e| fail(&e))?;
    }
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    rustix::mount::mount_bind(source.as_str(), target).map_err(|e| fail(&e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_stay_beneath_the_volume() {
        let temp = tempfile::tempdir().unwrap();
        let volume = temp.path().join("v");
        fs::create_dir_all(volume.join("in")).unwrap();
        symlink("in", volume.join("inner")).unwrap();
        symlink("/etc", volume.join("outer")).unwrap();
        symlink("../..", volume.join("up")).unwrap();
        for (path, allowed) in [
            ("in", true),
            ("inner", true),
            ("new/deep", true),
            ("outer", false),
            ("outer/passwd", false),
            ("up", false),
            ("../x", false),
            ("/etc", false),
            ("outer/new", false),
        ] {
            assert_eq!(open(&volume, path).is_ok(), allowed, "{path}");
        }
        assert!(volume.join("new/deep").is_dir());
    }

    #[test]
    fn made_directories_are_as_open_as_the_volume() {
        let volume = tempfile::tempdir().unwrap();
        fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o2777)).unwrap();
        open(volume.path(), "new/deep").unwrap();
        for made in ["new", "new/deep"] {
            assert_eq!(fs::metadata(volume.path().join(made)).unwrap().permissions().mode() & 0o7777, 0o2777, "{made}");
        }
    }
}
