//! A packet through a table, without a kernel: what tests of planners ask instead of looking at rules. It evaluates the base
//! chains of a hook in the order of their priorities, as the kernel does for the first packet of a connection.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::*;
use super::rule::ip_bytes;

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub mark: u32,
    pub ct_state: u32,
    pub ct_status: u32,
    pub input_interface: String,
}

impl Packet {
    /// A new connection.
    pub fn new(protocol: u8, source: IpAddr, destination: IpAddr, destination_port: u16) -> Self {
        Self {
            source,
            destination,
            protocol,
            source_port: 40000,
            destination_port,
            mark: 0,
            ct_state: ct_state::NEW,
            ct_status: 0,
            input_interface: String::new(),
        }
    }
}

/// What became of a packet at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Dropped,
    Rejected,
}

/// A table being traced; packets that update sets change it.
pub struct Tracer<'a> {
    pub table: &'a mut Table,
    /// The machine's own addresses.
    pub local: &'a [IpAddr],
    /// Draws a number below its argument.
    pub random: &'a mut dyn FnMut(u32) -> u32,
    /// Whether a masquerade was met.
    pub masqueraded: bool,
}

enum Step {
    Continue,
    Break,
    Done(Outcome),
    Verdict(Verdict),
}

enum Flow {
    /// The chain ended; its caller goes on.
    Fell,
    Done(Outcome),
}

impl Tracer<'_> {
    /// Sends a packet through a hook: translations and marks change it.
    pub fn hook(&mut self, hook: Hook, packet: &mut Packet) -> Outcome {
        let mut chains: Vec<(i32, String)> = self
            .table
            .chains
            .iter()
            .filter_map(|(name, chain)| {
                chain.base.filter(|base| base.hook == hook).map(|base| (base.priority, name.clone()))
            })
            .collect();
        chains.sort();
        for (_, name) in chains {
            match self.chain(&name, packet) {
                Flow::Fell | Flow::Done(Outcome::Accepted) => {}
                Flow::Done(outcome) => return outcome,
            }
        }
        Outcome::Accepted
    }

    fn chain(&mut self, name: &str, packet: &mut Packet) -> Flow {
        let rules = self.table.chains.get(name).unwrap_or_else(|| panic!("no chain {name:?}")).rules.clone();
        for rule in &rules {
            match self.rule(rule, packet) {
                None => {}
                Some(Step::Done(outcome)) => return Flow::Done(outcome),
                Some(Step::Verdict(verdict)) => match verdict {
                    Verdict::Accept => return Flow::Done(Outcome::Accepted),
                    Verdict::Drop => return Flow::Done(Outcome::Dropped),
                    Verdict::Return => return Flow::Fell,
                    Verdict::Goto(chain) => return self.chain(&chain, packet),
                    Verdict::Jump(chain) => {
                        if let Flow::Done(outcome) = self.chain(&chain, packet) {
                            return Flow::Done(outcome);
                        }
                    }
                },
                Some(Step::Continue | Step::Break) => {}
            }
        }
        Flow::Fell
    }

    fn rule(&mut self, rule: &Rule, packet: &mut Packet) -> Option<Step> {
        let mut registers = Registers([0; 64]);
        for expr in &rule.exprs {
            match self.expr(expr, &mut registers, packet) {
                Step::Continue => {}
                Step::Break => return None,
                step => return Some(step),
            }
        }
        None
    }

    fn expr(&mut self, expr: &Expr, r: &mut Registers, packet: &mut Packet) -> Step {
        match expr {
            Expr::Payload { base, offset, dst, .. } => r.set(*dst, &payload(packet, *base, *offset)),
            Expr::Meta { key, dst } => match key {
                MetaKey::Mark => r.set(*dst, &packet.mark.to_ne_bytes()),
                MetaKey::L4Proto => r.set(*dst, &[packet.protocol]),
                MetaKey::NfProto => r.set(*dst, &[if packet.source.is_ipv4() { 2 } else { 10 }]),
                MetaKey::InterfaceName | MetaKey::OutputInterfaceName => {
                    let mut name = packet.input_interface.clone().into_bytes();
                    name.resize(16, 0);
                    r.set(*dst, &name);
                }
            },
            Expr::SetMeta { src, .. } => {
                packet.mark = u32::from_ne_bytes(r.get(*src, 4).try_into().expect("four bytes"))
            }
            Expr::Ct { key, dst } => {
                let bits = if *key == CtKey::State { packet.ct_state } else { packet.ct_status };
                r.set(*dst, &bits.to_ne_bytes());
            }
            Expr::FibType { of, dst } => {
                let address = if *of == FibAddress::Source { packet.source } else { packet.destination };
                let kind = if self.local.contains(&address) || address.is_loopback() { FIB_TYPE_LOCAL } else { 1 };
                r.set(*dst, &kind.to_ne_bytes());
            }
            Expr::Bitwise { src, dst, mask, xor } => {
                let value: Vec<u8> =
                    r.get(*src, mask.len()).iter().zip(mask).zip(xor).map(|((v, m), x)| (v & m) ^ x).collect();
                r.set(*dst, &value);
            }
            Expr::Cmp { op, src, data } => {
                if (r.get(*src, data.len()) == data.as_slice()) != (*op == CmpOp::Eq) {
                    return Step::Break;
                }
            }
            Expr::Lookup { set, src, invert } => {
                let set = self.set(set);
                if set.elements.contains_key(r.get(*src, key_len(&set.key))) == *invert {
                    return Step::Break;
                }
            }
            Expr::Vmap { map, src } => {
                let verdict = match map {
                    VmapRef::Anonymous(map) => map.elements.get(r.get(*src, key_len(&map.key))).cloned(),
                    VmapRef::Named(name) => {
                        let set = self.set(name);
                        match set.elements.get(r.get(*src, key_len(&set.key))) {
                            Some(Element::Verdict(verdict)) => Some(verdict.clone()),
                            _ => None,
                        }
                    }
                };
                return verdict.map_or(Step::Continue, Step::Verdict);
            }
            Expr::Map { map, src, dst } => {
                let set = self.set(map);
                match set.elements.get(r.get(*src, key_len(&set.key))) {
                    Some(Element::Value(value)) => r.set(*dst, &value.clone()),
                    _ => return Step::Break,
                }
            }
            Expr::Immediate { dst, data } => r.set(*dst, data),
            Expr::Verdict(verdict) => return Step::Verdict(verdict.clone()),
            Expr::Random { modulus, dst } => r.set(*dst, &(self.random)(*modulus).to_ne_bytes()),
            Expr::Nat { kind, family, addr, port } => {
                let address = addr.map(|reg| read_address(*family, r, reg));
                let port = port.map(|reg| u16::from_be_bytes(r.get(reg, 2).try_into().expect("two bytes")));
                let (to, to_port) = match kind {
                    NatKind::Dnat => (&mut packet.destination, &mut packet.destination_port),
                    NatKind::Snat => (&mut packet.source, &mut packet.source_port),
                };
                *to = address.unwrap_or(*to);
                *to_port = port.unwrap_or(*to_port);
                if *kind == NatKind::Dnat {
                    packet.ct_status |= CT_STATUS_DNAT;
                }
                return Step::Done(Outcome::Accepted);
            }
            Expr::Masquerade { .. } => {
                self.masqueraded = true;
                return Step::Done(Outcome::Accepted);
            }
            Expr::Redirect { .. } => return Step::Done(Outcome::Accepted),
            Expr::Reject(_) => return Step::Done(Outcome::Rejected),
            Expr::Counter => {}
            Expr::Dynset { set, src, .. } => {
                let set = self.table.sets.get_mut(set).unwrap_or_else(|| panic!("no set {set:?}"));
                let key = r.get(*src, key_len(&set.key)).to_vec();
                set.elements.insert(key, Element::None);
            }
            Expr::Unknown(name) => panic!("cannot trace {name:?}"),
        }
        Step::Continue
    }

    fn set(&self, name: &str) -> &Set {
        self.table.sets.get(name).unwrap_or_else(|| panic!("no set {name:?}"))
    }
}

