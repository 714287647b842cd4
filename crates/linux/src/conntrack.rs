//! The connection-tracking table over ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`): what kube-proxy needs to forget
//! UDP flows that point at endpoints which are gone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::wire::flags;
use crate::netlink::{Attributes, NetlinkError, Protocol, Socket};
use crate::nft::Family;
use crate::nft::encode::nfgenmsg;

const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;

/// One direction of a flow. Ports are 0 for protocols without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub original: Tuple,
    /// As replies come: its source is where the flow was translated to.
    pub reply: Tuple,
    original_attribute: Vec<u8>,
}

/// The connection-tracking table of one network namespace.
pub struct Conntrack(Socket);

impl Conntrack {
    /// Opens ctnetlink in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Socket::open(Protocol::Netfilter).map(Self)
    }

    /// The flows that `wanted` picks.
    pub fn flows(
        &mut self,
        family: Family,
        wanted: impl Fn(&Tuple, &Tuple) -> bool,
    ) -> Result<Vec<Flow>, NetlinkError> {
        let mut found = Vec::new();
        let header = nfgenmsg(family.number(), 0);
        self.0.dump(
            "list connections",
            SUBSYSTEM | IPCTNL_MSG_CT_GET,
            &header,
            |_| {},
            |message| match message {
                None => found.clear(),
                Some((_, payload)) => {
                    found.extend(parse_flow(payload).filter(|flow| wanted(&flow.original, &flow.reply)));
                }
            },
        )?;
        Ok(found)
    }

    /// Forgets a flow; one that is gone already is fine.
    pub fn delete(&mut self, flow: &Flow) -> Result<(), NetlinkError> {
        let family = if flow.original.source.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let header = nfgenmsg(family.number(), 0);
        let deleted =
            self.0.request("delete connection", SUBSYSTEM | IPCTNL_MSG_CT_DELETE, flags::REQUEST, &header, |b| {
                b.attr(CTA_TUPLE_ORIG | NLA_F_NESTED, &flow.original_attribute);
            });
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }
}

fn parse_flow(payload: &[u8]) -> Option<Flow> {
    let attributes = Attributes(payload.get(4..)?);
    let original = attributes.find(CTA_TUPLE_ORIG)?;
    Some(Flow {
        original: parse_tuple(Attributes(original))?,
        reply: parse_tuple(attributes.nested(CTA_TUPLE_REPLY))?,
        original_attribute: original.to_vec(),
    })
}

fn parse_tuple(tuple: Attributes<'_>) -> Option<Tuple> {
    let (ip, proto) = (tuple.nested(1), tuple.nested(2));
    let v4 = |kind| ip.find(kind)?.try_into().ok().map(|b: [u8; 4]| IpAddr::from(Ipv4Addr::from(b)));
    let v6 = |kind| ip.find(kind)?.try_into().ok().map(|b: [u8; 16]| IpAddr::from(Ipv6Addr::from(b)));
    let port = |kind| proto.find(kind).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        source: v4(1).or_else(|| v6(3))?,
        destination: v4(2).or_else(|| v6(4))?,
        protocol: *proto.find(1)?.first()?,
        source_port: port(2),
        destination_port: port(3),
    })
}
