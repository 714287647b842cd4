//! The task of one pod: observes, asks the plan, executes its actions side by side, publishes the status.

pub mod hooks;
pub mod image;
pub mod kill;
pub mod observe;
pub mod probes;
pub mod publish;
pub mod sandbox;
pub mod start;
pub mod steps;
pub mod volumes;
pub mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::{FuturesUnordered, Stream};
use jiff::Timestamp;
use kybern_api::core::v1::{Pod, PodStatus};
use kybern_cri::{ContainerEvent, ContainerEventType};
use tokio::sync::{Notify, mpsc, watch};

use crate::pod::memory::{Failure, StepKey};
use crate::pod::{Action, Memory, Observed, drain, labels, plan_pod, spec};
use crate::probe::prober::Verdict;
use crate::references::PodReferences;
use crate::shared::Shared;
use crate::volume::claims::Claims;
use crate::volume::tokens::PodTokens;
use observe::Ids;
use steps::Done;

/// What the API says of the pod.
#[derive(Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// The object is gone from the API: whatever runs must stop.
    pub gone: bool,
}

/// The node's side of a pod's task.
pub struct Handle {
    pub desired: watch::Sender<Desired>,
    pub runtime: mpsc::Sender<ContainerEvent>,
    /// Everything must be looked at again: events were lost.
    pub resync: Arc<Notify>,
    /// The newest view of the pod, with its computed status.
    pub view: watch::Receiver<View>,
}

/// What the kubelet's API shows of a pod.
#[derive(Clone, Default)]
pub struct View {
    pub pod: Arc<Pod>,
    pub observed: Arc<Observed>,
}

/// How a pod enters the node.
pub struct Entry {
    pub pod: Arc<Pod>,
    /// What the runtime held of it at that time.
    pub ids: Ids,
    /// Why the node refuses it, if it does.
    pub refused: Option<Failure>,
}

type Step = futures_util::future::BoxFuture<'static, Result<(StepKey, Done), Aborted>>;

pub struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    gone: bool,
    memory: Memory,
    observed: Arc<Observed>,
    ids: Ids,
    /// Last words by container id.
    last_words: BTreeMap<String, String>,
    references: PodReferences,
    reference_changes: Box<dyn Stream<Item = ()> + Send + Unpin>,
    tokens: Arc<tokio::sync::Mutex<PodTokens>>,
    /// What its claims are bound to, once that is ready.
    claims: Arc<parking_lot::Mutex<Arc<Claims>>>,
    /// When a token of the pod's volumes is to be renewed.
    renew_at: Option<Timestamp>,
    steps: FuturesUnordered<Step>,
    whole: whole::Whole,
    aborts: BTreeMap<StepKey, AbortHandle>,
    probes: probes::Probes,
    verdicts: mpsc::Receiver<Verdict>,
    hooked: BTreeSet<String>,
    announced: BTreeSet<String>,
    /// Until when a deleted pod may still be sent requests.
    drained_at: Option<Instant>,
    published: Option<PodStatus>,
    /// When to try again what the API server did not take.
    publish_at: Option<Timestamp>,
    deleted: bool,
    view: watch::Sender<View>,
    stale: bool,
    /// The volumes' sources changed while the volumes were being made.
    volumes_again: bool,
    /// How often in a row volumes or sandbox could not be made.
    failures: u32,
}

/// Starts a pod's task. It ends, and says so to `ended`, when nothing of the pod runs any more and the API has let it go.
pub fn spawn(shared: Arc<Shared>, entry: Entry, ended: mpsc::Sender<String>) -> Handle {
    let (desired, desired_rx) = watch::channel(Desired { pod: entry.pod.clone(), gone: false });
    let (runtime, runtime_rx) = mpsc::channel(64);
    let (view, view_rx) = watch::channel(View { pod: entry.pod.clone(), observed: Arc::default() });
    let resync = Arc::new(Notify::new());
    let uid = spec::uid(&entry.pod).to_owned();
    let worker = Worker::new(shared, entry, view);
    let inputs = (desired_rx, runtime_rx, resync.clone());
    tokio::spawn(async move {
        worker.run(inputs.0, inputs.1, inputs.2).await;
        let _ = ended.send(uid).await;
    });
    Handle { desired, runtime, resync, view: view_rx }
}

impl Worker {
    fn new(shared: Arc<Shared>, entry: Entry, view: watch::Sender<View>) -> Self {
        let references = shared.references.of_pod(&entry.pod);
        let reference_changes = Box::new(references.changes());
        let (verdict_tx, verdicts) = mpsc::channel(16);
        let mut memory = Memory { failure: entry.refused, ..Default::default() };
        publish::remember_probes(&entry.pod, &mut memory);
        Self {
            published: entry.pod.status.clone().map(publish::own_part),
            pod: entry.pod,
            shared,
            gone: false,
            memory,
            observed: Arc::default(),
            ids: entry.ids,
            last_words: BTreeMap::new(),
            references,
            reference_changes,
            tokens: Arc::default(),
            claims: Arc::default(),
            renew_at: None,
            steps: FuturesUnordered::new(),
            whole: whole::Whole::default(),
            aborts: BTreeMap::new(),
            probes: probes::Probes::new(verdict_tx),
            verdicts,
            hooked: BTreeSet::new(),
            announced: BTreeSet::new(),
            drained_at: None,
            publish_at: None,
            deleted: false,
            view,
            stale: true,
            volumes_again: false,
            failures: 0,
        }
    }

