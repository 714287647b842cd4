//! DNS messages (RFC 1035, RFC 6891): reads queries, writes answers. Pure.

use std::net::IpAddr;

use crate::name::{MAX_LEN, Name};

pub const HEADER_LEN: usize = 12;
/// Largest answer over UDP that is sent, whatever the client offers: what crosses every network unfragmented.
pub const MAX_UDP: usize = 1232;
const MIN_UDP: usize = 512;

/// Response codes.
pub mod rcode {
    pub const NOERROR: u8 = 0;
    pub const FORMERR: u8 = 1;
    pub const SERVFAIL: u8 = 2;
    pub const NXDOMAIN: u8 = 3;
    pub const NOTIMP: u8 = 4;
    pub const REFUSED: u8 = 5;

    pub fn name(code: u8) -> &'static str {
        match code {
            NOERROR => "NOERROR",
            FORMERR => "FORMERR",
            SERVFAIL => "SERVFAIL",
            NXDOMAIN => "NXDOMAIN",
            NOTIMP => "NOTIMP",
            REFUSED => "REFUSED",
            _ => "other",
        }
    }
}

/// Record types.
pub mod rtype {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const ANY: u16 = 255;

    /// As metrics and logs name it.
    pub fn name(kind: u16) -> &'static str {
        match kind {
            A => "A",
            NS => "NS",
            CNAME => "CNAME",
            SOA => "SOA",
            PTR => "PTR",
            HINFO => "HINFO",
            MX => "MX",
            TXT => "TXT",
            AAAA => "AAAA",
            SRV => "SRV",
            ANY => "ANY",
            _ => "other",
        }
    }
}

pub const CLASS_IN: u16 = 1;

/// Header bits of the second 16-bit word.
pub mod bits {
    pub const QR: u16 = 1 << 15;
    pub const AA: u16 = 1 << 10;
    pub const TC: u16 = 1 << 9;
    pub const RD: u16 = 1 << 8;
    pub const RA: u16 = 1 << 7;
    pub const CD: u16 = 1 << 4;
}

/// What a client offers by EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    pub udp_size: u16,
    pub version: u8,
    pub dnssec_ok: bool,
}

/// A client's question.
#[derive(Clone)]
pub struct Query {
    pub id: u16,
    pub flags: u16,
    pub qtype: u16,
    pub qclass: u16,
    pub edns: Option<Edns>,
    lower: [u8; MAX_LEN],
    /// As it was asked: some resolvers mix case against forgery and want it back.
    original: [u8; MAX_LEN],
    len: u8,
}

impl Query {
    /// A question of our own.
    pub fn new(id: u16, name: &Name, qtype: u16) -> Self {
        let mut lower = [0; MAX_LEN];
        lower[..name.as_wire().len()].copy_from_slice(name.as_wire());
        Self {
            id,
            flags: bits::RD,
            qtype,
            qclass: CLASS_IN,
            edns: None,
            lower,
            original: lower,
            len: name.as_wire().len() as u8,
        }
    }

    /// The name in wire format, lower-cased.
    pub fn name(&self) -> &[u8] {
        &self.lower[..usize::from(self.len)]
    }

    /// The name in wire format, as it was asked.
    pub fn original_name(&self) -> &[u8] {
        &self.original[..usize::from(self.len)]
    }

    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Bytes that an answer may have over UDP.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(MIN_UDP, |edns| usize::from(edns.udp_size).clamp(MIN_UDP, MAX_UDP))
    }

    /// The query as a message, to ask another server.
    pub fn encode(&self, id: u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + usize::from(self.len) + 15);
        header(&mut out, id, self.flags & (bits::RD | bits::CD), [1, 0, 0, u16::from(self.edns.is_some())]);
        self.question(&mut out);
        if let Some(edns) = self.edns {
            write_opt(&mut out, edns.dnssec_ok);
        }
        out
    }

    fn question(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.original_name());
        out.extend_from_slice(&self.qtype.to_be_bytes());
        out.extend_from_slice(&self.qclass.to_be_bytes());
    }
}

/// Why a message is no query.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Not answered: too short, or itself an answer.
    Drop,
    /// Answered by this message.
    Answer(Vec<u8>),
}

