//! Mounts by descriptor: trees are opened, changed while detached and then moved to a place that was looked up without
//! leaving the container's root. No path of a container is ever resolved by name in the host's root.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

/// The attributes that [`set_attributes`] can change (`MOUNT_ATTR_*` of `mount_setattr(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub read_only: bool,
    pub no_suid: bool,
    pub no_dev: bool,
    pub no_exec: bool,
}

/// How mount events travel between a mount and its copies (`MS_SHARED` and its kin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

/// A detached copy of the mount at `source` (of the whole tree when `recursive`), to be attached with [`attach`].
pub fn open_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(rustix::fs::CWD, source, flags)?)
}

/// Attaches a detached tree at the file or directory `target`.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", target, "", flags)?)
}

/// Whether this kernel has the file system, after it was given the chance to load its module. Mounts nothing.
pub fn knows_filesystem(kind: &str) -> io::Result<bool> {
    match rustix::mount::fsopen(kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A detached new filesystem of `kind`, with `options` as `mount -o` would take them (`key` or `key=value`).
pub fn new_filesystem(kind: &str, options: &[&str], attributes: Attributes) -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags};
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", kind)?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(&context, key, value)?,
            None => rustix::mount::fsconfig_set_flag(&context, *option)?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let tree = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, rustix::mount::MountAttrFlags::empty())?;
    set_attributes(tree.as_fd(), attributes, None, false)?;
    Ok(tree)
}

/// Sets (never clears) attributes and, where given, the propagation of the mount behind `mount`; of the whole tree below
/// it when `recursive` (`mount_setattr(2)`, Linux 5.12).
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    propagation: Option<Propagation>,
    recursive: bool,
) -> io::Result<()> {
    let mut set = 0;
    for (on, flag) in [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.no_suid, libc::MOUNT_ATTR_NOSUID),
        (attributes.no_dev, libc::MOUNT_ATTR_NODEV),
        (attributes.no_exec, libc::MOUNT_ATTR_NOEXEC),
    ] {
        if on {
            set |= flag;
        }
    }
    let propagation = match propagation {
        None => 0,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    if set == 0 && propagation == 0 {
        return Ok(());
    }
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` outlives the call and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attr as *const libc::mount_attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens `path` as if `root` were `/`: neither `..` nor a symbolic link leads out of it (`RESOLVE_IN_ROOT`).
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    // The kernel answers EAGAIN when a rename raced with the walk and asks to try again.
    for _ in 0..32 {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
        {
            Err(rustix::io::Errno::AGAIN) => continue,
            other => return Ok(other?),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Opens `path` in `root` as a mount point, making what is missing: directories on the way, and at the end a directory
/// or an empty file.
pub fn create_in_root(root: BorrowedFd<'_>, path: &Path, directory: bool) -> io::Result<OwnedFd> {
    use std::path::Component;
    match open_in_root(root, path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let names: Vec<_> = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    let mut reached = std::path::PathBuf::from("/");
    let mut parent = open_in_root(root, &reached, OFlags::PATH)?;
    for (i, name) in names.iter().enumerate() {
        let last = i + 1 == names.len();
        reached.push(name);
        let next = match open_in_root(root, &reached, OFlags::PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = name.as_os_str();
                if last && !directory {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                    rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
                } else {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                }
                rustix::fs::openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?
            }
            other => other?,
        };
        parent = next;
    }
    Ok(parent)
}

/// Whether a descriptor names a directory.
pub fn is_directory(file: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::statat(file, "", AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

/// Takes everything off that is mounted at `path`; succeeds when nothing is.
pub fn detach_all(path: &Path) -> io::Result<()> {
    use rustix::mount::UnmountFlags;
    // Bounded: a path holds as many mounts as someone stacked there.
    for _ in 0..64 {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => continue,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes everything off that is mounted below `directory`, the innermost first.
pub fn detach_below(directory: &Path) -> io::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<_> = parse_mountinfo(&table).into_iter().map(|entry| entry.mount_point).collect();
    points.retain(|point| Path::new(point).starts_with(directory));
    points.sort();
    points.iter().rev().try_for_each(|point| detach_all(Path::new(point)))
}

/// One line of `/proc/<pid>/mountinfo` (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The path within its filesystem that is mounted.
    pub root: String,
    pub mount_point: String,
    pub fs_type: String,
    pub source: String,
    /// The filesystem's own options.
    pub super_options: String,
    /// A member of a peer group.
    pub shared: bool,
}

/// Parses `mountinfo`; lines that do not follow its form are left out.
pub fn parse_mountinfo(text: &str) -> Vec<MountEntry> {
    text.lines().filter_map(parse_mountinfo_line).collect()
}

fn parse_mountinfo_line(line: &str) -> Option<MountEntry> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let shared = fields.skip(1).any(|f| f.starts_with("shared:"));
    let mut fields = after.split(' ');
    Some(MountEntry {
        root,
        mount_point,
        fs_type: fields.next()?.to_owned(),
        source: unescape(fields.next()?),
        super_options: fields.next().unwrap_or_default().to_owned(),
        shared,
    })
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'\\')
            .then(|| text.get(i + 1..i + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let text = "24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=1k\n\
                    30 24 8:1 /a\\040b /mnt/x\\134y rw shared:7 master:1 - ext4 /dev/sda1 rw\nrubbish\n";
        let entries = parse_mountinfo(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (entries[0].mount_point.as_str(), entries[0].fs_type.as_str(), entries[0].shared),
            ("/dev", "devtmpfs", false)
        );
        assert_eq!(
            (entries[1].root.as_str(), entries[1].mount_point.as_str(), entries[1].shared),
            ("/a b", "/mnt/x\\y", true)
        );
    }

    #[test]
    fn a_link_cannot_lead_out_of_the_root() {
        let dir = std::env::temp_dir().join(format!("kybern-mount-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("root")).unwrap();
        std::fs::write(dir.join("secret"), "s").unwrap();
        let _ = std::os::unix::fs::symlink("../secret", dir.join("root/link"));
        let root = std::fs::File::open(dir.join("root")).unwrap();
        assert!(open_in_root(root.as_fd(), Path::new("link"), OFlags::RDONLY).is_err());
        assert!(open_in_root(root.as_fd(), Path::new("../secret"), OFlags::RDONLY).is_err());
        create_in_root(root.as_fd(), Path::new("/a/b/file"), false).unwrap();
        assert!(dir.join("root/a/b/file").is_file());
        create_in_root(root.as_fd(), Path::new("/a/c"), true).unwrap();
        assert!(dir.join("root/a/c").is_dir());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
