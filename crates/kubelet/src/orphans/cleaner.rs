//! Removes what is left of pods, again and again until it is gone. With nothing left it sleeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use kybern_api::core::v1::Pod;
use kybern_cri::CriError;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::RuntimePod;
use super::traces::Places;
use crate::pod::spec;
use crate::shared::Shared;

/// So many pods are removed at a time.
const AT_A_TIME: usize = 8;

/// How long to wait after a failure; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(120);

/// What is to be removed, in numbers.
#[derive(Default)]
pub struct Leftovers {
    pending: AtomicUsize,
    errors: AtomicU64,
    orphans: AtomicU64,
}

impl Leftovers {
    /// Pods of which something is to be removed now; failed attempts so far; pods found that no task knew so far.
    pub fn read(&self) -> (usize, u64, u64) {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (self.pending.load(Ordering::Relaxed), count(&self.errors), count(&self.orphans))
    }

    pub(super) fn found_orphans(&self, count: usize) {
        self.orphans.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// One pod of which everything is to go.
#[derive(Default)]
struct Leftover {
    /// As it was last seen, where it was.
    pod: Option<Arc<Pod>>,
    /// How often in a row it could not be removed.
    failures: u32,
}

/// Takes the uids of pods that are gone.
#[derive(Clone, Default)]
pub struct Cleaner(Arc<Waiting>);

/// At most one entry for each pod.
#[derive(Default)]
struct Waiting {
    pods: Mutex<BTreeMap<String, Leftover>>,
    wake: Notify,
}

/// How an attempt ended.
enum Ended {
    Gone(String),
    Failed(String, Leftover, String),
    /// It is time to try again.
    Again(String, Leftover),
}

impl Cleaner {
    /// Has everything of a pod removed, whatever there is.
    pub fn clean(&self, uid: &str, pod: Option<Arc<Pod>>) {
        let mut pods = self.0.pods.lock();
        let entry = pods.entry(uid.to_owned()).or_default();
        entry.pod = pod.or(entry.pod.take());
        self.0.wake.notify_one();
    }

    pub async fn run(self, shared: Arc<Shared>) {
        let mut attempts: FuturesUnordered<BoxFuture<'static, Ended>> = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        loop {
            let batch = self.take(&busy);
            if !batch.is_empty() {
                busy.extend(batch.keys().cloned());
                self.begin(&shared, batch, &turns, &mut attempts).await;
            }
            shared.leftovers.pending.store(busy.len(), Ordering::Relaxed);
            tokio::select! {
                () = self.0.wake.notified() => {}
                Some(ended) = attempts.next(), if !attempts.is_empty() => match ended {
                    Ended::Gone(uid) => drop(busy.remove(&uid)),
                    Ended::Failed(uid, leftover, cause) => {
                        let wait = report(&shared, &uid, &leftover, &cause);
                        let later = Leftover { failures: leftover.failures + 1, ..leftover };
                        attempts.push(Box::pin(async move {
                            tokio::time::sleep(wait).await;
                            Ended::Again(uid, later)
                        }));
                    }
                    Ended::Again(uid, leftover) => {
                        busy.remove(&uid);
                        self.0.pods.lock().insert(uid, leftover);
                    }
                },
            }
        }
    }

    /// Those that nobody works on.
    fn take(&self, busy: &BTreeSet<String>) -> BTreeMap<String, Leftover> {
        let mut pods = self.0.pods.lock();
        let (later, now) = std::mem::take(&mut *pods).into_iter().partition(|(uid, _)| busy.contains(uid));
        *pods = later;
        now
    }

    /// Looks once at what there is, for all of them.
    async fn begin(
        &self,
        shared: &Arc<Shared>,
        batch: BTreeMap<String, Leftover>,
        turns: &Arc<Semaphore>,
        attempts: &mut FuturesUnordered<BoxFuture<'static, Ended>>,
    ) {
        let places = Places::of(shared);
        let reading = places.clone();
        let mut logs = tokio::task::spawn_blocking(move || reading.logs()).await.unwrap_or_default();
        let mut held = super::list(shared.runtime.as_ref()).await.map_err(|error| error.to_string());
        for (uid, leftover) in batch {
            let held = match &mut held {
                Ok(held) => Ok(held.remove(&uid).unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
            let (logs, places, shared, turns) = (logs.take(&uid), places.clone(), shared.clone(), turns.clone());
            attempts.push(Box::pin(async move {
                let _turn = turns.acquire().await;
                let work = async {
                    remove_from_runtime(&shared, held?).await?;
                    let of = uid.clone();
                    let removed = tokio::task::spawn_blocking(move || places.remove(&of, &logs)).await;
                    removed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
                };
                match work.await {
                    Ok(()) => Ended::Gone(uid),
                    Err(cause) => Ended::Failed(uid, leftover, cause),
                }
            }));
        }
    }
}

/// Says that something is left; answers when to try again.
fn report(shared: &Shared, uid: &str, leftover: &Leftover, cause: &str) -> Duration {
    shared.leftovers.errors.fetch_add(1, Ordering::Relaxed);
    let wait = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(leftover.failures)).min(LAST_RETRY);
    let pod = leftover.pod.as_ref().map_or_else(|| "a pod".to_owned(), |pod| format!("pod {}", spec::full_name(pod)));
    let message = format!("cannot remove what is left of {pod} ({uid}): {cause}; trying again in {} s", wait.as_secs());
    tracing::warn!("{message}");
    if let Some(pod) = &leftover.pod {
        shared.events.warning(pod, None, "FailedKillPod", format!("error killing pod: {cause}"));
    }
    // The pod's namespace may be gone, and its events with it.
    shared.events.node_warning(&shared.config.node_name, "FailedPodCleanup", message);
    wait
}

/// Stops and removes what the runtime holds of a pod. What fails does not keep the rest.
async fn remove_from_runtime(shared: &Shared, held: RuntimePod) -> Result<(), String> {
    let mut result = Ok(());
    let mut note = |outcome: Result<(), CriError>| match outcome {
        Ok(()) | Err(CriError::NotFound(_)) => {}
        Err(error) if result.is_ok() => result = Err(error.to_string()),
        Err(_) => {}
    };
    for id in &held.ids.sandboxes {
        tracing::debug!(sandbox = id, pod = held.name, "removing the sandbox of a pod that is gone");
        note(shared.runtime.stop_pod_sandbox(id).await);
        note(shared.runtime.remove_pod_sandbox(id).await);
    }
    // Where the runtime knows containers without their sandbox.
    for id in held.ids.containers.iter().filter(|_| held.ids.sandboxes.is_empty()) {
        note(shared.runtime.remove_container(id).await);
    }
    result
}
