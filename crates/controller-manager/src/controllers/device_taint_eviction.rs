//! `device-taint-eviction`: pods leave devices whose `NoExecute` taints their claims do not tolerate, or no longer
//! (`pkg/controller/devicetainteviction`). Keys are those of pods, and the names of rules, whose status says how far it is.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::Pod;
use kybern_api::device_taints::{DeviceTaint, selects};
use kybern_api::meta::v1::Time;
use kybern_api::resource::v1::{Device, DeviceRequestAllocationResult, ResourceClaim, ResourceSlice};
use kybern_api::resource::v1alpha3::DeviceTaintRule;
use kybern_api::{Object, condition, owner};
use kybern_apimachinery::{json, object};
use kybern_client::{Client, Informer, ListOptions, Store};
use parking_lot::Mutex;

use super::pod_gc::disruption;
use super::resource_claim::{consumers, name_of, names};
use crate::controller::{Context, Controller, Op, Plan};
use crate::metrics::{DEVICE_EVICTION_DURATION, DEVICE_EVICTIONS};
use crate::pods;
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub(super) const NAME: &str = "device-taint-eviction-controller";
const NO_EXECUTE: &str = "NoExecute";
const EVENT: &str = "DeviceTaintManagerEviction";
/// Index of slices: driver and pool.
const POOL: &str = "pool";

fn pool_key(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

fn pool_of(slice: &ResourceSlice) -> Vec<String> {
    vec![pool_key(&slice.spec.driver, &slice.spec.pool.name)]
}

pub struct DeviceTaintEvictionController {
    devices: Devices,
    memory: Mutex<Memory>,
}

/// The taints of devices.
#[derive(Clone)]
struct Devices {
    slices: Store<ResourceSlice>,
    /// Of administrators; `None` where rules count for nothing.
    rules: Option<Store<DeviceTaintRule>>,
}

#[derive(Default)]
struct Memory {
    /// The pods that are to leave, or were told to: when they need not, or have gone, it is told.
    leaving: HashMap<String, Leaving>,
    /// How many pods have left because of a rule, by its uid, since this process began.
    evicted: HashMap<String, u64>,
}

struct Leaving {
    reason: Eviction,
    is_told: bool,
}

/// When a pod leaves, and the uids of the rules that say so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Eviction {
    at: Timestamp,
    rules: BTreeSet<String>,
}

impl Eviction {
    fn and(self, other: Self) -> Self {
        Self { at: self.at.min(other.at), rules: self.rules.into_iter().chain(other.rules).collect() }
    }
}

impl DeviceTaintEvictionController {
    /// `with_rules`: whether DeviceTaintRules are served and count.
    pub fn new(client: &Client, with_rules: bool) -> Self {
        let all = ListOptions::default;
        let slices = Informer::new(client.clone(), all()).index(POOL, pool_of).spawn();
        let rules = with_rules.then(|| Informer::new(client.clone(), all()).spawn());
        Self { devices: Devices { slices, rules }, memory: Mutex::default() }
    }
}