/// Reads a query.
pub fn parse_query(bytes: &[u8]) -> Result<Query, Unusable> {
    let word = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (Some(id), Some(flags)) = (word(0), word(2)) else { return Err(Unusable::Drop) };
    if bytes.len() < HEADER_LEN || flags & bits::QR != 0 {
        return Err(Unusable::Drop);
    }
    let refuse = |code: u8| {
        let mut out = Vec::with_capacity(HEADER_LEN);
        header(&mut out, id, bits::QR | flags & (0x7800 | bits::RD) | u16::from(code), [0; 4]);
        Unusable::Answer(out)
    };
    if flags & 0x7800 != 0 {
        return Err(refuse(rcode::NOTIMP));
    }
    if word(4) != Some(1) {
        return Err(refuse(rcode::FORMERR));
    }
    let malformed = || refuse(rcode::FORMERR);
    let mut query =
        Query { id, flags, qtype: 0, qclass: 0, edns: None, lower: [0; MAX_LEN], original: [0; MAX_LEN], len: 0 };
    let name_len = name_len(&bytes[HEADER_LEN..]).ok_or_else(malformed)?;
    let name = &bytes[HEADER_LEN..HEADER_LEN + name_len];
    query.original[..name_len].copy_from_slice(name);
    query.lower[..name_len].copy_from_slice(name);
    // A length byte is below 64 and so never an upper-case letter.
    query.lower[..name_len].make_ascii_lowercase();
    query.len = name_len as u8;
    let mut at = HEADER_LEN + name_len;
    query.qtype = word(at).ok_or_else(malformed)?;
    query.qclass = word(at + 2).ok_or_else(malformed)?;
    at += 4;
    let records = [6, 8, 10].iter().map(|at| usize::from(word(*at).unwrap_or(0))).sum::<usize>();
    for _ in 0..records {
        let record = read_record(bytes, at).ok_or_else(malformed)?;
        if record.kind == rtype::OPT {
            let [_, version, high, _] = record.ttl.to_be_bytes();
            query.edns = Some(Edns { udp_size: record.class, version, dnssec_ok: high & 0x80 != 0 });
        }
        at = record.end;
    }
    Ok(query)
}

/// Length of an uncompressed name at the beginning of `bytes`.
fn name_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1 + len;
        if len > 63 || at > MAX_LEN {
            return None;
        }
        if len == 0 {
            return Some(at);
        }
    }
}

/// Where the parts of a record lie in a message.
#[derive(Clone, Copy, Debug)]
pub struct RecordAt {
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    /// Offset of the TTL field.
    pub ttl_at: usize,
    pub data_at: usize,
    /// Offset of what follows.
    pub end: usize,
}

/// Reads the record at an offset; its name may be compressed.
pub fn read_record(bytes: &[u8], mut at: usize) -> Option<RecordAt> {
    loop {
        let len = *bytes.get(at)?;
        match len {
            0 => break at += 1,
            1..=63 => at += usize::from(len) + 1,
            0xc0.. => break at += 2,
            _ => return None,
        }
    }
    let fixed = bytes.get(at..at + 10)?;
    let end = at + 10 + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    if end > bytes.len() {
        return None;
    }
    Some(RecordAt {
        kind: u16::from_be_bytes([fixed[0], fixed[1]]),
        class: u16::from_be_bytes([fixed[2], fixed[3]]),
        ttl: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        ttl_at: at + 4,
        data_at: at + 10,
        end,
    })
}

/// Reads the name at an offset, following pointers, lower-cased.
pub fn read_name(bytes: &[u8], mut at: usize) -> Option<Name> {
    let mut wire = Vec::with_capacity(64);
    // Every pointer must lead backwards, which bounds the walk.
    let mut limit = at;
    loop {
        let len = *bytes.get(at)?;
        match len {
            0 => {
                wire.push(0);
                return (wire.len() <= MAX_LEN).then(|| Name::from_wire(&wire));
            }
            1..=63 => {
                wire.push(len);
                let label = bytes.get(at + 1..at + 1 + usize::from(len))?;
                wire.extend(label.iter().map(u8::to_ascii_lowercase));
                at += usize::from(len) + 1;
                if wire.len() > MAX_LEN {
                    return None;
                }
            }
            0xc0.. => {
                at = usize::from(u16::from_be_bytes([len & 0x3f, *bytes.get(at + 1)?]));
                if at >= limit {
                    return None;
                }
                limit = at;
            }
            _ => return None,
        }
    }
}

/// Offset of the first record: behind the header and one question.
pub fn after_question(bytes: &[u8]) -> Option<usize> {
    let at = HEADER_LEN + name_len(bytes.get(HEADER_LEN..)?)? + 4;
    (at <= bytes.len() && bytes[4..6] == [0, 1]).then_some(at)
}

