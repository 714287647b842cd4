//! Metrics by CoreDNS' names. Counters of a server block are found once, at set-up, so that a query only adds.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::message::{rcode, rtype};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    server: String,
    zone: String,
    view: &'static str,
    proto: &'static str,
    family: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResponseLabels {
    server: String,
    zone: String,
    view: &'static str,
    rcode: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ZoneLabels {
    server: String,
    zone: String,
    view: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CacheLabels {
    r#type: &'static str,
}

/// Of the whole program; outlives reloads.
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    durations: Family<ZoneLabels, Histogram, fn() -> Histogram>,
    cache_hits: Family<ZoneLabels, Counter>,
    cache_misses: Family<ZoneLabels, Counter>,
    cache_entries: Family<CacheLabels, Gauge>,
    pub(crate) reload_failures: Counter,
}

/// The kinds of transport and address, in the order of [`BlockMetrics::requests`].
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
const FAMILIES: [&str; 2] = ["1", "2"];
const TYPES: [u16; 10] = [
    rtype::A,
    rtype::AAAA,
    rtype::SRV,
    rtype::PTR,
    rtype::CNAME,
    rtype::TXT,
    rtype::MX,
    rtype::NS,
    rtype::SOA,
    // Stands for all others.
    0,
];
const RCODES: u8 = 6;

/// Of one server block.
pub(crate) struct BlockMetrics {
    requests: Vec<Counter>,
    responses: Vec<Counter>,
    duration: Histogram,
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let new_histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.00025, 2.0, 16));
        let this = Self {
            registry: Registry::with_prefix("coredns"),
            requests: Family::default(),
            responses: Family::default(),
            durations: Family::new_with_constructor(new_histogram),
            cache_hits: Family::default(),
            cache_misses: Family::default(),
            cache_entries: Family::default(),
            reload_failures: Counter::default(),
        };
        let mut registry = Registry::with_prefix("coredns");
        kybern_client::register_informer_metrics(&mut registry);
        registry.register(
            "dns_requests",
            "Counter of DNS requests made per zone, protocol and family.",
            this.requests.clone(),
        );
        registry.register("dns_responses", "Counter of response status codes.", this.responses.clone());
        registry.register(
            "dns_request_duration_seconds",
            "Histogram of the time (in seconds) each request took per zone.",
            this.durations.clone(),
        );
        registry.register("cache_hits", "The count of cache hits.", this.cache_hits.clone());
        registry.register("cache_misses", "The count of cache misses.", this.cache_misses.clone());
        registry.register("cache_entries", "The number of elements in the cache.", this.cache_entries.clone());
        registry.register(
            "reload_failed",
            "Counter of the number of failed reload attempts.",
            this.reload_failures.clone(),
        );
        Self { registry, ..this }
    }

    pub(crate) fn block(&self, server: &str, zone: &str) -> BlockMetrics {
        let (server, zone) = (server.to_owned(), zone.to_owned());
        let mut requests = Vec::with_capacity(PROTOCOLS.len() * FAMILIES.len() * TYPES.len());
        for proto in PROTOCOLS {
            for family in FAMILIES {
                for kind in TYPES {
                    let labels = RequestLabels {
                        server: server.clone(),
                        zone: zone.clone(),
                        view: "",
                        proto,
                        family,
                        r#type: rtype::name(kind),
                    };
                    requests.push(self.requests.get_or_create(&labels).clone());
                }
            }
        }
        let responses = (0..=RCODES)
            .map(|code| {
                let labels =
                    ResponseLabels { server: server.clone(), zone: zone.clone(), view: "", rcode: rcode::name(code) };
                self.responses.get_or_create(&labels).clone()
            })
            .collect();
        let labels = ZoneLabels { server, zone, view: "" };
        BlockMetrics {
            requests,
            responses,
            duration: self.durations.get_or_create(&labels).clone(),
            cache_hits: self.cache_hits.get_or_create(&labels).clone(),
            cache_misses: self.cache_misses.get_or_create(&labels).clone(),
        }
    }

    pub(crate) fn set_cache_len(&self, (success, denial): (usize, usize)) {
        for (kind, count) in [("success", success), ("denial", denial)] {
            self.cache_entries.get_or_create(&CacheLabels { r#type: kind }).set(count as i64);
        }
    }
}

impl BlockMetrics {
    pub(crate) fn request(&self, over_tcp: bool, is_ipv6: bool, qtype: u16) {
        let kind = TYPES.iter().position(|t| *t == qtype).unwrap_or(TYPES.len() - 1);
        let index = (usize::from(over_tcp) * FAMILIES.len() + usize::from(is_ipv6)) * TYPES.len() + kind;
        self.requests[index].inc();
    }

    pub(crate) fn response(&self, code: u8, seconds: f64) {
        self.responses[usize::from(code.min(RCODES))].inc();
        self.duration.observe(seconds);
    }
}
