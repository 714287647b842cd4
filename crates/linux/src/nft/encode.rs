//! Operations to the netlink messages of one batch (`linux/netfilter/nf_tables.h`). Pure.

use std::collections::BTreeMap;

use super::diff::Op;
use super::model::*;
use crate::netlink::Buffer;
use crate::netlink::wire::flags;

pub(super) const SUBSYSTEM: u16 = 10 << 8;
pub(super) mod msg {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const DELSET: u16 = 11;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
}

pub(super) mod set_flags {
    pub(crate) const ANONYMOUS: u32 = 0x1;
    pub(crate) const CONSTANT: u32 = 0x2;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const TIMEOUT: u32 = 0x10;
    pub(crate) const EVAL: u32 = 0x20;
}

pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
pub(super) const MASQUERADE_FULLY_RANDOM: u32 = 1 << 4;
pub(super) const FIB_RESULT_ADDRTYPE: u32 = 3;
pub(super) const FIB_F_SADDR: u32 = 1;
pub(super) const FIB_F_DADDR: u32 = 2;
const NG_RANDOM: u32 = 1;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Bytes of elements per message: below the 64 KiB that one nested attribute can hold.
const ELEMENTS_LEN: usize = 48 * 1024;
/// User data that `nft` shows: a comment, and the byte order of integers in a set's key.
pub(super) const UDATA_COMMENT: u8 = 0;
const UDATA_SET_KEY_BYTEORDER: u8 = 0;
const UDATA_SET_DATA_BYTEORDER: u8 = 1;
const BYTEORDER_HOST: u32 = 1;
const COMMENT_LEN: usize = 127;

/// The header of a netfilter message.
pub fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// A whole batch and the operation behind every sequence number, for error texts.
pub struct Batch {
    pub buffer: Buffer,
    /// `operations[seq - 1]` says what message `seq` does.
    pub operations: Vec<String>,
}

/// Encodes operations on one table as one transaction.
pub fn encode(family: Family, table: &str, ops: &[Op<'_>]) -> Batch {
    let mut writer = Writer {
        family,
        table,
        batch: Batch { buffer: Buffer::new(), operations: Vec::new() },
        next_set_id: 1,
        new_sets: BTreeMap::new(),
    };
    writer.frame(BATCH_BEGIN, "begin the transaction");
    for op in ops {
        writer.op(op);
    }
    writer.frame(BATCH_END, "commit the transaction");
    writer.batch
}

struct Writer<'a> {
    family: Family,
    table: &'a str,
    batch: Batch,
    next_set_id: u32,
    /// Sets made in this batch must be named by id as well.
    new_sets: BTreeMap<String, u32>,
}