/// Whether a message answers a query that was sent with `id`.
pub fn answers(message: &[u8], query: &Query, id: u16) -> bool {
    let question = query.name().len();
    message.len() >= HEADER_LEN + question + 4
        && message[..2] == id.to_be_bytes()
        && message[2] & 0x80 != 0
        && message[4..6] == [0, 1]
        && message[HEADER_LEN..HEADER_LEN + question].eq_ignore_ascii_case(query.name())
        && message[HEADER_LEN + question..][..2] == query.qtype.to_be_bytes()
}

/// Makes a message of another server, or one that was kept, the answer to `query`: its id and its case of the name.
pub fn readdress(message: &mut [u8], query: &Query) {
    message[..2].copy_from_slice(&query.id.to_be_bytes());
    let name = query.original_name();
    if let Some(question) = message.get_mut(HEADER_LEN..HEADER_LEN + name.len()) {
        question.copy_from_slice(name);
    }
}

/// Cuts a message that is too long for UDP down to its question, and says so.
pub fn truncate(message: &mut Vec<u8>, limit: usize) {
    if message.len() > limit
        && let Some(end) = after_question(message)
    {
        message.truncate(end);
        message[2] |= (bits::TC >> 8) as u8;
        message[6..12].fill(0);
    }
}

/// The answers of another server's message that an address lookup needs: aliases and addresses.
pub fn address_records(message: &[u8]) -> Vec<Record> {
    let read = || -> Option<Vec<Record>> {
        let mut at = after_question(message)?;
        let mut records = Vec::new();
        for _ in 0..u16::from_be_bytes([message[6], message[7]]) {
            let record = read_record(message, at)?;
            let data = &message[record.data_at..record.end];
            let data = match record.kind {
                rtype::A => RData::Ip(<[u8; 4]>::try_from(data).ok()?.into()),
                rtype::AAAA => RData::Ip(<[u8; 16]>::try_from(data).ok()?.into()),
                rtype::CNAME => RData::Cname(read_name(message, record.data_at)?),
                _ => {
                    at = record.end;
                    continue;
                }
            };
            records.push(Record { owner: Owner::Name(read_name(message, at)?), ttl: record.ttl, data });
            at = record.end;
        }
        Some(records)
    };
    read().unwrap_or_default()
}

/// A record's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RData {
    Ip(IpAddr),
    Cname(Name),
    Ptr(Name),
    Ns(Name),
    Srv { priority: u16, weight: u16, port: u16, target: Name },
    Txt(Box<str>),
    Soa { primary: Name, mailbox: Name, serial: u32, refresh: u32, retry: u32, expire: u32, minimum: u32 },
}

impl RData {
    pub fn kind(&self) -> u16 {
        match self {
            Self::Ip(IpAddr::V4(_)) => rtype::A,
            Self::Ip(IpAddr::V6(_)) => rtype::AAAA,
            Self::Cname(_) => rtype::CNAME,
            Self::Ptr(_) => rtype::PTR,
            Self::Ns(_) => rtype::NS,
            Self::Srv { .. } => rtype::SRV,
            Self::Txt(_) => rtype::TXT,
            Self::Soa { .. } => rtype::SOA,
        }
    }
}

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name that was asked for.
    Question,
    Name(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub owner: Owner,
    pub ttl: u32,
    pub data: RData,
}

/// An answer of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub rcode: u8,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
}

impl Answer {
    pub fn code(rcode: u8) -> Self {
        Self { rcode, ..Self::default() }
    }
}

/// Writes an answer of at most `limit` bytes. What does not fit is left out and, unless only additional records are
/// missing, the message marked truncated.
pub fn encode(query: &Query, answer: &Answer, recursion_available: bool, limit: usize) -> Vec<u8> {
    let mut flags = bits::QR | query.flags & (bits::RD | bits::CD) | u16::from(answer.rcode);
    if answer.authoritative {
        flags |= bits::AA;
    }
    if recursion_available {
        flags |= bits::RA;
    }
    let mut out = Vec::with_capacity(limit.min(512));
    header(&mut out, query.id, 0, [1, 0, 0, 0]);
    query.question(&mut out);
    let opt_len = if query.edns.is_some() { 11 } else { 0 };
    let mut names = Names { offsets: Vec::with_capacity(8) };
    names.remember(HEADER_LEN, query.original_name());
    let mut counts = [1u16, 0, 0, 0];
    'sections: for (section, records) in
        [&answer.answers, &answer.authority, &answer.additional].into_iter().enumerate()
    {
        for record in records {
            let start = out.len();
            write_record(&mut out, &mut names, record);
            if out.len() + opt_len > limit {
                out.truncate(start);
                if section < 2 {
                    flags |= bits::TC;
                }
                break 'sections;
            }
            counts[section + 1] += 1;
        }
    }
    if let Some(edns) = query.edns {
        write_opt(&mut out, edns.dnssec_ok);
        counts[3] += 1;
    }
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    for (i, count) in counts.into_iter().enumerate() {
        out[4 + 2 * i..6 + 2 * i].copy_from_slice(&count.to_be_bytes());
    }
    out
}

