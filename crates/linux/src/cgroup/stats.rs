//! What a group uses.

use std::io;
use std::path::Path;

use super::Cgroups;

/// What a group and the groups within it use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of CPU time since the group was made.
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    /// Usage less the file pages that can be dropped at once, as cAdvisor counts it.
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub processes: u64,
}

pub(super) fn read(cgroups: &Cgroups, group: &str) -> io::Result<Usage> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let memory_dir = cgroups.directory("memory", group).ok_or_else(missing)?;
    let memory_stat = std::fs::read_to_string(memory_dir.join("memory.stat"))?;
    let pids = cgroups.directory("pids", group).and_then(|dir| number(&dir.join("pids.current")).ok()).unwrap_or(0);
    let (cpu_ns, memory, inactive, rss) = match cgroups {
        Cgroups::V1(_) => {
            let cpu = cgroups.directory("cpuacct", group).ok_or_else(missing)?;
            (
                number(&cpu.join("cpuacct.usage"))?,
                number(&memory_dir.join("memory.usage_in_bytes"))?,
                keyed(&memory_stat, "total_inactive_file"),
                keyed(&memory_stat, "total_rss"),
            )
        }
        Cgroups::V2(_) => {
            let cpu_stat = std::fs::read_to_string(memory_dir.join("cpu.stat"))?;
            (
                keyed(&cpu_stat, "usage_usec") * 1000,
                number(&memory_dir.join("memory.current"))?,
                keyed(&memory_stat, "inactive_file"),
                keyed(&memory_stat, "anon"),
            )
        }
    };
    Ok(Usage {
        cpu_ns,
        memory_bytes: memory,
        working_set_bytes: memory.saturating_sub(inactive),
        rss_bytes: rss,
        processes: pids,
    })
}

fn number(path: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a number", path.display())))
}

/// The value of `key` in a file of `key value` lines; zero when it is not there.
pub(super) fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(k, _)| *k == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_whole() {
        let text = "oom_kill_disable 1\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), 3);
        assert_eq!(keyed(text, "absent"), 0);
    }
}
