//! What the machine is and has.

use std::fs;
use std::path::Path;

/// The facts of a node that do not change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub milli_cpus: i64,
    pub memory_bytes: i64,
    pub storage_bytes: i64,
    /// Bytes of huge pages by page size in KiB.
    pub hugepages: Vec<(u64, i64)>,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// Go's name of the architecture.
    pub architecture: String,
}

/// What changes: how much is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory_available_bytes: i64,
    pub disk_available_percent: i64,
    pub inodes_available_percent: i64,
    pub pids_available: i64,
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Reads the machine; `root` is on the filesystem that pods use.
pub fn read(root: &Path) -> Machine {
    let uname = rustix::system::uname();
    let storage = rustix::fs::statvfs(root).map_or(0, |s| (s.f_blocks * s.f_frsize) as i64);
    Machine {
        milli_cpus: count_cpus(&text("/sys/devices/system/cpu/online")).max(1) * 1000,
        memory_bytes: meminfo(&text("/proc/meminfo"), "MemTotal"),
        storage_bytes: storage,
        hugepages: hugepages(),
        machine_id: text("/etc/machine-id"),
        system_uuid: Some(text("/sys/class/dmi/id/product_uuid"))
            .filter(|t| !t.is_empty())
            .unwrap_or_else(|| text("/etc/machine-id")),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: uname.release().to_string_lossy().into_owned(),
        os_image: os_image(&text("/etc/os-release")),
        architecture: go_architecture(&uname.machine().to_string_lossy()).to_owned(),
    }
}

/// Reads how much is left.
pub fn pressure(root: &Path) -> Pressure {
    let percent = |free: u64, all: u64| (free * 100).checked_div(all).map_or(100, |percent| percent as i64);
    let disk = rustix::fs::statvfs(root).ok();
    let pid_max: i64 = text("/proc/sys/kernel/pid_max").parse().unwrap_or(i64::MAX);
    let threads =
        text("/proc/loadavg").split_whitespace().nth(3).and_then(|f| f.split('/').nth(1)?.parse::<i64>().ok());
    Pressure {
        memory_available_bytes: meminfo(&text("/proc/meminfo"), "MemAvailable"),
        disk_available_percent: disk.as_ref().map_or(100, |s| percent(s.f_bavail, s.f_blocks)),
        inodes_available_percent: disk.as_ref().map_or(100, |s| percent(s.f_favail, s.f_files)),
        pids_available: pid_max - threads.unwrap_or(0),
    }
}

/// Bytes of one line of `/proc/meminfo`.
fn meminfo(text: &str, name: &str) -> i64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kib: Option<i64> = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// The CPUs of a list such as `0-3,8`.
fn count_cpus(list: &str) -> i64 {
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.trim().parse::<i64>().ok()? - first.trim().parse::<i64>().ok()? + 1)
    });
    ranges.sum()
}

fn hugepages() -> Vec<(u64, i64)> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut sizes: Vec<(u64, i64)> = entries
        .filter_map(|entry| {
            let kib: u64 = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages: i64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            Some((kib, pages * kib as i64 * 1024))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

/// `GOARCH` of a machine name.
pub fn go_architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" | "i386" => "386",
        "armv7l" | "armv6l" => "arm",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        assert_eq!(count_cpus("0-3,8"), 5);
        assert_eq!(count_cpus("0"), 1);
        assert_eq!(meminfo("MemFree: 1 kB\nMemTotal:       4096 kB\n", "MemTotal"), 4096 * 1024);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"), "Debian GNU/Linux 13");
        let machine = read(Path::new("/"));
        assert!(machine.milli_cpus >= 1000 && machine.memory_bytes > 0 && machine.storage_bytes > 0);
    }
}
