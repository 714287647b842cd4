//! Connections that this server opens for others, and where it opens none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

/// What a live host on a busy network may need.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Which addresses may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// None that means this machine or its link: loopback, link-local, unspecified, multicast, broadcast.
    Global,
    /// Also those: for the recorded address of a kubelet, which proves who it is.
    Any,
}

/// Why nothing is dialled.
pub(super) const NOT_ALLOWED: &str = "address not allowed";

/// Go's `IsGlobalUnicast`, by which upstream decides; an IPv4 address in IPv6's form is taken for what it is.
pub(super) fn is_global(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let elsewhere = match ip {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(elsewhere || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

/// Looks a host up, once: what was checked is what is dialled. One address that is not allowed spoils all.
pub(super) async fn resolve(host: &str, port: u16, reach: Reach) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => tokio::net::lookup_host((host, port)).await?.collect(),
    };
    if found.is_empty() {
        return Err(io::Error::other(format!("no addresses for host {host:?}")));
    }
    if reach == Reach::Global && !found.iter().all(|address| is_global(address.ip())) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, NOT_ALLOWED));
    }
    Ok(found)
}

/// Connects to the first address that answers.
pub(super) async fn connect(host: &str, port: u16, reach: Reach, limit: Duration) -> io::Result<TcpStream> {
    let dial = async {
        let addresses = resolve(host, port, reach).await?;
        let stream = TcpStream::connect(&addresses[..]).await;
        stream.map_err(|e| io::Error::new(e.kind(), format!("dial tcp {}: connect: {e}", authority(host, port))))
    };
    let stream = tokio::time::timeout(limit, dial).await.unwrap_or_else(|_| {
        let text = format!("dial tcp {}: no answer within {} seconds", authority(host, port), limit.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_dialled() {
        let check = |list: &[&str], expect| {
            for ip in list {
                assert_eq!(is_global(ip.parse().unwrap()), expect, "{ip}");
            }
        };
        check(&["10.0.0.1", "192.168.1.1", "203.0.113.9", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"], true);
        check(&["127.0.0.1", "127.9.9.9", "0.0.0.0", "255.255.255.255", "169.254.169.254", "224.0.0.1"], false);
        check(&["::1", "::", "fe80::1", "ff02::1"], false);
        check(&["::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::ffff:7f00:1"], false);
    }

    #[tokio::test]
    async fn a_name_is_its_addresses() {
        let refused = resolve("localhost", 80, Reach::Global).await.unwrap_err();
        assert_eq!(refused.to_string(), NOT_ALLOWED);
        assert!(resolve("localhost", 80, Reach::Any).await.is_ok());
    }
}
