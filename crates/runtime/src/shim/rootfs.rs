//! The container's view of the file system: built in its own mount namespace, so that nothing of it is ever seen outside
//! and all of it goes with the last process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kybern_cri::MountPropagation;
use kybern_linux::cgroup::Cgroups;
use kybern_linux::files;
use kybern_linux::mount::{self, Attributes, Propagation};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::spec::{BindMount, DeviceNode, LaunchSpec, Rootfs};

/// What went wrong, in words for the user.
type Result<T> = std::result::Result<T, String>;

fn wrap<T>(result: io::Result<T>, what: impl FnOnce() -> String) -> Result<T> {
    result.map_err(|error| format!("{}: {error}", what()))
}

const NOTHING_SPECIAL: Attributes = Attributes { read_only: false, no_suid: true, no_dev: true, no_exec: true };

/// Builds the root and makes it `/`. The caller is in a new mount namespace that still shows the host's mounts.
pub(super) fn enter(spec: &LaunchSpec, cgroups: &Cgroups) -> Result<()> {
    // Sources are opened while the namespace still shows the host's mounts with their peer groups.
    let sources = spec.mounts.iter().map(open_source).collect::<Result<Vec<_>>>()?;
    let recursive = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    wrap(rustix::mount::mount_change("/", recursive).map_err(io::Error::from), || "make mounts private".into())?;
    let root = wrap(mount_overlay(&spec.rootfs), || "mount the root file system".into())?;
    let root = root.as_fd();

    attach_new(root, "/proc", "proc", &[], NOTHING_SPECIAL)?;
    let dev = Attributes { no_suid: true, ..Default::default() };
    attach_new(root, "/dev", "tmpfs", &["mode=755", "size=65536k"], dev)?;
    files::without_umask(|| fill_dev(root, &spec.devices))?;
    let pts = Attributes { no_suid: true, no_exec: true, ..Default::default() };
    attach_new(root, "/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"], pts)?;
    attach_new(root, "/dev/mqueue", "mqueue", &[], NOTHING_SPECIAL)?;
    let sys = Attributes { read_only: !spec.privileged, ..NOTHING_SPECIAL };
    attach_new(root, "/sys", "sysfs", &[], sys)?;
    mount_cgroups(root, spec, cgroups, sys)?;

    for path in &spec.writable_paths {
        wrap(keep_writable(root, Path::new(path)), || format!("make the volume {path}"))?;
    }
    for (bind, source) in spec.mounts.iter().zip(sources) {
        attach_bind(root, bind, source)?;
    }
    wrap(pivot(root), || "pivot_root".into())?;
    // Made where missing, as every runtime does, while the root is still writable; a failure shows when it is entered.
    let _ = files::make_dirs(Path::new(&spec.process.cwd), 0o755);
    for path in &spec.readonly_paths {
        wrap(make_read_only(path), || format!("make {path} read-only"))?;
    }
    for path in &spec.masked_paths {
        wrap(mask(path), || format!("mask {path}"))?;
    }
    if spec.readonly_root {
        let set = File::open("/").and_then(|root| {
            mount::set_attributes(root.as_fd(), Attributes { read_only: true, ..Default::default() }, None, false)
        });
        wrap(set, || "make the root file system read-only".into())?;
    }
    Ok(())
}

fn mount_overlay(rootfs: &Rootfs) -> io::Result<OwnedFd> {
    // Layers are named relative to their directory: a hundred absolute paths would not fit the kernel's one page of options.
    std::env::set_current_dir(&rootfs.layers_dir)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,volatile",
        rootfs.layers.join(":"),
        rootfs.upper.display(),
        rootfs.work.display()
    );
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount("overlay", &rootfs.mount_point, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
    rustix::mount::mount_change(&rootfs.mount_point, MountPropagationFlags::PRIVATE)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(&rootfs.mount_point, flags, Mode::empty())?)
}

fn attach_new(root: BorrowedFd<'_>, path: &str, kind: &str, options: &[&str], attributes: Attributes) -> Result<()> {
    let attach = || {
        let tree = mount::new_filesystem(kind, options, attributes)?;
        let target = mount::create_in_root(root, Path::new(path), true)?;
        mount::attach(tree.as_fd(), target.as_fd())
    };
    wrap(attach(), || format!("mount {kind} at {path}"))
}

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The devices every container has: name and minor number, major 1 unless given.
const STANDARD_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn fill_dev(root: BorrowedFd<'_>, devices: &[DeviceNode]) -> Result<()> {
    let fill = || -> io::Result<()> {
        let dev = mount::open_in_root(root, Path::new("/dev"), OFlags::PATH)?;
        for (name, major, minor) in STANDARD_DEVICES {
            let number = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)?;
        }
        for (target, name) in LINKS {
            rustix::fs::symlinkat(target, &dev, name)?;
        }
        Ok(())
    };
    wrap(fill(), || "fill /dev".into())?;
    for device in devices {
        wrap(make_device(root, device), || format!("make device {}", device.path.display()))?;
    }
    Ok(())
}

