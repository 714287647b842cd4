//! What a node needs from the machine, asked for before anything is made: who starts Kybern learns at once and in one
//! message all that is missing and what to do.

mod kernel;

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Result, anyhow, bail};
use kybern_linux::capability;

/// Something that is missing: what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    what: String,
    cure: String,
}

impl Missing {
    fn new(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what: what.into(), cure: cure.into() }
    }
}

/// Without these no container starts.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "KILL",
    "MKNOD",
    "NET_ADMIN",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_CHROOT",
];

/// Fails unless this process may do what a node has to do.
pub(crate) fn privileges(command: &str) -> Result<()> {
    match lacking(capability::effective()?) {
        lacking if lacking.is_empty() => Ok(()),
        lacking if lacking.len() == CAPABILITIES.len() => {
            bail!(
                "kybern {command} needs root: it makes namespaces, mounts, cgroups and network links; start it with sudo"
            )
        }
        lacking => bail!(
            "kybern {command} lacks the {} {}: containers cannot be made without; start it as root of the machine, or give \
             its service or container what is missing",
            if lacking.len() == 1 { "capability" } else { "capabilities" },
            lacking.iter().map(|name| format!("CAP_{name}")).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn lacking(effective: capability::Mask) -> Vec<&'static str> {
    let has = |name: &&str| capability::bit(name).is_some_and(|bit| effective & bit != 0);
    CAPABILITIES.iter().copied().filter(|name| !has(name)).collect()
}

/// Fails unless the kernel has what a node needs; the message names everything that it lacks.
pub(crate) fn machine() -> Result<()> {
    report(&kernel::missing())
}

fn report(missing: &[Missing]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(|m| format!("  - {}: {}", m.what, m.cure)).collect();
    bail!("this machine cannot be a node; nothing was changed. It lacks:\n{}", lines.join("\n"))
}

/// Fails unless somebody can listen here: a port in use must leave no trace, so it is tried before anything is written.
pub(crate) fn free(address: SocketAddr, what: &str, flag: Option<&str>) -> Result<()> {
    TcpListener::bind(address).map(drop).map_err(|error| cannot_listen(address, what, flag, &error))
}

/// Why nobody can listen here; `flag` chooses another port, where there is one.
pub(crate) fn cannot_listen(address: SocketAddr, what: &str, flag: Option<&str>, error: &io::Error) -> anyhow::Error {
    let port = address.port();
    let or = flag.map(|flag| format!(", or name another with {flag}")).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "cannot serve {what} on {address}: the port is in use; stop what uses it (ss -ltnp 'sport = :{port}'){or}"
        ),
        io::ErrorKind::AddrNotAvailable => {
            anyhow!("cannot serve {what} on {address}: {} is not an address of this machine", address.ip())
        }
        _ => anyhow!("cannot serve {what} on {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lacking_capabilities() {
        let without = |name| capability::ALL & !capability::bit(name).unwrap();
        assert!(lacking(capability::ALL).is_empty());
        assert_eq!(lacking(without("NET_ADMIN")), ["NET_ADMIN"]);
        assert!(lacking(without("SYS_TIME")).is_empty());
        assert_eq!(lacking(0).len(), CAPABILITIES.len());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = free(address, "the API", Some("--secure-port")).unwrap_err().to_string();
        let expect = format!("the API on {address}: the port is in use");
        assert!(text.contains(&expect) && text.ends_with("or name another with --secure-port"), "{text}");
        drop(taken);
        free(address, "the API", None).unwrap();
        let elsewhere = free("192.0.2.77:1".parse().unwrap(), "the API", None).unwrap_err().to_string();
        assert!(elsewhere.contains("192.0.2.77 is not an address of this machine"), "{elsewhere}");
    }

    #[test]
    fn the_report_names_everything() {
        assert!(report(&[]).is_ok());
        let missing = [Missing::new("overlayfs", "modprobe overlay"), Missing::new("veth links", "modprobe veth")];
        let text = report(&missing).unwrap_err().to_string();
        assert!(text.ends_with("\n  - overlayfs: modprobe overlay\n  - veth links: modprobe veth"), "{text}");
    }
}
