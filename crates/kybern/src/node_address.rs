//! Which address a node is known by, when nobody said.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Result, bail};

/// The source address that the kernel would use towards the outside: it asks the routing table, and sends nothing.
pub(crate) fn detect() -> Result<IpAddr> {
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // An address of documentation (RFC 5737): any address that only the default route leads to.
    if probe.connect(("203.0.113.1", 9)).is_ok() {
        let address = probe.local_addr()?.ip();
        if !address.is_loopback() && !address.is_unspecified() {
            return Ok(address);
        }
    }
    bail!(
        "cannot tell this node's address: there is no default route. Pods reach the API server through it, so it must \
         not be a loopback address; name one of this machine's with --node-ip"
    )
}

/// The machine's host name, in the form a node's name must have.
pub(crate) fn host_name() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase();
    let errors = kybern_apimachinery::validation::dns1123_subdomain(&name);
    if let Some(error) = errors.first() {
        bail!("the host name {name:?} cannot be a node's name: {error}; name the node with --node-name");
    }
    Ok(name)
}

/// Tells one process of a component from another, as leases name their holders: `HOST_NUMBER`.
pub(crate) fn process_identity() -> Result<String> {
    Ok(format!("{}_{}", host_name()?, std::process::id()))
}
