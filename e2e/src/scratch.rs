//! A host of its own, with nothing on it: for clusters that are not meant to start, or to live.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::Cluster;
use crate::run::Finished;

/// An address for documentation (RFC 5737).
const NODE_IP: &str = "198.51.100.10";

/// A network namespace with one address and a default route that leads nowhere, and a folder for a cluster's directories.
#[derive(Debug)]
pub struct Scratch {
    pub folder: PathBuf,
    name: String,
    kybern: PathBuf,
}

impl Scratch {
    /// Makes the host; it and what runs in its folder go when this is dropped.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        let name = format!("kybern-{purpose}-{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir(&folder).expect("a new folder");
        let scratch = Self { folder, name, kybern: Cluster::get().kybern.clone() };
        let ip = |words: &str| {
            let status = Command::new("ip").args(words.split(' ')).status().expect("ip starts");
            assert!(status.success(), "ip {words}");
        };
        let name = &scratch.name;
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link add eth0 type veth peer name eth1"));
        ip(&format!("-n {name} address add {NODE_IP}/24 dev eth0"));
        ip(&format!("-n {name} link set eth1 up"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} route add default via 198.51.100.1"));
        scratch
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The directories as flags.
    pub fn directories(&self) -> Vec<String> {
        let folder = self.folder.display();
        vec![
            format!("--data-dir={folder}/data"),
            format!("--run-dir={folder}/run"),
            format!("--cni-conf-dir={folder}/cni/net.d"),
            format!("--pod-logs-dir={folder}/log/pods"),
            format!("--cgroup-root=/{}", self.name),
        ]
    }

    /// A program on this host.
    pub fn on_host(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// `kybern COMMAND` for this host's cluster, not yet run.
    pub fn command(&self, command: &str) -> Command {
        let mut kybern = self.on_host(&self.kybern);
        kybern.arg(command).args(self.directories());
        kybern
    }

    /// `kybern COMMAND …` for this host's cluster, to its end.
    pub fn kybern(&self, command: &str, more: &[&str]) -> Finished {
        let shown = format!("kybern {command} {}", more.join(" "));
        Finished::new(shown, self.command(command).args(more).output().expect("kybern starts"))
    }

    /// The same through other programs: a shell script that finds the command and its flags in `"$@"`.
    pub fn through_shell(&self, script: &str, command: &str) -> Finished {
        let mut shell = self.on_host(Path::new("sh"));
        shell.args(["-c", script, "sh"]).arg(&self.kybern).arg(command).args(self.directories());
        Finished::new(format!("sh -c '{script}' … {command}"), shell.output().expect("sh starts"))
    }

    /// Every file in the data directory, by path.
    pub fn files(&self) -> Vec<String> {
        let output = Command::new("find").arg(self.data_dir()).args(["-not", "-type", "d"]).output();
        String::from_utf8_lossy(&output.expect("find starts").stdout).lines().map(str::to_owned).collect()
    }

    /// Waits until a server has taken the data directory, and answers its process id.
    pub fn server_pid(&self) -> u32 {
        crate::run::eventually("a server takes the data directory", || {
            let text = std::fs::read_to_string(self.data_dir().join("lock")).unwrap_or_default();
            text.trim().parse().map_err(|_| format!("the lock holds {text:?}"))
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.command("down").output();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
