//! Devices of the machine that a container asks for.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use kybern_cri::Device;
use kybern_linux::cgroup::DeviceRule;

use crate::disk;
use crate::launch_spec::device_rule;
use crate::spec::DeviceNode;

/// Directories of `/dev` that each container has of its own, or that hold no devices.
const NOT_COPIED: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];

/// The device nodes that the config names (a directory stands for all devices in it); for a privileged container all of
/// the machine's.
pub(crate) fn resolve(devices: &[Device], privileged: bool) -> io::Result<Vec<(DeviceNode, DeviceRule)>> {
    let mut found = Vec::new();
    if privileged {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut found)?;
    }
    for device in devices {
        // An existing node may be named through a link.
        let host =
            fs::canonicalize(&device.host_path).map_err(|error| disk::named(error, device.host_path.as_ref()))?;
        collect(&host, Path::new(&device.container_path), &device.permissions, &mut found)?;
    }
    Ok(found)
}

fn collect(host: &Path, inside: &Path, permissions: &str, found: &mut Vec<(DeviceNode, DeviceRule)>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(host).map_err(|error| disk::named(error, host))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(host)?.flatten() {
            let name = entry.file_name();
            if !NOT_COPIED.iter().any(|skip| name == *skip) {
                collect(&entry.path(), &inside.join(name), permissions, found)?;
            }
        }
    } else if kind.is_block_device() || kind.is_char_device() {
        let node = DeviceNode {
            path: inside.to_path_buf(),
            block: kind.is_block_device(),
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        };
        let rule = device_rule(&node, permissions);
        found.push((node, rule));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_and_a_directory() {
        let device = |host: &str, inside: &str| Device {
            host_path: host.into(),
            container_path: inside.into(),
            permissions: "rw".into(),
        };
        let found = resolve(&[device("/dev/null", "/dev/my-null")], false).unwrap();
        assert_eq!((found[0].0.major, found[0].0.minor, found[0].0.block), (1, 3, false));
        assert_eq!(found[0].0.path, Path::new("/dev/my-null"));
        assert_eq!(found[0].1.to_string(), "c 1:3 rw");
        let all = resolve(&[device("/dev", "/dev")], false).unwrap();
        assert!(all.iter().any(|(node, _)| node.path == Path::new("/dev/zero")));
        assert!(!all.iter().any(|(node, _)| node.path.starts_with("/dev/pts")));
        assert!(resolve(&[device("/dev/no-such", "/dev/x")], false).unwrap_err().to_string().contains("/dev/no-such"));
    }
}
