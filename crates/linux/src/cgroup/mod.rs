//! Control groups, version 1 (one hierarchy per controller) and version 2 (unified). Paths are absolute in every
//! hierarchy, such as `/kubepods/pod1/c1`. What to write is decided by [`plan`], purely; this module writes it.

mod device;
mod plan;
mod stats;

use std::io;
use std::path::{Path, PathBuf};

pub use device::{DeviceKind, DeviceRule};
pub use plan::Resources;
use plan::Write;
pub use stats::Usage;

use crate::mount::{MountEntry, parse_mountinfo};

/// The hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// Mount point and controllers of each hierarchy; `name=systemd` counts as a controller.
    V1(Vec<Hierarchy>),
    /// The mount point of the unified hierarchy.
    V2(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    pub controllers: Vec<String>,
}

const V1_CONTROLLERS: [&str; 13] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
];

impl Cgroups {
    /// Reads which hierarchies are mounted. A machine with v1 controllers beside a unified hierarchy counts as v1.
    pub fn detect() -> io::Result<Cgroups> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")?;
        Self::from_mounts(&parse_mountinfo(&text)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted (looked in /proc/self/mountinfo)")
        })
    }

    fn from_mounts(mounts: &[MountEntry]) -> Option<Cgroups> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in mounts.iter().filter(|m| m.fs_type == "cgroup") {
            let controllers: Vec<String> = mount
                .super_options
                .split(',')
                .filter(|o| V1_CONTROLLERS.contains(o) || o.starts_with("name="))
                .map(str::to_owned)
                .collect();
            if !controllers.is_empty() && !hierarchies.iter().any(|h| h.controllers == controllers) {
                hierarchies.push(Hierarchy { mount_point: mount.mount_point.clone().into(), controllers });
            }
        }
        if hierarchies.iter().any(|h| h.controllers.iter().any(|c| !c.starts_with("name="))) {
            return Some(Cgroups::V1(hierarchies));
        }
        let unified = mounts.iter().find(|m| m.fs_type == "cgroup2")?;
        Some(Cgroups::V2(unified.mount_point.clone().into()))
    }

    /// Which of these controllers this machine has not.
    pub fn missing<'a>(&self, wanted: &[&'a str]) -> io::Result<Vec<&'a str>> {
        let there: Vec<String> = match self {
            Cgroups::V1(hierarchies) => hierarchies.iter().flat_map(|h| h.controllers.clone()).collect(),
            Cgroups::V2(root) => {
                let text = std::fs::read_to_string(root.join("cgroup.controllers"))?;
                text.split_whitespace().map(str::to_owned).collect()
            }
        };
        Ok(wanted.iter().copied().filter(|name| !there.iter().any(|t| t == name)).collect())
    }

    /// The directories of the group, one per hierarchy.
    pub fn directories(&self, group: &str) -> Vec<PathBuf> {
        let relative = group.trim_start_matches('/');
        match self {
            Cgroups::V1(hierarchies) => hierarchies.iter().map(|h| h.mount_point.join(relative)).collect(),
            Cgroups::V2(root) => vec![root.join(relative)],
        }
    }

    /// The directory that holds a controller's files for the group; `None` when the controller is not mounted.
    pub fn directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let relative = group.trim_start_matches('/');
        match self {
            Cgroups::V1(hierarchies) => {
                let hierarchy = hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))?;
                Some(hierarchy.mount_point.join(relative))
            }
            Cgroups::V2(root) => Some(root.join(relative)),
        }
    }

    /// Makes the group and its ancestors where missing, and sets its limits. Idempotent.
    pub fn create(&self, group: &str, resources: &Resources) -> io::Result<()> {
        match self {
            Cgroups::V1(hierarchies) => {
                for hierarchy in hierarchies {
                    let cpuset = hierarchy.controllers.iter().any(|c| c == "cpuset");
                    for_each_level(&hierarchy.mount_point, group, |parent, dir| {
                        make_directory(dir)?;
                        if cpuset { inherit_cpuset(parent, dir) } else { Ok(()) }
                    })?;
                }
            }
            Cgroups::V2(root) => for_each_level(root, group, |parent, dir| {
                enable_controllers(parent)?;
                make_directory(dir)
            })?,
        }
        self.update(group, resources)?;
        if let Some(rules) = &resources.devices {
            self.limit_devices(group, rules)?;
        }
        Ok(())
    }

    /// Sets the limits that `resources` gives; leaves the others. Device rules are only set by [`Self::create`].
    pub fn update(&self, group: &str, resources: &Resources) -> io::Result<()> {
        let writes = match self {
            Cgroups::V1(_) => plan::v1(resources),
            Cgroups::V2(_) => plan::v2(resources),
        };
        // A limit and its counterpart (memory and memory+swap, quota and period) may only be acceptable in the other
        // order when they go the other way, so what fails is tried once more at the end.
        let mut failed = Vec::new();
        for write in &writes {
            if self.write(group, write).is_err() {
                failed.push(write);
            }
        }
        for write in failed {
            match self.write(group, write) {
                Err(error) if write.required => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self, group: &str, write: &Write) -> io::Result<()> {
        let Some(dir) = self.directory(write.controller, group) else {
            return if write.required { Err(missing(write.controller)) } else { Ok(()) };
        };
        write_file(&dir.join(write.file), &write.value)
    }

    fn limit_devices(&self, group: &str, rules: &[DeviceRule]) -> io::Result<()> {
        match self {
            Cgroups::V1(_) => {
                let Some(dir) = self.directory("devices", group) else { return Ok(()) };
                write_file(&dir.join("devices.deny"), "a")?;
                for rule in rules {
                    write_file(&dir.join("devices.allow"), &rule.to_string())?;
                }
                Ok(())
            }
            Cgroups::V2(root) => {
                let dir = std::fs::File::open(root.join(group.trim_start_matches('/')))?;
                device::attach_filter(&dir, rules)
            }
        }
    }

    /// Moves a process into the group, in every hierarchy.
    pub fn add_process(&self, group: &str, pid: i32) -> io::Result<()> {
        for dir in self.directories(group) {
            write_file(&dir.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// The processes of the group and of the groups within it.
    pub fn processes(&self, group: &str) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.process_directory(group) {
            collect_processes(&dir, &mut pids)?;
        }
        Ok(pids)
    }

    fn process_directory(&self, group: &str) -> Option<PathBuf> {
        // Any v1 hierarchy knows the processes; one that nobody moves processes about in is best.
        ["freezer", "pids", "cpu", "memory"].iter().find_map(|controller| self.directory(controller, group))
    }

    /// Sends a signal to every process in the group, again until none is left that has not had it (bounded).
    pub fn kill(&self, group: &str, signal: i32) -> io::Result<()> {
        if let (Cgroups::V2(root), libc::SIGKILL) = (self, signal) {
            let file = root.join(group.trim_start_matches('/')).join("cgroup.kill");
            if write_file(&file, "1").is_ok() {
                return Ok(());
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..16 {
            let fresh: Vec<i32> = self.processes(group)?.into_iter().filter(|pid| seen.insert(*pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                crate::process::kill(pid, signal)?;
            }
        }
        Ok(())
    }

    /// Removes the group and the groups within it; it must hold no process. Succeeds when there is none.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        for dir in self.directories(group) {
            remove_tree(&dir)?;
        }
        Ok(())
    }

    /// The number of processes that the out-of-memory killer took in this group; zero when unknown.
    pub fn oom_kills(&self, group: &str) -> u64 {
        let file = match self {
            Cgroups::V1(_) => "memory.oom_control",
            Cgroups::V2(_) => "memory.events",
        };
        let Some(dir) = self.directory("memory", group) else { return 0 };
        std::fs::read_to_string(dir.join(file)).map(|text| stats::keyed(&text, "oom_kill")).unwrap_or(0)
    }

    /// What the group uses.
    pub fn usage(&self, group: &str) -> io::Result<Usage> {
        stats::read(self, group)
    }
}

fn missing(controller: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the cgroup controller {controller} is not mounted"))
}

/// Calls `act(parent, directory)` for each level of `group` below `root`.
fn for_each_level(root: &Path, group: &str, mut act: impl FnMut(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let mut parent = root.to_path_buf();
    for name in group.split('/').filter(|n| !n.is_empty()) {
        if name == ".." || name == "." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid cgroup path {group:?}")));
        }
        let dir = parent.join(name);
        act(&parent, &dir)?;
        parent = dir;
    }
    Ok(())
}

fn make_directory(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(in_path(error, dir)),
        _ => Ok(()),
    }
}

/// A new v1 cpuset group accepts no process before it has CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = std::fs::read_to_string(dir.join(file))?;
        if own.trim().is_empty() {
            let inherited = std::fs::read_to_string(parent.join(file))?;
            write_file(&dir.join(file), inherited.trim())?;
        }
    }
    Ok(())
}

/// Hands every controller on to the children of a v2 group. A group that holds processes cannot (`EBUSY`): then its
/// children do without, which shows when a limit is written.
fn enable_controllers(dir: &Path) -> io::Result<()> {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers"))?;
    let enabled = std::fs::read_to_string(dir.join("cgroup.subtree_control"))?;
    for controller in ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"] {
        let listed = |text: &str| text.split_whitespace().any(|c| c == controller);
        if listed(&available) && !listed(&enabled) {
            let _ = write_file(&dir.join("cgroup.subtree_control"), &format!("+{controller}"));
        }
    }
    Ok(())
}