fn make_device(root: BorrowedFd<'_>, device: &DeviceNode) -> io::Result<()> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not a path of a device");
    let (parent, name) = (device.path.parent().ok_or_else(invalid)?, device.path.file_name().ok_or_else(invalid)?);
    let parent = mount::create_in_root(root, parent, true)?;
    let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(device.mode), number) {
        // A standard device, already made.
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        other => other?,
    }
    let owner = (Some(rustix::fs::Uid::from_raw(device.uid)), Some(rustix::fs::Gid::from_raw(device.gid)));
    rustix::fs::chownat(&parent, name, owner.0, owner.1, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn mount_cgroups(root: BorrowedFd<'_>, spec: &LaunchSpec, cgroups: &Cgroups, attributes: Attributes) -> Result<()> {
    const AT: &str = "/sys/fs/cgroup";
    let hierarchies = match cgroups {
        // In a cgroup namespace of its own the container sees its group as the root.
        Cgroups::V2(_) => return attach_new(root, AT, "cgroup2", &[], attributes),
        Cgroups::V1(hierarchies) => hierarchies,
    };
    attach_new(root, AT, "tmpfs", &["mode=755"], Attributes { read_only: false, ..attributes })?;
    for (hierarchy, group) in hierarchies.iter().zip(cgroups.directories(&spec.cgroup)) {
        let name = hierarchy.controllers.join(",");
        let name = name.strip_prefix("name=").unwrap_or(&name);
        let bind = || {
            let tree = mount::open_tree(&group, false)?;
            mount::set_attributes(tree.as_fd(), attributes, None, false)?;
            let target = mount::create_in_root(root, &Path::new(AT).join(name), true)?;
            mount::attach(tree.as_fd(), target.as_fd())
        };
        wrap(bind(), || format!("mount the control group {name}"))?;
    }
    let seal = || {
        let tree = mount::open_in_root(root, Path::new(AT), OFlags::PATH)?;
        mount::set_attributes(tree.as_fd(), attributes, None, false)
    };
    wrap(seal(), || "make the control groups read-only".into())
}

/// A detached copy of the source, with its attributes and propagation set. A source that does not exist becomes a
/// directory, as CRI has it.
fn open_source(bind: &BindMount) -> Result<OwnedFd> {
    let open = || {
        let tree = match mount::open_tree(&bind.source, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::make_dirs(&bind.source, 0o755)?;
                mount::open_tree(&bind.source, true)?
            }
            other => other?,
        };
        let propagation = match bind.propagation {
            MountPropagation::Private => Propagation::Private,
            MountPropagation::HostToContainer => Propagation::Slave,
            MountPropagation::Bidirectional => Propagation::Shared,
        };
        mount::set_attributes(tree.as_fd(), Attributes::default(), Some(propagation), true)?;
        if bind.read_only {
            let read_only = Attributes { read_only: true, ..Default::default() };
            mount::set_attributes(tree.as_fd(), read_only, None, bind.recursive_read_only)?;
        }
        Ok(tree)
    };
    wrap(open(), || format!("error mounting {:?} to rootfs at {:?}", bind.source.display(), bind.destination.display()))
}

fn attach_bind(root: BorrowedFd<'_>, bind: &BindMount, tree: OwnedFd) -> Result<()> {
    let attach = || {
        let directory = mount::is_directory(tree.as_fd())?;
        let target = mount::create_in_root(root, &bind.destination, directory)?;
        mount::attach(tree.as_fd(), target.as_fd())
    };
    wrap(attach(), || {
        format!("error mounting {:?} to rootfs at {:?}", bind.source.display(), bind.destination.display())
    })
}

/// Mounts a directory of the root over itself, so that making the root read-only leaves it out.
fn keep_writable(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let target = mount::create_in_root(root, path, true)?;
    let tree = mount::open_tree(Path::new(&format!("/proc/self/fd/{}", target.as_raw_fd())), false)?;
    mount::attach(tree.as_fd(), target.as_fd())
}

fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root is stacked over the new one, and taken off from there (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

fn make_read_only(path: &str) -> io::Result<()> {
    let tree = match mount::open_tree(Path::new(path), true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    mount::set_attributes(tree.as_fd(), Attributes { read_only: true, ..Default::default() }, None, true)?;
    let target = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(tree.as_fd(), target.as_fd())
}

/// Hides a file behind `/dev/null`, a directory behind an empty one.
fn mask(path: &str) -> io::Result<()> {
    let target = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = if mount::is_directory(target.as_fd())? {
        mount::new_filesystem("tmpfs", &[], Attributes { read_only: true, ..NOTHING_SPECIAL })?
    } else {
        mount::open_tree(Path::new("/dev/null"), false)?
    };
    mount::attach(tree.as_fd(), target.as_fd())
}
