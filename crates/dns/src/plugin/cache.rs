//! `cache`: answers of other servers, kept as they came. The cluster's own names are not kept: they are in memory already,
//! and would only be served stale. Bounded in number; `now` is an argument.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::message::{HEADER_LEN, Query, after_question, answers, bits, rcode, read_record, readdress, rtype};
use crate::name::{Name, strip_zone};

const SHARDS: usize = 16;
/// How long a failure is kept.
const SERVFAIL_TTL: u32 = 5;

/// How one kind of answer is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Number of answers.
    pub capacity: usize,
    /// Seconds.
    pub max_ttl: u32,
    pub min_ttl: u32,
    /// Zones of which nothing is kept.
    pub disabled: Vec<Name>,
}

/// Upstream's defaults.
impl Policy {
    pub fn success() -> Self {
        Self { capacity: 9984, max_ttl: 3600, min_ttl: 5, disabled: Vec::new() }
    }

    pub fn denial() -> Self {
        Self { max_ttl: 1800, ..Self::success() }
    }
}

/// The options of `cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub zones: Vec<Name>,
    pub success: Policy,
    pub denial: Policy,
}

struct Entry {
    message: Box<[u8]>,
    ttl_offsets: Box<[u16]>,
    stored: Instant,
    ttl: u32,
    is_success: bool,
}

pub struct Cache {
    options: Options,
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, Entry>>; SHARDS],
}

impl Cache {
    pub fn new(options: Options) -> Self {
        Self { options, hasher: RandomState::new(), shards: Default::default() }
    }

    fn key(&self, query: &Query) -> u64 {
        let edns = query.edns.map(|edns| edns.dnssec_ok);
        self.hasher.hash_one((query.name(), query.qtype, query.qclass, edns, query.flags & bits::CD))
    }

    /// The kept answer, made one to this query, with its TTLs as they are by now.
    pub fn get(&self, query: &Query, now: Instant) -> Option<Vec<u8>> {
        let key = self.key(query);
        let shard = self.shards[key as usize % SHARDS].lock();
        let entry = shard.get(&key)?;
        let age = now.saturating_duration_since(entry.stored).as_secs();
        // The key is a hash: the question decides.
        let id = u16::from_be_bytes([entry.message[0], entry.message[1]]);
        if age >= u64::from(entry.ttl) || !answers(&entry.message, query, id) {
            return None;
        }
        let mut message = entry.message.to_vec();
        for at in entry.ttl_offsets.iter().map(|at| usize::from(*at)) {
            let field = &mut message[at..at + 4];
            let ttl = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            // A minimum TTL keeps an answer longer than its records live.
            field.copy_from_slice(&ttl.saturating_sub(age as u32).max(u32::from(ttl > 0)).to_be_bytes());
        }
        drop(shard);
        readdress(&mut message, query);
        // From memory it is nobody's own.
        message[2] = message[2] & !((bits::AA | bits::RD) >> 8) as u8 | (query.flags & bits::RD).to_be_bytes()[0];
        Some(message)
    }

    /// Keeps an answer if it may be kept.
    pub fn insert(&self, query: &Query, message: &[u8], now: Instant) {
        if !self.options.zones.iter().any(|zone| strip_zone(query.name(), zone.as_wire()).is_some()) {
            return;
        }
        let Some(found) = judge(message) else { return };
        let policy = if found.is_success { &self.options.success } else { &self.options.denial };
        if policy.disabled.iter().any(|zone| strip_zone(query.name(), zone.as_wire()).is_some()) {
            return;
        }
        let ttl = if found.is_failure { SERVFAIL_TTL } else { found.ttl.clamp(policy.min_ttl, policy.max_ttl) };
        let capacity = policy.capacity.div_ceil(SHARDS);
        let entry = Entry {
            message: message.into(),
            ttl_offsets: found.ttl_offsets.into(),
            stored: now,
            ttl,
            is_success: found.is_success,
        };
        let key = self.key(query);
        let mut shard = self.shards[key as usize % SHARDS].lock();
        if !shard.contains_key(&key) && shard.values().filter(|e| e.is_success == entry.is_success).count() >= capacity
        {
            let is_over = |e: &Entry| now.saturating_duration_since(e.stored) >= Duration::from_secs(e.ttl.into());
            let of_kind = |(_, e): &(&u64, &Entry)| e.is_success == entry.is_success;
            // The map's order is random; an expired one is the better victim.
            let victim = shard.iter().filter(of_kind).find(|(_, e)| is_over(e)).or_else(|| shard.iter().find(of_kind));
            if let Some(victim) = victim.map(|(key, _)| *key) {
                shard.remove(&victim);
            }
        }
        if capacity > 0 {
            shard.insert(key, entry);
        }
    }

    /// Kept answers: successes and denials.
    pub fn len(&self) -> (usize, usize) {
        let mut counts = (0, 0);
        for shard in &self.shards {
            for entry in shard.lock().values() {
                *(if entry.is_success { &mut counts.0 } else { &mut counts.1 }) += 1;
            }
        }
        counts
    }
}

struct Judgement {
    ttl: u32,
    ttl_offsets: Vec<u16>,
    is_success: bool,
    is_failure: bool,
}