impl Writer<'_> {
    fn frame(&mut self, kind: u16, what: &str) {
        self.batch.operations.push(what.to_owned());
        let seq = self.batch.operations.len() as u32;
        self.batch.buffer.message(kind, flags::REQUEST, seq, &nfgenmsg(0, SUBSYSTEM >> 8), |_| {});
    }

    fn message(&mut self, kind: u16, extra: u16, what: String, body: impl FnOnce(&mut Buffer)) {
        self.batch.operations.push(what);
        let seq = self.batch.operations.len() as u32;
        let header = nfgenmsg(self.family.number(), 0);
        self.batch.buffer.message(SUBSYSTEM | kind, flags::REQUEST | extra, seq, &header, body);
    }

    fn op(&mut self, op: &Op<'_>) {
        let table = self.table;
        match op {
            Op::AddTable => self.message(msg::NEWTABLE, flags::CREATE, format!("add table {table}"), |b| {
                b.attr_str(1, table);
                b.attr_be32(2, 0);
            }),
            Op::DeleteTable => {
                self.message(msg::DELTABLE, 0, format!("delete table {table}"), |b| b.attr_str(1, table))
            }
            Op::AddChain(name, chain) => {
                self.message(msg::NEWCHAIN, flags::CREATE, format!("add chain {name}"), |b| {
                    b.attr_str(1, table);
                    b.attr_str(3, name);
                    if let Some(base) = &chain.base {
                        b.nest(4, |b| {
                            b.attr_be32(1, base.hook as u32);
                            b.attr_be32(2, base.priority as u32);
                        });
                        b.attr_str(7, base.kind.name());
                    }
                });
            }
            Op::FlushChain(name) => self.message(msg::DELRULE, 0, format!("flush chain {name}"), |b| {
                b.attr_str(1, table);
                b.attr_str(2, name);
            }),
            Op::DeleteChain(name) => self.message(msg::DELCHAIN, 0, format!("delete chain {name}"), |b| {
                b.attr_str(1, table);
                b.attr_str(3, name);
            }),
            Op::AddSet(name, set) => {
                let id = self.set_id();
                self.new_sets.insert((*name).to_owned(), id);
                let flags = match set.kind {
                    SetKind::Set => 0,
                    SetKind::Verdicts | SetKind::Values(_) => set_flags::MAP,
                } | set.timeout.map_or(0, |_| set_flags::TIMEOUT | set_flags::EVAL);
                self.add_set(name, &set.key, &set.kind, flags, id, set.timeout.map(|t| t.as_millis() as u64));
            }
            Op::DeleteSet(name) => self.message(msg::DELSET, 0, format!("delete set {name}"), |b| {
                b.attr_str(1, table);
                b.attr_str(2, name);
            }),
            Op::AddElements(name, elements) => {
                let id = self.new_sets.get(*name).copied();
                self.elements(msg::NEWSETELEM, name, id, elements.iter().copied());
            }
            Op::DeleteElements(name, keys) => {
                self.elements(msg::DELSETELEM, name, None, keys.iter().map(|key| (*key, &Element::None)));
            }
            Op::AddRule(chain, rule) => self.add_rule(chain, rule),
        }
    }

    fn set_id(&mut self) -> u32 {
        self.next_set_id += 1;
        self.next_set_id - 1
    }

    fn add_set(&mut self, name: &str, key: &[Datatype], kind: &SetKind, flags: u32, id: u32, timeout: Option<u64>) {
        let table = self.table;
        self.message(msg::NEWSET, flags::CREATE, format!("add set {name}"), |b| {
            b.attr_str(1, table);
            b.attr_str(2, name);
            b.attr_be32(3, flags);
            b.attr_be32(4, type_number(key));
            b.attr_be32(5, key_len(key) as u32);
            match kind {
                SetKind::Set => {}
                SetKind::Verdicts => b.attr_be32(6, DATA_VERDICT),
                SetKind::Values(types) => {
                    b.attr_be32(6, type_number(types));
                    b.attr_be32(7, key_len(types) as u32);
                }
            }
            b.attr_be32(10, id);
            if let Some(timeout) = timeout {
                b.attr_be64(11, timeout);
            }
            let mut order = Vec::new();
            if is_host_ordered(key) {
                order.extend(udata(UDATA_SET_KEY_BYTEORDER, &BYTEORDER_HOST.to_ne_bytes()));
            }
            if matches!(kind, SetKind::Values(types) if is_host_ordered(types)) {
                order.extend(udata(UDATA_SET_DATA_BYTEORDER, &BYTEORDER_HOST.to_ne_bytes()));
            }
            if !order.is_empty() {
                b.attr(13, &order);
            }
        });
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        set: &str,
        id: Option<u32>,
        elements: impl Iterator<Item = (&'e [u8], &'e Element)>,
    ) {
        let table = self.table;
        let mut elements = elements.peekable();
        let (create, verb) = if kind == msg::NEWSETELEM { (flags::CREATE, "add") } else { (0, "delete") };
        while elements.peek().is_some() {
            self.message(kind, create, format!("{verb} elements of {set}"), |b| {
                b.attr_str(1, table);
                b.attr_str(2, set);
                if let Some(id) = id {
                    b.attr_be32(4, id);
                }
                b.nest(3, |b| {
                    let start = b.len();
                    while b.len() - start < ELEMENTS_LEN {
                        let Some((key, element)) = elements.next() else { break };
                        b.nest(1, |b| {
                            b.nest(1, |b| b.attr(1, key));
                            match element {
                                Element::None => {}
                                Element::Verdict(verdict) => b.nest(2, |b| write_verdict(b, verdict)),
                                Element::Value(value) => b.nest(2, |b| b.attr(1, value)),
                            }
                        });
                    }
                });
            });
        }
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let mut anonymous = Vec::new();
        for expr in &rule.exprs {
            if let Expr::Vmap { map: VmapRef::Anonymous(map), .. } = expr {
                let id = self.set_id();
                let flags = set_flags::ANONYMOUS | set_flags::CONSTANT | set_flags::MAP;
                self.add_set("__map%d", &map.key, &SetKind::Verdicts, flags, id, None);
                let elements: Vec<_> =
                    map.elements.iter().map(|(k, v)| (k.as_slice(), Element::Verdict(v.clone()))).collect();
                self.elements(msg::NEWSETELEM, "__map%d", Some(id), elements.iter().map(|(k, e)| (*k, e)));
                anonymous.push(id);
            }
        }
        let (table, family) = (self.table, self.family);
        let new_sets = std::mem::take(&mut self.new_sets);
        let what = match &rule.comment {
            Some(comment) => format!("add rule of chain {chain} ({comment})"),
            None => format!("add rule of chain {chain}"),
        };
        self.message(msg::NEWRULE, flags::CREATE | flags::APPEND, what, |b| {
            b.attr_str(1, table);
            b.attr_str(2, chain);
            b.nest(4, |b| {
                let mut anonymous = anonymous.iter();
                for expr in &rule.exprs {
                    let id = match expr {
                        Expr::Vmap { map: VmapRef::Anonymous(_), .. } => anonymous.next().copied(),
                        Expr::Lookup { set, .. } | Expr::Dynset { set, .. } => new_sets.get(set).copied(),
                        Expr::Vmap { map: VmapRef::Named(map), .. } | Expr::Map { map, .. } => {
                            new_sets.get(map).copied()
                        }
                        _ => None,
                    };
                    write_expr(b, family, expr, id);
                }
            });
            if let Some(comment) = &rule.comment {
                let mut text = kept_comment(comment).as_bytes().to_vec();
                text.push(0);
                b.attr(7, &udata(UDATA_COMMENT, &text));
            }
        });
        self.new_sets = new_sets;
    }
}