    async fn run(
        mut self,
        mut desired: watch::Receiver<Desired>,
        mut runtime: mpsc::Receiver<ContainerEvent>,
        resync: Arc<Notify>,
    ) {
        loop {
            if self.stale {
                self.stale = false;
                self.observe().await;
            }
            let now = Timestamp::now();
            let wake_at = self.act(now);
            if self.is_over() {
                return;
            }
            let sleep = wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let update = desired.borrow_and_update().clone();
                    self.update(update);
                }
                Some(event) = runtime.recv() => self.take_event(event),
                () = resync.notified() => self.stale = true,
                Some(done) = self.steps.next(), if !self.steps.is_empty() => {
                    if let Ok((key, done)) = done {
                        self.finish(key, done);
                    }
                }
                Some(verdict) = self.verdicts.recv() => self.take_verdict(verdict),
                Some(()) = self.reference_changes.next() => self.references_changed(),
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
            }
        }
    }

    /// Plans, begins what is planned, publishes; answers when to look again.
    fn act(&mut self, now: Timestamp) -> Option<Timestamp> {
        // Actions such as a back-off's notice change what is remembered, and so the plan.
        for _ in 0..8 {
            let plan = plan_pod(&self.pod, &self.observed, &self.memory, now);
            let idle = plan.actions.is_empty();
            for action in plan.actions {
                self.begin(action, now);
            }
            if idle {
                self.reconcile_probes();
                let republish = self.publish(now);
                let renew = self.renew_tokens(now);
                return [plan.wake_at, republish, renew].into_iter().flatten().min();
            }
        }
        Some(now + jiff::SignedDuration::from_secs(1))
    }

    fn update(&mut self, update: Desired) {
        let shortened = spec::grace_period(&update.pod) < spec::grace_period(&self.pod);
        let leaves = (spec::is_deleting(&update.pod) || update.gone) && !(spec::is_deleting(&self.pod) || self.gone);
        let referenced = self.pod.spec != update.pod.spec;
        let labelled = self.pod.metadata.labels != update.pod.metadata.labels
            || self.pod.metadata.annotations != update.pod.metadata.annotations;
        let old = std::mem::replace(&mut self.pod, update.pod);
        // What a changed container waited for may be what was wrong with it.
        self.memory.waiting.retain(|name, _| {
            let hash = |pod: &Pod| spec::container(pod, name).map(|(_, c)| labels::container_hash(&c));
            hash(&old) == hash(&self.pod)
        });
        self.gone |= update.gone;
        self.memory.gone = self.gone;
        if referenced {
            self.references = self.shared.references.of_pod(&self.pod);
            self.reference_changes = Box::new(self.references.changes());
        }
        if leaves && !self.gone {
            self.drained_at = Some(Instant::now() + drain::drain_time(&self.pod, &self.shared.services.list()));
        }
        if leaves {
            // What is being started will not be needed.
            self.failures = 0;
            self.whole.leave();
            self.abort(|key| {
                matches!(key, StepKey::Start(_) | StepKey::Volumes | StepKey::Sandbox | StepKey::Remove(_))
            });
            self.stale = true;
        }
        if shortened {
            self.abort(|key| matches!(key, StepKey::Kill(_)));
        }
        if labelled && self.memory.volumes_ready {
            self.begin(Action::PrepareVolumes, Timestamp::now());
        }
    }

    fn take_event(&mut self, event: ContainerEvent) {
        if event.container_id.is_empty() {
            self.ids.sandboxes.insert(event.pod_sandbox_id);
        } else if event.kind != ContainerEventType::Deleted {
            self.ids.containers.insert(event.container_id);
        }
        self.stale = true;
    }

    fn references_changed(&mut self) {
        let now = Timestamp::now();
        // Whoever waits for a missing object need not wait longer.
        self.memory.waiting.retain(|_, waiting| waiting.reason != start::CONFIG_ERROR);
        self.memory.retry_at = None;
        if self.memory.volumes_ready && !crate::pod::plan::is_terminating(&self.pod, &self.memory) {
            self.begin(Action::PrepareVolumes, now);
        }
    }

    fn abort(&mut self, which: impl Fn(&StepKey) -> bool) {
        let keys: Vec<StepKey> = self.aborts.keys().filter(|key| which(key)).cloned().collect();
        for key in keys {
            if let Some(handle) = self.aborts.remove(&key) {
                handle.abort();
            }
            self.memory.busy.remove(&key);
        }
        if !self.whole.is_idle() && !self.memory.busy.contains(&StepKey::Settle) {
            let whole = self.whole.clone();
            self.step(StepKey::Settle, async move {
                whole.idle().await;
                Done::Settled
            });
        }
    }

    /// Runs a step beside the others.
    fn step(&mut self, key: StepKey, work: impl Future<Output = Done> + Send + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        self.memory.busy.insert(key.clone());
        self.aborts.insert(key.clone(), handle);
        let named = async move { (key, work.await) };
        self.steps.push(Box::pin(Abortable::new(named, registration)));
    }

    /// Whether nothing of the pod is left to do on this node.
    fn is_over(&self) -> bool {
        self.memory.torn_down && self.memory.busy.is_empty() && (self.gone || self.deleted)
    }
}
