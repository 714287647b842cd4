//! `horizontalpodautoscaling`: as many replicas as the metrics call for (`pkg/controller/podautoscaler`). What it has to know
//! besides the objects (scale, metrics) the driver asks for between the steps of a look; every step is pure but for the
//! memory of earlier ones.

mod limits;
mod metrics;
mod replicas;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricStatus,
};
use kybern_api::core::v1::Pod;
use kybern_api::meta::v1::Time;
use kybern_api::{Object, condition};
use kybern_apimachinery::percent::encode;
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{GroupVersion, Gvr, Value, object};
use kybern_client::Store;
use parking_lot::Mutex;

use crate::ask::{Answer, Ask, Then};
use crate::controller::{Context, Controller, Op, Plan};
use crate::inventory::Inventory;
use crate::metrics::{AUTOSCALINGS, DESIRED_REPLICAS, METRIC_COMPUTATIONS, Measure};
use crate::snapshot::Snapshot;
use crate::watches::Watches;
use limits::{Memory, minimum};
use metrics::{Bad, Found};

const NONE: &str = "none";
const INTERNAL: &str = "internal";
/// How soon to look again where the server has not said yet what kinds it has.
const DISCOVERING: Duration = Duration::from_secs(1);

/// Upstream's flags `--horizontal-pod-autoscaler-…`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub sync_period: Duration,
    /// How long the highest recommendation counts where the object does not say.
    pub downscale_stabilization: SignedDuration,
    /// How far usage may be from its target where the object does not say.
    pub tolerance: f64,
    /// So long after its start a pod's CPU usage counts only while it is ready.
    pub cpu_initialization_period: SignedDuration,
    /// A pod whose unreadiness is not older than this after its start was never ready.
    pub initial_readiness_delay: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sync_period: Duration::from_secs(15),
            downscale_stabilization: SignedDuration::from_mins(5),
            tolerance: 0.1,
            cpu_initialization_period: SignedDuration::from_mins(5),
            initial_readiness_delay: SignedDuration::from_secs(30),
        }
    }
}

type Memories = Arc<Mutex<HashMap<String, Memory>>>;

#[derive(Default)]
pub struct HorizontalController {
    settings: Settings,
    memories: Memories,
}

impl HorizontalController {
    pub fn new(settings: Settings) -> Self {
        Self { settings, memories: Memories::default() }
    }
}

