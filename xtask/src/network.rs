//! Two hosts in network namespaces, joined by a veth pair: the node, and a host beside it. The node's default route ends at
//! that host, which forwards nothing: no packet of a test leaves the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process::run;

/// Addresses for documentation (RFC 5737).
pub(crate) const NODE_IP: &str = "192.0.2.10";
const LAN_IP: &str = "192.0.2.1";

pub(crate) struct Network {
    node: String,
    lan: String,
}

/// Tells runs on one machine apart: `KYBERN_TEST_ID`, by default `test`.
pub(crate) fn id() -> String {
    std::env::var("KYBERN_TEST_ID").unwrap_or_else(|_| "test".to_owned())
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { node: format!("kybern-{}-node", id()), lan: format!("kybern-{}-lan", id()) }
    }

    pub(crate) fn create(&self) -> Result<()> {
        self.remove();
        run(&["ip", "netns", "add", &self.node])?;
        run(&["ip", "netns", "add", &self.lan])?;
        run(&[
            "ip", "-n", &self.node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &self.lan,
        ])?;
        for (namespace, address) in [(&self.node, NODE_IP), (&self.lan, LAN_IP)] {
            run(&["ip", "-n", namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            run(&["ip", "-n", namespace, "link", "set", "lo", "up"])?;
            run(&["ip", "-n", namespace, "link", "set", "eth0", "up"])?;
        }
        run(&["ip", "-n", &self.node, "route", "add", "default", "via", LAN_IP])
    }

    /// Removes what is there of it.
    pub(crate) fn remove(&self) {
        for namespace in [&self.node, &self.lan] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).stderr(Stdio::null()).status();
        }
    }

    pub(crate) fn node_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.node)
    }

    pub(crate) fn lan_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.lan)
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
