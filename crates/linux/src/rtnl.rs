//! Links, addresses, routes and neighbours over rtnetlink (`linux/rtnetlink.h`, `linux/if_link.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use rustix::io::Errno;

use crate::netlink::wire::{flags, u32_ne};
use crate::netlink::{Attributes, Buffer, NetlinkError, Protocol, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFF_UP: u32 = 1;
/// `IFNAMSIZ`, less the byte that ends it.
const LINK_NAME_MAX: usize = 15;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

const AF_BRIDGE: u8 = 7;

type Result<T> = std::result::Result<T, NetlinkError>;

/// A hardware address.
pub type Mac = [u8; 6];

/// What is known of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Zero for links without one.
    pub mac: Mac,
    pub mtu: u32,
    pub up: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// `veth`, `bridge`, …; empty for physical links and loopback.
    pub kind: String,
}

/// What to change of a link; `None` leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    pub name: Option<&'a str>,
    pub up: Option<bool>,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    /// `Some(0)` detaches it from its bridge.
    pub master: Option<u32>,
    pub netns: Option<BorrowedFd<'a>>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing link.
    pub link: Option<u32>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// Which links, addresses and routes are meant: the network namespace in which this was opened.
pub struct Rtnl(Socket);

impl Rtnl {
    /// Opens rtnetlink in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Socket::open(Protocol::Route).map(Self)
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        self.0.dump(
            "list links",
            RTM_GETLINK,
            &[0; 16],
            |_| {},
            |message| match message {
                None => links.clear(),
                Some((_, payload)) => links.extend(parse_link(payload)),
            },
        )?;
        Ok(links)
    }

    /// The link with a name. Asks for that one alone: a list of all takes as long as there are links, squared where each has
    /// its peer in a network namespace of its own.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        // The kernel refuses to look for what no link can be called.
        if name.is_empty() || name.len() > LINK_NAME_MAX {
            return Ok(None);
        }
        let mut found = None;
        let named = |b: &mut Buffer| b.attr_str(IFLA_IFNAME, name);
        let asked = self.0.ask("find link", RTM_GETLINK, 0, &[0; 16], named, |payload| found = parse_link(payload));
        match asked {
            Err(error) if error.is_not_found() => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// Makes a bridge, down and without address.
    pub fn add_bridge(&mut self, name: &str, mtu: Option<u32>) -> Result<()> {
        self.add_link(&format!("add bridge {name}"), |b| {
            b.attr_str(IFLA_IFNAME, name);
            if let Some(mtu) = mtu {
                b.attr_u32(IFLA_MTU, mtu);
            }
            b.nest(IFLA_LINKINFO, |b| b.attr(IFLA_INFO_KIND, b"bridge"));
        })
    }

    /// Makes a veth pair: `name` here, `peer` in `peer_netns` (here when `None`).
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_netns: Option<BorrowedFd<'_>>,
        mtu: Option<u32>,
    ) -> Result<()> {
        self.add_link(&format!("add veth {name} with peer {peer}"), |b| {
            let attributes = |b: &mut Buffer, name: &str| {
                b.attr_str(IFLA_IFNAME, name);
                if let Some(mtu) = mtu {
                    b.attr_u32(IFLA_MTU, mtu);
                }
            };
            attributes(b, name);
            b.nest(IFLA_LINKINFO, |b| {
                b.attr(IFLA_INFO_KIND, b"veth");
                b.nest(IFLA_INFO_DATA, |b| {
                    b.nest(VETH_INFO_PEER, |b| {
                        b.raw(&[0; 16]);
                        attributes(b, peer);
                        if let Some(netns) = peer_netns {
                            b.attr_u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
                        }
                    });
                });
            });
        })
    }

    fn add_link(&mut self, operation: &str, body: impl FnOnce(&mut Buffer)) -> Result<()> {
        self.0.request(operation, RTM_NEWLINK, flags::CREATE | flags::EXCL, &[0; 16], body)
    }

    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.0.request(&format!("delete link {index}"), RTM_DELLINK, 0, &link_header(0, index, None), |_| {})
    }

    pub fn change_link(&mut self, index: u32, change: LinkChange<'_>) -> Result<()> {
        let operation = format!("change link {index}");
        self.0.request(&operation, RTM_NEWLINK, 0, &link_header(0, index, change.up), |b| {
            if let Some(name) = change.name {
                b.attr_str(IFLA_IFNAME, name);
            }
            if let Some(mtu) = change.mtu {
                b.attr_u32(IFLA_MTU, mtu);
            }
            if let Some(mac) = change.mac {
                b.attr(IFLA_ADDRESS, &mac);
            }
            if let Some(master) = change.master {
                b.attr_u32(IFLA_MASTER, master);
            }
            if let Some(netns) = change.netns {
                b.attr_u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
            }
        })
    }

    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.change_link(index, LinkChange { up: Some(true), ..Default::default() })
    }

    /// Lets a bridge port send a frame back out of the port it came in by: a pod that reaches itself through its Service.
    pub fn set_hairpin(&mut self, index: u32, on: bool) -> Result<()> {
        let operation = format!("set hairpin mode of link {index}");
        self.0.request(&operation, RTM_SETLINK, 0, &link_header(AF_BRIDGE, index, None), |b| {
            b.nest(IFLA_PROTINFO, |b| b.attr_u8(IFLA_BRPORT_MODE, on.into()));
        })
    }

    /// The addresses of a link, with prefix length.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>> {
        let mut found = Vec::new();
        self.0.dump(
            "list addresses",
            RTM_GETADDR,
            &[0; 8],
            |_| {},
            |message| match message {
                None => found.clear(),
                Some((_, payload)) => found.extend(parse_address(payload).filter(|(i, _)| *i == index).map(|(_, a)| a)),
            },
        )?;
        Ok(found)
    }

    /// Adds an address; one that is there already is fine.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let operation = format!("add address {address} to link {index}");
        let header = address_header(index, address);
        self.0.request(&operation, RTM_NEWADDR, flags::CREATE | flags::REPLACE, &header, |b| {
            write_address(b, address);
            match address {
                IpNet::V4(net) if net.prefix_len() < 31 => b.attr(IFA_BROADCAST, &net.broadcast().octets()),
                IpNet::V4(_) => {}
                IpNet::V6(_) => b.attr_u32(IFA_FLAGS, IFA_F_NODAD),
            }
        })
    }

    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let operation = format!("delete address {address} of link {index}");
        self.0.request(&operation, RTM_DELADDR, 0, &address_header(index, address), |b| write_address(b, address))
    }

    /// The unicast routes of the main table, of both families.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut found = Vec::new();
        self.0.dump(
            "list routes",
            RTM_GETROUTE,
            &[0; 12],
            |_| {},
            |message| match message {
                None => found.clear(),
                Some((_, payload)) => found.extend(parse_route(payload)),
            },
        )?;
        Ok(found)
    }

    /// Adds a route, replacing one to the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let operation = format!("add route to {}", route.destination);
        let header = route_header(route);
        self.0.request(&operation, RTM_NEWROUTE, flags::CREATE | flags::REPLACE, &header, |b| write_route(b, route))
    }

    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let operation = format!("delete route to {}", route.destination);
        self.0.request(&operation, RTM_DELROUTE, 0, &route_header(route), |b| write_route(b, route))
    }

    /// Adds a permanent neighbour entry.
    pub fn replace_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let header = neighbour_header(index, address, NUD_PERMANENT);
        let operation = format!("add neighbour {address}");
        self.0.request(&operation, RTM_NEWNEIGH, flags::CREATE | flags::REPLACE, &header, |b| {
            write_ip(b, NDA_DST, address);
            b.attr(NDA_LLADDR, &mac);
        })
    }

    /// Forgets who has an address, where somebody is known.
    pub fn forget_neighbour(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let operation = format!("delete neighbour {address}");
        let header = neighbour_header(index, address, 0);
        match self.0.request(&operation, RTM_DELNEIGH, 0, &header, |b| write_ip(b, NDA_DST, address)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The link with a name, or an error that says there is none.
    pub fn require_link(&mut self, name: &str) -> Result<Link> {
        self.link(name)?.ok_or_else(|| NetlinkError::new(format!("find link {name}"), Errno::NODEV))
    }
}

fn link_header(family: u8, index: u32, up: Option<bool>) -> [u8; 16] {
    let mut header = [0u8; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = up {
        header[8..12].copy_from_slice(&(if up { IFF_UP } else { 0 }).to_ne_bytes());
        header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    header
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn neighbour_header(index: u32, address: IpAddr, state: u16) -> [u8; 12] {
    let mut header = [0u8; 12];
    header[0] = family(address);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header
}

fn address_header(index: u32, address: IpNet) -> [u8; 8] {
    let mut header = [family(address.addr()), address.prefix_len(), 0, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

fn write_ip(b: &mut Buffer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(a) => b.attr(kind, &a.octets()),
        IpAddr::V6(a) => b.attr(kind, &a.octets()),
    }
}

fn write_address(b: &mut Buffer, address: IpNet) {
    write_ip(b, IFA_LOCAL, address.addr());
    write_ip(b, IFA_ADDRESS, address.addr());
}

fn route_header(route: &Route) -> [u8; 12] {
    let scope = if route.gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let family = family(route.destination.addr());
    [family, route.destination.prefix_len(), 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]
}

fn write_route(b: &mut Buffer, route: &Route) {
    if route.destination.prefix_len() > 0 {
        write_ip(b, RTA_DST, route.destination.network());
    }
    if let Some(gateway) = route.gateway {
        write_ip(b, RTA_GATEWAY, gateway);
    }
    if let Some(link) = route.link {
        b.attr_u32(RTA_OIF, link);
    }
    if let Some(source) = route.source {
        write_ip(b, RTA_PREFSRC, source);
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let attributes = Attributes(payload.get(16..)?);
    Some(Link {
        index: u32_ne(&payload[4..])?,
        name: attributes.find_str(IFLA_IFNAME)?.to_owned(),
        mac: attributes.find(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()).unwrap_or_default(),
        mtu: attributes.find_u32(IFLA_MTU).unwrap_or_default(),
        up: u32_ne(&payload[8..])? & IFF_UP != 0,
        master: attributes.find_u32(IFLA_MASTER),
        kind: attributes.nested(IFLA_LINKINFO).find_str(IFLA_INFO_KIND).unwrap_or_default().to_owned(),
    })
}

fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

fn parse_address(payload: &[u8]) -> Option<(u32, IpNet)> {
    let attributes = Attributes(payload.get(8..)?);
    let address = parse_ip(attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?)?;
    Some((u32_ne(&payload[4..])?, IpNet::new(address, payload[1]).ok()?))
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    let attributes = Attributes(payload.get(12..)?);
    if payload[4] != RT_TABLE_MAIN || payload[7] != RTN_UNICAST {
        return None;
    }
    let any: IpAddr =
        if payload[0] == libc::AF_INET as u8 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let destination = attributes.find(RTA_DST).and_then(parse_ip).unwrap_or(any);
    Some(Route {
        destination: IpNet::new(destination, payload[1]).ok()?,
        gateway: attributes.find(RTA_GATEWAY).and_then(parse_ip),
        link: attributes.find_u32(RTA_OIF),
        source: attributes.find(RTA_PREFSRC).and_then(parse_ip),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_back() {
        for (destination, gateway) in [("0.0.0.0/0", Some("10.0.0.1")), ("fd00::/64", None), ("10.1.0.0/16", None)] {
            let route = Route {
                destination: destination.parse().unwrap(),
                gateway: gateway.map(|g| g.parse().unwrap()),
                link: Some(3),
                source: None,
            };
            let mut b = Buffer::new();
            b.raw(&route_header(&route));
            write_route(&mut b, &route);
            assert_eq!(parse_route(b.as_bytes()), Some(route));
        }
    }

    #[test]
    fn loopback_is_there() {
        let mut rtnl = Rtnl::open().unwrap();
        let lo = rtnl.require_link("lo").unwrap();
        assert_eq!(lo.index, 1);
        assert!(rtnl.link("no-such-link").unwrap().is_none());
    }
}