impl Controller for HorizontalController {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    fn component(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn account(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.when_missed(&snapshot.autoscalers);
        // Of what it writes itself it need not be told: it looks again in a while anyway.
        watches.on(&snapshot.autoscalers, |change, _| match (&change.old, &change.new) {
            (Some(old), Some(new)) if old.spec == new.spec && old.metadata.uid == new.metadata.uid => Vec::new(),
            _ => vec![change.object().key()],
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(hpa) = snapshot.autoscalers.get(key) else {
            self.memories.lock().remove(key);
            let (namespace, name) = key.split_once('/').unwrap_or(("", key));
            let mut plan = Plan::idle();
            plan.measure(&DESIRED_REPLICAS, [namespace, name], f64::NAN);
            return plan;
        };
        let Some(spec) = hpa.spec.clone() else { return Plan::idle() };
        if !snapshot.inventory.knows_kinds() {
            // A leader that begins: no kind is unknown yet.
            let mut plan = Plan::idle();
            plan.requeue(DISCOVERING);
            return plan;
        }
        let look = Look {
            key: key.to_owned(),
            spec,
            status: hpa.status.clone().unwrap_or_default(),
            hpa,
            target: None,
            ops: Vec::new(),
            outcome: [NONE, NONE],
            settings: self.settings,
            memories: self.memories.clone(),
            pods: snapshot.pods.clone(),
            inventory: snapshot.inventory.clone(),
            now: context.now,
        };
        let mut plan = Plan::of(look.begin());
        plan.requeue(self.settings.sync_period);
        plan
    }
}

/// One look at an autoscaler, which goes on with each answer.
#[derive(Clone)]
struct Look {
    key: String,
    hpa: Arc<HorizontalPodAutoscaler>,
    spec: HorizontalPodAutoscalerSpec,
    /// As it will be.
    status: HorizontalPodAutoscalerStatus,
    target: Option<Gvr>,
    ops: Vec<Op>,
    /// What metrics say of the look: the action, and the error.
    outcome: [&'static str; 2],
    settings: Settings,
    memories: Memories,
    pods: Store<Pod>,
    inventory: Arc<Inventory>,
    now: Timestamp,
}

impl Look {
    fn begin(mut self) -> Vec<Op> {
        let reference = self.spec.scale_target_ref.clone();
        let version = reference.api_version.as_deref().filter(|version| !version.is_empty()).unwrap_or("v1");
        let Some(GroupVersion { group, .. }) = GroupVersion::parse(version) else {
            return self.without_scale(&format!("unexpected GroupVersion string: {version}"));
        };
        let Some(found) = self.inventory.resource_of_kind(version, &reference.kind) else {
            return self.without_scale(&format!("no matches for kind {:?} in group {group:?}", reference.kind));
        };
        let gvr = found.resource.gvr.clone();
        let path = format!("{}/{}/scale", gvr.path(Some(self.hpa.namespace())), encode(&reference.name, b""));
        self.target = Some(gvr);
        vec![Op::ask(Ask::Get(path), move |answer| self.clone().with_scale(answer))]
    }

    fn without_scale(mut self, why: &str) -> Vec<Op> {
        self.outcome[1] = INTERNAL;
        self.warn("FailedGetScale", why);
        let text = format!("the HPA controller was unable to get the target's current scale: {why}");
        self.condition("AbleToScale", false, "FailedGetScale", &text);
        self.leave()
    }

    fn with_scale(mut self, answer: Answer) -> Vec<Op> {
        let scale = match answer {
            Ok(scale) => scale,
            Err(refusal) => return self.without_scale(&refusal.message),
        };
        let text = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", true, "SucceededGetScale", text);
        let current = i32::try_from(scale["spec"]["replicas"].as_i64().unwrap_or(0)).unwrap_or(i32::MAX);
        let now = self.now;
        self.remember(|memory| {
            if memory.recommendations.is_empty() {
                memory.recommendations.push((current, now));
            }
        });
        let (least, most) = (minimum(&self.spec), self.spec.max_replicas);
        if current == 0 && least != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", false, "ScalingDisabled", text);
            return self.finish(current, current, Vec::new(), false);
        }
        if current > most {
            return self.rescale(scale, current, most, "Current number of replicas above Spec.MaxReplicas", Vec::new());
        }
        if current < least {
            return self.rescale(
                scale,
                current,
                least,
                "Current number of replicas below Spec.MinReplicas",
                Vec::new(),
            );
        }
        match self.selected(object::str_at(&scale, &["status", "selector"])) {
            Ok(pods) => self.measure(scale, current, pods),
            Err(text) => self.fail(current, Vec::new(), &text),
        }
    }

    /// The pods of the target, which must be nobody else's.
    fn selected(&mut self, text: &str) -> Result<Vec<Arc<Pod>>, String> {
        if text.is_empty() {
            self.warn("SelectorRequired", "selector is required");
            let missing = "the HPA target's scale is missing a selector";
            self.condition("ScalingActive", false, "InvalidSelector", missing);
            return Err("selector is required".to_owned());
        }
        let selector = LabelSelector::parse(text).map_err(|error| {
            let text = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            self.warn("InvalidSelector", &text);
            self.condition("ScalingActive", false, "InvalidSelector", &text);
            text
        })?;
        let mut pods = self.pods.list_in(self.hpa.namespace());
        pods.retain(|pod| selects(&selector, pod));
        self.remember(|memory| memory.selector = Some(selector));
        let of_namespace = format!("{}/", self.hpa.namespace());
        let mut rivals: Vec<String> = Vec::new();
        for (key, memory) in self.memories.lock().iter() {
            let Some(name) = key.strip_prefix(&of_namespace) else { continue };
            if memory.selector.as_ref().is_some_and(|selector| pods.iter().any(|pod| selects(selector, pod))) {
                rivals.push(format!("{{{name} {}}}", self.hpa.namespace()));
            }
        }
        if rivals.len() > 1 {
            rivals.sort();
            let text = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", rivals.join(" "));
            self.warn("AmbiguousSelector", &text);
            self.condition("ScalingActive", false, "AmbiguousSelector", &text);
            return Err(text);
        }
        Ok(pods)
    }

    fn measure(self, scale: Value, current: i32, pods: Vec<Arc<Pod>>) -> Vec<Op> {
        let selector = object::str_at(&scale, &["status", "selector"]);
        let specs = self.spec.metrics.clone().unwrap_or_default();
        let question = |spec| metrics::question(spec, self.hpa.namespace(), selector, &self.inventory);
        let questions: Vec<Result<Ask, String>> = specs.iter().map(question).collect();
        let asks = questions.iter().flatten().cloned().collect();
        let then = move |answers: Vec<Answer>| {
            let mut answers = answers.into_iter();
            let mut next = |question: &Result<Ask, String>| match question {
                Ok(_) => answers.next().unwrap_or(Ok(Value::Null)).map_err(|refusal| refusal.message),
                Err(text) => Err(text.clone()),
            };
            let measuring = metrics::Measuring {
                namespace: self.hpa.namespace(),
                pods: &pods,
                spec_replicas: current,
                status_replicas: scale["status"]["replicas"].as_i64().and_then(|n| n.try_into().ok()).unwrap_or(0),
                tolerance: metrics::tolerance(&self.spec, self.settings.tolerance),
                settings: self.settings,
                now: self.now,
            };
            let found = specs.iter().zip(&questions).map(|(spec, question)| measuring.judge(spec, next(question)));
            self.clone().decide(scale.clone(), current, found.collect())
        };
        vec![Op::Ask { asks, then: Then::new(then) }]
    }

    fn decide(mut self, scale: Value, current: i32, found: Vec<Result<Found, Bad>>) -> Vec<Op> {
        let (all, mut statuses, mut best, mut first_bad, mut bad) = (found.len(), Vec::new(), None, None, 0);
        let kinds = self.spec.metrics.clone().unwrap_or_default();
        let before = self.hpa.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        for (result, kind) in found.into_iter().zip(kinds.iter().map(|spec| &*spec.type_)) {
            let labels = match &result {
                Ok(found) => [action(before, found.replicas), NONE, kind],
                Err(_) => [NONE, INTERNAL, kind],
            };
            self.ops.push(Op::Measure(Measure::new(&METRIC_COMPUTATIONS, labels, 1.0)));
            match result {
                Ok(Found { replicas, name, status }) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                        best = Some((replicas, name));
                    }
                }
                Err(failed) => {
                    statuses.push(MetricStatus::default());
                    self.warn(failed.reason, &failed.message);
                    bad += 1;
                    first_bad.get_or_insert(failed);
                }
            }
        }
        let Some((wanted, name)) = best.filter(|(replicas, _)| bad == 0 || *replicas >= current) else {
            let failed = first_bad.unwrap_or_default();
            let text = format!("the HPA was unable to compute the replica count: {}", failed.message);
            self.condition("ScalingActive", false, failed.reason, &text);
            let text = format!("invalid metrics ({bad} invalid out of {all}), first error is: {}", failed.error);
            return self.fail(current, statuses, &text);
        };
        let text = format!("the HPA was able to successfully calculate a replica count from {name}");
        self.condition("ScalingActive", true, "ValidMetricFound", &text);
        let (spec, window, now) = (self.spec.clone(), self.settings.downscale_stabilization, self.now);
        let limited = self.remember(|memory| memory.limit(&spec, window, current, wanted, now));
        self.condition("AbleToScale", true, limited.able.0, limited.able.1);
        let (is_limited, reason, message) = limited.limited;
        self.condition("ScalingLimited", is_limited, reason, message);
        if limited.replicas == current {
            return self.finish(current, current, statuses, false);
        }
        let why = match wanted.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{name} above target"),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        self.rescale(scale, current, limited.replicas, &why, statuses)
    }

    fn rescale(mut self, mut scale: Value, current: i32, to: i32, why: &str, metrics: Vec<MetricStatus>) -> Vec<Op> {
        let Some(gvr) = self.target.clone() else { return self.leave() };
        object::set(&mut scale, &["spec", "replicas"], to);
        self.outcome[0] = action(current, to);
        let (namespace, name) = (self.hpa.namespace().to_owned(), self.spec.scale_target_ref.name.clone());
        let body = scale.to_string().into_bytes();
        let why = why.to_owned();
        let then = move |answer: Answer| self.clone().rescaled(answer, current, to, &why, metrics.clone());
        vec![Op::ask(Ask::Put { gvr, namespace, name, subresource: "scale", body }, then)]
    }

    fn rescaled(mut self, answer: Answer, current: i32, to: i32, why: &str, metrics: Vec<MetricStatus>) -> Vec<Op> {
        match answer {
            // Somebody else was faster: what there is to do is decided anew.
            Err(refusal) if refusal.conflict => vec![Op::Fail(refusal.message)],
            Err(refusal) => {
                let error = refusal.message;
                self.warn("FailedRescale", &format!("New size: {to}; reason: {why}; error: {error}"));
                let text = format!("the HPA controller was unable to update the target scale: {error}");
                self.condition("AbleToScale", false, "FailedUpdateScale", &text);
                self.outcome[1] = INTERNAL;
                let desired = self.status.desired_replicas;
                self.finish(current, desired, metrics, false)
            }
            Ok(_) => {
                let text = format!("the HPA controller was able to update the target scale to {to}");
                self.condition("AbleToScale", true, "SucceededRescale", &text);
                let text = format!("New size: {to}; reason: {why}");
                self.ops.push(Op::normal(&*self.hpa, "SuccessfulRescale", text));
                let (spec, now) = (self.spec.clone(), self.now);
                self.remember(|memory| memory.scaled(&spec, current, to, now));
                self.finish(current, to, metrics, true)
            }
        }
    }

    /// No number can be calculated: the old one stays.
    fn fail(mut self, current: i32, metrics: Vec<MetricStatus>, why: &str) -> Vec<Op> {
        self.warn("FailedComputeMetricsReplicas", why);
        self.outcome[1] = INTERNAL;
        let desired = self.status.desired_replicas;
        self.finish(current, desired, metrics, false)
    }

    fn finish(mut self, current: i32, desired: i32, metrics: Vec<MetricStatus>, is_rescaled: bool) -> Vec<Op> {
        let last = self.status.last_scale_time.take();
        self.status = HorizontalPodAutoscalerStatus {
            conditions: self.status.conditions.take(),
            current_metrics: Some(metrics).filter(|metrics| !metrics.is_empty()),
            current_replicas: Some(current),
            desired_replicas: desired,
            last_scale_time: if is_rescaled { Some(Time(self.now)) } else { last },
            observed_generation: None,
        };
        self.leave()
    }

    /// Writes the status, if it is another.
    fn leave(self) -> Vec<Op> {
        let mut ops = self.ops;
        ops.push(Op::Measure(Measure::new(&AUTOSCALINGS, self.outcome, 1.0)));
        let (labels, desired) = ([self.hpa.namespace(), self.hpa.name()], self.status.desired_replicas);
        ops.push(Op::Measure(Measure::new(&DESIRED_REPLICAS, labels, desired.into())));
        if self.hpa.status.as_ref() != Some(&self.status) {
            let written = HorizontalPodAutoscaler { status: Some(self.status), ..(*self.hpa).clone() };
            ops.push(Op::update_status(&written));
        }
        ops
    }

    fn remember<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(self.memories.lock().entry(self.key.clone()).or_default())
    }

    fn warn(&mut self, reason: &'static str, message: &str) {
        self.ops.push(Op::warning(&*self.hpa, reason, message));
    }

    fn condition(&mut self, kind: &str, is: bool, reason: &str, message: &str) {
        let condition = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: if is { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(self.now)),
        };
        condition::set(&mut self.status.conditions, condition);
    }
}

fn action(from: i32, to: i32) -> &'static str {
    match to.cmp(&from) {
        std::cmp::Ordering::Greater => "scale_up",
        std::cmp::Ordering::Less => "scale_down",
        std::cmp::Ordering::Equal => NONE,
    }
}

fn selects(selector: &LabelSelector, pod: &Pod) -> bool {
    pod.labels().map_or_else(|| selector.matches(|_| None), |labels| selector.matches_btree(labels))
}
