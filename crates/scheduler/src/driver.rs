//! Watches pods and nodes, runs the [`Core`], and makes the API calls it decides on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kybern_api::Object;
use kybern_api::core::v1::{Node as ApiNode, PersistentVolume, PersistentVolumeClaim, Pod};
use kybern_api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kybern_api::resource::v1alpha3::DeviceTaintRule;
use kybern_api::scheduling::v1alpha1::Workload;
use kybern_api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kybern_apimachinery::time::to_rfc3339;
use kybern_apimachinery::{Value, json};
use kybern_client::{
    Change, Changes, Client, ClientError, DeleteOptions, EventRecorder, EventType, Informer, LeaderElector,
    ListOptions, ObjectRef, Patch, Subscription,
};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::config::{Config, Profile};
use crate::core::{Binding, Core, Decision};
use crate::explain::Explanations;
use crate::extender::Answer;
use crate::extender::asker::Asker;
use crate::framework::{ApiCall, Nomination, Remedy, Verb};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::plugins::dynamic_resources::devices_of;
use crate::pod::PodInfo;
use crate::stores::{Attachment, Capacity, Kept, Limits, Stores, TellsCapacity};

/// Calls under way at once. More pods than that are not scheduled until some are bound.
const MAX_CALLS: usize = 128;
/// Pods scheduled before watches are looked at again.
const BATCH: usize = 32;

/// Schedules until `shutdown` completes, or the lease is lost. Bindings that are under way then are left to the watch of
/// the next scheduler.
pub async fn run(config: Config, client: Client, shutdown: impl Future<Output = ()>) {
    let lease = config.lease.clone();
    let work = Driver::work(config, client.clone());
    match lease {
        Some(lease) => LeaderElector::new(client, lease).lead(work, shutdown).await,
        None => tokio::select! {
            () = work => {}
            () = shutdown => {}
        },
    }
}

struct Driver {
    client: Client,
    core: Core,
    metrics: Metrics,
    explanations: Explanations,
    /// By the profile's name, under which they are written.
    events: HashMap<Box<str>, EventRecorder>,
    calls: JoinSet<Finished>,
    asker: Arc<Asker>,
    /// What extenders are asked, and what they bind: a few places each, which [`Core`] gives.
    asks: JoinSet<Finished>,
    /// When the tries began of the pods that are asked about, by uid.
    asked: HashMap<Box<str>, Instant>,
    epoch: Instant,
}

/// A call that ended.
enum Finished {
    Bound {
        pod: Arc<PodInfo>,
        node: Box<str>,
        result: Result<(), BindError>,
        /// When it was decided, how often it was tried, and since when it waited.
        started: Instant,
        tries: Option<(u32, Duration)>,
    },
    Prepared {
        pod: Arc<PodInfo>,
        result: Result<(), ClientError>,
    },
    /// With what came of each victim.
    Preempted {
        pod: Arc<PodInfo>,
        node: Box<str>,
        victims: Vec<(Arc<PodInfo>, Result<(), ClientError>)>,
    },
    Answered {
        uid: Box<str>,
        answer: Answer,
    },
    Reported,
}

/// Why a pod is not bound.
enum BindError {
    /// What comes before could not be done.
    Before(ClientError),
    Api(ClientError),
    Extender(String),
}

/// What decisions depend on.
struct Watches {
    nodes: Subscription<Node>,
    pods: Subscription<PodInfo>,
    claims: Subscription<PersistentVolumeClaim>,
    volumes: Subscription<PersistentVolume>,
    classes: Subscription<StorageClass>,
    csi_nodes: Subscription<Kept<CSINode, Limits>>,
    csi_drivers: Subscription<Kept<CSIDriver, TellsCapacity>>,
    capacities: Subscription<Kept<CSIStorageCapacity, Capacity>>,
    attachments: Subscription<Kept<VolumeAttachment, Attachment>>,
    device_classes: Subscription<DeviceClass>,
    resource_claims: Subscription<ResourceClaim>,
    slices: Subscription<ResourceSlice>,
    device_taint_rules: Option<Subscription<DeviceTaintRule>>,
    workloads: Option<Subscription<Workload>>,
}

