//! `aggregator_unavailable_apiservice` and its count.

use std::collections::HashMap;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::api_service::Condition;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameAndReason {
    name: String,
    reason: String,
}

#[derive(Default)]
pub(super) struct Metrics {
    unavailable: Family<Name, Gauge>,
    became_unavailable: Family<NameAndReason, Counter>,
    /// The last reason of each that is unavailable.
    reasons: Mutex<HashMap<String, String>>,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "APIServices which are marked as unavailable, by name";
        registry.register("aggregator_unavailable_apiservice", help, self.unavailable.clone());
        let help = "APIServices which became unavailable, by name and reason";
        registry.register("aggregator_unavailable_apiservice", help, self.became_unavailable.clone());
    }

    pub(super) fn condition(&self, name: &str, condition: &Condition) {
        let gauge = self.unavailable.get_or_create(&Name { name: name.to_owned() }).clone();
        let mut reasons = self.reasons.lock();
        if condition.is_true() {
            gauge.set(0);
            reasons.remove(name);
            return;
        }
        gauge.set(1);
        if reasons.insert(name.to_owned(), condition.reason.clone()).is_none() {
            let label = NameAndReason { name: name.to_owned(), reason: condition.reason.clone() };
            self.became_unavailable.get_or_create(&label).inc();
        }
    }

    pub(super) fn forget(&self, name: &str) {
        self.unavailable.remove(&Name { name: name.to_owned() });
        self.reasons.lock().remove(name);
    }
}