struct Registers([u8; 64]);

impl Registers {
    /// Stores a value, zeroing the rest of its last 32-bit register as the kernel does.
    fn set(&mut self, reg: Reg, value: &[u8]) {
        let start = usize::from(reg) * 4;
        self.0[start..start + value.len().next_multiple_of(4)].fill(0);
        self.0[start..start + value.len()].copy_from_slice(value);
    }

    fn get(&self, reg: Reg, len: usize) -> &[u8] {
        &self.0[usize::from(reg) * 4..][..len]
    }
}

fn read_address(family: Family, r: &Registers, reg: Reg) -> IpAddr {
    match family {
        Family::Ip6 => Ipv6Addr::from(<[u8; 16]>::try_from(r.get(reg, 16)).expect("sixteen bytes")).into(),
        Family::Ip | Family::Inet => Ipv4Addr::from(<[u8; 4]>::try_from(r.get(reg, 4)).expect("four bytes")).into(),
    }
}

fn payload(packet: &Packet, base: PayloadBase, offset: u32) -> Vec<u8> {
    match (base, packet.source.is_ipv4(), offset) {
        (PayloadBase::Transport, _, 0) => packet.source_port.to_be_bytes().to_vec(),
        (PayloadBase::Transport, _, 2) => packet.destination_port.to_be_bytes().to_vec(),
        (PayloadBase::Network, true, 12) | (PayloadBase::Network, false, 8) => ip_bytes(packet.source),
        (PayloadBase::Network, true, 16) | (PayloadBase::Network, false, 24) => ip_bytes(packet.destination),
        _ => panic!("cannot trace a load of {base:?} at {offset}"),
    }
}

/// Counts what random draws lead to: runs `trial` for every number that the first draw can give.
pub fn each_choice<T: Ord>(mut trial: impl FnMut(&mut dyn FnMut(u32) -> u32) -> T) -> BTreeMap<T, u32> {
    let mut seen = BTreeMap::new();
    let mut modulus = 1;
    let mut choice = 0;
    while choice < modulus {
        let outcome = trial(&mut |bound| {
            modulus = bound;
            choice
        });
        *seen.entry(outcome).or_insert(0) += 1;
        choice += 1;
    }
    seen
}