impl Controller for DeviceTaintEvictionController {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Upstream's `--concurrent-device-taint-eviction-syncs`.
    fn workers(&self) -> usize {
        8
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        let devices = self.devices.clone();
        watches.on(&snapshot.pods, move |change, _| {
            let pod = change.object();
            if names(pod).next().is_none() {
                return Vec::new();
            }
            let facts = |pod: &Pod| {
                let made = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.clone());
                (pods::node_name(pod).to_owned(), made, pod.is_deleting())
            };
            let is_known = |new: &Arc<Pod>| change.old.as_ref().is_some_and(|old| facts(old) == facts(new));
            if change.new.as_ref().is_some_and(is_known) {
                return Vec::new();
            }
            devices.with_rules(vec![pod.key()])
        });
        let devices = self.devices.clone();
        watches.on(&snapshot.resource_claims, move |change, _| {
            let claims = [&change.old, &change.new];
            let users = claims.into_iter().flatten().flat_map(|claim| users(claim)).collect();
            devices.with_rules(users)
        });
        let devices = self.devices.clone();
        watches.on(&self.devices.slices, move |change, snapshot| {
            let is_tainted = |slice: &Arc<ResourceSlice>| slice.spec.devices.iter().flatten().any(has_evicting_taint);
            let spec = &change.object().spec;
            let pool = pool_key(&spec.driver, &spec.pool.name);
            // One without taints may be in the place of one with some.
            let mut all = change.old.iter().cloned().chain(devices.slices.by_index(POOL, &pool));
            if !all.any(|slice| is_tainted(&slice)) {
                return Vec::new();
            }
            let in_pool =
                |result: &DeviceRequestAllocationResult| result.driver == spec.driver && result.pool == spec.pool.name;
            devices.with_rules(users_of(snapshot, in_pool))
        });
        if let Some(rules) = &self.devices.rules {
            watches.on(rules, |change, snapshot| {
                let both = [&change.old, &change.new].map(Option::as_ref);
                if let [Some(old), Some(new)] = both
                    && old.uid() == new.uid()
                    && old.spec == new.spec
                {
                    return Vec::new();
                }
                let evicting = |rule: &&Arc<DeviceTaintRule>| rule.spec.taint.effect == NO_EXECUTE;
                let evicting: Vec<_> = both.into_iter().flatten().filter(evicting).collect();
                let concerns = |result: &DeviceRequestAllocationResult| {
                    evicting.iter().any(|rule| selects(rule, &result.driver, &result.pool, &result.device))
                };
                let mut keys = vec![change.object().key()];
                keys.extend(users_of(snapshot, concerns));
                keys
            });
        }
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        if !key.contains('/') {
            return self.tell(key, snapshot, context);
        }
        let pod = snapshot.pods.get(key);
        let Some(pod) = pod.filter(|pod| !pod.is_deleting()) else { return self.gone(key, context) };
        let mut memory = self.memory.lock();
        match self.devices.eviction(&pod, snapshot) {
            None if memory.leaving.remove(key).is_some_and(|leaving| !leaving.is_told) => {
                Plan::of(vec![Op::normal(&*pod, EVENT, "Cancelling deletion")])
            }
            None => Plan::idle(),
            Some(reason) if reason.at > context.now => {
                let mut plan = Plan::idle();
                plan.requeue_at(reason.at, context.now);
                memory.leaving.insert(key.to_owned(), Leaving { reason, is_told: false });
                plan
            }
            Some(reason) => {
                memory.leaving.insert(key.to_owned(), Leaving { reason, is_told: true });
                evict(&pod, context)
            }
        }
    }
}

impl DeviceTaintEvictionController {
    /// A pod has gone, or goes.
    fn gone(&self, key: &str, context: &Context) -> Plan {
        let mut plan = Plan::idle();
        let mut memory = self.memory.lock();
        if let Some(Leaving { reason, is_told: true }) = memory.leaving.remove(key) {
            plan.count(&DEVICE_EVICTIONS, []);
            plan.measure(&DEVICE_EVICTION_DURATION, [], context.now.duration_since(reason.at).as_secs_f64());
            for rule in reason.rules {
                *memory.evicted.entry(rule).or_default() += 1;
            }
        }
        plan
    }
}

impl Devices {
    /// Keys of pods, and of the rules that may have had to do with them.
    fn with_rules(&self, mut keys: Vec<String>) -> Vec<String> {
        if !keys.is_empty() {
            let rules = self.rules.iter().flat_map(Store::list);
            keys.extend(rules.filter(|rule| rule.spec.taint.effect == NO_EXECUTE).map(|rule| rule.key()));
        }
        keys
    }

    /// A device by its names, as the newest generation of its pool has it.
    fn find(&self, result: &DeviceRequestAllocationResult) -> Option<Device> {
        let slices = self.slices.by_index(POOL, &pool_key(&result.driver, &result.pool));
        let newest = slices.iter().map(|slice| slice.spec.pool.generation).max()?;
        let current = slices.iter().filter(|slice| slice.spec.pool.generation == newest);
        let mut devices = current.flat_map(|slice| slice.spec.devices.iter().flatten());
        devices.find(|device| device.name == result.device).cloned()
    }

    /// When a pod must leave: with the first of its claims whose devices it may not keep.
    fn eviction(&self, pod: &Pod, snapshot: &Snapshot) -> Option<Eviction> {
        let evictions = used(pod, snapshot).into_iter().filter_map(|claim| self.of_claim(&claim, None));
        evictions.reduce(Eviction::and)
    }

