//! Server blocks and what they do with a query.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use crate::message::{
    Answer, CLASS_IN, Owner, Query, RData, Record, Unusable, address_records, bad_version, encode, parse_query, rcode,
    readdress, rtype, truncate,
};
use crate::metrics::BlockMetrics;
use crate::name::{Name, Shown, find_longest};
use crate::plugin::cache::Cache;
use crate::plugin::forward::Forward;
use crate::plugin::{Outcome, Plugin};

/// Aliases that are followed in one answer.
const MAX_ALIASES: usize = 8;
/// So often the own probe comes back before it is called a loop; a client may repeat it once.
const LOOP_SEEN: u32 = 2;

/// The blocks that share a port.
pub struct PortServer {
    pub blocks: Vec<Block>,
}

/// One server block.
pub struct Block {
    pub zones: Vec<Name>,
    /// Asked in this order.
    pub plugins: Vec<Box<dyn Plugin>>,
    pub cache: Option<Cache>,
    pub forwards: Vec<Forward>,
    pub loop_probe: Option<LoopProbe>,
    pub log: bool,
    pub errors: bool,
    pub load_balance: bool,
    shuffle: AtomicU64,
    metrics: BlockMetrics,
}

/// `loop`: a name that only this server asks for. When it comes in, the servers it forwards to forward to it.
pub struct LoopProbe {
    pub name: Name,
    seen: AtomicU32,
    pub detected: Notify,
}

impl LoopProbe {
    pub fn new(zone: &Name) -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel has random numbers");
        let label = |half: &[u8]| half.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)).to_string();
        let (first, second) = (label(&bytes[..8]), label(&bytes[8..]));
        let name = Name::from_labels(&[first.as_bytes(), second.as_bytes()], zone).unwrap_or_else(Name::root);
        Self { name, seen: AtomicU32::new(0), detected: Notify::new() }
    }
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub address: SocketAddr,
    pub over_tcp: bool,
}

/// What is to be done about a datagram.
pub enum Step {
    Reply(Vec<u8>),
    Ignore,
    /// Another server must be asked.
    Wait(Box<Pending>),
}

/// A query that waits for another server.
pub struct Pending {
    server: Arc<PortServer>,
    block: usize,
    query: Query,
    source: Source,
    started: Instant,
    /// An answer so far that ends in an alias, whose target is to be found.
    partial: Option<(Answer, Name)>,
}

impl PortServer {
    /// Answers from memory where that is possible. Never blocks.
    pub fn handle(self: &Arc<Self>, bytes: &[u8], source: Source) -> Step {
        let started = Instant::now();
        let query = match parse_query(bytes) {
            Ok(query) => query,
            Err(Unusable::Drop) => return Step::Ignore,
            Err(Unusable::Answer(bytes)) => return Step::Reply(bytes),
        };
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Step::Reply(bad_version(&query));
        }
        let Some(index) = self.block_of(query.name()).filter(|_| query.qclass == CLASS_IN) else {
            return Step::Reply(encode(&query, &Answer::code(rcode::REFUSED), false, 512));
        };
        let block = &self.blocks[index];
        block.metrics.request(source.over_tcp, source.address.ip().to_canonical().is_ipv6(), query.qtype);
        let finish = |answer: Answer| Step::Reply(block.finish(&query, answer, source, started));
        if block.is_own_probe(&query) {
            return finish(Answer::code(rcode::REFUSED));
        }
        let pending =
            |partial| Pending { server: self.clone(), block: index, query: query.clone(), source, started, partial };
        match block.ask_plugins(&query) {
            Some(answer) => match self.follow_aliases(&query, answer) {
                (answer, None) => finish(answer),
                (answer, Some(target)) => Step::Wait(Box::new(pending(Some((answer, target))))),
            },
            None if block.forward_for(query.name()).is_some() => {
                let cached = block.cache.as_ref().and_then(|cache| cache.get(&query, started));
                if block.cache.is_some() {
                    if cached.is_some() { &block.metrics.cache_hits } else { &block.metrics.cache_misses }.inc();
                }
                match cached {
                    Some(message) => Step::Reply(block.finish_raw(&query, message, source, started)),
                    None => Step::Wait(Box::new(pending(None))),
                }
            }
            None => finish(Answer::code(rcode::SERVFAIL)),
        }
    }

    /// The block with the longest zone that a name is in.
    fn block_of(&self, name: &[u8]) -> Option<usize> {
        find_longest(
            self.blocks.iter().enumerate().flat_map(|(i, block)| block.zones.iter().map(move |zone| (zone, i))),
            name,
        )
    }

    /// Follows an alias as far as memory goes; answers the target that is left.
    fn follow_aliases(&self, query: &Query, mut answer: Answer) -> (Answer, Option<Name>) {
        if !matches!(query.qtype, rtype::A | rtype::AAAA) {
            return (answer, None);
        }
        for _ in 0..MAX_ALIASES {
            let [.., Record { data: RData::Cname(target), .. }] = answer.answers.as_slice() else {
                return (answer, None);
            };
            let target = target.clone();
            let Some(block) = self.block_of(target.as_wire()).map(|i| &self.blocks[i]) else { return (answer, None) };
            let next = Query::new(query.id, &target, query.qtype);
            match block.ask_plugins(&next) {
                None if block.forward_for(target.as_wire()).is_some() => return (answer, Some(target)),
                None => return (answer, None),
                Some(found) => {
                    let is_end = found.answers.is_empty();
                    answer.answers.extend(found.answers.into_iter().map(|record| Record {
                        owner: match record.owner {
                            Owner::Question => Owner::Name(target.clone()),
                            owner => owner,
                        },
                        ..record
                    }));
                    if is_end {
                        return (answer, None);
                    }
                }
            }
        }
        (answer, None)
    }

    /// Asks the other servers that `name`'s block forwards to, through its cache.
    async fn resolve(&self, query: &Query, over_tcp: bool) -> Result<Vec<u8>, (u8, String)> {
        let unknown = || (rcode::SERVFAIL, "no next plugin found".to_owned());
        let block = self.block_of(query.name()).map(|i| &self.blocks[i]).ok_or_else(unknown)?;
        let forward = block.forward_for(query.name()).ok_or_else(unknown)?;
        if let Some(kept) = block.cache.as_ref().and_then(|cache| cache.get(query, Instant::now())) {
            return Ok(kept);
        }
        match forward.resolve(query, over_tcp).await {
            Ok(message) => {
                if let Some(cache) = &block.cache {
                    cache.insert(query, &message, Instant::now());
                }
                Ok(message)
            }
            Err(error @ crate::plugin::forward::ForwardError::TooMany(_)) => Err((rcode::REFUSED, error.to_string())),
            Err(error) => Err((rcode::SERVFAIL, error.to_string())),
        }
    }
}