/// The part of a comment that fits.
pub(super) fn kept_comment(comment: &str) -> &str {
    &comment[..comment.floor_char_boundary(COMMENT_LEN)]
}

fn udata(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, value.len() as u8], value].concat()
}

/// Whether values are in the machine's byte order, which `nft` must be told.
fn is_host_ordered(types: &[Datatype]) -> bool {
    types.iter().any(|t| matches!(t, Datatype::Integer | Datatype::Mark))
}

/// nft's number of a type or concatenation of types: six bits each.
pub(super) fn type_number(types: &[Datatype]) -> u32 {
    types.iter().fold(0, |number, t| number << 6 | t.number())
}

fn write_verdict(b: &mut Buffer, verdict: &Verdict) {
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Jump(_) => -3,
        Verdict::Goto(_) => -4,
        Verdict::Return => -5,
    };
    b.nest(2, |b| {
        b.attr_be32(1, code as u32);
        if let Some(chain) = verdict.chain() {
            b.attr_str(2, chain);
        }
    });
}

/// The kernel names 16-byte aligned registers 1 to 4 and the others from 8 on.
fn register(reg: Reg) -> u32 {
    let reg = u32::from(reg);
    if reg.is_multiple_of(4) { 1 + reg / 4 } else { 8 + reg }
}

fn reg(b: &mut Buffer, kind: u16, reg: Reg) {
    b.attr_be32(kind, register(reg));
}

fn data(b: &mut Buffer, kind: u16, value: &[u8]) {
    b.nest(kind, |b| b.attr(1, value));
}

pub(super) fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Mark => 3,
        MetaKey::InterfaceName => 6,
        MetaKey::OutputInterfaceName => 7,
        MetaKey::NfProto => 15,
        MetaKey::L4Proto => 16,
    }
}

fn write_expr(b: &mut Buffer, family: Family, expr: &Expr, set_id: Option<u32>) {
    b.nest(1, |b| {
        b.attr_str(1, expr_name(expr));
        b.nest(2, |b| write_expr_data(b, family, expr, set_id));
    });
}

