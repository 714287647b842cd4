//! Telling a link's neighbours who has an address now: gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour
//! advertisements (RFC 4861, section 7.2.6).

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::rtnl::Mac;

const BROADCAST: Mac = [0xff; 6];
/// The group of all nodes of the link, and where Ethernet sends it.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// Sends on the link `index` that `address` is at `mac`. Who holds another's hardware address for it takes the new one.
pub fn announce(index: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
    match address {
        IpAddr::V4(ip) => send(index, libc::ETH_P_ARP, BROADCAST, &arp(ip, mac)),
        IpAddr::V6(ip) => send(index, libc::ETH_P_IPV6, ALL_NODES_MAC, &advertisement(ip, mac)),
    }
}

/// An ARP request of an address for itself.
fn arp(ip: Ipv4Addr, mac: Mac) -> Vec<u8> {
    // Ethernet, IPv4, lengths of both kinds of address, request.
    let head = [0, 1, 0x08, 0, 6, 4, 0, 1];
    [&head[..], &mac, &ip.octets(), &[0; 6], &ip.octets()].concat()
}

/// A neighbour advertisement that nobody asked for, with its IPv6 header.
fn advertisement(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    // Type, code, checksum, the flag "override", the target, and its link-layer address as an option of 8 bytes.
    let mut message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &ip.octets(), &[2, 1], &mac].concat();
    let length = u16::try_from(message.len()).expect("32 bytes").to_be_bytes();
    let next = libc::IPPROTO_ICMPV6 as u8;
    let pseudo = [&ip.octets()[..], &ALL_NODES.octets(), &[0, 0], &length, &[0, 0, 0, next], &message].concat();
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    // Neighbours take it only with a hop limit that no router has lowered.
    [&[0x60, 0, 0, 0][..], &length, &[next, 255], &ip.octets(), &ALL_NODES.octets(), &message].concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn send(index: u32, protocol: libc::c_int, to: Mac, payload: &[u8]) -> io::Result<()> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut hardware = [0; 8];
    hardware[..6].copy_from_slice(&to);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: hardware,
    };
    // SAFETY: both pointers are to live values of the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            payload.as_ptr().cast(),
            payload.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_standards() {
        let mac = [2, 0, 0, 0, 0, 9];
        let request = arp(Ipv4Addr::new(10, 1, 0, 9), mac);
        assert_eq!(request.len(), 28);
        assert_eq!(request[14..18], request[24..28]);
        let message = advertisement("fd00::9".parse().unwrap(), mac);
        assert_eq!(message.len(), 72);
        // A checksum over all, with itself, is zero.
        let pseudo = [&message[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], &message[40..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