impl Pending {
    /// Waits for the other server and makes the reply.
    pub async fn reply(self) -> Vec<u8> {
        let Self { server, block, query, source, started, partial } = self;
        let block = &server.blocks[block];
        let failed = |code: u8, cause: &str| {
            if block.errors {
                tracing::error!("plugin/errors: {code} {} {}: {cause}", Shown(query.name()), rtype::name(query.qtype));
            }
            block.finish(&query, Answer::code(code), source, started)
        };
        match partial {
            None => match server.resolve(&query, source.over_tcp).await {
                Ok(mut message) => {
                    readdress(&mut message, &query);
                    block.finish_raw(&query, message, source, started)
                }
                Err((code, cause)) => failed(code, &cause),
            },
            Some((mut answer, target)) => {
                let next = Query::new(query.id, &target, query.qtype);
                match server.resolve(&next, true).await {
                    Ok(message) => {
                        answer.answers.extend(address_records(&message));
                        block.finish(&query, answer, source, started)
                    }
                    Err((code, cause)) => failed(code, &cause),
                }
            }
        }
    }
}

impl Block {
    pub(crate) fn new(zones: Vec<Name>, metrics: BlockMetrics) -> Self {
        Self {
            zones,
            plugins: Vec::new(),
            cache: None,
            forwards: Vec::new(),
            loop_probe: None,
            log: false,
            errors: false,
            load_balance: false,
            shuffle: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            metrics,
        }
    }

    fn ask_plugins(&self, query: &Query) -> Option<Answer> {
        self.plugins.iter().find_map(|plugin| match plugin.handle(query) {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Next => None,
        })
    }

    /// The `forward` with the longest zone.
    pub fn forward_for(&self, name: &[u8]) -> Option<&Forward> {
        let covering = self.forwards.iter().filter(|forward| forward.covers(name));
        covering.max_by_key(|forward| forward.zone().as_wire().len())
    }

    fn is_own_probe(&self, query: &Query) -> bool {
        let Some(probe) = &self.loop_probe else { return false };
        if query.qtype != rtype::HINFO || query.name() != probe.name.as_wire() {
            return false;
        }
        // The first time it goes on, to find the length of the way.
        let seen = probe.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen >= LOOP_SEEN {
            probe.detected.notify_one();
        }
        seen >= LOOP_SEEN
    }

    fn finish(&self, query: &Query, mut answer: Answer, source: Source, started: Instant) -> Vec<u8> {
        if self.load_balance {
            self.shuffle(&mut answer.answers);
        }
        let limit = if source.over_tcp { usize::from(u16::MAX) } else { query.udp_limit() };
        let message = encode(query, &answer, !self.forwards.is_empty(), limit);
        self.done(query, &message, source, started);
        message
    }

    fn finish_raw(&self, query: &Query, mut message: Vec<u8>, source: Source, started: Instant) -> Vec<u8> {
        if !source.over_tcp {
            truncate(&mut message, query.udp_limit());
        }
        self.done(query, &message, source, started);
        message
    }

    fn done(&self, query: &Query, message: &[u8], source: Source, started: Instant) {
        let code = message[3] & 15;
        let took = started.elapsed();
        self.metrics.response(code, took.as_secs_f64());
        if self.log {
            let protocol = if source.over_tcp { "tcp" } else { "udp" };
            tracing::info!(
                "{} - {} \"{} IN {} {protocol} {} {}\" {} {} {:.9}s",
                SocketAddr::new(source.address.ip().to_canonical(), source.address.port()),
                query.id,
                rtype::name(query.qtype),
                Shown(query.name()),
                query.dnssec_ok(),
                query.udp_limit(),
                rcode::name(code),
                message.len(),
                took.as_secs_f64(),
            );
        }
    }

    /// `loadbalance`: puts the addresses in another order every time.
    fn shuffle(&self, records: &mut [Record]) {
        let first = records.iter().position(|record| matches!(record.data, RData::Ip(_))).unwrap_or(records.len());
        let addresses = &mut records[first..];
        for i in (1..addresses.len()).rev() {
            // A linear congruential step: even enough, and no system call per answer.
            let step = |n: u64| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
            let random = self.shuffle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(0);
            addresses.swap(i, (random >> 33) as usize % (i + 1));
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
