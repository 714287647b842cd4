//! Runs controllers: feeds their queues, carries out their plans, retries, and holds a key until its own writes are
//! visible in the stores, so that no plan is made on a state that the last plan has already changed.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use jiff::Timestamp;
use kybern_api::Object;
use kybern_api::core::v1::Pod;
use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{Gvr, json, object};
use kybern_client::{Client, ClientError, EventRecorder, EventType, ListOptions, PartialMetadata, WorkQueue, body};
use kybern_quota::{Amounts, Evaluator, Found, used, with_status};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info};

use crate::controller::{Announcement, Context, Controller, Counted, Failure, Op, Plan, Verb};
use crate::controllers::pvc_protection;
use crate::manager::ClientFor;
use crate::metrics::Metrics;
use crate::snapshot::{Effect, Snapshot, Written};
use crate::watches::Watches;

/// A key whose decision was dear waits so many times as long for its next turn, at most [`PAUSE_MAX`], and so decides about more
/// at once: what owns ten thousand pods is otherwise looked at anew for each of them.
const PAUSE_FACTOR: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Decisions below this are not dear.
const CHEAP: Duration = Duration::from_millis(1);
/// The longest back-off of a key whose plan was made on what is old: the news is under way, and under a storm of others'
/// writes the doubled delays would otherwise outlast the storm by minutes.
const STALE_MAX: Duration = Duration::from_secs(1);

/// Keys of one worker whose writes are not yet seen, at most.
const WAITING: usize = 1000;

/// How long a node may take for what it is asked.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// What came of one look at a key.
struct Outcome {
    /// Without a failure to tell where the decision itself failed.
    result: Result<(), Option<Failure>>,
    requeue_after: Option<Duration>,
    written: Vec<Written>,
    /// How long the key waits besides.
    pause: Duration,
}

/// What all drivers share.
pub(crate) struct Environment {
    /// By service account.
    pub(crate) client_for: ClientFor,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// By controller.
    pub(crate) workers: BTreeMap<&'static str, usize>,
    pub(crate) started: Timestamp,
}

struct Driver {
    controller: Arc<dyn Controller>,
    environment: Arc<Environment>,
    client: Client,
    recorder: EventRecorder,
    queue: WorkQueue<String>,
    failures: Mutex<HashMap<String, Failure>>,
}

/// Adds a controller's tasks to `tasks`; dropping the set ends them.
pub(crate) fn start(controller: Arc<dyn Controller>, environment: &Arc<Environment>, tasks: &mut JoinSet<()>) {
    let client = (environment.client_for)(controller.account())
        .with_user_agent(&format!("kube-controller-manager/{}", controller.component()));
    let queue = WorkQueue::with_metrics(controller.name(), &environment.metrics.queues);
    let mut watches = Watches::new(&environment.snapshot, queue.clone());
    controller.watches(&mut watches);
    let feeds = watches.into_tasks();
    let recorder = EventRecorder::new(client.clone(), controller.component(), "");
    let environment = environment.clone();
    let driver = Arc::new(Driver { controller, environment, client, recorder, queue, failures: Mutex::default() });
    for feed in feeds {
        tasks.spawn(feed);
    }
    let usual = driver.controller.workers();
    for _ in 0..driver.environment.workers.get(driver.controller.name()).copied().unwrap_or(usual) {
        tasks.spawn(driver.clone().work());
    }
}

