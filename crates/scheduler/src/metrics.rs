//! Metrics of the scheduler, under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::core::Core;
use crate::meter::{Counted, Span};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    result: &'static str,
    profile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PointLabels {
    extension_point: &'static str,
    status: &'static str,
    profile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: &'static str,
    extension_point: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EvaluationLabels {
    plugin: &'static str,
    extension_point: &'static str,
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
    incoming: Family<[(&'static str, &'static str); 2], Counter>,
    pending: Family<[(&'static str, &'static str); 1], Gauge>,
    cached: Family<[(&'static str, &'static str); 1], Gauge>,
    unschedulable: Family<[(&'static str, String); 2], Gauge>,
    permit_waits: Durations<[(&'static str, &'static str); 1]>,
    handled: Durations<[(&'static str, &'static str); 1]>,
    preemption_victims: Histogram,
    preemption_attempts: Counter,
    extension_points: Durations<PointLabels>,
    plugins: Durations<PluginLabels>,
    evaluations: Family<EvaluationLabels, Counter>,
    goroutines: Family<[(&'static str, &'static str); 1], Gauge>,
}

fn attempt_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        let attempt_buckets: fn() -> Histogram = attempt_buckets;
        let wait_buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.01, 2.0, 20));
        let point_buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 12));
        let plugin_buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.00001, 1.5, 20));
        Self {
            attempts: Family::default(),
            attempt_durations: Family::new_with_constructor(attempt_buckets),
            algorithm_durations: attempt_buckets(),
            waits: Family::new_with_constructor(wait_buckets),
            attempts_until_bound: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            incoming: Family::default(),
            pending: Family::default(),
            cached: Family::default(),
            unschedulable: Family::default(),
            permit_waits: Family::new_with_constructor(attempt_buckets),
            handled: Family::new_with_constructor(point_buckets),
            preemption_victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            preemption_attempts: Counter::default(),
            extension_points: Family::new_with_constructor(point_buckets),
            plugins: Family::new_with_constructor(plugin_buckets),
            evaluations: Family::default(),
            goroutines: Family::default(),
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
        let help = "Number of pods added to scheduling queues by event and queue type";
        registry.register("scheduler_queue_incoming_pods", help, self.incoming.clone());
        registry.register("scheduler_pending_pods", "Number of pending pods, by the queue type", self.pending.clone());
        let help = "Number of nodes, pods, and assumed (bound) pods in the scheduler cache";
        registry.register("scheduler_cache_size", help, self.cached.clone());
        let help = "The number of unschedulable pods broken down by plugin name";
        registry.register("scheduler_unschedulable_pods", help, self.unschedulable.clone());
        let help = "Duration of waiting on permit";
        registry.register("scheduler_permit_wait_duration_seconds", help, self.permit_waits.clone());
        let help = "Event handling latency in seconds";
        registry.register("scheduler_event_handling_duration_seconds", help, self.handled.clone());
        let help = "Number of selected preemption victims";
        registry.register("scheduler_preemption_victims", help, self.preemption_victims.clone());
        let help = "Total preemption attempts in the cluster till now";
        registry.register("scheduler_preemption_attempts", help, self.preemption_attempts.clone());
        let help = "Latency for running all plugins of a specific extension point";
        let points = self.extension_points.clone();
        registry.register("scheduler_framework_extension_point_duration_seconds", help, points);
        let help = "Duration for running a plugin at a specific extension point";
        registry.register("scheduler_plugin_execution_duration_seconds", help, self.plugins.clone());
        let help = "Number of attempts to schedule pods by each plugin and the extension point (available only in PreFilter, Filter, PreScore, and Score)";
        registry.register("scheduler_plugin_evaluation", help, self.evaluations.clone());
        let help = "Number of running goroutines split by the work they do such as binding";
        registry.register("scheduler_goroutines", help, self.goroutines.clone());
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

    /// All plugins at an extension point of the driver's are done.
    pub(crate) fn point(&self, profile: &str, extension_point: &'static str, is_done: bool, took: Duration) {
        let status = if is_done { "Success" } else { "Error" };
        let labels = PointLabels { extension_point, status, profile: profile.to_owned() };
        self.extension_points.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// News of a node or a pod were taken in.
    pub(crate) fn handled(&self, event: &'static str, took: Duration) {
        self.handled.get_or_create(&[("event", event)]).observe(took.as_secs_f64());
    }

    fn show_rejections(&self, core: &mut Core) {
        let Some(counts) = core.fetch_rejections().cloned() else { return };
        let profiles = &core.profiles().list;
        for (scheduler, counts) in counts {
            let filters = profiles.iter().filter(|profile| profile.name == scheduler);
            let filters = filters.flat_map(|profile| profile.chain.filter.iter());
            for (plugin, count) in filters.zip(counts) {
                let labels = [("plugin", plugin.name().to_owned()), ("profile", scheduler.to_string())];
                self.unschedulable.get_or_create(&labels).set(count as i64);
            }
        }
    }

    /// Takes what the core has measured.
    pub(crate) fn fetch(&self, core: &mut Core) {
        self.show_rejections(core);
        for (is_allowed, waited) in core.fetch_waits() {
            let result = if is_allowed { "Success" } else { "Unschedulable" };
            self.permit_waits.get_or_create(&[("result", result)]).observe(waited.as_secs_f64());
        }
        for ((queue, event), count) in core.fetch_incoming() {
            self.incoming.get_or_create(&[("queue", queue), ("event", event)]).inc_by(count);
        }
        let (spans, counts) = core.meter().fetch();
        let profile = |place: usize| core.profiles().list.get(place);
        let name = |place: usize| profile(place).map_or_else(String::new, |profile| profile.name.to_string());
        for Span { profile, point: extension_point, plugin, status, took } in spans {
            let histogram = match plugin {
                Some(plugin) => self.plugins.get_or_create(&PluginLabels { plugin, extension_point, status }),
                None => {
                    let labels = PointLabels { extension_point, status, profile: name(profile) };
                    self.extension_points.get_or_create(&labels)
                }
            };
            histogram.observe(took.as_secs_f64());
        }
        for (place, counts) in counts.iter().enumerate() {
            let Some(chain) = profile(place).map(|profile| &profile.chain) else { continue };
            for point in Counted::ALL {
                let asked = counts[point as usize].iter().enumerate().filter(|(_, count)| **count > 0);
                for (at, count) in asked {
                    let plugin = match point.is_of_filters() {
                        true => chain.filter.get(at).map(|plugin| plugin.name()),
                        false => chain.score.get(at).map(|(plugin, _)| plugin.name()),
                    };
                    let (Some(plugin), extension_point) = (plugin, point.name()) else { continue };
                    let labels = EvaluationLabels { plugin, extension_point, profile: name(place) };
                    self.evaluations.get_or_create(&labels).inc_by(*count);
                }
            }
        }
    }

    pub(crate) fn binding(&self, calls: usize) {
        self.goroutines.get_or_create(&[("operation", "binding")]).set(calls as i64);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kybern_apimachinery::json;

    use super::*;
    use crate::config::Profiles;
    use crate::fixture;
    use crate::stores::Stores;

    #[test]
    fn what_waits_for_which_plugin_is_shown_and_how_long_pods_were_held() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let mut core = Core::new(Profiles::default(), Stores::default());
        core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), Duration::ZERO);
        let pod = fixture::pod_named("p", json!({"nodeSelector": {"a": "b"}}));
        core.set_pod(Arc::new(pod), Duration::ZERO);
        core.schedule_next(Duration::ZERO);
        metrics.fetch(&mut core);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let line = |plugin: &str, count: u8| {
            format!("scheduler_unschedulable_pods{{plugin=\"{plugin}\",profile=\"default-scheduler\"}} {count}\n")
        };
        let shown = text();
        assert!(shown.contains(&line("NodeAffinity", 1)) && shown.contains(&line("NodeName", 0)), "{shown}");
        core.remove_pod("p", Duration::ZERO);
        metrics.fetch(&mut core);
        assert!(text().contains(&line("NodeAffinity", 0)));
        metrics.handled("NodeAdd", Duration::from_millis(1));
        assert!(text().contains("scheduler_event_handling_duration_seconds_count{event=\"NodeAdd\"} 1\n"));
    }
}
