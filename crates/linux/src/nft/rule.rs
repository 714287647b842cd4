//! Rules by what they mean: `Rule::new().l4proto(6).dport(80).jump("x")` instead of registers and offsets. Every matcher uses
//! registers from 0 on, as `nft` itself does, so that `nft list ruleset` shows the rule as it would be written.

use std::net::IpAddr;

use ipnet::IpNet;

use super::model::*;

const IP4_SOURCE: (u32, u32) = (12, 4);
const IP4_DESTINATION: (u32, u32) = (16, 4);
const IP6_SOURCE: (u32, u32) = (8, 16);
const IP6_DESTINATION: (u32, u32) = (24, 16);

/// The bytes of an address in network order.
pub fn ip_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an instruction.
    pub fn expr(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    fn load(self, base: PayloadBase, (offset, len): (u32, u32), dst: Reg) -> Self {
        self.expr(Expr::Payload { base, offset, len, dst })
    }

    fn eq(self, data: &[u8]) -> Self {
        self.expr(Expr::Cmp { op: CmpOp::Eq, src: 0, data: data.to_vec() })
    }

    /// Loads the source address of a packet of `family` (`Ip` or `Ip6`).
    pub fn load_saddr(self, family: Family, dst: Reg) -> Self {
        self.load(PayloadBase::Network, if family == Family::Ip6 { IP6_SOURCE } else { IP4_SOURCE }, dst)
    }

    /// Loads the destination address of a packet of `family`.
    pub fn load_daddr(self, family: Family, dst: Reg) -> Self {
        self.load(PayloadBase::Network, if family == Family::Ip6 { IP6_DESTINATION } else { IP4_DESTINATION }, dst)
    }

    /// Loads the transport protocol's number.
    pub fn load_l4proto(self, dst: Reg) -> Self {
        self.expr(Expr::Meta { key: MetaKey::L4Proto, dst })
    }

    /// Loads the destination port.
    pub fn load_dport(self, dst: Reg) -> Self {
        self.load(PayloadBase::Transport, (2, 2), dst)
    }

    /// `meta l4proto`.
    pub fn l4proto(self, protocol: u8) -> Self {
        self.load_l4proto(0).eq(&[protocol])
    }

    /// `th dport`; the rule must have matched the protocol.
    pub fn dport(self, port: u16) -> Self {
        self.load_dport(0).eq(&port.to_be_bytes())
    }

    /// `ip saddr ADDRESS`.
    pub fn saddr(self, address: IpAddr) -> Self {
        self.load_saddr(family_of(address), 0).eq(&ip_bytes(address))
    }

    /// `ip daddr ADDRESS`.
    pub fn daddr(self, address: IpAddr) -> Self {
        self.load_daddr(family_of(address), 0).eq(&ip_bytes(address))
    }

    /// `ip saddr NET`, or `!= NET`.
    pub fn saddr_in(self, net: IpNet, op: CmpOp) -> Self {
        self.load_saddr(family_of(net.addr()), 0).prefix(net, op)
    }

    /// `ip daddr NET`, or `!= NET`.
    pub fn daddr_in(self, net: IpNet, op: CmpOp) -> Self {
        self.load_daddr(family_of(net.addr()), 0).prefix(net, op)
    }

    fn prefix(self, net: IpNet, op: CmpOp) -> Self {
        let mask = ip_bytes(net.netmask());
        let rule = if net.prefix_len() == net.max_prefix_len() {
            self
        } else {
            let xor = vec![0; mask.len()];
            self.expr(Expr::Bitwise { src: 0, dst: 0, mask, xor })
        };
        rule.expr(Expr::Cmp { op, src: 0, data: ip_bytes(net.network()) })
    }

    /// `ct state BITS`.
    pub fn ct_state(self, bits: u32) -> Self {
        self.ct_bits(CtKey::State, bits)
    }

    /// `ct status BITS`.
    pub fn ct_status(self, bits: u32) -> Self {
        self.ct_bits(CtKey::Status, bits)
    }

    fn ct_bits(self, key: CtKey, bits: u32) -> Self {
        self.expr(Expr::Ct { key, dst: 0 })
            .expr(Expr::Bitwise { src: 0, dst: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] })
            .expr(Expr::Cmp { op: CmpOp::Neq, src: 0, data: vec![0; 4] })
    }

    /// `meta mark & BITS OP 0`: `Neq` matches a packet that carries one of the bits.
    pub fn mark_bits(self, bits: u32, op: CmpOp) -> Self {
        self.expr(Expr::Meta { key: MetaKey::Mark, dst: 0 })
            .expr(Expr::Bitwise { src: 0, dst: 0, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] })
            .expr(Expr::Cmp { op, src: 0, data: vec![0; 4] })
    }

    /// `meta mark set mark & MASK ^ XOR`.
    pub fn change_mark(self, mask: u32, xor: u32) -> Self {
        let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
        self.expr(Expr::Meta { key: MetaKey::Mark, dst: 0 })
            .expr(Expr::Bitwise { src: 0, dst: 0, mask, xor })
            .expr(Expr::SetMeta { key: MetaKey::Mark, src: 0 })
    }

    /// `fib daddr type local`.
    pub fn daddr_is_local(self) -> Self {
        self.expr(Expr::FibType { of: FibAddress::Destination, dst: 0 }).eq(&FIB_TYPE_LOCAL.to_ne_bytes())
    }

    /// `fib saddr type local`.
    pub fn saddr_is_local(self) -> Self {
        self.expr(Expr::FibType { of: FibAddress::Source, dst: 0 }).eq(&FIB_TYPE_LOCAL.to_ne_bytes())
    }

    /// `iifname != NAME`.
    pub fn not_from_interface(self, name: &str) -> Self {
        let mut data = name.as_bytes().to_vec();
        data.resize(16, 0);
        self.expr(Expr::Meta { key: MetaKey::InterfaceName, dst: 0 }).expr(Expr::Cmp { op: CmpOp::Neq, src: 0, data })
    }

    /// `@SET` for the key loaded from register 0 on.
    pub fn in_set(self, set: impl Into<String>) -> Self {
        self.expr(Expr::Lookup { set: set.into(), src: 0, invert: false })
    }

    /// `vmap @MAP` for the key loaded from register 0 on.
    pub fn vmap(self, map: impl Into<String>) -> Self {
        self.expr(Expr::Vmap { map: VmapRef::Named(map.into()), src: 0 })
    }

    /// `numgen random mod N vmap { 0 : goto first, 1 : goto second, … }`.
    pub fn random_goto<'a>(self, chains: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let modulus = chains.len() as u32;
        let elements =
            (0u32..).zip(chains).map(|(i, c)| (i.to_ne_bytes().to_vec(), Verdict::Goto(c.to_owned()))).collect();
        self.expr(Expr::Random { modulus, dst: 0 }).expr(Expr::Vmap {
            map: VmapRef::Anonymous(AnonymousVmap { key: vec![Datatype::Integer], elements }),
            src: 0,
        })
    }

    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Jump(chain.into()))
    }

    pub fn goto(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Goto(chain.into()))
    }

    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expr(Expr::Verdict(verdict))
    }

    /// `dnat to ADDRESS:PORT`.
    pub fn dnat(self, address: IpAddr, port: Option<u16>) -> Self {
        let family = family_of(address);
        let bytes = ip_bytes(address);
        let after = (bytes.len() / 4) as Reg;
        let rule = self.expr(Expr::Immediate { dst: 0, data: bytes });
        match port {
            None => rule.expr(Expr::Nat { kind: NatKind::Dnat, family, addr: Some(0), port: None }),
            Some(port) => rule
                .expr(Expr::Immediate { dst: after, data: port.to_be_bytes().to_vec() })
                .expr(Expr::Nat { kind: NatKind::Dnat, family, addr: Some(0), port: Some(after) }),
        }
    }

    pub fn masquerade(self, fully_random: bool) -> Self {
        self.expr(Expr::Masquerade { fully_random })
    }

    pub fn reject(self) -> Self {
        self.expr(Expr::Reject(Reject::PortUnreachable))
    }
}

/// The family of an address.
pub fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::Ip } else { Family::Ip6 }
}
