//! `apiserver_flowcontrol_*`.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::queues::QueueSet;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

const BUCKETS: [f64; 14] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0];

pub(super) struct Stats {
    dispatched: Family<Of, Counter>,
    rejected: Family<Rejected, Counter>,
    inqueue: Family<Level, Gauge>,
    executing: Family<Level, Gauge>,
    seats: Family<Level, Gauge>,
    nominal: Family<Level, Gauge>,
    current: Family<Level, Gauge>,
    wait: Family<Of, Histogram>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            dispatched: Family::default(),
            rejected: Family::default(),
            inqueue: Family::default(),
            executing: Family::default(),
            seats: Family::default(),
            nominal: Family::default(),
            current: Family::default(),
            wait: Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram),
        }
    }
}

impl Stats {
    pub(super) fn register(&self, registry: &mut Registry) {
        let name = |name: &str| format!("apiserver_flowcontrol_{name}");
        let help = "Number of requests executed by API Priority and Fairness subsystem";
        registry.register(name("dispatched_requests"), help, self.dispatched.clone());
        let help = "Number of requests rejected by API Priority and Fairness subsystem";
        registry.register(name("rejected_requests"), help, self.rejected.clone());
        let help = "Number of requests currently pending in queues of the API Priority and Fairness subsystem";
        registry.register(name("current_inqueue_requests"), help, self.inqueue.clone());
        let help = "Number of requests in initial or final execution stage in the API Priority and Fairness subsystem";
        registry.register(name("current_executing_requests"), help, self.executing.clone());
        let help = "Concurrency (number of seats) occupied by the currently executing requests";
        registry.register(name("current_executing_seats"), help, self.seats.clone());
        let help = "Nominal number of execution seats configured for each priority level";
        registry.register(name("nominal_limit_seats"), help, self.nominal.clone());
        let help = "current derived number of execution seats available to each priority level";
        registry.register(name("current_limit_seats"), help, self.current.clone());
        let help = "Length of time a request spent waiting in its queue";
        registry.register(name("request_wait_duration_seconds"), help, self.wait.clone());
    }

    fn of(level: &str, schema: &str) -> Of {
        Of { priority_level: level.to_owned(), flow_schema: schema.to_owned() }
    }

    /// What counts the requests of a schema that are served at a level.
    pub(super) fn dispatched(&self, level: &str, schema: &str) -> Counter {
        self.dispatched.get_or_create_owned(&Self::of(level, schema))
    }

    pub(super) fn rejected(&self, level: &str, schema: &str, reason: &'static str) {
        let Of { priority_level, flow_schema } = Self::of(level, schema);
        self.rejected.get_or_create(&Rejected { priority_level, flow_schema, reason }).inc();
    }

    pub(super) fn waited(&self, level: &str, schema: &str, time: Duration) {
        self.wait.get_or_create(&Self::of(level, schema)).observe(time.as_secs_f64());
    }

    pub(super) fn level(&self, level: &str, set: &QueueSet, nominal: u32) {
        let of = Level { priority_level: level.to_owned() };
        self.inqueue.get_or_create(&of).set(set.waiting() as i64);
        self.executing.get_or_create(&of).set(set.running.len() as i64);
        self.seats.get_or_create(&of).set(i64::from(set.seats()));
        self.nominal.get_or_create(&of).set(i64::from(nominal));
        self.current.get_or_create(&of).set(i64::from(set.limit().unwrap_or(nominal)));
    }
}
