//! An nftables table as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A table's family: which packets its chains see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
}

impl Family {
    pub fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// A table and all in it. Names are unique per kind within a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
    /// Sets and maps.
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

impl Table {
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into(), sets: BTreeMap::new(), chains: BTreeMap::new() }
    }

    /// The chain `name`, made where absent.
    pub fn chain(&mut self, name: impl Into<String>) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `None` for a chain that is only jumped to.
    pub base: Option<BaseChain>,
    pub rules: Vec<Rule>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    pub kind: ChainKind,
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

impl ChainKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// The standard priorities (`nft(8)`, "Standard priority names").
pub mod priority {
    pub const DSTNAT: i32 = -100;
    pub const FILTER: i32 = 0;
    pub const SRCNAT: i32 = 100;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub exprs: Vec<Expr>,
    /// At most 127 bytes are kept.
    pub comment: Option<String>,
}

/// A 32-bit register, numbered from 0 to 15. A value longer than four bytes takes the following ones too.
pub type Reg = u8;

/// What ends or redirects the evaluation of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    /// The chain it leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    Network,
    Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    Mark,
    L4Proto,
    NfProto,
    InterfaceName,
    OutputInterfaceName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtKey {
    State,
    Status,
}

/// `ct state` bits.
pub mod ct_state {
    pub const ESTABLISHED: u32 = 2;
    pub const RELATED: u32 = 4;
    pub const NEW: u32 = 8;
}

/// `ct status` bit of a connection whose destination was translated.
pub const CT_STATUS_DNAT: u32 = 1 << 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpOp {
    Eq,
    Neq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    Snat,
    Dnat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6 "port unreachable", whichever the packet's family has.
    PortUnreachable,
    TcpReset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynsetOp {
    Add,
    Update,
}

/// Which address of a packet is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibAddress {
    Source,
    Destination,
}

/// `fib … type`: the kind of an address as routing sees it, on this machine.
pub const FIB_TYPE_LOCAL: u32 = 2;

/// An instruction of the nftables machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads packet bytes.
    Payload {
        base: PayloadBase,
        offset: u32,
        len: u32,
        dst: Reg,
    },
    Meta {
        key: MetaKey,
        dst: Reg,
    },
    SetMeta {
        key: MetaKey,
        src: Reg,
    },
    Ct {
        key: CtKey,
        dst: Reg,
    },
    /// Loads the address type (`RTN_*`) of the packet's source or destination.
    FibType {
        of: FibAddress,
        dst: Reg,
    },
    /// `dst = (src & mask) ^ xor`; mask and xor are equally long.
    Bitwise {
        src: Reg,
        dst: Reg,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Goes on with the rule if the comparison holds.
    Cmp {
        op: CmpOp,
        src: Reg,
        data: Vec<u8>,
    },
    /// Goes on with the rule if the key is in the set (or is not, inverted).
    Lookup {
        set: String,
        src: Reg,
        invert: bool,
    },
    /// Takes the verdict that a map has for the key; goes on if it has none.
    Vmap {
        map: VmapRef,
        src: Reg,
    },
    /// Loads the value that a map has for the key; leaves the rule if it has none.
    Map {
        map: String,
        src: Reg,
        dst: Reg,
    },
    Immediate {
        dst: Reg,
        data: Vec<u8>,
    },
    Verdict(Verdict),
    /// Loads a random number below `modulus`, in the machine's byte order.
    Random {
        modulus: u32,
        dst: Reg,
    },
    Nat {
        kind: NatKind,
        family: Family,
        addr: Option<Reg>,
        port: Option<Reg>,
    },
    Masquerade {
        fully_random: bool,
    },
    Redirect {
        port: Option<Reg>,
    },
    Reject(Reject),
    Counter,
    /// Puts the key into a set, with the set's own timeout.
    Dynset {
        op: DynsetOp,
        set: String,
        src: Reg,
    },
    /// Read from the kernel and not one of the above.
    Unknown(String),
}

/// A verdict map: one of the table's, or one that only its rule has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmapRef {
    Named(String),
    Anonymous(AnonymousVmap),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnonymousVmap {
    pub key: Vec<Datatype>,
    pub elements: BTreeMap<Vec<u8>, Verdict>,
}

/// The types that keys and values have, as `nft list` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    Integer,
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    Mark,
}

impl Datatype {
    /// nft's own number of the type.
    pub fn number(self) -> u32 {
        match self {
            Self::Integer => 4,
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
        }
    }

    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Integer, Self::Ipv4Addr, Self::Ipv6Addr, Self::InetProto, Self::InetService, Self::Mark]
            .into_iter()
            .find(|t| t.number() == number)
    }

    /// Length in bytes.
    pub fn byte_len(self) -> usize {
        match self {
            Self::Integer | Self::Ipv4Addr | Self::Mark => 4,
            Self::Ipv6Addr => 16,
            Self::InetProto => 1,
            Self::InetService => 2,
        }
    }
}

/// What elements of a set carry besides their key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Nothing: a plain set.
    Set,
    /// A verdict map.
    Verdicts,
    /// A map to values.
    Values(Vec<Datatype>),
}

/// A set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Several make a concatenation, each padded to four bytes.
    pub key: Vec<Datatype>,
    pub kind: SetKind,
    /// `Some` for a set that packets fill (`flags dynamic,timeout`): its elements go after this long, and are no part of the
    /// desired state.
    pub timeout: Option<Duration>,
    pub elements: BTreeMap<Vec<u8>, Element>,
}

impl Set {
    pub fn new(key: &[Datatype], kind: SetKind) -> Self {
        Self { key: key.to_vec(), kind, timeout: None, elements: BTreeMap::new() }
    }

    /// Whether both are declared alike, whatever their elements.
    pub fn same_declaration(&self, other: &Self) -> bool {
        self.key == other.key && self.kind == other.kind && self.timeout == other.timeout
    }
}

/// What a key maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    None,
    Verdict(Verdict),
    Value(Vec<u8>),
}

/// The length of a key or value of these types: each padded to four bytes when there are several.
pub fn key_len(types: &[Datatype]) -> usize {
    match types {
        [one] => one.byte_len(),
        many => many.iter().map(|t| t.byte_len().next_multiple_of(4)).sum(),
    }
}

/// Builds a concatenated key: every part padded to four bytes.
pub fn concat_key(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

impl Chain {
    /// The sets that its rules name.
    pub fn sets(&self) -> BTreeSet<&str> {
        self.rules
            .iter()
            .flat_map(|rule| &rule.exprs)
            .filter_map(|expr| match expr {
                Expr::Lookup { set, .. } | Expr::Dynset { set, .. } => Some(set.as_str()),
                Expr::Vmap { map: VmapRef::Named(map), .. } | Expr::Map { map, .. } => Some(map.as_str()),
                _ => None,
            })
            .collect()
    }
}