/// Upstream's label of what has become of a pod.
fn event_of(change: &Change<PodInfo>) -> &'static str {
    match (change.old.as_deref().map(PodInfo::is_bound), change.new.as_deref().map(PodInfo::is_bound)) {
        (Some(true), Some(true)) => "AssignedPodUpdate",
        (_, Some(true)) => "AssignedPodAdd",
        (Some(_), Some(false)) => "UnschedulablePodUpdate",
        (None, Some(false)) => "UnschedulablePodAdd",
        (Some(true), None) => "AssignedPodDelete",
        (_, None) => "UnschedulablePodDelete",
    }
}

/// The next changes of what may not be watched at all.
async fn changed<K: kybern_client::store::Cached>(subscription: &mut Option<Subscription<K>>) -> Changes<K> {
    match subscription {
        Some(subscription) => subscription.changed().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    async fn work(config: Config, client: Client) {
        let active = ListOptions::fields("status.phase!=Succeeded,status.phase!=Failed");
        let nodes = Informer::<Node>::of(client.clone(), &ApiNode::gvr(), ListOptions::default()).spawn();
        let pods =
            Informer::<PodInfo>::of(client.clone(), &Pod::gvr(), active).shared_as(PodInfo::unless_finished).spawn();
        let stores = Stores::watch(&client, config.features).await;
        let asker = Asker::new(client.clone(), config.profiles.extenders.clone()).await;
        let mut watches = Watches {
            nodes: nodes.subscribe(),
            pods: pods.subscribe(),
            claims: stores.claims.subscribe(),
            volumes: stores.volumes.subscribe(),
            classes: stores.classes.subscribe(),
            csi_nodes: stores.csi_nodes.subscribe(),
            csi_drivers: stores.csi_drivers.subscribe(),
            capacities: stores.capacities.subscribe(),
            attachments: stores.attachments.subscribe(),
            device_classes: stores.device_classes.subscribe(),
            resource_claims: stores.resource_claims.subscribe(),
            slices: stores.slices.subscribe(),
            workloads: stores.gangs.as_ref().map(|gangs| gangs.workloads.subscribe()),
            device_taint_rules: stores.device_taints.iter().find_map(|taints| Some(taints.rules.as_ref()?.subscribe())),
        };
        let mut driver = Self {
            events: config
                .profiles
                .list
                .iter()
                .map(|Profile { name, .. }| (name.clone(), EventRecorder::new(client.clone(), name, "")))
                .collect(),
            core: Core::new(config.profiles, stores),
            metrics: config.metrics,
            explanations: config.explanations,
            client,
            calls: JoinSet::new(),
            asker: Arc::new(asker),
            asks: JoinSet::new(),
            asked: HashMap::new(),
            epoch: Instant::now(),
        };
        driver.core.explain();
        nodes.synced().await;
        pods.synced().await;
        info!(nodes = nodes.len(), pods = pods.len(), "scheduling");
        drop((nodes, pods));
        loop {
            driver.step(&mut watches).await;
        }
    }

    async fn step(&mut self, watches: &mut Watches) {
        let deadline = self.core.next_deadline().map(|at| self.epoch + at);
        let can_work = self.core.has_work() && self.calls.len() < MAX_CALLS;
        tokio::select! {
            biased;
            changes = watches.nodes.changed() => self.nodes_changed(changes, &watches.nodes),
            changes = watches.pods.changed() => self.pods_changed(changes, &watches.pods),
            changes = watches.claims.changed() => self.claims_changed(&changes),
            _ = watches.volumes.changed() => self.core.storage_changed(None, self.epoch.elapsed()),
            _ = watches.classes.changed() => self.core.storage_changed(None, self.epoch.elapsed()),
            _ = watches.csi_nodes.changed() => self.core.storage_changed(None, self.epoch.elapsed()),
            changes = watches.csi_drivers.changed() => self.csi_drivers_changed(&changes),
            changes = watches.capacities.changed() => self.capacities_changed(&changes),
            _ = watches.attachments.changed() => self.core.storage_changed(None, self.epoch.elapsed()),
            _ = watches.device_classes.changed() => self.core.storage_changed(None, self.epoch.elapsed()),
            changes = watches.resource_claims.changed() => self.resource_claims_changed(&changes),
            _ = watches.slices.changed() => self.core.storage_changed(None, self.epoch.elapsed()),
            _ = changed(&mut watches.device_taint_rules) => self.core.storage_changed(None, self.epoch.elapsed()),
            changes = changed(&mut watches.workloads) => self.workloads_changed(&changes),
            Some(finished) = self.calls.join_next() => self.finished(finished),
            Some(finished) = self.asks.join_next() => self.finished(finished),
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            () = std::future::ready(()), if can_work => {}
        }
        let now = self.now();
        self.core.tick(now);
        for _ in 0..BATCH {
            if self.calls.len() >= MAX_CALLS {
                break;
            }
            let started = Instant::now();
            let Some(decision) = self.core.schedule_next(now) else { break };
            self.metrics.decided(started.elapsed());
            if let Some(trace) = self.core.take_trace() {
                self.explanations.keep(trace, &decision, self.client.clock().now());
            }
            self.carry_out(decision, started);
        }
        self.metrics.fetch(&mut self.core);
        self.metrics.binding(self.calls.len() + self.asks.len());
        self.metrics.show(&self.core);
    }

    /// Writes an event about a pod, under the name of the scheduler of one that waits.
    fn event(&self, by: &PodInfo, about: &PodInfo, kind: EventType, reason: &str, message: String) {
        if let Some(events) = self.events.get(&by.wants().scheduler) {
            events.event(&reference(about), kind, reason, note(message));
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn nodes_changed(&mut self, changes: Changes<Node>, nodes: &Subscription<Node>) {
        let now = self.now();
        match changes {
            Changes::Batch(changes) => {
                for change in changes {
                    let began = Instant::now();
                    let event = match (&change.old, &change.new) {
                        (None, _) => "NodeAdd",
                        (Some(_), Some(_)) => "NodeUpdate",
                        (Some(_), None) => "NodeDelete",
                    };
                    match change.new {
                        Some(node) => self.core.set_node(node, now),
                        None => self.core.remove_node(&change.object().name, now),
                    }
                    self.metrics.handled(event, began.elapsed());
                }
            }
            Changes::Resync => {
                let all = nodes.store().list();
                let names: HashSet<&str> = all.iter().map(|node| &*node.name).collect();
                let gone = self.core.cluster().node_names().filter(|name| !names.contains(name)).map(str::to_owned);
                for name in gone.collect::<Vec<_>>() {
                    self.core.remove_node(&name, now);
                }
                all.into_iter().for_each(|node| self.core.set_node(node, now));
            }
        }
    }

    fn claims_changed(&mut self, changes: &Changes<PersistentVolumeClaim>) {
        let keys = match changes {
            Changes::Batch(changes) => Some(changes.iter().map(|change| change.object().key()).collect()),
            Changes::Resync => None,
        };
        self.core.storage_changed(keys.as_ref(), self.now());
    }

    /// A driver that no longer tells capacities lets all in.
    fn csi_drivers_changed(&mut self, changes: &Changes<Kept<CSIDriver, TellsCapacity>>) {
        let tells = |driver: &Option<Arc<Kept<CSIDriver, TellsCapacity>>>| driver.iter().any(|driver| driver.facts.0);
        let helps = match changes {
            Changes::Batch(changes) => changes.iter().any(|change| tells(&change.old) && !tells(&change.new)),
            Changes::Resync => true,
        };
        if helps {
            self.core.storage_changed(None, self.now());
        }
    }

    fn capacities_changed(&mut self, changes: &Changes<Kept<CSIStorageCapacity, Capacity>>) {
        let now = self.now();
        let Changes::Batch(changes) = changes else { return self.core.storage_changed(None, now) };
        let limit = |capacity: &Option<Arc<Kept<_, Capacity>>>| capacity.as_ref().and_then(|kept| kept.facts.limit);
        // An unknown limit is less than any.
        let grew = changes.iter().filter(|change| limit(&change.new) > limit(&change.old));
        self.core.capacity_grew(&grew.map(|change| change.object().facts.class.to_string()).collect(), now);
    }

    fn resource_claims_changed(&mut self, changes: &Changes<ResourceClaim>) {
        let has_less = |change: &Change<ResourceClaim>| {
            let has = |claim: &Option<Arc<ResourceClaim>>| claim.iter().any(|claim| !devices_of(claim).is_empty());
            has(&change.old) && !has(&change.new)
        };
        let keys = match changes {
            // What one gives back others may take.
            Changes::Batch(changes) if !changes.iter().any(has_less) => {
                Some(changes.iter().map(|change| change.object().key()).collect())
            }
            _ => None,
        };
        self.core.storage_changed(keys.as_ref(), self.now());
    }

    fn workloads_changed(&mut self, changes: &Changes<Workload>) {
        let now = self.now();
        match changes {
            Changes::Batch(changes) => {
                // Groups of one that is there do not change.
                for workload in changes.iter().filter(|change| change.old.is_none()).map(Change::object) {
                    self.core.workload_came(Some((workload.namespace(), workload.name())), now);
                }
            }
            Changes::Resync => self.core.workload_came(None, now),
        }
    }

    fn pods_changed(&mut self, changes: Changes<PodInfo>, pods: &Subscription<PodInfo>) {
        let now = self.now();
        match changes {
            Changes::Batch(changes) => {
                for change in changes {
                    let (began, event) = (Instant::now(), event_of(&change));
                    // A pod that was deleted and made anew between two looks has another uid.
                    let replaced = change.old.filter(|old| change.new.as_ref().is_none_or(|new| new.uid != old.uid));
                    if let Some(old) = replaced {
                        self.core.remove_pod(&old.uid, now);
                    }
                    if let Some(new) = change.new {
                        self.core.set_pod(new, now);
                    }
                    self.metrics.handled(event, began.elapsed());
                }
            }
            Changes::Resync => {
                let all = pods.store().list();
                let uids: HashSet<&str> = all.iter().map(|pod| &*pod.uid).collect();
                let known = self.core.cluster().pod_uids().chain(self.core.queue().uids());
                let gone: Vec<String> = known.filter(|uid| !uids.contains(uid)).map(str::to_owned).collect();
                for uid in gone {
                    self.core.remove_pod(&uid, now);
                }
                all.into_iter().for_each(|pod| self.core.set_pod(pod, now));
            }
        }
    }

    /// `started` is when the cycle began that led to it.
    fn carry_out(&mut self, decision: Decision, mut started: Instant) {
        let client = self.client.clone();
        if let Decision::Ask { pod, interested, question } = decision {
            self.asked.entry(pod.uid.clone()).or_insert(started);
            let asker = self.asker.clone();
            self.asks.spawn(async move {
                let answer = asker.ask(&pod, interested, question).await;
                Finished::Answered { uid: pod.uid.clone(), answer }
            });
            return;
        }
        if !self.asked.is_empty() {
            started = self.asked.remove(&decision.pod().uid).unwrap_or(started);
        }
        match decision {
            Decision::Ask { .. } => {}
            Decision::Bind { pod, node, binding } => {
                let tries = self.core.queue().tries(&pod.uid);
                let asker = self.asker.clone();
                let calls_of = if binding.binder.is_some() { &mut self.asks } else { &mut self.calls };
                let metrics = self.metrics.clone();
                calls_of.spawn(async move {
                    let result = bind_pod(&client, &asker, &metrics, &pod, &node, binding).await;
                    Finished::Bound { pod, node, result, started, tries }
                });
            }
            Decision::Failed { pod, message } => {
                self.metrics.attempted(&pod.wants().scheduler, "error", started.elapsed());
                warn!(pod = %pod.name, namespace = %pod.namespace, "cannot schedule: {message}");
                self.failed(pod, message);
            }
            Decision::Prepare { pod, calls } => {
                self.calls.spawn(async move {
                    let result = make(&client, calls).await;
                    Finished::Prepared { pod, result }
                });
            }
            Decision::Unschedulable { pod, message, remedy } => {
                self.metrics.attempted(&pod.wants().scheduler, "unschedulable", started.elapsed());
                if !remedy.message.is_empty() || remedy.nomination != Nomination::Keep {
                    self.metrics.preempted(remedy.victims.len());
                }
                let Remedy { nomination, victims, displaced, calls, .. } = remedy;
                if !calls.is_empty() {
                    let client = client.clone();
                    self.calls.spawn(async move {
                        if let Err(error) = make(&client, calls).await {
                            debug!("cannot take devices back: {error}");
                        }
                        Finished::Reported
                    });
                }
                self.event(&pod, &pod, EventType::Warning, "FailedScheduling", message.clone());
                for other in displaced {
                    self.patch_status(other, json!({"nominatedNodeName": null}));
                }
                if let (Nomination::Node(node), false) = (&nomination, victims.is_empty()) {
                    self.preempt(pod.clone(), node.clone(), victims);
                }
                let known = &*pod.wants().nominated;
                let nominated = match &nomination {
                    Nomination::Node(node) if **node != *known => Some(Value::from(&**node)),
                    Nomination::Clear if !known.is_empty() => Some(Value::Null),
                    _ => None,
                };
                if nominated.is_some() || !pod.wants().has_reported("Unschedulable", &message) {
                    self.report(pod, "Unschedulable", message, nominated);
                }
            }
        }
    }

    /// Deletes the victims, each with the condition that says why.
    fn preempt(&mut self, pod: Arc<PodInfo>, node: Box<str>, victims: Vec<Arc<PodInfo>>) {
        let client = self.client.clone();
        self.calls.spawn(async move {
            let mut done = Vec::with_capacity(victims.len());
            for victim in victims {
                let calls = eviction(&victim, &pod, &to_rfc3339(client.clock().now()));
                let result = make(&client, calls).await;
                done.push((victim, result));
            }
            Finished::Preempted { pod, node, victims: done }
        });
    }

    /// Tells that a try came to nothing through no fault of the pod.
    fn failed(&mut self, pod: Arc<PodInfo>, message: String) {
        self.event(&pod, &pod, EventType::Warning, "FailedScheduling", message.clone());
        if !pod.wants().has_reported("SchedulerError", &message) {
            self.report(pod, "SchedulerError", message, None);
        }
    }

    /// Writes the condition `PodScheduled`, and the nomination where one is given.
    fn report(&mut self, pod: Arc<PodInfo>, reason: &'static str, message: String, nominated: Option<Value>) {
        let mut status = condition(&pod, reason, &message, &to_rfc3339(self.client.clock().now()));
        if let Some(node) = nominated {
            status["nominatedNodeName"] = node;
        }
        self.patch_status(pod, status);
    }

    fn patch_status(&mut self, pod: Arc<PodInfo>, status: Value) {
        let client = self.client.clone();
        self.calls.spawn(async move {
            let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
            if let Err(error) = client.patch::<Pod>(&pod.namespace, &pod.name, &patch, Some("status")).await {
                debug!(pod = %pod.name, namespace = %pod.namespace, "cannot report why the pod is not scheduled: {error}");
            }
            Finished::Reported
        });
    }

    fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let now = self.now();
        let (pod, node, result) = match finished {
            Ok(Finished::Bound { pod, node, result, started, tries }) => {
                let verdict = if result.is_ok() { "scheduled" } else { "error" };
                self.metrics.attempted(&pod.wants().scheduler, verdict, started.elapsed());
                if let (Ok(()), Some((attempts, since))) = (&result, tries) {
                    self.metrics.bound(attempts, now.saturating_sub(since));
                }
                (pod, node, result)
            }
            Ok(Finished::Preempted { pod, node, victims }) => return self.victims_went(&pod, &node, victims),
            Ok(Finished::Prepared { pod, result }) => {
                self.core.prepared(&pod, result.is_ok(), now);
                if let Err(error) = result {
                    warn!(pod = %pod.name, namespace = %pod.namespace, "cannot have its claims bound: {error}");
                    let text = not_prepared(&pod, &error);
                    self.event(&pod, &pod, EventType::Warning, "FailedScheduling", text);
                }
                return;
            }
            Ok(Finished::Answered { uid, answer }) => {
                self.core.answered(&uid, answer);
                if !self.core.queue().contains(&uid) {
                    self.asked.remove(&uid);
                }
                return;
            }
            Ok(Finished::Reported) | Err(_) => return,
        };
        self.core.bound(&pod, &node, result.is_ok(), now);
        match result {
            Ok(()) => {
                let text = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.event(&pod, &pod, EventType::Normal, "Scheduled", text);
            }
            // It was deleted, or someone else bound it: the watch tells.
            Err(BindError::Before(error) | BindError::Api(error)) if error.is_not_found() || error.is_conflict() => {
                debug!(pod = %pod.name, namespace = %pod.namespace, "not bound: {error}");
            }
            Err(error) => {
                let message = match error {
                    BindError::Before(error) => not_prepared(&pod, &error),
                    BindError::Api(error) => format!("running Bind plugin \"DefaultBinder\": {error}"),
                    BindError::Extender(error) => error,
                };
                warn!(pod = %pod.name, namespace = %pod.namespace, node = %node, "cannot bind: {message}");
                self.failed(pod, message);
            }
        }
    }

    fn victims_went(&mut self, pod: &PodInfo, node: &str, victims: Vec<(Arc<PodInfo>, Result<(), ClientError>)>) {
        let mut failed = Vec::new();
        for (victim, result) in victims {
            match result {
                Ok(()) => {
                    let text = format!("Preempted by pod {} on node {node}", pod.uid);
                    self.event(pod, &victim, EventType::Normal, "Preempted", text);
                }
                // It is gone, or another has its name.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    warn!(pod = %victim.name, namespace = %victim.namespace, "cannot preempt: {error}");
                    failed.push(victim);
                }
            }
        }
        let now = self.now();
        self.core.preempted(pod, failed.iter().map(|victim| &**victim), now);
    }
}

/// Why what comes before a binding could not be done.
fn not_prepared(pod: &PodInfo, error: &ClientError) -> String {
    let plugin = match pod.claims.is_empty() {
        true => "\"DynamicResources\"",
        false => "\"VolumeBinding\": binding volumes",
    };
    format!("running PreBind plugin {plugin}: {error}")
}

/// Does what comes before, and then binds the pod, or has the extender do so.
async fn bind_pod(
    client: &Client,
    asker: &Asker,
    metrics: &Metrics,
    pod: &PodInfo,
    node: &str,
    binding: Binding,
) -> Result<(), BindError> {
    let Binding { calls, bind, binder } = binding;
    let timed = |point, is_done, began: Instant| metrics.point(&pod.wants().scheduler, point, is_done, began.elapsed());
    let began = Instant::now();
    let prepared = make(client, calls).await;
    timed("PreBind", prepared.is_ok(), began);
    prepared.map_err(BindError::Before)?;
    if let Some(extender) = binder
        && let Some(result) = asker.bind(extender, pod, node).await
    {
        return result.map_err(BindError::Extender);
    }
    let began = Instant::now();
    let bound = make(client, bind.into_iter().collect()).await;
    timed("Bind", bound.is_ok(), began);
    bound.map_err(BindError::Api)
}

async fn make(client: &Client, calls: Vec<ApiCall>) -> Result<(), ClientError> {
    for ApiCall { gvr, namespace, name, verb } in calls {
        let resource = client.raw(&gvr);
        match verb {
            Verb::Post { subresource, body } => {
                resource.create_subresource(&namespace, &name, subresource, &body).await?
            }
            Verb::Patch { subresource, patch } => resource.patch(&namespace, &name, &patch, subresource).await?,
            Verb::Delete(options) => resource.delete(&namespace, &name, &options).await?,
        };
    }
    Ok(())
}

/// The calls that delete a pod for the sake of another. The uid keeps one that was made anew under its name from harm.
fn eviction(victim: &PodInfo, preemptor: &PodInfo, now: &str) -> Vec<ApiCall> {
    let call = |verb| ApiCall {
        gvr: Pod::gvr(),
        namespace: victim.namespace.to_string(),
        name: victim.name.to_string(),
        verb,
    };
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{}: preempting to accommodate a higher priority pod", preemptor.wants().scheduler),
        "lastTransitionTime": now,
    });
    let patch = Patch::Strategic(json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}));
    let delete = call(Verb::Delete(DeleteOptions::of_uid(&*victim.uid)));
    match victim.is_preempted {
        true => vec![delete],
        false => vec![call(Verb::Patch { subresource: Some("status"), patch }), delete],
    }
}

/// An event's message, no longer than upstream's.
fn note(mut message: String) -> String {
    const MAX: usize = 1024;
    const CUT: &str = " ...";
    if message.len() > MAX {
        message.truncate(message.floor_char_boundary(MAX - CUT.len()));
        message.push_str(CUT);
    }
    message
}

fn reference(pod: &PodInfo) -> ObjectRef {
    ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        resource_version: pod.resource_version.to_string(),
        field_path: String::new(),
    }
}

/// The status that says why a pod is not scheduled. The time stays while the condition does.
fn condition(pod: &PodInfo, reason: &str, message: &str, now: &str) -> Value {
    let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message});
    if pod.wants().reported.is_none() {
        condition["lastTransitionTime"] = now.into();
        condition["lastProbeTime"] = Value::Null;
    }
    json!({"conditions": [condition]})
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