/// An answer to an EDNS version that is not known (RFC 6891, section 6.1.3).
pub fn bad_version(query: &Query) -> Vec<u8> {
    let mut out = Vec::new();
    header(&mut out, query.id, bits::QR | query.flags & bits::RD, [1, 0, 0, 1]);
    query.question(&mut out);
    write_opt(&mut out, false);
    let extended_rcode = out.len() - 6;
    out[extended_rcode] = 1;
    out
}

fn header(out: &mut Vec<u8>, id: u16, flags: u16, counts: [u16; 4]) {
    for word in [id, flags].into_iter().chain(counts) {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

fn write_opt(out: &mut Vec<u8>, dnssec_ok: bool) {
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&(MAX_UDP as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
}

fn write_record(out: &mut Vec<u8>, names: &mut Names, record: &Record) {
    match &record.owner {
        Owner::Question => out.extend_from_slice(&(0xc000 | HEADER_LEN as u16).to_be_bytes()),
        Owner::Name(name) => names.write(out, name.as_wire()),
    }
    out.extend_from_slice(&record.data.kind().to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&record.ttl.to_be_bytes());
    let len_at = out.len();
    out.extend_from_slice(&[0, 0]);
    match &record.data {
        RData::Ip(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
        RData::Ip(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
        RData::Cname(name) | RData::Ptr(name) | RData::Ns(name) => names.write(out, name.as_wire()),
        RData::Srv { priority, weight, port, target } => {
            for word in [priority, weight, port] {
                out.extend_from_slice(&word.to_be_bytes());
            }
            // RFC 2782: the target is not compressed.
            out.extend_from_slice(target.as_wire());
        }
        RData::Txt(text) => {
            for chunk in text.as_bytes().chunks(255) {
                out.push(chunk.len() as u8);
                out.extend_from_slice(chunk);
            }
        }
        RData::Soa { primary, mailbox, serial, refresh, retry, expire, minimum } => {
            names.write(out, primary.as_wire());
            names.write(out, mailbox.as_wire());
            for word in [serial, refresh, retry, expire, minimum] {
                out.extend_from_slice(&word.to_be_bytes());
            }
        }
    }
    let len = (out.len() - len_at - 2) as u16;
    out[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
}

/// Names that were written, for compression: the offsets at which labels begin.
struct Names {
    offsets: Vec<u16>,
}

/// More would cost more to search than they save.
const MAX_REMEMBERED: usize = 32;

impl Names {
    /// Notes the suffixes of a name written whole at `at`.
    fn remember(&mut self, at: usize, name: &[u8]) {
        let mut offset = 0;
        while name[offset] != 0 && at + offset < 0x4000 && self.offsets.len() < MAX_REMEMBERED {
            self.offsets.push((at + offset) as u16);
            offset += usize::from(name[offset]) + 1;
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, name: &[u8]) {
        let start = out.len();
        let mut offset = 0;
        loop {
            let rest = &name[offset..];
            if rest[0] == 0 {
                out.push(0);
                break;
            }
            if let Some(at) = self.offsets.iter().find(|at| same_name(out, usize::from(**at), rest)) {
                out.extend_from_slice(&(0xc000 | at).to_be_bytes());
                break;
            }
            let label = usize::from(rest[0]) + 1;
            out.extend_from_slice(&rest[..label]);
            offset += label;
        }
        // Only the labels written now; those behind a pointer are known.
        let mut at = start;
        while at < start + offset && at < 0x4000 && self.offsets.len() < MAX_REMEMBERED {
            self.offsets.push(at as u16);
            at += usize::from(out[at]) + 1;
        }
    }
}

/// Whether the name at an offset of a message we wrote is `name`, whatever its case.
fn same_name(out: &[u8], mut at: usize, mut name: &[u8]) -> bool {
    loop {
        let len = out[at];
        if len >= 0xc0 {
            at = usize::from(u16::from_be_bytes([len & 0x3f, out[at + 1]]));
            continue;
        }
        let len = usize::from(len) + 1;
        if name.len() < len || !out[at..at + len].eq_ignore_ascii_case(&name[..len]) {
            return false;
        }
        if len == 1 {
            return true;
        }
        (at, name) = (at + len, &name[len..]);
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