fn write_file(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(|error| in_path(error, path))?;
    file.write_all(value.as_bytes())
        .map_err(|error| io::Error::new(error.kind(), format!("write {value:?} to {}: {error}", path.display())))
}

fn in_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn collect_processes(dir: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    match std::fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_processes(&entry.path(), pids)?;
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(in_path(error, dir)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    // A killed process keeps its group busy until the kernel has taken it apart, shortly after it was reaped.
    let mut result = std::fs::remove_dir(dir);
    for pause_ms in [1, 2, 5, 10, 20, 50, 100, 200] {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(pause_ms));
                result = std::fs::remove_dir(dir);
            }
            _ => break,
        }
    }
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(in_path(error, dir)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mountinfo: &str, expect: Option<Cgroups>) {
        assert_eq!(Cgroups::from_mounts(&parse_mountinfo(mountinfo)), expect);
    }

    #[test]
    fn hierarchies() {
        check("1 0 0:1 / /proc rw - proc proc rw\n", None);
        check("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", Some(Cgroups::V2("/sys/fs/cgroup".into())));
        // Hybrid: the controllers are in v1, and only one mount of each counts.
        check(
            "1 0 0:1 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n2 0 0:2 / /c/systemd rw - cgroup c rw,name=systemd\n\
             3 0 0:1 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n4 0 0:3 / /c/unified rw - cgroup2 cgroup2 rw\n",
            Some(Cgroups::V1(vec![
                Hierarchy { mount_point: "/c/cpu".into(), controllers: vec!["cpu".into(), "cpuacct".into()] },
                Hierarchy { mount_point: "/c/systemd".into(), controllers: vec!["name=systemd".into()] },
            ])),
        );
        // systemd's own named hierarchy alone does not make a machine v1.
        check(
            "2 0 0:2 / /c/systemd rw - cgroup c rw,name=systemd\n4 0 0:3 / /c/unified rw - cgroup2 cgroup2 rw\n",
            Some(Cgroups::V2("/c/unified".into())),
        );
    }

    #[test]
    fn missing_controllers() {
        let hierarchy = |names: &[&str]| Hierarchy {
            mount_point: "/c".into(),
            controllers: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        let v1 = Cgroups::V1(vec![hierarchy(&["cpu", "cpuacct"]), hierarchy(&["pids"])]);
        assert_eq!(v1.missing(&["cpu", "memory", "pids"]).unwrap(), ["memory"]);
        let root = std::env::temp_dir().join(format!("kybern-controllers-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert_eq!(Cgroups::V2(root.clone()).missing(&["cpu", "memory", "pids"]).unwrap(), ["pids"]);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn levels_stay_below_the_root() {
        let mut seen = Vec::new();
        for_each_level(Path::new("/c"), "/a/b", |parent, dir| {
            seen.push((parent.to_path_buf(), dir.to_path_buf()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [("/c".into(), "/c/a".into()), ("/c/a".into(), "/c/a/b".into())]);
        assert!(for_each_level(Path::new("/c"), "/a/../..", |_, _| Ok(())).is_err());
    }
}
