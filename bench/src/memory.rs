//! What the kernel says of processes: memory and processor time.

use std::path::Path;
use std::time::Instant;
use std::{fmt, fs};

const MIB: f64 = 1024.0 * 1024.0;

/// The processes of the cluster in a folder: the one that names something below it in its command line (the server) and its
/// descendants (the shims, and what they have started). Other clusters may run on the machine.
pub(crate) fn cluster_processes(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let all: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let below = format!("{}/", folder.display()).into_bytes();
    let named = |pid: u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(below.len()).any(|part| part == below))
    };
    let mut found: Vec<u32> = all.iter().map(|(pid, _)| *pid).filter(|pid| named(*pid)).collect();
    let mut seen = 0;
    while let Some(&next) = found.get(seen) {
        let children = all.iter().filter(|(pid, parent)| *parent == next && !found.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        seen += 1;
    }
    found
}

/// The fields of `/proc/<pid>/stat` after the command's name, which may hold spaces; the bracket that ends it does not.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or("").split_whitespace().map(str::to_owned).collect()
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid).get(1)?.parse().ok()
}

/// Resident memory in MiB, as `VmRSS` counts it.
pub(crate) fn resident(pid: u32) -> f64 {
    in_status(pid, "VmRSS:")
}

/// The most that `VmRSS` ever was, in MiB.
pub(crate) fn peak(pid: u32) -> f64 {
    in_status(pid, "VmHWM:")
}

/// Lets [`peak`] begin anew.
pub(crate) fn forget_peak(pid: u32) -> std::io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

fn in_status(pid: u32, label: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(label)).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Proportional share in MiB: pages that several processes share are counted once in the sum.
pub(crate) fn proportional(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / MIB
}

/// Seconds of processor time so far, user and system. The clock tick is 1/100 s on Linux (`USER_HZ`).
pub(crate) fn processor_seconds(pid: u32) -> f64 {
    let fields = stat(pid);
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Seconds of processor time of this process and of those children that have ended.
pub(crate) fn own_processor_seconds() -> f64 {
    let fields = stat(std::process::id());
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (11..15).map(ticks).sum::<f64>() / 100.0
}

/// Processor time while something is measured: the server's and that of its load.
pub(crate) struct Processor {
    server: u32,
    began: Instant,
    before: (f64, f64),
}

/// What a [`Processor`] has counted, in cores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) server: f64,
    pub(crate) load: f64,
}

impl Processor {
    pub(crate) fn of(server: u32) -> Self {
        Self { server, began: Instant::now(), before: (processor_seconds(server), own_processor_seconds()) }
    }

    pub(crate) fn cores(&self) -> Cores {
        let elapsed = self.began.elapsed().as_secs_f64();
        Cores {
            server: (processor_seconds(self.server) - self.before.0) / elapsed,
            load: (own_processor_seconds() - self.before.1) / elapsed,
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cores: server {:.2}, load {:.2}", self.server, self.load)
    }
}
