//! From limits to the files that set them, for both versions.

use super::DeviceRule;

/// The limits of a group; `None` leaves a limit as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight, 2 to 262144 (v1's `cpu.shares`).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes; negative is unlimited.
    pub memory_limit: Option<i64>,
    /// Number of processes; negative is unlimited.
    pub pids_limit: Option<i64>,
    /// CPU list, such as `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// Memory node list.
    pub cpuset_mems: Option<String>,
    /// What may be opened and made; everything else is denied. `None`: no filter.
    pub devices: Option<Vec<DeviceRule>>,
}

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) controller: &'static str,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Whether its failure is the caller's business: a kernel without swap accounting has no file for it.
    pub(super) required: bool,
}

fn write(controller: &'static str, file: &'static str, value: impl ToString) -> Write {
    Write { controller, file, value: value.to_string(), required: true }
}

pub(super) fn v1(r: &Resources) -> Vec<Write> {
    let mut out = Vec::new();
    out.extend(r.cpu_shares.map(|v| write("cpu", "cpu.shares", v)));
    out.extend(r.cpu_period.map(|v| write("cpu", "cpu.cfs_period_us", v)));
    out.extend(r.cpu_quota.map(|v| write("cpu", "cpu.cfs_quota_us", v)));
    if let Some(limit) = r.memory_limit {
        out.push(write("memory", "memory.limit_in_bytes", limit));
        // Memory plus swap: no swap beyond the limit.
        out.push(Write { required: false, ..write("memory", "memory.memsw.limit_in_bytes", limit) });
    }
    out.extend(r.pids_limit.map(|v| write("pids", "pids.max", or_max(v))));
    out.extend(r.cpuset_cpus.as_ref().map(|v| write("cpuset", "cpuset.cpus", v)));
    out.extend(r.cpuset_mems.as_ref().map(|v| write("cpuset", "cpuset.mems", v)));
    out
}

pub(super) fn v2(r: &Resources) -> Vec<Write> {
    let mut out = Vec::new();
    out.extend(r.cpu_shares.map(|v| write("cpu", "cpu.weight", weight_from_shares(v))));
    match (r.cpu_quota, r.cpu_period) {
        (None, None) => {}
        (Some(quota), Some(period)) => out.push(write("cpu", "cpu.max", format!("{} {period}", or_max(quota)))),
        (Some(quota), None) => out.push(write("cpu", "cpu.max", or_max(quota))),
        (None, Some(period)) => out.push(write("cpu", "cpu.max", format!("max {period}"))),
    }
    if let Some(limit) = r.memory_limit {
        out.push(write("memory", "memory.max", or_max(limit)));
        out.push(Write { required: false, ..write("memory", "memory.swap.max", if limit < 0 { "max" } else { "0" }) });
    }
    out.extend(r.pids_limit.map(|v| write("pids", "pids.max", or_max(v))));
    out.extend(r.cpuset_cpus.as_ref().map(|v| write("cpuset", "cpuset.cpus", v)));
    out.extend(r.cpuset_mems.as_ref().map(|v| write("cpuset", "cpuset.mems", v)));
    out
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Maps shares (2 to 262144) to a weight (1 to 10000), linearly, as KEP-2254 has it.
fn weight_from_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: Resources, expect_v1: &[(&str, &str)], expect_v2: &[(&str, &str)]) {
        let pairs = |writes: Vec<Write>| writes.into_iter().map(|w| (w.file.to_owned(), w.value)).collect::<Vec<_>>();
        let owned =
            |list: &[(&str, &str)]| list.iter().map(|(f, v)| (f.to_string(), v.to_string())).collect::<Vec<_>>();
        assert_eq!(pairs(v1(&resources)), owned(expect_v1));
        assert_eq!(pairs(v2(&resources)), owned(expect_v2));
    }

    #[test]
    fn limits_to_files() {
        check(Resources::default(), &[], &[]);
        check(
            Resources {
                cpu_shares: Some(1024),
                cpu_quota: Some(50_000),
                cpu_period: Some(100_000),
                ..Default::default()
            },
            &[("cpu.shares", "1024"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")],
            &[("cpu.weight", "39"), ("cpu.max", "50000 100000")],
        );
        check(
            Resources { memory_limit: Some(1 << 20), pids_limit: Some(-1), ..Default::default() },
            &[("memory.limit_in_bytes", "1048576"), ("memory.memsw.limit_in_bytes", "1048576"), ("pids.max", "max")],
            &[("memory.max", "1048576"), ("memory.swap.max", "0"), ("pids.max", "max")],
        );
        check(
            Resources {
                cpuset_cpus: Some("0-1".into()),
                cpuset_mems: Some("0".into()),
                cpu_quota: Some(-1),
                ..Default::default()
            },
            &[("cpu.cfs_quota_us", "-1"), ("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
            &[("cpu.max", "max"), ("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
        );
    }

    #[test]
    fn shares_to_weight() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (1 << 40, 10_000)] {
            assert_eq!(weight_from_shares(shares), weight, "{shares}");
        }
    }
}
