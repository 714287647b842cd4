//! Two hosts in network namespaces, joined by a veth pair: the node, and a host beside it. The node's default route ends at
//! that host, which forwards nothing: no packet of a test leaves the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process::run;

/// Addresses for documentation (RFC 5737).
pub(crate) const NODE_IP: &str = "192.0.2.10";
const LAN_IP: &str = "192.0.2.1";
const NODE: &str = "kybern-test-node";
const LAN: &str = "kybern-test-lan";

pub(crate) struct Network;

impl Network {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn create(&self) -> Result<()> {
        self.remove();
        run(&["ip", "netns", "add", NODE])?;
        run(&["ip", "netns", "add", LAN])?;
        run(&["ip", "-n", NODE, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", LAN])?;
        for (namespace, address) in [(NODE, NODE_IP), (LAN, LAN_IP)] {
            run(&["ip", "-n", namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            run(&["ip", "-n", namespace, "link", "set", "lo", "up"])?;
            run(&["ip", "-n", namespace, "link", "set", "eth0", "up"])?;
        }
        run(&["ip", "-n", NODE, "route", "add", "default", "via", LAN_IP])
    }

    /// Removes what is there of it.
    pub(crate) fn remove(&self) {
        for namespace in [NODE, LAN] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).stderr(Stdio::null()).status();
        }
    }

    pub(crate) fn node_path(&self) -> PathBuf {
        Path::new("/run/netns").join(NODE)
    }

    pub(crate) fn lan_path(&self) -> PathBuf {
        Path::new("/run/netns").join(LAN)
    }

    /// A program on the node's network. Before the namespace exists, one without network at all.
    pub(crate) fn on_node(&self, program: &Path) -> Command {
        // `nsenter`, not `ip netns exec`: the latter hides the cgroup file systems.
        let mut command = if self.node_path().exists() {
            let mut nsenter = Command::new("nsenter");
            nsenter.arg(format!("--net={}", self.node_path().display()));
            nsenter
        } else {
            let mut unshare = Command::new("unshare");
            unshare.arg("--net");
            unshare
        };
        command.arg("--").arg(program).stdin(Stdio::null());
        command
    }
}
