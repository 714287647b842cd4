//! A host of its own, with nothing on it: for clusters that are not meant to start, or to live.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

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

    /// kubectl's home.
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// What there is on the machine of this host's cluster; after `down`, nothing.
    pub fn left(&self) -> Vec<String> {
        let below = format!("{}/", self.folder.display());
        let read = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).replace('\0', " ");
        let mut left = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts can be read");
        left.extend(mounts.lines().filter(|line| line.contains(&below)).map(|line| format!("mount: {line}")));
        for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
            if entry.file_name().to_string_lossy().parse::<u32>().is_err() {
                continue;
            }
            let line = read(entry.path().join("cmdline"));
            if line.contains(&below) || read(entry.path().join("cgroup")).contains(&format!(":/{}/", self.name)) {
                left.push(format!("process {}: {line}", entry.file_name().display()));
            }
        }
        let hierarchies = ["", "memory", "cpu", "pids", "systemd", "unified", "freezer", "cpuset", "devices"];
        let groups = hierarchies.map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.name));
        left.extend(groups.iter().filter(|group| group.exists()).map(|group| format!("cgroup: {}", group.display())));
        let printed = |program: &str, arguments: &[&str]| {
            let output = self.on_host(Path::new(program)).args(arguments).output().expect("it starts");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let links = printed("ip", &["-o", "link"]);
        let own = |line: &&str| ![" lo:", " eth0@", " eth1@"].iter().any(|usual| line.contains(usual));
        left.extend(links.lines().filter(own).map(|line| format!("link: {line}")));
        left.extend(printed("nft", &["list", "tables"]).lines().map(|line| format!("nftables: {line}")));
        let find = ["-not", "-type", "d", "-printf", "%p %l\n"];
        let output = Command::new("find").arg(&self.folder).args(find).output().expect("find starts");
        let files = String::from_utf8_lossy(&output.stdout).into_owned();
        let home = self.home();
        left.extend(
            files.lines().filter(|path| !Path::new(path).starts_with(&home)).map(|path| format!("file: {path}")),
        );
        let register = std::fs::read_dir("/run/kybern-clusters").into_iter().flatten().flatten();
        let of_this = |path: &PathBuf| {
            let record: Value = serde_json::from_str(&read(path.clone())).unwrap_or_default();
            record["data"] == self.data_dir().display().to_string()
        };
        let records = register.map(|entry| entry.path()).filter(of_this);
        left.extend(records.map(|path| format!("record: {}", path.display())));
        left
    }

    /// The same, but for what belongs to another host's cluster that keeps things here.
    pub fn left_but_for(&self, other: &Self) -> Vec<String> {
        let pods =
            other.on_host(Path::new("ls")).arg(other.data_dir().join("kubelet/pods")).output().expect("ls starts");
        let uids: Vec<String> = String::from_utf8_lossy(&pods.stdout).lines().map(str::to_owned).collect();
        let of_other = |line: &String| {
            uids.iter().any(|uid| line.contains(uid)) || line.contains(&other.folder.display().to_string())
        };
        self.left().into_iter().filter(|line| !of_other(line)).collect()
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
