//! The work queue of controllers (`k8s.io/client-go/util/workqueue`): a key is never worked on twice at once, additions
//! while it waits are one, additions while it is worked on bring it back afterwards. Its size is bounded by the number of
//! keys.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Upstream's `DefaultItemBasedRateLimiter`.
const RETRY_BASE: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(1000);

/// A key of a queue.
pub trait Key: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static {}
impl<T: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static> Key for T {}

/// Clones share the queue.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    metrics: Option<Series>,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Waiting in `ready`, or to be put there when the present work on it is done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BTreeSet<(Instant, T)>,
    due: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
}

/// The metrics of all queues of a program, with upstream's names.
#[derive(Clone, Default)]
pub struct QueueMetrics {
    depth: Family<[(&'static str, String); 1], Gauge>,
    adds: Family<[(&'static str, String); 1], Counter>,
    retries: Family<[(&'static str, String); 1], Counter>,
}

struct Series {
    depth: Gauge,
    adds: Counter,
    retries: Counter,
}

impl QueueMetrics {
    /// Registers `workqueue_depth`, `workqueue_adds_total` and `workqueue_retries_total`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("workqueue_depth", "Current depth of the work queue", self.depth.clone());
        registry.register("workqueue_adds", "Additions to the work queue", self.adds.clone());
        registry.register("workqueue_retries", "Retries handled by the work queue", self.retries.clone());
    }
}

impl<T: Key> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Key> WorkQueue<T> {
    pub fn new() -> Self {
        Self::build(None)
    }

    /// A queue that counts under `name`.
    pub fn with_metrics(name: &str, metrics: &QueueMetrics) -> Self {
        let label = [("name", name.to_owned())];
        Self::build(Some(Series {
            depth: metrics.depth.get_or_create_owned(&label),
            adds: metrics.adds.get_or_create_owned(&label),
            retries: metrics.retries.get_or_create_owned(&label),
        }))
    }

    fn build(metrics: Option<Series>) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), metrics }) }
    }

    /// Adds a key, unless it waits already.
    pub fn add(&self, key: T) {
        let mut state = self.shared.state.lock();
        if state.add(key) {
            self.note(&state);
            if let Some(metrics) = &self.shared.metrics {
                metrics.adds.inc();
            }
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    /// Adds a key after a delay; of several delays the shortest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = Instant::now() + delay;
        let mut state = self.shared.state.lock();
        if let Some(earlier) = state.due.get(&key).copied() {
            if earlier <= due {
                return;
            }
            state.delayed.remove(&(earlier, key.clone()));
        }
        state.due.insert(key.clone(), due);
        state.delayed.insert((due, key));
        drop(state);
        // A waiting worker computes its deadline anew.
        self.shared.wake.notify_one();
    }

    /// Adds a key after its own exponential back-off: 5 ms, doubling, up to 1000 s.
    pub fn add_rate_limited(&self, key: T) {
        self.add_rate_limited_to(key, RETRY_MAX);
    }

    /// As [`WorkQueue::add_rate_limited`], up to `longest`.
    pub fn add_rate_limited_to(&self, key: T, longest: Duration) {
        let failures = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures - 1
        };
        if let Some(metrics) = &self.shared.metrics {
            metrics.retries.inc();
        }
        self.add_after(
            key,
            RETRY_BASE.saturating_mul(1_u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX)).min(longest),
        );
    }

    /// Ends the back-off of a key.
    pub fn forget(&self, key: &T) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often a key was added with back-off since it was last forgotten.
    pub fn failures(&self, key: &T) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Waits for a key to work on. Call [`WorkQueue::done`] afterwards. Safe to cancel.
    pub async fn next(&self) -> T {
        loop {
            let woken = self.shared.wake.notified();
            let deadline = {
                let mut state = self.shared.state.lock();
                state.release_due(Instant::now());
                if let Some(key) = state.take() {
                    self.note(&state);
                    if !state.ready.is_empty() {
                        self.shared.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.first().map(|(due, _)| *due)
            };
            match deadline {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, woken).await;
                }
                None => woken.await,
            }
        }
    }

    /// Ends the work on a key. It comes back at once if it was added meanwhile.
    pub fn done(&self, key: &T) {
        let mut state = self.shared.state.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    /// Keys that are ready and wait.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn note(&self, state: &State<T>) {
        if let Some(metrics) = &self.shared.metrics {
            metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
        }
    }
}

impl<T: Key> State<T> {
    /// Whether the key was not waiting yet.
    fn add(&mut self, key: T) -> bool {
        if !self.dirty.insert(key.clone()) {
            return false;
        }
        if !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
        true
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }

    fn release_due(&mut self, now: Instant) {
        while self.delayed.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = self.delayed.pop_first() else { return };
            self.due.remove(&key);
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready<T: Key>(queue: &WorkQueue<T>) -> Option<T> {
        let future = std::pin::pin!(queue.next());
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(key) => Some(key),
            std::task::Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_key_waits_once_and_is_worked_on_once() {
        let queue = WorkQueue::new();
        for key in ["a", "b", "a"] {
            queue.add(key);
        }
        assert_eq!((ready(&queue), ready(&queue), ready(&queue)), (Some("a"), Some("b"), None));
        queue.add("a");
        assert_eq!(ready(&queue), None, "still in work");
        queue.done(&"a");
        assert_eq!(ready(&queue), Some("a"));
        queue.done(&"a");
        queue.done(&"b");
        assert_eq!(ready(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        for (key, seconds) in [("a", 10), ("b", 3), ("a", 5), ("a", 20)] {
            queue.add_after(key, Duration::from_secs(seconds));
        }
        for (key, seconds) in [("b", 3), ("a", 5)] {
            assert_eq!(queue.next().await, key);
            assert_eq!(start.elapsed().as_secs(), seconds);
            queue.done(&key);
        }
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleeping_worker_notices_an_earlier_deadline() {
        let queue = WorkQueue::new();
        queue.add_after("late", Duration::from_secs(100));
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.add_after("soon", Duration::from_secs(1));
        assert_eq!(worker.await.unwrap(), "soon");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_back_off_until_forgotten() {
        let queue = WorkQueue::new();
        let mut delays = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            let key = queue.next().await;
            queue.done(&key);
            delays.push(start.elapsed().as_millis());
        }
        assert_eq!(delays, [5, 10, 20, 40]);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
        for _ in 0..100 {
            queue.add_rate_limited("b");
        }
        assert!(queue.shared.state.lock().delayed.len() == 1, "one delay per key");
    }

    #[tokio::test]
    async fn every_worker_gets_a_key() {
        let queue = WorkQueue::new();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.next().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for key in 0..4 {
            queue.add(key);
        }
        let mut got = Vec::new();
        for worker in workers {
            got.push(worker.await.unwrap());
        }
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn depth_and_adds_are_counted() {
        let metrics = QueueMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let queue = WorkQueue::with_metrics("pods", &metrics);
        queue.add(1);
        queue.add(2);
        queue.next().await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("workqueue_depth{name=\"pods\"} 1") && text.contains("workqueue_adds_total{name=\"pods\"} 2"),
            "{text}"
        );
    }
}
