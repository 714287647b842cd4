//! What somebody tries who has some credential of the cluster, or none, against a whole cluster: each attempt is refused,
//! the server lives on, and others are served. What is attacked stands in docs/security.md.

mod bombs;
mod caller;
mod escalation;
mod floods;
mod node;
mod profiles;
mod proxy;
mod reading;
mod wire;

use kybern_e2e::Cluster;

/// The server as it was when an attack began.
struct Server {
    pid: u32,
    started: String,
}

impl Server {
    fn now() -> Self {
        let pid = Cluster::get().server_pid();
        Self { pid, started: start_time(pid) }
    }

    /// Fails the test unless the same process is there and serves.
    #[track_caller]
    fn lives(&self) {
        assert_eq!(start_time(self.pid), self.started, "the server has ended, or is another process");
        Cluster::get().kubectl().run(&["get", "--raw", "/readyz"]).ok();
    }

    /// A size of its memory in MiB: `VmRSS`, or its highest since [`Self::forget_peak`], `VmHWM`.
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the server lives");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("a size in kB") / 1024
    }

    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5").expect("the peak can be reset");
    }
}

/// When a process started, by the kernel's clock (`/proc/PID/stat`, field 22); empty when it is gone.
fn start_time(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field, a name in parentheses, may hold anything.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().nth(19).unwrap_or("").to_owned()
}
