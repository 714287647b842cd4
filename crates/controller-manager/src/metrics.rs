//! Metrics of the controllers, under upstream's names. A decision says what is to be counted ([`Op::Measure`](crate::controller::Op)),
//! and it is counted once all that comes before it in the plan was done.

mod collected;
mod table;

use std::collections::HashMap;
use std::fmt::Error;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use kybern_client::queue::QueueMetrics;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use self::collected::Stores;
use self::table::PLANNED;
pub use self::table::*;
use crate::snapshot::Snapshot;

/// What is counted by one name.
#[derive(Debug, PartialEq)]
pub struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
}

#[derive(Debug, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Buckets(&'static [f64]),
    /// The first bucket, by what each is larger than the one before, how many there are.
    Exponential(f64, f64, u16),
}

type Labels = Vec<(&'static str, String)>;

/// A counter whose name does not end as the format would have it.
#[derive(Clone, Debug, Default)]
struct Bare(Counter);

impl TypedMetric for Bare {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Bare {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[derive(Clone, Debug)]
struct MakeHistogram(&'static Kind);

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for MakeHistogram {
    fn new_metric(&self) -> Histogram {
        match self.0 {
            Kind::Exponential(first, factor, count) => Histogram::new(exponential_buckets(*first, *factor, *count)),
            Kind::Buckets(buckets) => Histogram::new(buckets.iter().copied()),
            Kind::Counter | Kind::Gauge => Histogram::new([]),
        }
    }
}

enum Series {
    Counter(Family<Labels, Counter>),
    Bare(Family<Labels, Bare>),
    Gauge(Family<Labels, Gauge<f64, AtomicU64>>),
    Histogram(Family<Labels, Histogram, MakeHistogram>),
}

impl Series {
    fn of(metric: &'static Metric) -> Self {
        match metric.kind {
            Kind::Counter if metric.name.ends_with("_total") => Self::Counter(Family::default()),
            Kind::Counter => Self::Bare(Family::default()),
            Kind::Gauge => Self::Gauge(Family::default()),
            _ => Self::Histogram(Family::new_with_constructor(MakeHistogram(&metric.kind))),
        }
    }
}

/// Clones share the figures.
#[derive(Clone)]
pub struct Metrics {
    pub queues: QueueMetrics,
    series: Arc<HashMap<&'static str, Series>>,
    stores: Arc<Mutex<Weak<Snapshot>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let series = PLANNED.iter().map(|metric| (metric.name, Series::of(metric))).collect();
        Self { queues: QueueMetrics::default(), series: Arc::new(series), stores: Arc::default() }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        self.queues.register(registry);
        for metric in PLANNED {
            // The encoder adds this itself.
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            match &self.series[metric.name] {
                Series::Counter(family) => registry.register(name, metric.help, family.clone()),
                Series::Bare(family) => registry.register(metric.name, metric.help, family.clone()),
                Series::Gauge(family) => registry.register(metric.name, metric.help, family.clone()),
                Series::Histogram(family) => registry.register(metric.name, metric.help, family.clone()),
            }
        }
        registry.register_collector(Box::new(Stores(self.stores.clone())));
    }

    /// Counts what these stores hold from now on.
    pub(crate) fn count_in(&self, snapshot: &Arc<Snapshot>) {
        *self.stores.lock() = Arc::downgrade(snapshot);
    }

    pub(crate) fn measure(&self, measure: &Measure) {
        let labels = measure.metric.labels.iter().copied().zip(measure.labels.iter().cloned()).collect();
        let whole = measure.value.max(0.0) as u64;
        match &self.series[measure.metric.name] {
            Series::Counter(family) => drop(family.get_or_create(&labels).inc_by(whole)),
            Series::Bare(family) => drop(family.get_or_create(&labels).0.inc_by(whole)),
            Series::Gauge(family) if measure.value.is_nan() => drop(family.remove(&labels)),
            Series::Gauge(family) => drop(family.get_or_create(&labels).set(measure.value)),
            Series::Histogram(family) => family.get_or_create(&labels).observe(measure.value),
        }
    }
}

/// Something that is to be counted: added to a counter, shown by a gauge (not a number: no longer shown), observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    metric: &'static Metric,
    labels: Vec<String>,
    value: f64,
}

impl Measure {
    pub(crate) fn new<const N: usize>(metric: &'static Metric, labels: [&str; N], value: f64) -> Self {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        Self { metric, labels: labels.map(str::to_owned).to_vec(), value }
    }

    /// As the text format shows it, for tests.
    #[cfg(test)]
    pub(crate) fn shown(&self) -> String {
        let labels: Vec<String> =
            self.metric.labels.iter().zip(&self.labels).map(|(k, v)| format!("{k}={v}")).collect();
        format!("{}{{{}}} {}", self.metric.name, labels.join(","), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        metrics.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn every_metric_is_shown_by_its_name_with_its_labels() {
        let metrics = Metrics::default();
        for metric in PLANNED {
            let labels = metric.labels.iter().map(|label| format!("a {label}")).collect();
            metrics.measure(&Measure { metric, labels, value: 3.0 });
        }
        let text = text(&metrics);
        for metric in PLANNED {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("{label}=\"a {label}\"")).collect();
            let (end, value) = match metric.kind {
                Kind::Counter => ("", "3"),
                Kind::Gauge => ("", "3.0"),
                _ => ("_sum", "3.0"),
            };
            let line = format!("\n{}{end}{{{}}} {value}\n", metric.name, labels.join(","));
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_gauge_that_is_not_a_number_is_gone() {
        let metrics = Metrics::default();
        let gauge = PLANNED.iter().find(|metric| metric.kind == Kind::Gauge).unwrap();
        let measure = |value| Measure { metric: gauge, labels: vec!["x".to_owned(); gauge.labels.len()], value };
        metrics.measure(&measure(2.0));
        assert!(text(&metrics).contains("=\"x\"} 2.0"));
        metrics.measure(&measure(f64::NAN));
        assert!(!text(&metrics).contains("=\"x\"}"));
    }
}
