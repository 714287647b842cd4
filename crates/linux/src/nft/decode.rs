//! Netlink messages to the model. Pure. What the model cannot say becomes [`Expr::Unknown`], which equals nothing that is
//! ever wanted, so that a foreign rule in an owned chain is replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use super::encode::{
    DATA_VERDICT, FIB_F_DADDR, FIB_F_SADDR, FIB_RESULT_ADDRTYPE, MASQUERADE_FULLY_RANDOM, UDATA_COMMENT, meta_number,
    set_flags,
};
use super::model::*;
use crate::netlink::Attributes;
use crate::netlink::wire::text;

/// A chain without its rules, and its table's name.
pub fn chain(payload: &[u8]) -> Option<(&str, &str, Chain)> {
    let attributes = Attributes(payload.get(4..)?);
    let base = attributes.find(4).and_then(|hook| {
        let hook = Attributes(hook);
        Some(BaseChain {
            kind: match attributes.find_str(7)? {
                "nat" => ChainKind::Nat,
                _ => ChainKind::Filter,
            },
            hook: match hook.find_be32(1)? {
                0 => Hook::Prerouting,
                1 => Hook::Input,
                2 => Hook::Forward,
                3 => Hook::Output,
                _ => Hook::Postrouting,
            },
            priority: hook.find_be32(2)? as i32,
        })
    });
    Some((attributes.find_str(1)?, attributes.find_str(3)?, Chain { base, rules: Vec::new() }))
}

/// A set without its elements, and whether it is anonymous.
pub fn set(payload: &[u8]) -> Option<(&str, Set, bool)> {
    let attributes = Attributes(payload.get(4..)?);
    let flags = attributes.find_be32(3).unwrap_or(0);
    let kind = if flags & set_flags::MAP == 0 {
        SetKind::Set
    } else {
        match attributes.find_be32(6)? {
            DATA_VERDICT => SetKind::Verdicts,
            types => SetKind::Values(datatypes(types)),
        }
    };
    let set = Set {
        key: datatypes(attributes.find_be32(4)?),
        kind,
        timeout: (flags & set_flags::TIMEOUT != 0)
            .then(|| Duration::from_millis(attributes.find_be64(11).unwrap_or_default())),
        elements: BTreeMap::new(),
    };
    Some((attributes.find_str(2)?, set, flags & set_flags::ANONYMOUS != 0))
}

/// The types in a number of [`super::encode::type_number`]; foreign types are left out.
fn datatypes(number: u32) -> Vec<Datatype> {
    (0..5).rev().filter_map(|i| Datatype::from_number(number >> (6 * i) & 0x3f)).collect()
}

/// The elements in one message.
pub fn elements(payload: &[u8]) -> impl Iterator<Item = (Vec<u8>, Element)> + '_ {
    let list = Attributes(payload.get(4..).unwrap_or(&[])).nested(3);
    list.filter_map(|(_, element)| {
        let element = Attributes(element);
        let key = element.nested(1).find(1)?.to_vec();
        let value = match element.find(2).map(Attributes) {
            None => Element::None,
            Some(data) => match data.find(1) {
                Some(value) => Element::Value(value.to_vec()),
                None => Element::Verdict(verdict(data)?),
            },
        };
        Some((key, value))
    })
}

/// A rule and the name of its chain. `anonymous` holds the anonymous maps of the table.
pub fn rule<'a>(payload: &'a [u8], anonymous: &BTreeMap<String, Set>) -> Option<(&'a str, Rule)> {
    let attributes = Attributes(payload.get(4..)?);
    let exprs = attributes.nested(4).map(|(_, expr)| {
        let expr = Attributes(expr);
        let name = expr.find_str(1).unwrap_or_default();
        parse_expr(name, expr.nested(2), anonymous).unwrap_or_else(|| Expr::Unknown(name.to_owned()))
    });
    let comment = attributes.find(7).and_then(comment);
    Some((attributes.find_str(2)?, Rule { exprs: exprs.collect(), comment }))
}

fn comment(mut udata: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = udata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == UDATA_COMMENT {
            return text(value).map(str::to_owned);
        }
        udata = &rest[value.len()..];
    }
    None
}