/// How long a message may be kept; `None`: not at all.
fn judge(message: &[u8]) -> Option<Judgement> {
    let start = after_question(message)?;
    if message[2] & (bits::TC >> 8) as u8 != 0 || message.len() > usize::from(u16::MAX) {
        return None;
    }
    let code = message[3] & 15;
    let count = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let (answer_count, authority_count, additional_count) = (count(6), count(8), count(10));
    let mut at = start;
    let mut ttl_offsets = Vec::new();
    let (mut lowest, mut soa_ttl) = (u32::MAX, None);
    for i in 0..u32::from(answer_count) + u32::from(authority_count) + u32::from(additional_count) {
        let record = read_record(message, at)?;
        at = record.end;
        if record.kind == rtype::OPT {
            continue;
        }
        ttl_offsets.push(u16::try_from(record.ttl_at).ok()?);
        lowest = lowest.min(record.ttl);
        let in_authority = i >= answer_count.into() && i < u32::from(answer_count) + u32::from(authority_count);
        if in_authority && record.kind == rtype::SOA {
            let minimum: [u8; 4] = message.get(record.end - 4..record.end)?.try_into().ok()?;
            soa_ttl = Some(record.ttl.min(u32::from_be_bytes(minimum)));
        }
    }
    let (ttl, is_success, is_failure) = match code {
        rcode::NOERROR if answer_count > 0 => (lowest, true, false),
        // RFC 2308: without an SOA a denial is not kept.
        rcode::NOERROR | rcode::NXDOMAIN => (soa_ttl?, false, false),
        rcode::SERVFAIL => (SERVFAIL_TTL, false, true),
        _ => return None,
    };
    debug_assert!(at >= HEADER_LEN);
    Some(Judgement { ttl, ttl_offsets, is_success, is_failure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Answer, Edns, Owner, RData, Record, encode};

    fn query(text: &str) -> Query {
        Query::new(1, &Name::parse(text).unwrap(), rtype::A)
    }

    fn options() -> Options {
        Options { zones: vec![Name::root()], success: Policy::success(), denial: Policy::denial() }
    }

    fn address(ttl: u32) -> Record {
        Record { owner: Owner::Question, ttl, data: RData::Ip([10, 0, 0, 1].into()) }
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let name = Name::parse("test").unwrap();
        Record {
            owner: Owner::Name(name.clone()),
            ttl,
            data: RData::Soa {
                primary: name.clone(),
                mailbox: name,
                serial: 1,
                refresh: 1,
                retry: 1,
                expire: 1,
                minimum,
            },
        }
    }

    /// Seconds for which an answer is given from memory.
    fn kept(options: Options, answer: &Answer) -> u64 {
        let cache = Cache::new(options);
        let (query, start) = (query("a.test"), Instant::now());
        cache.insert(&query, &encode(&query, answer, true, 512), start);
        (0..10_000).find(|s| cache.get(&query, start + Duration::from_secs(*s)).is_none()).unwrap()
    }

    #[test]
    fn answers_are_kept_as_long_as_they_say() {
        let success = |ttl| Answer { answers: vec![address(ttl), address(ttl + 9)], ..Answer::default() };
        let denial = |rcode, ttl, minimum| Answer { rcode, authority: vec![soa(ttl, minimum)], ..Answer::default() };
        assert_eq!(kept(options(), &success(60)), 60);
        assert_eq!(kept(options(), &success(1)), 5, "the minimum");
        assert_eq!(kept(options(), &success(9000)), 3600, "the maximum");
        assert_eq!(kept(options(), &denial(rcode::NXDOMAIN, 100, 50)), 50);
        assert_eq!(kept(options(), &denial(rcode::NOERROR, 40, 50)), 40);
        assert_eq!(kept(options(), &Answer::code(rcode::NXDOMAIN)), 0);
        assert_eq!(kept(options(), &Answer::code(rcode::SERVFAIL)), 5);
        assert_eq!(kept(options(), &Answer::code(rcode::REFUSED)), 0);
        let mut none = options();
        none.success.disabled = vec![Name::parse("test").unwrap()];
        assert_eq!(kept(none.clone(), &success(60)), 0);
        assert_eq!(kept(none, &denial(rcode::NXDOMAIN, 100, 50)), 50);
        let mut other = options();
        other.zones = vec![Name::parse("example").unwrap()];
        assert_eq!(kept(other, &success(60)), 0);
    }

    #[test]
    fn an_answer_fits_its_new_query() {
        let cache = Cache::new(options());
        let now = Instant::now();
        let first = query("a.test");
        let message =
            encode(&first, &Answer { authoritative: true, answers: vec![address(60)], ..Answer::default() }, true, 512);
        cache.insert(&first, &message, now);
        let mut bytes = query("a.test").encode(77);
        bytes[13] = b'A';
        let second = crate::message::parse_query(&bytes).unwrap();
        let answer = cache.get(&second, now + Duration::from_secs(10)).unwrap();
        assert_eq!(answer[..2], 77u16.to_be_bytes());
        assert_eq!(answer[13], b'A');
        assert_eq!(answer[2] & 4, 0, "no longer authoritative");
        let record = read_record(&answer, after_question(&answer).unwrap()).unwrap();
        assert_eq!(record.ttl, 50);
        let mut with_edns = query("a.test");
        with_edns.edns = Some(Edns { udp_size: 1232, version: 0, dnssec_ok: true });
        assert!(cache.get(&with_edns, now).is_none(), "asked otherwise");
        assert!(cache.get(&query("b.test"), now).is_none());
    }

    #[test]
    fn the_number_is_bounded() {
        let mut options = options();
        options.success.capacity = 64;
        let cache = Cache::new(options);
        for i in 0..2000 {
            let query = query(&format!("n{i}.test"));
            let answer = Answer { answers: vec![address(60)], ..Answer::default() };
            cache.insert(&query, &encode(&query, &answer, true, 512), Instant::now());
        }
        assert!(cache.len().0 <= 64, "{:?}", cache.len());
        assert!(cache.len().0 >= 48);
    }
}
