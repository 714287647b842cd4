//! Names of chains and sets: upstream's scheme, so that people and tools find their service.

use std::fmt;
use std::net::IpAddr;

use ring::digest::{SHA256, digest};

/// Upstream's limit, below the kernel's 255.
const NAME_LEN: usize = 200;

/// The part of a chain's name that tells services apart, made unique by a hash before it is cut.
fn hashed(name: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = digest(&SHA256, name.as_bytes());
    let bits = digest.as_ref()[..5].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let hash: String = (0..8).map(|i| char::from(ALPHABET[(bits >> (35 - 5 * i) & 31) as usize])).collect();
    let mut name = format!("{hash}-{name}");
    if name.len() > NAME_LEN {
        name.truncate(name.floor_char_boundary(NAME_LEN - 3));
        name.push_str("...");
    }
    name
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    pub namespace: String,
    pub name: String,
    /// Empty for the only port of a service.
    pub port: String,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl ServicePortName {
    /// `HASH-ns/name/protocol/port`.
    pub fn chain_base(&self, protocol: &str) -> String {
        hashed(&format!("{}/{}/{protocol}/{}", self.namespace, self.name, self.port))
    }

    /// `HASH-ns/name/protocol/port__ip/port`; an IPv6 address has dots for colons.
    pub fn endpoint_base(&self, protocol: &str, ip: IpAddr, port: u16) -> String {
        let ip = ip.to_string().replace(':', ".");
        hashed(&format!("{}/{}/{protocol}/{}__{ip}/{port}", self.namespace, self.name, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        let port = |namespace: &str, name: &str, port: &str| ServicePortName {
            namespace: namespace.into(),
            name: name.into(),
            port: port.into(),
        };
        assert_eq!(port("ns1", "svc1", "p80").chain_base("tcp"), "ULMVA6XW-ns1/svc1/tcp/p80");
        assert_eq!(port("default", "web", "http").chain_base("tcp"), "SUSTUHLJ-default/web/tcp/http");
        assert_eq!(
            port("default", "web", "http").endpoint_base("tcp", "10.244.2.5".parse().unwrap(), 8080),
            "3XXNECN6-default/web/tcp/http__10.244.2.5/8080"
        );
        let long = port(&"n".repeat(63), &"s".repeat(63), &"p".repeat(63));
        assert_eq!(long.endpoint_base("tcp", "fd00::1".parse().unwrap(), 8080).len(), NAME_LEN);
        assert_eq!(long.to_string().len(), 63 * 3 + 2);
    }
}