impl Driver {
    async fn work(self: Arc<Self>) {
        let mut waiting = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = waiting.join_next() => {}
                key = self.queue.next(), if waiting.len() < WAITING => {
                    let outcome = self.carry_out(&key).await;
                    let driver = self.clone();
                    // The key waits for its writes to be seen, and is not worked on meanwhile; the worker goes on.
                    waiting.spawn(async move {
                        let pause = outcome.pause;
                        driver.finish(&key, outcome).await;
                        if !pause.is_zero() {
                            tokio::time::sleep(pause).await;
                        }
                        driver.queue.done(&key);
                    });
                }
            }
        }
    }

    /// Decides about a key, and does what was decided.
    async fn carry_out(&self, key: &str) -> Outcome {
        let environment = &self.environment;
        let failure = self.failures.lock().remove(key);
        let context = Context { now: environment.clock.now(), started: environment.started, failure };
        // A bug in one decision must not end the controller: it is logged, and the key tried again with back-off.
        let decide = AssertUnwindSafe(|| self.controller.reconcile(key, &environment.snapshot, &context));
        let began = Instant::now();
        let Ok(plan) = std::panic::catch_unwind(decide) else {
            error!(controller = self.controller.name(), key, "the controller panicked");
            return Outcome { result: Err(None), requeue_after: None, written: Vec::new(), pause: Duration::ZERO };
        };
        let pause = match began.elapsed() {
            cheap if cheap < CHEAP => Duration::ZERO,
            dear => (dear * PAUSE_FACTOR).min(PAUSE_MAX),
        };
        let Plan { mut ops, requeue_after, waiting, measures } = plan;
        ops.extend(measures.into_iter().map(Op::Measure));
        if let Some(waiting) = waiting {
            debug!(controller = self.controller.name(), key, "waiting: {waiting}");
        }
        let mut written = Vec::new();
        let result = self.execute_all(ops, &mut written).await.map_err(Some);
        Outcome { result, requeue_after, written, pause }
    }

    /// Waits until what was written is seen, and says when the key's next turn is.
    async fn finish(&self, key: &str, outcome: Outcome) {
        join_all(outcome.written.iter().map(|w| self.environment.snapshot.reflects(w))).await;
        match outcome.result {
            Ok(()) => {
                self.queue.forget(&key.to_owned());
                if let Some(delay) = outcome.requeue_after {
                    self.queue.add_after(key.to_owned(), delay);
                }
            }
            Err(None) => self.queue.add_rate_limited(key.to_owned()),
            Err(Some(failure)) if failure.stale => {
                debug!(controller = self.controller.name(), key, "stale: {}", failure.message);
                self.queue.add_rate_limited_to(key.to_owned(), STALE_MAX);
            }
            Err(Some(failure)) => {
                info!(controller = self.controller.name(), key, "{} (will be tried again)", failure.message);
                self.failures.lock().insert(key.to_owned(), failure);
                self.queue.add_rate_limited(key.to_owned());
            }
        }
    }

    async fn execute_all(&self, ops: Vec<Op>, written: &mut Vec<Written>) -> Result<(), Failure> {
        for op in ops {
            match op {
                Op::SlowStart(ops) => self.slow_start(ops, written).await?,
                op => written.extend(self.execute(op).await?),
            }
        }
        Ok(())
    }

    async fn slow_start(&self, ops: Vec<Op>, written: &mut Vec<Written>) -> Result<(), Failure> {
        let mut ops = ops.into_iter();
        let mut batch = 1;
        loop {
            let now: Vec<Op> = ops.by_ref().take(batch).collect();
            if now.is_empty() {
                return Ok(());
            }
            let mut failure = None;
            for result in join_all(now.into_iter().map(|op| self.execute(op))).await {
                match result {
                    Ok(write) => written.extend(write),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            batch *= 2;
        }
    }

    async fn execute(&self, op: Op) -> Result<Option<Written>, Failure> {
        match op {
            Op::Create { gvr, namespace, body, announce } => {
                let result = self.client.raw(&gvr).create_briefly(&namespace, body).await;
                // Its owner goes with the namespace; until then there is nothing to tell or to try again.
                if result.as_ref().is_err_and(is_namespace_terminating) {
                    return Ok(None);
                }
                self.announce(announce.as_ref(), &gvr.resource, true, result.as_ref().map(|made| &*made.name));
                let object = result.map_err(fail(Verb::Create))?;
                Ok(Some(reflected(gvr, &object)))
            }
            Op::Put { gvr, namespace, name, subresource, body } => {
                let result = self.client.raw(&gvr).put_briefly(&namespace, &name, subresource, body).await;
                let object = result.map_err(fail(Verb::Update))?;
                Ok(Some(reflected(gvr, &object)))
            }
            Op::Patch { gvr, namespace, name, subresource, patch } => {
                let result = self.client.raw(&gvr).patch_briefly(&namespace, &name, &patch, subresource).await;
                let object = result.map_err(fail(Verb::Update))?;
                Ok(Some(reflected(gvr, &object)))
            }
            Op::Delete { gvr, namespace, name, options, announce } => {
                let uid = options.uid.clone().unwrap_or_default();
                let result = self.client.raw(&gvr).delete_briefly(&namespace, &name, &options).await;
                // One of the same name but another uid: the one that was meant is gone.
                let replaced = |e: &ClientError| e.is_conflict() && options.resource_version.is_none();
                if result.as_ref().is_err_and(|e| e.is_not_found() || replaced(e)) {
                    return Ok(None);
                }
                self.announce(announce.as_ref(), &gvr.resource, false, result.as_ref().map(|()| &*name));
                result.map_err(fail(Verb::Delete))?;
                Ok(Some(Written { gvr, key: object::key_of(&namespace, &name), effect: Effect::Deleted(uid) }))
            }
            Op::DeleteCollection { gvr, namespace } => {
                let resource = self.client.raw(&gvr);
                match resource.delete_collection(&namespace, &Default::default(), &ListOptions::default()).await {
                    Err(error) if error.is_not_found() => Ok(None),
                    result => result.map(|()| None).map_err(fail(Verb::Delete)),
                }
            }
            Op::RequireEmpty { gvr, namespace } => {
                let options = ListOptions { limit: Some(1), ..ListOptions::default() };
                match self.client.raw(&gvr).list_metadata(&namespace, &options).await {
                    Ok(list) if list.is_empty() => Ok(None),
                    Err(error) if error.is_not_found() => Ok(None),
                    Ok(_) => {
                        let message = format!("{} still has objects in namespace {namespace:?}", gvr.group_resource());
                        Err(Failure { verb: Verb::Read, stale: false, message })
                    }
                    Err(error) => Err(fail(Verb::Read)(error)),
                }
            }
            Op::RequireAbsent { gvr, namespace, name, uid } => {
                match self.client.raw(&gvr).get_metadata(&namespace, &name).await {
                    Ok(found) if uid.is_empty() || *found.uid == *uid => {
                        let message = format!("{} {name:?} exists", gvr.group_resource());
                        Err(Failure { verb: Verb::Read, stale: false, message })
                    }
                    Ok(_) => Ok(None),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(fail(Verb::Read)(error)),
                }
            }
            Op::Measure(measure) => {
                self.environment.metrics.measure(&measure);
                Ok(None)
            }
            Op::RequireUnused { claim } => {
                let pods = self.client.list::<Pod>(claim.namespace(), &ListOptions::default()).await;
                match pods.map_err(fail(Verb::Read))?.iter().find(|pod| pvc_protection::uses(pod, &claim)) {
                    None => Ok(None),
                    // It comes on the watch, and its end, too.
                    Some(pod) => {
                        let message = format!("pod {} uses claim {}", pod.key(), claim.key());
                        Err(Failure { verb: Verb::Read, stale: true, message })
                    }
                }
            }
            Op::DeleteAtNode { node, path } => {
                let request = Request::delete(format!("/api/v1/nodes/{node}/proxy/{path}")).body(body::empty());
                let request =
                    request.map_err(|e| Failure { verb: Verb::Delete, stale: false, message: e.to_string() })?;
                match tokio::time::timeout(NODE_TIMEOUT, self.client.stream(request)).await {
                    Ok(answer) => answer.map(|_| None).map_err(fail(Verb::Delete)),
                    Err(_) => {
                        let message = format!("no answer from node {node:?} within {} s", NODE_TIMEOUT.as_secs());
                        Err(Failure { verb: Verb::Delete, stale: false, message })
                    }
                }
            }
            Op::Count { namespace, name, counted } => self.count(&namespace, &name, &counted).await,
            Op::IfAllowed { review, then, otherwise } => {
                let review =
                    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": review});
                let reviews = Gvr::new("authorization.k8s.io", "v1", "subjectaccessreviews");
                let answer = self.client.raw(&reviews).create(&review).await.map_err(fail(Verb::Read))?;
                let ops = if answer["status"]["allowed"] == true { then } else { otherwise };
                let mut written = Vec::new();
                Box::pin(self.execute_all(ops, &mut written)).await?;
                Ok(written.pop())
            }
            Op::Ask { asks, then } => {
                let mut answers = Vec::with_capacity(asks.len());
                for ask in &asks {
                    answers.push(ask.put_to(&self.client).await);
                }
                let ops = std::panic::catch_unwind(AssertUnwindSafe(|| then.decide(answers))).map_err(|_| {
                    let message = "the decision on the server's answers panicked".to_owned();
                    Failure { verb: Verb::Read, stale: false, message }
                })?;
                let mut written = Vec::new();
                Box::pin(self.execute_all(ops, &mut written)).await?;
                Ok(written.pop())
            }
            Op::Fail(message) => Err(Failure { verb: Verb::Read, stale: false, message }),
            Op::SlowStart(ops) => {
                // One level only: a batch within a batch is carried out as part of it.
                let mut written = Vec::new();
                Box::pin(self.slow_start(ops, &mut written)).await?;
                Ok(written.pop())
            }
            Op::Event { about, kind, reason, message } => {
                self.recorder.event(&about, kind, reason, message);
                Ok(None)
            }
        }
    }

    async fn count(&self, namespace: &str, name: &str, counted: &[Counted]) -> Result<Option<Written>, Failure> {
        let gvr = Gvr::new("", "v1", "resourcequotas");
        // Its role allows lists only.
        let named = ListOptions::fields(format!("metadata.name={name}"));
        let quotas = self.client.raw(&gvr).list(namespace, &named).await.map_err(fail(Verb::Read))?;
        let Some(mut quota) = quotas.into_iter().next() else { return Ok(None) };
        object::set(&mut quota, &["apiVersion"], "v1");
        object::set(&mut quota, &["kind"], "ResourceQuota");
        let options = ListOptions::default();
        let mut all = Amounts::new();
        for Counted { gvr, evaluator } in counted {
            let resource = self.client.raw(gvr);
            let used = |found: Found<'_>| used(&quota, evaluator, found, self.environment.clock.now());
            all.extend(match evaluator {
                Evaluator::Count(_) => {
                    let objects = resource.list_metadata(namespace, &options).await.map_err(fail(Verb::Read))?;
                    used(Found::Number(objects.len()))
                }
                _ => {
                    let objects = resource.list(namespace, &options).await.map_err(fail(Verb::Read))?;
                    used(Found::Objects(&objects))
                }
            });
        }
        let Some(quota) = with_status(&quota, all) else { return Ok(None) };
        let written = self.client.raw(&gvr).put_briefly(namespace, name, Some("status"), quota.to_string()).await;
        let written = written.map_err(fail(Verb::Update))?;
        Ok(Some(reflected(gvr, &written)))
    }

    /// Upstream's events about made and removed pods (and what else is announced), with the name where it was done.
    fn announce(
        &self,
        announcement: Option<&Announcement>,
        resource: &str,
        create: bool,
        result: Result<&str, &ClientError>,
    ) {
        let Some(Announcement { about, texts }) = announcement else { return };
        if texts.is_some() && result.is_err_and(ClientError::is_already_exists) {
            return;
        }
        let noun = resource.strip_suffix('s').unwrap_or(resource);
        let (kind, reason, message) = match (create, result) {
            (true, Ok(name)) => (EventType::Normal, "SuccessfulCreate", format!("Created {noun}: {name}")),
            (true, Err(error)) => (EventType::Warning, "FailedCreate", format!("Error creating: {error}")),
            (false, Ok(name)) => (EventType::Normal, "SuccessfulDelete", format!("Deleted {noun}: {name}")),
            (false, Err(error)) => (EventType::Warning, "FailedDelete", format!("Error deleting: {error}")),
        };
        let message = match (texts, result) {
            (None, _) => message,
            (Some((done, _)), Ok(_)) => done.clone(),
            (Some((_, failed)), Err(error)) => format!("{failed}: {error}"),
        };
        self.recorder.event(about, kind, reason, message);
    }
}

fn fail(verb: Verb) -> impl Fn(ClientError) -> Failure {
    move |error| {
        let stale = error.is_conflict() || error.is_already_exists() || (verb == Verb::Update && error.is_not_found());
        Failure { verb, stale, message: error.to_string() }
    }
}

fn is_namespace_terminating(error: &ClientError) -> bool {
    let ClientError::Api(error) = error else { return false };
    let causes = error.details().and_then(|d| d["causes"].as_array()).into_iter().flatten();
    causes.into_iter().any(|cause| cause["reason"] == "NamespaceTerminating")
}

fn reflected(gvr: Gvr, object: &PartialMetadata) -> Written {
    let version = object.resource_version.parse().unwrap_or(0);
    Written { gvr, key: object.key(), effect: Effect::Version(version) }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
