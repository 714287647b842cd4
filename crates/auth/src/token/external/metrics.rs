//! `apiserver_externaljwt_*`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kybern_component_base::grpc::{self, Code, Status};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: String,
}

const BUCKETS: [f64; 14] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

pub(super) struct Metrics {
    fetched_at: Gauge<f64, AtomicU64>,
    data_of: Gauge<f64, AtomicU64>,
    fetches: Family<CodeLabel, Counter>,
    signs: Family<CodeLabel, Counter>,
    calls: Family<CallLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let calls = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        Self {
            fetched_at: Gauge::default(),
            data_of: Gauge::default(),
            fetches: Family::default(),
            signs: Family::default(),
            calls,
        }
    }
}

/// `None`: it went well; `Some(None)`: it failed, but not at the call.
fn label(failed: Option<Option<Code>>) -> CodeLabel {
    let code = match failed {
        None => grpc::code(Code::Ok),
        Some(None) => "unknown-non-grpc".to_owned(),
        Some(Some(code)) => grpc::code(code),
    };
    CodeLabel { code }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let name = |name: &str| format!("apiserver_externaljwt_{name}");
        registry.register(
            name("fetch_keys_success_timestamp"),
            "Unix Timestamp in seconds of the last successful FetchKeys request",
            self.fetched_at.clone(),
        );
        registry.register(
            name("fetch_keys_data_timestamp"),
            "Unix Timestamp in seconds of the last successful FetchKeys data_timestamp value returned by the external signer",
            self.data_of.clone(),
        );
        let help = "Total attempts at syncing supported JWKs";
        registry.register(name("fetch_keys_request"), help, self.fetches.clone());
        registry.register(name("sign_request"), "Total attempts at signing JWT", self.signs.clone());
        let help = "Request duration and time for calls to external-jwt-signer";
        registry.register(name("request_duration_seconds"), help, self.calls.clone());
    }

    pub(super) fn called(&self, method: &'static str, failed: Option<&Status>, took: Duration) {
        let code = grpc::code(failed.map_or(Code::Ok, Status::code));
        self.calls.get_or_create(&CallLabels { method, code }).observe(took.as_secs_f64());
    }

    pub(super) fn signed(&self, failed: Option<Option<Code>>) {
        self.signs.get_or_create(&label(failed)).inc();
    }

    pub(super) fn fetched(&self, failed: Option<Option<Code>>, data_of: Option<f64>) {
        self.fetches.get_or_create(&label(failed)).inc();
        if let (None, Some(time)) = (failed, data_of) {
            self.fetched_at.set(jiff::Timestamp::now().as_millisecond() as f64 / 1000.0);
            self.data_of.set(time);
        }
    }
}