fn verdict(data: Attributes<'_>) -> Option<Verdict> {
    let verdict = data.nested(2);
    let chain = || verdict.find_str(2).map(str::to_owned);
    Some(match verdict.find_be32(1)? as i32 {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

fn register(number: u32) -> Option<Reg> {
    match number {
        1..=4 => Some((number as Reg - 1) * 4),
        8..=23 => Some(number as Reg - 8),
        _ => None,
    }
}

fn meta_key(number: u32) -> Option<MetaKey> {
    [MetaKey::Mark, MetaKey::L4Proto, MetaKey::NfProto, MetaKey::InterfaceName, MetaKey::OutputInterfaceName]
        .into_iter()
        .find(|key| meta_number(*key) == number)
}

fn parse_expr(name: &str, d: Attributes<'_>, anonymous: &BTreeMap<String, Set>) -> Option<Expr> {
    let reg = |kind| register(d.find_be32(kind)?);
    let data = |kind| d.nested(kind).find(1).map(<[u8]>::to_vec);
    Some(match name {
        "payload" => Expr::Payload {
            base: match d.find_be32(2)? {
                1 => PayloadBase::Network,
                2 => PayloadBase::Transport,
                _ => return None,
            },
            offset: d.find_be32(3)?,
            len: d.find_be32(4)?,
            dst: reg(1)?,
        },
        "meta" => {
            let key = meta_key(d.find_be32(2)?)?;
            match reg(1) {
                Some(dst) => Expr::Meta { key, dst },
                None => Expr::SetMeta { key, src: reg(3)? },
            }
        }
        "ct" => Expr::Ct {
            key: match d.find_be32(2)? {
                0 => CtKey::State,
                2 => CtKey::Status,
                _ => return None,
            },
            dst: reg(1)?,
        },
        "fib" if d.find_be32(2)? == FIB_RESULT_ADDRTYPE => Expr::FibType {
            of: match d.find_be32(3)? {
                FIB_F_SADDR => FibAddress::Source,
                FIB_F_DADDR => FibAddress::Destination,
                _ => return None,
            },
            dst: reg(1)?,
        },
        "bitwise" => Expr::Bitwise { src: reg(1)?, dst: reg(2)?, mask: data(4)?, xor: data(5)? },
        "cmp" => Expr::Cmp {
            op: match d.find_be32(2)? {
                0 => CmpOp::Eq,
                1 => CmpOp::Neq,
                _ => return None,
            },
            src: reg(1)?,
            data: data(3)?,
        },
        "lookup" => {
            let (set, src) = (d.find_str(1)?.to_owned(), reg(2)?);
            match d.find_be32(3) {
                None => Expr::Lookup { set, src, invert: d.find_be32(5).unwrap_or(0) & 1 == 1 },
                Some(0) => Expr::Vmap { map: vmap(set, anonymous), src },
                Some(_) => Expr::Map { map: set, src, dst: reg(3)? },
            }
        }
        "immediate" => match d.find_be32(1)? {
            0 => Expr::Verdict(verdict(d.nested(2))?),
            _ => Expr::Immediate { dst: reg(1)?, data: data(2)? },
        },
        "numgen" if d.find_be32(3)? == 1 && d.find_be32(4).unwrap_or(0) == 0 => {
            Expr::Random { modulus: d.find_be32(2)?, dst: reg(1)? }
        }
        "nat" => Expr::Nat {
            kind: if d.find_be32(1)? == 0 { NatKind::Snat } else { NatKind::Dnat },
            family: if d.find_be32(2)? == 2 { Family::Ip } else { Family::Ip6 },
            addr: reg(3),
            port: reg(5),
        },
        "masq" => Expr::Masquerade { fully_random: d.find_be32(1).unwrap_or(0) & MASQUERADE_FULLY_RANDOM != 0 },
        "redir" => Expr::Redirect { port: reg(1) },
        "reject" => match (d.find_be32(1)?, d.find(2).and_then(|c| c.first().copied())) {
            (0, Some(3 | 4)) | (2, Some(1)) => Expr::Reject(Reject::PortUnreachable),
            (1, _) => Expr::Reject(Reject::TcpReset),
            _ => return None,
        },
        "counter" => Expr::Counter,
        "dynset" => Expr::Dynset {
            op: match d.find_be32(3)? {
                0 => DynsetOp::Add,
                1 => DynsetOp::Update,
                _ => return None,
            },
            set: d.find_str(1)?.to_owned(),
            src: reg(4)?,
        },
        _ => return None,
    })
}

fn vmap(name: String, anonymous: &BTreeMap<String, Set>) -> VmapRef {
    let Some(set) = anonymous.get(&name) else { return VmapRef::Named(name) };
    let elements = set.elements.iter().filter_map(|(key, element)| match element {
        Element::Verdict(verdict) => Some((key.clone(), verdict.clone())),
        _ => None,
    });
    VmapRef::Anonymous(AnonymousVmap { key: set.key.clone(), elements: elements.collect() })
}
