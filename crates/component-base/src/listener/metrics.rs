//! Connections that were cut, by listener and reason: `full`, `unproven`, `address`, `handshake`, `silent`, `head`, `unread`,
//! `flood`. One program has one count, whichever components it runs.

use std::sync::LazyLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    listener: &'static str,
    reason: &'static str,
}

static CUT: LazyLock<Family<Labels, Counter>> = LazyLock::new(Family::default);

pub(super) fn count(listener: &'static str, reason: &'static str) {
    CUT.get_or_create(&Labels { listener, reason }).inc();
    tracing::debug!(listener, reason, "a connection is cut");
}

/// Adds the metric to a registry.
pub fn register(registry: &mut Registry) {
    // The encoder adds `_total` itself.
    registry.register("kybern_connections_cut", "Connections cut by listener and reason", CUT.clone());
}

/// The metric alone, for pages that are not made of a registry.
pub fn text() -> String {
    let mut registry = Registry::default();
    register(&mut registry);
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text.trim_end_matches("# EOF\n").to_owned()
}
