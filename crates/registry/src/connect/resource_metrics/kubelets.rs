//! What kubelets said last, and when they are asked anew: only while somebody wants to know, and each at most once at a
//! time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use http::Request;
use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::{BoxFuture, body};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::kubelet::{KubeletClient, Verify};
use super::usage::{Sample, Usages, parse};
use crate::tree::{list, text};

/// How long what was measured is good, metrics-server's resolution.
const FRESH_FOR: Duration = Duration::from_secs(15);
/// A reading that is older says nothing of now: two are made instead, as far apart as this.
const TOO_OLD: Duration = Duration::from_secs(60);
const FIRST_WINDOW: Duration = Duration::from_millis(1500);
/// A node of which nobody has asked for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// How long a kubelet may take.
const PATIENCE: Duration = Duration::from_secs(10);
const PARALLEL: usize = 32;

/// Reads the page of a node's kubelet.
pub(super) type Reader = Box<dyn Fn(Value) -> BoxFuture<'static, Result<String, ApiError>> + Send + Sync>;

pub(super) struct Kubelets {
    read: Reader,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    wanted: Instant,
    history: Arc<tokio::sync::Mutex<History>>,
}

#[derive(Default)]
struct History {
    measured: Option<Instant>,
    usages: Arc<Usages>,
    last: Option<(Instant, Sample)>,
}

pub(super) fn reader(kubelet: Arc<KubeletClient>) -> Reader {
    Box::new(move |node: Value| -> BoxFuture<'static, Result<String, ApiError>> {
        let kubelet = kubelet.clone();
        Box::pin(async move {
            let request = Request::get("/metrics/resource").body(body::empty()).map_err(ApiError::internal)?;
            let read = async {
                let answer = kubelet.send(&node, Verify::AsConfigured, request).await?;
                let code = answer.status();
                let page = body::read(answer.into_body()).await?;
                let page = String::from_utf8_lossy(&page).into_owned();
                if code.is_success() { Ok(page) } else { Err(ApiError::from_response(code.as_u16(), page.as_bytes())) }
            };
            let late = |_| {
                let text = format!("the kubelet did not answer within {} seconds", PATIENCE.as_secs());
                ApiError::new(Reason::Timeout, text)
            };
            tokio::time::timeout(PATIENCE, read).await.map_err(late)?
        })
    })
}

impl Kubelets {
    pub(super) fn new(read: Reader, clock: Arc<dyn Clock>) -> Self {
        Self { read, clock, known: Mutex::default() }
    }

    /// What these nodes and their pods use, by the nodes' names. A node that cannot be read has used nothing; one that has
    /// not been heard of for long is not even asked, or everybody would wait for it.
    pub(super) async fn usages(&self, mut nodes: Vec<Value>) -> HashMap<String, Arc<Usages>> {
        nodes.retain(|node| !is_lost(node));
        self.known.lock().retain(|_, known| known.wanted.elapsed() < FORGOTTEN_AFTER);
        let of = |node: Value| async move { (object::name(&node).to_owned(), self.usages_of(&node).await) };
        stream::iter(nodes).map(of).buffer_unordered(PARALLEL).collect().await
    }

    async fn usages_of(&self, node: &Value) -> Arc<Usages> {
        let name = object::name(node);
        let history = {
            let (mut known, wanted) = (self.known.lock(), Instant::now());
            let known = known.entry(name.to_owned()).or_insert_with(|| Known { wanted, history: Arc::default() });
            known.wanted = wanted;
            known.history.clone()
        };
        // Who comes second finds what the first has measured.
        let mut history = history.lock().await;
        if history.measured.is_none_or(|at| at.elapsed() >= FRESH_FOR) {
            let usages = self.measure(node, &mut history.last).await;
            history.usages = Arc::new(usages.unwrap_or_else(|error| {
                tracing::debug!(node = name, %error, "its usage cannot be read");
                Usages::default()
            }));
            history.measured = Some(Instant::now());
        }
        history.usages.clone()
    }

    async fn measure(&self, node: &Value, last: &mut Option<(Instant, Sample)>) -> Result<Usages, ApiError> {
        let before = match last.take().filter(|(at, _)| at.elapsed() < TOO_OLD) {
            Some((_, sample)) => sample,
            None => {
                let sample = self.sample(node).await?;
                tokio::time::sleep(FIRST_WINDOW).await;
                sample
            }
        };
        let sample = self.sample(node).await?;
        let usages = sample.since(&before);
        *last = Some((Instant::now(), sample));
        Ok(usages)
    }

    async fn sample(&self, node: &Value) -> Result<Sample, ApiError> {
        let page = (self.read)(node.clone()).await?;
        Ok(parse(&page, self.clock.now()))
    }
}

fn is_lost(node: &Value) -> bool {
    list(&node["status"], "conditions").iter().any(|c| text(c, "type") == "Ready" && text(c, "status") == "Unknown")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;
    use kybern_apimachinery::json;

    use super::*;

    /// Wall time that goes with tokio's.
    struct Paused(Instant);
    impl Clock for Paused {
        fn now(&self) -> Timestamp {
            let millis = i64::try_from(self.0.elapsed().as_millis()).unwrap();
            Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
        }
    }

    /// Kubelets, and how often they were asked. `bad` fails; the others use one core.
    fn kubelets() -> (Arc<Kubelets>, Arc<AtomicU64>) {
        let (asked, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let count = asked.clone();
        let read = move |node: Value| -> BoxFuture<'static, Result<String, ApiError>> {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if object::name(&node) == "bad" {
                    return Err(ApiError::new(Reason::Timeout, "it hangs"));
                }
                let seconds = started.elapsed().as_secs_f64();
                Ok(format!("node_cpu_usage_seconds_total {seconds}\nnode_memory_working_set_bytes 1024\n"))
            })
        };
        (Arc::new(Kubelets::new(Box::new(read), Arc::new(Paused(started)))), asked)
    }

    async fn known(kubelets: &Kubelets, name: &str) -> bool {
        let node = json!({"metadata": {"name": name}});
        kubelets.usages(vec![node]).await[name].node.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_is_asked_when_somebody_wants_to_know_and_it_is_due() {
        let (kubelets, asked) = kubelets();
        let many = (0..5).map(|_| known(&kubelets, "a"));
        assert_eq!(futures_util::future::join_all(many).await, [true; 5]);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "twice for all of them, at first");
        for (seconds, reads) in [(10, 2), (6, 3), (16, 4), (100, 6), (1, 6)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert!(known(&kubelets, "a").await);
            assert_eq!(asked.load(Ordering::Relaxed), reads, "after {seconds} s more");
        }
        tokio::time::sleep(FORGOTTEN_AFTER).await;
        assert!(known(&kubelets, "b").await);
        assert_eq!(kubelets.known.lock().keys().collect::<Vec<_>>(), ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_is_left_alone_for_a_while() {
        let (kubelets, asked) = kubelets();
        for _ in 0..3 {
            assert!(!known(&kubelets, "bad").await);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::sleep(FRESH_FOR).await;
        assert!(!known(&kubelets, "bad").await);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let conditions = json!([{"type": "Ready", "status": "Unknown"}]);
        let lost = json!({"metadata": {"name": "lost"}, "status": {"conditions": conditions}});
        assert!(kubelets.usages(vec![lost]).await.is_empty());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
