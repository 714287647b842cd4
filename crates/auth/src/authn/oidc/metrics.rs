//! Metrics of tokens of issuers, under upstream's name.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::hash::sha256_hex;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
    jwt_issuer_hash: String,
}

const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// See the module.
pub struct Metrics(Family<Labels, Histogram>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram))
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_authentication_jwt_authenticator_latency_seconds",
            "Latency of jwt authentication operations in seconds",
            self.0.clone(),
        );
    }

    pub(super) fn judged(&self, issuer: &str, good: bool, took: Duration) {
        let result = if good { "success" } else { "failure" };
        let jwt_issuer_hash = format!("sha256:{}", sha256_hex(issuer.as_bytes()));
        self.0.get_or_create(&Labels { result, jwt_issuer_hash }).observe(took.as_secs_f64());
    }
}
