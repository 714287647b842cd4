//! Metrics of files that are read again when they change (`apiserver_*_config_controller_*`).

use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::hash::sha256_hex;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
    apiserver_id_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InfoLabels {
    apiserver_id_hash: String,
    hash: String,
}

/// Of one file.
pub struct ReloadMetrics {
    id_hash: String,
    reloads: Family<StatusLabels, Counter>,
    last: Family<StatusLabels, Gauge<f64, AtomicU64>>,
    info: Family<InfoLabels, Gauge>,
    applied: Mutex<Option<InfoLabels>>,
}

fn hash(text: &str) -> String {
    format!("sha256:{}", sha256_hex(text.as_bytes()))
}

impl ReloadMetrics {
    /// Of the server of this identity.
    pub fn new(server: &str) -> Self {
        let (reloads, last, info) = (Family::default(), Family::default(), Family::default());
        Self { id_hash: hash(server), reloads, last, info, applied: Mutex::default() }
    }

    /// `subsystem`: `authorization_config_controller`, for instance.
    pub fn register(&self, registry: &mut Registry, subsystem: &str) {
        let name = |name: &str| format!("apiserver_{subsystem}_{name}");
        registry.register(
            name("automatic_reloads"),
            "Total number of automatic reloads split by status and apiserver identity",
            self.reloads.clone(),
        );
        registry.register(
            name("automatic_reload_last_timestamp_seconds"),
            "Timestamp of the last automatic reload split by status and apiserver identity",
            self.last.clone(),
        );
        registry.register(
            name("last_config_info"),
            "Information about the last applied configuration with hash as label, split by apiserver identity",
            self.info.clone(),
        );
    }

    /// This is what holds: the text of the file.
    pub fn applied(&self, text: &str) {
        let labels = InfoLabels { apiserver_id_hash: self.id_hash.clone(), hash: hash(text) };
        let mut applied = self.applied.lock();
        if let Some(before) = applied.replace(labels.clone()) {
            self.info.remove(&before);
        }
        self.info.get_or_create(&labels).set(1);
    }

    /// The file has changed, and holds; or does not.
    pub fn reloaded(&self, success: bool, now: jiff::Timestamp) {
        let status = if success { "success" } else { "failure" };
        let labels = StatusLabels { status, apiserver_id_hash: self.id_hash.clone() };
        self.reloads.get_or_create(&labels).inc();
        self.last.get_or_create(&labels).set(now.as_millisecond() as f64 / 1000.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_is_told_of() {
        let metrics = ReloadMetrics::new("apiserver-x");
        let mut registry = Registry::default();
        metrics.register(&mut registry, "authorization_config_controller");
        metrics.applied("one");
        metrics.reloaded(false, "2026-11-20T00:00:00Z".parse().unwrap());
        metrics.reloaded(true, "2026-11-20T00:00:01Z".parse().unwrap());
        metrics.applied("two");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let prefix = "apiserver_authorization_config_controller";
        let line = |start: &str| text.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
        assert_eq!(line(&format!("{prefix}_automatic_reloads_total{{")).len(), 2, "{text}");
        let info = line(&format!("{prefix}_last_config_info{{"));
        assert_eq!(info.len(), 1, "{text}");
        assert!(info[0].contains(&format!("hash=\"{}\"", hash("two"))), "{text}");
        let last = line(&format!("{prefix}_automatic_reload_last_timestamp_seconds{{status=\"success\""));
        assert!(last[0].ends_with(" 1795132801.0"), "{last:?}");
    }
}
