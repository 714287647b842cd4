//! `apiserver_audit_*`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::policy::Level;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

#[derive(Default)]
pub(super) struct Stats {
    pub(super) events: Counter,
    errors: Family<PluginLabels, Counter>,
    levels: Family<LevelLabels, Counter>,
    pub(super) rejected: Counter,
}

impl Stats {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Counter of audit events generated and sent to the audit backend.";
        registry.register("apiserver_audit_event", help, self.events.clone());
        let help = "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.";
        registry.register("apiserver_audit_error", help, self.errors.clone());
        let help = "Counter of policy levels for audit events (1 per request).";
        registry.register("apiserver_audit_level", help, self.levels.clone());
        let help = "Counter of apiserver requests rejected due to an error in audit logging backend.";
        registry.register("apiserver_audit_requests_rejected", help, self.rejected.clone());
    }

    pub(super) fn failed(&self, plugin: &'static str, events: usize, error: &str) {
        self.errors.get_or_create(&PluginLabels { plugin }).inc_by(events as u64);
        tracing::error!(plugin, events, error, "audit events were not recorded");
    }

    pub(super) fn judged(&self, level: Level) {
        self.levels.get_or_create(&LevelLabels { level: level.as_str() }).inc();
    }

    #[cfg(test)]
    pub(super) fn errors(&self, plugin: &'static str) -> u64 {
        self.errors.get_or_create(&PluginLabels { plugin }).get()
    }
}
