//! Metrics of the scheduler, under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::core::Core;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    result: &'static str,
    profile: String,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Clones share the figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<AttemptLabels, Counter>,
    attempt_durations: Durations<AttemptLabels>,
    algorithm_durations: Histogram,
    /// From a pod's coming into the queue to its binding, by the number of attempts.
    waits: Durations<[(&'static str, String); 1]>,
    attempts_until_bound: Histogram,
    pending: Family<[(&'static str, &'static str); 1], Gauge>,
    cached: Family<[(&'static str, &'static str); 1], Gauge>,
    preemption_victims: Histogram,
    preemption_attempts: Counter,
}

fn attempt_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        let attempt_buckets: fn() -> Histogram = attempt_buckets;
        let wait_buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.01, 2.0, 20));
        Self {
            attempts: Family::default(),
            attempt_durations: Family::new_with_constructor(attempt_buckets),
            algorithm_durations: attempt_buckets(),
            waits: Family::new_with_constructor(wait_buckets),
            attempts_until_bound: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            pending: Family::default(),
            cached: Family::default(),
            preemption_victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            preemption_attempts: Counter::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Number of attempts to schedule pods, by the result";
        registry.register("scheduler_schedule_attempts", help, self.attempts.clone());
        let help = "Scheduling attempt latency in seconds (scheduling algorithm + binding)";
        registry.register("scheduler_scheduling_attempt_duration_seconds", help, self.attempt_durations.clone());
        let help = "Scheduling algorithm latency in seconds";
        registry.register("scheduler_scheduling_algorithm_duration_seconds", help, self.algorithm_durations.clone());
        let help = "Latency for a pod being scheduled, from the time the pod enters the scheduling queue";
        registry.register("scheduler_pod_scheduling_sli_duration_seconds", help, self.waits.clone());
        let help = "Number of attempts to successfully schedule a pod";
        registry.register("scheduler_pod_scheduling_attempts", help, self.attempts_until_bound.clone());
        registry.register("scheduler_pending_pods", "Number of pending pods, by the queue type", self.pending.clone());
        let help = "Number of nodes, pods, and assumed (bound) pods in the scheduler cache";
        registry.register("scheduler_cache_size", help, self.cached.clone());
        let help = "Number of selected preemption victims";
        registry.register("scheduler_preemption_victims", help, self.preemption_victims.clone());
        let help = "Total preemption attempts in the cluster till now";
        registry.register("scheduler_preemption_attempts", help, self.preemption_attempts.clone());
    }

    /// An attempt is over: `scheduled`, `unschedulable` or `error`.
    pub(crate) fn attempted(&self, profile: &str, result: &'static str, took: Duration) {
        let labels = AttemptLabels { result, profile: profile.to_owned() };
        self.attempts.get_or_create(&labels).inc();
        self.attempt_durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn decided(&self, took: Duration) {
        self.algorithm_durations.observe(took.as_secs_f64());
    }

    pub(crate) fn bound(&self, attempts: u32, waited: Duration) {
        let shown = if attempts < 15 { attempts.to_string() } else { "15+".to_owned() };
        self.waits.get_or_create(&[("attempts", shown)]).observe(waited.as_secs_f64());
        self.attempts_until_bound.observe(f64::from(attempts));
    }

    pub(crate) fn preempted(&self, victims: usize) {
        self.preemption_attempts.inc();
        if victims > 0 {
            self.preemption_victims.observe(victims as f64);
        }
    }

    pub(crate) fn show(&self, core: &Core) {
        let set = |family: &Family<[(&'static str, &'static str); 1], Gauge>, label, value, count: usize| {
            family.get_or_create(&[(label, value)]).set(count as i64);
        };
        for (queue, count) in core.queue().counts() {
            set(&self.pending, "queue", queue, count);
        }
        let (pods, assumed) = core.cluster().pod_counts();
        for (kind, count) in [("nodes", core.cluster().len()), ("pods", pods), ("assumed_pods", assumed)] {
            set(&self.cached, "type", kind, count);
        }
    }
}