fn expr_name(expr: &Expr) -> &str {
    match expr {
        Expr::Payload { .. } => "payload",
        Expr::Meta { .. } | Expr::SetMeta { .. } => "meta",
        Expr::Ct { .. } => "ct",
        Expr::FibType { .. } => "fib",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Cmp { .. } => "cmp",
        Expr::Lookup { .. } | Expr::Vmap { .. } | Expr::Map { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Random { .. } => "numgen",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Redirect { .. } => "redir",
        Expr::Reject(_) => "reject",
        Expr::Counter => "counter",
        Expr::Dynset { .. } => "dynset",
        Expr::Unknown(name) => name,
    }
}

fn write_expr_data(b: &mut Buffer, family: Family, expr: &Expr, set_id: Option<u32>) {
    let lookup = |b: &mut Buffer, name: &str, src: Reg| {
        b.attr_str(1, name);
        reg(b, 2, src);
        if let Some(id) = set_id {
            b.attr_be32(4, id);
        }
    };
    match expr {
        Expr::Payload { base, offset, len, dst } => {
            reg(b, 1, *dst);
            b.attr_be32(2, if *base == PayloadBase::Network { 1 } else { 2 });
            b.attr_be32(3, *offset);
            b.attr_be32(4, *len);
        }
        Expr::Meta { key, dst } => {
            b.attr_be32(2, meta_number(*key));
            reg(b, 1, *dst);
        }
        Expr::SetMeta { key, src } => {
            b.attr_be32(2, meta_number(*key));
            reg(b, 3, *src);
        }
        Expr::Ct { key, dst } => {
            b.attr_be32(2, if *key == CtKey::State { 0 } else { 2 });
            reg(b, 1, *dst);
        }
        Expr::FibType { of, dst } => {
            b.attr_be32(3, if *of == FibAddress::Source { FIB_F_SADDR } else { FIB_F_DADDR });
            b.attr_be32(2, FIB_RESULT_ADDRTYPE);
            reg(b, 1, *dst);
        }
        Expr::Bitwise { src, dst, mask, xor } => {
            reg(b, 1, *src);
            reg(b, 2, *dst);
            b.attr_be32(3, mask.len() as u32);
            data(b, 4, mask);
            data(b, 5, xor);
        }
        Expr::Cmp { op, src, data: value } => {
            reg(b, 1, *src);
            b.attr_be32(2, if *op == CmpOp::Eq { 0 } else { 1 });
            data(b, 3, value);
        }
        Expr::Lookup { set, src, invert } => {
            lookup(b, set, *src);
            if *invert {
                b.attr_be32(5, 1);
            }
        }
        Expr::Vmap { map, src } => {
            let name = match map {
                VmapRef::Named(name) => name,
                VmapRef::Anonymous(_) => "__map%d",
            };
            lookup(b, name, *src);
            b.attr_be32(3, 0);
        }
        Expr::Map { map, src, dst } => {
            lookup(b, map, *src);
            reg(b, 3, *dst);
        }
        Expr::Immediate { dst, data: value } => {
            reg(b, 1, *dst);
            data(b, 2, value);
        }
        Expr::Verdict(verdict) => {
            b.attr_be32(1, 0);
            b.nest(2, |b| write_verdict(b, verdict));
        }
        Expr::Random { modulus, dst } => {
            reg(b, 1, *dst);
            b.attr_be32(2, *modulus);
            b.attr_be32(3, NG_RANDOM);
            b.attr_be32(4, 0);
        }
        Expr::Nat { kind, family: of, addr, port } => {
            b.attr_be32(1, if *kind == NatKind::Snat { 0 } else { 1 });
            b.attr_be32(2, of.number().into());
            if let Some(addr) = addr {
                reg(b, 3, *addr);
            }
            if let Some(port) = port {
                reg(b, 5, *port);
            }
        }
        Expr::Masquerade { fully_random } => {
            if *fully_random {
                b.attr_be32(1, MASQUERADE_FULLY_RANDOM);
            }
        }
        Expr::Redirect { port } => {
            if let Some(port) = port {
                reg(b, 1, *port);
            }
        }
        Expr::Reject(reject) => {
            let (kind, code) = match (reject, family) {
                (Reject::TcpReset, _) => (1, 0),
                (Reject::PortUnreachable, Family::Ip) => (0, 3),
                (Reject::PortUnreachable, Family::Ip6) => (0, 4),
                (Reject::PortUnreachable, Family::Inet) => (2, 1),
            };
            b.attr_be32(1, kind);
            b.attr_u8(2, code);
        }
        Expr::Counter => {
            b.attr_be64(1, 0);
            b.attr_be64(2, 0);
        }
        Expr::Dynset { op, set, src } => {
            b.attr_str(1, set);
            if let Some(id) = set_id {
                b.attr_be32(2, id);
            }
            b.attr_be32(3, if *op == DynsetOp::Add { 0 } else { 1 });
            reg(b, 4, *src);
        }
        Expr::Unknown(_) => {}
    }
}