    /// `also`: a rule that counts as if it evicted.
    fn of_claim(&self, claim: &ResourceClaim, also: Option<&DeviceTaintRule>) -> Option<Eviction> {
        let rules = self.rules.iter().flat_map(Store::list).collect::<Vec<_>>();
        let rules = rules.iter().map(|rule| &**rule).filter(|rule| rule.spec.taint.effect == NO_EXECUTE);
        let rules: Vec<&DeviceTaintRule> = rules.chain(also).collect();
        let of_device = |result: &DeviceRequestAllocationResult| {
            let device = self.find(result);
            let published = device.iter().flat_map(|device| device.taints.iter().flatten());
            let published = published.map(|taint| (DeviceTaint::of_driver(taint), &taint.time_added, None));
            let ruled = rules.iter().filter(|rule| selects(rule, &result.driver, &result.pool, &result.device));
            let ruled = ruled.map(|rule| {
                let taint = DeviceTaint { effect: NO_EXECUTE, ..DeviceTaint::of_rule(rule) };
                (taint, &rule.spec.taint.time_added, Some(rule.uid()))
            });
            let evicting = published.chain(ruled).filter(|(taint, ..)| taint.effect == NO_EXECUTE);
            evicting
                .filter_map(|(taint, added, rule)| until(result, &taint, added.as_ref(), rule))
                .reduce(Eviction::and)
        };
        results(claim).filter_map(of_device).reduce(Eviction::and)
    }
}

/// How long a taint is borne; `None` for ever. Only tolerations that name the effect count, as upstream.
fn until(
    result: &DeviceRequestAllocationResult,
    taint: &DeviceTaint<'_>,
    added: Option<&Time>,
    rule: Option<&str>,
) -> Option<Eviction> {
    let tolerations = result.tolerations.iter().flatten();
    let named = tolerations.filter(|toleration| toleration.effect.as_deref() == Some(NO_EXECUTE));
    let matching: Vec<_> = named.filter(|toleration| taint.is_tolerated(toleration)).collect();
    if matching.iter().any(|toleration| toleration.toleration_seconds.is_none()) {
        return None;
    }
    let seconds = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min().unwrap_or(0).max(0);
    let added = added.map_or(Timestamp::MIN, |time| time.0);
    let at = added.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    Some(Eviction { at, rules: rule.map(str::to_owned).into_iter().collect() })
}

fn has_evicting_taint(device: &Device) -> bool {
    device.taints.iter().flatten().any(|taint| taint.effect == NO_EXECUTE)
}

/// The devices that a claim has.
fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref()?.devices.as_ref());
    allocation.into_iter().flat_map(|devices| devices.results.iter().flatten())
}

/// The keys of the pods that a claim is reserved for.
fn users(claim: &ResourceClaim) -> Vec<String> {
    let pods =
        consumers(claim).iter().filter(|c| c.resource == "pods" && c.api_group.as_deref().unwrap_or("").is_empty());
    pods.map(|consumer| object::key_of(claim.namespace(), &consumer.name)).collect()
}

/// The keys of the pods with devices that are meant. Seldom asked, and of claims only.
fn users_of(snapshot: &Snapshot, is_meant: impl Fn(&DeviceRequestAllocationResult) -> bool) -> Vec<String> {
    let claims = snapshot.resource_claims.list();
    claims.iter().filter(|claim| results(claim).any(&is_meant)).flat_map(|claim| users(claim)).collect()
}

/// The claims that a pod has got.
fn used(pod: &Pod, snapshot: &Snapshot) -> Vec<Arc<ResourceClaim>> {
    if pods::node_name(pod).is_empty() {
        return Vec::new();
    }
    let claim = |wish| {
        let name = name_of(pod, wish).filter(|name| !name.is_empty())?;
        let claim = snapshot.resource_claims.get_in(pod.namespace(), name)?;
        let is_own = || owner::controller_of(&claim.metadata).is_some_and(|owner| owner.uid == pod.uid());
        let is_meant = wish.resource_claim_name.is_some() || is_own();
        (is_meant && consumers(&claim).iter().any(|consumer| consumer.uid == pod.uid())).then_some(claim)
    };
    names(pod).filter_map(claim).collect()
}

fn evict(pod: &Pod, context: &Context) -> Plan {
    let mut plan = Plan::of(vec![Op::normal(pod, EVENT, "Marking for deletion")]);
    if !pod.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, "DisruptionTarget")) {
        let why = "Device Taint manager: deleting due to NoExecute taint";
        let why = disruption("DeletionByDeviceTaintManager", why, context);
        plan.push(pods::write_condition(pod, why, json!({})));
    }
    plan.push(Op::delete(pod));
    plan
}
