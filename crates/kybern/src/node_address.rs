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

/// An address that somebody named, if a node can have it.
pub(crate) fn check(address: IpAddr) -> Result<IpAddr> {
    if address.is_loopback() || address.is_unspecified() {
        bail!("--node-ip {address}: pods reach the API server through it, so it must not be a loopback address");
    }
    match UdpSocket::bind((address, 0)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            bail!("--node-ip {address} is not an address of this machine (ip address show lists those that are)")
        }
        // Whatever else is wrong shows where the address is used.
        _ => Ok(address),
    }
}

/// A name that somebody gave, if a node can have it.
pub(crate) fn check_name(name: &str) -> Result<String> {
    match kybern_apimachinery::validation::dns1123_subdomain(name).first() {
        Some(error) => bail!("--node-name {name:?} cannot be a node's name: {error}"),
        None => Ok(name.to_owned()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_addresses_and_names() {
        let fails = |address: &str| check(address.parse().unwrap()).unwrap_err().to_string();
        assert!(fails("127.0.0.1").contains("loopback"));
        assert!(fails("192.0.2.77").contains("not an address of this machine"));
        assert!(check_name("Bad_Name").unwrap_err().to_string().contains("\"Bad_Name\""));
        assert_eq!(check_name("good.name").unwrap(), "good.name");
    }
}
