//! The scheduler as a state machine: what is known goes in, decisions come out. Pure; the driver watches and acts.

mod asking;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kybern_apimachinery::object;

use asking::Asking;

use crate::cache::Cluster;
use crate::config::{Profile, Profiles};
use crate::cycle::{self, Position};
use crate::explain::Trace;
use crate::extender::{Bits, Question, REJECTED};
use crate::framework::{ApiCall, Diagnosis, Filter, Nomination, Permission, Reason, Remedy};
use crate::meter::Meter;
use crate::node::Node;
use crate::plugins::volume_binding::class_of;
use crate::pod::PodInfo;
use crate::queue::{Incoming, Queue};
use crate::stores::Stores;

/// However long a plugin would hold a pod: upstream's fifteen minutes.
const MAX_PERMIT_WAIT: Duration = Duration::from_secs(15 * 60);

/// With so many pods waiting for their turn cycles are not traced: that costs a part of the rate.
const BUSY: usize = 100;

/// What came of a cycle.
#[derive(Debug)]
pub enum Decision {
    /// Bind the pod, then tell [`Core::bound`].
    Bind { pod: Arc<PodInfo>, node: Box<str>, binding: Binding },
    /// Ask those of the extenders that are interested, then tell [`Core::answered`].
    Ask { pod: Arc<PodInfo>, interested: Bits, question: Question },
    /// Make these calls, then tell [`Core::prepared`]; others must act before the pod can be bound.
    Prepare { pod: Arc<PodInfo>, calls: Vec<ApiCall> },
    /// No node takes it now. Delete the victims, then tell [`Core::preempted`].
    Unschedulable { pod: Arc<PodInfo>, message: String, remedy: Remedy },
    /// Something went wrong; it is tried again.
    Failed { pod: Arc<PodInfo>, message: String },
}

/// How a pod is bound.
#[derive(Debug)]
pub struct Binding {
    /// To be made before, in this order.
    pub calls: Vec<ApiCall>,
    /// Binds the pod, unless an extender does.
    pub bind: Option<ApiCall>,
    /// The extender that binds it.
    pub binder: Option<usize>,
}

impl Decision {
    /// Whom it is about.
    pub fn pod(&self) -> &Arc<PodInfo> {
        match self {
            Self::Bind { pod, .. }
            | Self::Ask { pod, .. }
            | Self::Prepare { pod, .. }
            | Self::Unschedulable { pod, .. }
            | Self::Failed { pod, .. } => pod,
        }
    }
}

pub struct Core {
    profiles: Profiles,
    cluster: Cluster,
    queue: Queue,
    position: Position,
    /// Pods that hold their nodes until plugins let them be bound, by uid.
    waiting: BTreeMap<Box<str>, Waiting>,
    /// How long pods were held, and whether they were let go, since this was last asked.
    waits: Vec<(bool, Duration)>,
    /// Decisions that came of something else than a cycle.
    decided: VecDeque<Decision>,
    asking: Asking,
    explains: bool,
    /// Of the last cycle.
    trace: Option<Trace>,
}

struct Waiting {
    pod: Arc<PodInfo>,
    node: Box<str>,
    since: Duration,
    /// Who holds it, since when, and until when at most.
    holders: BTreeMap<&'static str, (Duration, Duration)>,
}

impl Core {
    pub fn new(profiles: Profiles, stores: Stores) -> Self {
        // All profiles have the same.
        let sort = profiles.list[0].chain.queue_sort.clone();
        let queue = Queue::new(sort, profiles.initial_backoff, profiles.max_backoff);
        Self {
            profiles,
            cluster: Cluster::new(stores),
            queue,
            position: Position::default(),
            waiting: BTreeMap::new(),
            waits: Vec::new(),
            decided: VecDeque::new(),
            asking: Asking::default(),
            explains: false,
            trace: None,
        }
    }

    /// From now on cycles are traced while few pods wait.
    pub fn explain(&mut self) {
        self.explains = true;
    }

    /// What the last cycle saw, if it was traced.
    pub fn take_trace(&mut self) -> Option<Trace> {
        self.trace.take()
    }

    /// What is measured of plugins.
    pub fn meter(&mut self) -> &mut Meter {
        &mut self.position.meter
    }

    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// How many pods have come into which queue for what reason since this was last asked.
    pub fn fetch_incoming(&mut self) -> BTreeMap<Incoming, u64> {
        self.queue.fetch_incoming()
    }

    /// How long pods were held, and whether they were let go, since this was last asked.
    pub fn fetch_waits(&mut self) -> Vec<(bool, Duration)> {
        std::mem::take(&mut self.waits)
    }

    /// How many pods that wait each filter has rejected, by scheduler, if that is news.
    pub fn fetch_rejections(&mut self) -> Option<&BTreeMap<Box<str>, [usize; 32]>> {
        self.queue.fetch_rejections()
    }

    /// A node is new or has changed.
    pub fn set_node(&mut self, node: Arc<Node>, now: Duration) {
        let name = node.name.clone();
        let old = self.cluster.set_node(node.clone());
        let old = old.as_deref();
        if old.is_none_or(|old| old.differs_for_pods(&node))
            && let Some(info) = self.cluster.node(&name)
        {
            let (profiles, cluster) = (&self.profiles, &self.cluster);
            self.queue.move_on(if old.is_some() { "NodeUpdate" } else { "NodeAdd" }, now, |pod, rejected_by| {
                rejected_by & REJECTED != 0
                    || concerned(profiles, pod, rejected_by).all(|plugin| plugin.may_fit_on(pod, info, cluster))
                    || concerned(profiles, pod, rejected_by).any(|plugin| plugin.may_fit_after(pod, old, Some(&node)))
            });
        }
    }

    pub fn remove_node(&mut self, name: &str, now: Duration) {
        let Some(old) = self.cluster.remove_node(name) else { return };
        let profiles = &self.profiles;
        self.queue.move_on("NodeDelete", now, |pod, rejected_by| {
            rejected_by & REJECTED != 0
                || concerned(profiles, pod, rejected_by).any(|plugin| plugin.may_fit_after(pod, Some(&old), None))
        });
    }

    /// A pod is new or has changed.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, now: Duration) {
        let gangs = self.cluster.stores().gangs.as_ref().filter(|_| pod.membership.is_some());
        let completes = gangs.is_some_and(|gangs| gangs.set(&pod)).then(|| pod.clone());
        self.take_pod(pod, now);
        if let Some(pod) = completes
            && let Some(membership) = &pod.membership
        {
            self.workload_came(Some((&pod.namespace, &membership.workload)), now);
        }
    }

    /// A workload is there, or a pod of one: others may have waited for it.
    pub fn workload_came(&mut self, workload: Option<(&str, &str)>, now: Duration) {
        let gangs = self.cluster.stores().gangs.as_ref();
        for uid in gangs.map(|gangs| gangs.unscheduled(workload)).unwrap_or_default() {
            if let Some(pod) = self.queue.get(&uid).cloned().filter(|_| self.queue.is_gated(&uid)) {
                let ready = self.is_ready(&pod);
                self.queue.set(pod, ready, now);
            }
        }
    }

    fn is_ready(&self, pod: &PodInfo) -> bool {
        self.profiles.of(pod).chain.pre_enqueue.iter().all(|plugin| plugin.is_ready(pod, &self.cluster))
    }

    fn take_pod(&mut self, pod: Arc<PodInfo>, now: Duration) {
        if pod.is_bound() {
            self.queue.remove(&pod.uid);
            if self.waiting.remove(&pod.uid).is_some() {
                self.asking.release(&pod.uid);
            }
            match self.cluster.set_bound(pod.clone()) {
                None => self.one_came(&pod, now),
                Some(old)
                    if old.labels != pod.labels
                        || old.requests != pod.requests
                        || old.is_deleting != pod.is_deleting =>
                {
                    self.room_was_made(&old, now);
                    self.one_came(&pod, now);
                }
                Some(_) => {}
            }
        } else if pod.is_deleting || !self.profiles.has(&pod.wants().scheduler) {
            self.queue.remove(&pod.uid);
            self.end_nomination(&pod.uid, now);
        } else if !self.cluster.has_pod(&pod.uid) || self.queue.contains(&pod.uid) {
            self.take_over_nomination(&pod, now);
            let ready = self.is_ready(&pod);
            self.queue.set(pod, ready, now);
        }
    }

    /// What a pod's status says of its nomination, unless it says nothing and never did: then ours may just not be written.
    fn take_over_nomination(&mut self, pod: &Arc<PodInfo>, now: Duration) {
        if self.cluster.has_pod(&pod.uid) {
            return;
        }
        let before = self.queue.get(&pod.uid).map(|old| old.wants().nominated.clone()).unwrap_or_default();
        match (&*pod.wants().nominated, &*before) {
            ("", "") => {}
            ("", _) => self.end_nomination(&pod.uid, now),
            (node, before) if node != before => self.cluster.nominate(pod.clone(), node),
            _ => {}
        }
    }

    /// A pod is gone, or has ended.
    pub fn remove_pod(&mut self, uid: &str, now: Duration) {
        if let Some(gangs) = &self.cluster.stores().gangs {
            gangs.remove(uid);
        }
        self.queue.remove(uid);
        self.end_nomination(uid, now);
        if let Some(waiting) = self.waiting.remove(uid) {
            self.asking.release(uid);
            self.unreserve(&waiting.pod, &waiting.node);
        }
        if let Some(gone) = self.cluster.remove_pod(uid) {
            self.room_was_made(&gone, now);
        }
    }

    /// The room that a pod waited for is for others.
    fn end_nomination(&mut self, uid: &str, now: Duration) {
        if let Some(pod) = self.cluster.denominate(uid) {
            self.room_was_made(&pod, now);
        }
    }

    fn room_was_made(&mut self, gone: &PodInfo, now: Duration) {
        let profiles = &self.profiles;
        self.queue.move_on("AssignedPodDelete", now, |pod, rejected_by| {
            rejected_by == 0
                || rejected_by & REJECTED != 0
                || concerned(profiles, pod, rejected_by).any(|plugin| plugin.may_fit_without(pod, gone))
        });
    }

    fn one_came(&mut self, new: &PodInfo, now: Duration) {
        let heeding = self.filters_that(|plugin| plugin.heeds_arrivals()) | REJECTED;
        if self.queue.waits_for_any(heeding) {
            let (profiles, cluster) = (&self.profiles, &self.cluster);
            self.queue.move_on("AssignedPodAdd", now, |pod, rejected_by| {
                rejected_by & REJECTED != 0
                    || concerned(profiles, pod, rejected_by).any(|plugin| plugin.may_fit_with(pod, new, cluster))
            });
        }
    }

    /// Something of storage has come, changed or gone: these claims by their keys, or whatever it may be.
    pub fn storage_changed(&mut self, claims: Option<&HashSet<String>>, now: Duration) {
        let reading = self.filters_that(|plugin| plugin.reads_storage()) | REJECTED;
        if self.queue.waits_for_any(reading) {
            let concerns = |pod: &PodInfo| {
                claims.is_none_or(|changed| {
                    let devices = pod.wants().devices.iter().filter_map(|wish| wish.claim.as_deref());
                    let mut names = pod.claims.iter().map(|(name, _)| &**name).chain(devices);
                    names.any(|name| changed.contains(&object::key_of(&pod.namespace, name)))
                })
            };
            let profiles = &self.profiles;
            self.queue.move_on("PersistentVolumeClaimUpdate", now, |pod, rejected_by| {
                rejected_by & REJECTED != 0
                    || concerns(pod) && concerned(profiles, pod, rejected_by).any(|plugin| plugin.reads_storage())
            });
        }
    }

    /// There is more room for volumes of these storage classes.
    pub fn capacity_grew(&mut self, classes: &HashSet<String>, now: Duration) {
        let reading = self.filters_that(|plugin| plugin.reads_storage()) | REJECTED;
        if classes.is_empty() || !self.queue.waits_for_any(reading) {
            return;
        }
        let (profiles, claims) = (&self.profiles, &self.cluster.stores().claims);
        let concerns = |pod: &PodInfo| {
            let found = pod.claims.iter().filter_map(|(name, _)| claims.get_in(&pod.namespace, name));
            found.into_iter().any(|claim| classes.contains(class_of(&claim)))
        };
        self.queue.move_on("CSIStorageCapacityUpdate", now, |pod, rejected_by| {
            rejected_by & REJECTED != 0
                || concerned(profiles, pod, rejected_by).any(|plugin| plugin.reads_storage()) && concerns(pod)
        });
    }

    /// The bits that such filters have in any profile.
    fn filters_that(&self, holds: impl Fn(&dyn Filter) -> bool) -> u32 {
        let profiles = self.profiles.list.iter();
        let filters = profiles.flat_map(|profile| profile.chain.filter.iter().enumerate());
        let filters = filters.filter(|(_, plugin)| holds(&***plugin));
        filters.fold(0, |bits, (bit, _)| bits | 1 << bit)
    }

    /// Moves on pods whose time has come.
    pub fn tick(&mut self, now: Duration) {
        self.queue.flush(now);
        let mut late = Vec::new();
        for (uid, waiting) in &self.waiting {
            if let Some((plugin, (since, _))) = waiting.holders.iter().find(|(_, (_, until))| *until <= now) {
                let waited = now.saturating_sub(*since);
                late.push((
                    uid.clone(),
                    format!("rejected due to timeout after waiting {waited:?} at plugin {plugin}"),
                ));
            }
        }
        for (uid, reason) in late {
            self.reject(&uid, reason, now);
        }
    }

    /// When [`Core::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        let held = self.waiting.values().flat_map(|waiting| waiting.holders.values().map(|(_, until)| *until)).min();
        [self.queue.next_deadline(), held].into_iter().flatten().min()
    }

    pub fn has_work(&self) -> bool {
        self.queue.has_active()
            || !self.decided.is_empty()
            || self.asking.has_answers()
            || (self.asking.is_freed() && self.queue.has_parked())
    }

    /// Schedules the pod that goes first.
    pub fn schedule_next(&mut self, now: Duration) -> Option<Decision> {
        loop {
            if let Some(decision) = self.decided.pop_front() {
                return Some(decision);
            }
            self.trace = None;
            let decision = match self.asking.has_answers() {
                true => self.take_answer(now),
                false => {
                    let pod = self.next_pod()?;
                    self.attempt(pod, now)
                }
            };
            if decision.is_some() {
                return decision;
            }
        }
    }

    /// The pod that goes first of those for which extenders have room.
    fn next_pod(&mut self) -> Option<Arc<PodInfo>> {
        let asking = &mut self.asking;
        if asking.is_freed() {
            if let Some(pod) = self.queue.pop_parked(|bits| asking.has_room(bits)) {
                return Some(pod);
            }
            asking.looked_at_parked();
        }
        loop {
            let pod = self.queue.pop()?;
            let interested = self.profiles.extenders.interested(&pod);
            if interested == 0 || self.asking.has_room(interested) {
                return Some(pod);
            }
            self.queue.park(&pod.uid, interested);
        }
    }

    fn attempt(&mut self, pod: Arc<PodInfo>, now: Duration) -> Option<Decision> {
        self.cluster.refresh_order();
        let is_calm = self.explains && self.queue.active() < BUSY;
        self.trace = is_calm.then(Trace::default);
        self.position.meter.begin(self.profiles.place_of(&pod));
        let interested = self.profiles.extenders.interested(&pod);
        if interested != 0 {
            return self.attempt_with(pod, interested, true, now);
        }
        let Profile { chain, percentage_of_nodes_to_score: percentage, .. } = self.profiles.of(&pod);
        let (position, trace) = (&mut self.position, self.trace.as_mut());
        match cycle::schedule(chain, &pod, &self.cluster, *percentage, position, trace) {
            Ok(index) => self.commit(pod, index, now),
            Err(diagnosis) => Some(self.conclude(pod, diagnosis, now)),
        }
    }

    /// No node takes the pod: it waits, unless extenders are to be asked first what can be done about it.
    fn conclude(&mut self, pod: Arc<PodInfo>, mut diagnosis: Diagnosis, now: Duration) -> Decision {
        let remedy = *std::mem::take(&mut diagnosis.remedy);
        if !remedy.candidates.is_empty() {
            return self.ask_for_victims(pod, diagnosis, remedy, 0, now);
        }
        self.asking.release(&pod.uid);
        let message = cycle::message(&diagnosis, &remedy.message);
        self.queue.unschedulable(&pod.uid, diagnosis.plugins, now);
        let remedy = self.begin(&pod, remedy, now);
        Decision::Unschedulable { pod, message, remedy }
    }

    /// Counts with what the remedy is going to change.
    fn begin(&mut self, pod: &Arc<PodInfo>, mut remedy: Remedy, now: Duration) -> Remedy {
        for displaced in &remedy.displaced {
            self.cluster.denominate(&displaced.uid);
            self.queue.retry(&displaced.uid, now);
        }
        match &remedy.nomination {
            Nomination::Keep => {}
            Nomination::Clear => self.end_nomination(&pod.uid, now),
            Nomination::Node(node) => self.cluster.nominate(pod.clone(), node),
        }
        // One that is not bound yet need not be deleted.
        let (held, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut remedy.victims).into_iter().partition(|victim| self.waiting.contains_key(&victim.uid));
        for victim in held {
            self.reject(&victim.uid, "preempted".to_owned(), now);
        }
        running.iter().for_each(|victim| self.cluster.doom(&victim.uid));
        remedy.victims = running;
        remedy
    }

    /// Tells which of the victims of a pod could not be deleted.
    pub fn preempted<'a>(&mut self, pod: &PodInfo, failed: impl IntoIterator<Item = &'a PodInfo>, now: Duration) {
        let mut any = false;
        for victim in failed {
            any = true;
            self.cluster.spare(&victim.uid);
        }
        if any {
            self.queue.retry(&pod.uid, now);
        }
    }

    /// Gives a pod a node, unless a plugin says no; `None` where one holds it.
    fn commit(&mut self, pod: Arc<PodInfo>, index: usize, now: Duration) -> Option<Decision> {
        let info = self.cluster.node_at(index);
        let node = info.node.name.clone();
        let mut holders = BTreeMap::new();
        let chain = &self.profiles.of(&pod).chain;
        let meter = &mut self.position.meter;
        let (mut gathered, mut released) = (Vec::new(), Vec::new());
        let mut permit = || -> Result<(), Reason> {
            let began = Instant::now();
            let reserved = chain.reserve.iter().try_for_each(|plugin| plugin.reserve(&pod, info, &self.cluster));
            meter.point("Reserve", if reserved.is_ok() { "Success" } else { "Unschedulable" }, began);
            reserved?;
            for plugin in &chain.permit {
                let (time, others) = match plugin.permit(&pod, info, &self.cluster, now) {
                    Permission::Allow => continue,
                    Permission::AllowAll(others) => {
                        released.extend(others.into_iter().map(|uid| (uid, plugin.name())));
                        continue;
                    }
                    Permission::Wait(time) => (time, Vec::new()),
                    Permission::Gather(time, others) => (time, others),
                    Permission::Reject(reason) => return Err(reason),
                };
                holders.insert(plugin.name(), (now, now + time.min(MAX_PERMIT_WAIT)));
                gathered.extend(others);
            }
            Ok(())
        };
        if let Err(reason) = permit() {
            self.asking.release(&pod.uid);
            self.unreserve(&pod, &node);
            self.queue.failed(&pod.uid, now);
            return Some(Decision::Unschedulable { pod, message: reason.into_owned(), remedy: Remedy::default() });
        }
        if self.cluster.nomination(&pod.uid).is_some_and(|nominated| *nominated != *node) {
            self.end_nomination(&pod.uid, now);
        }
        self.cluster.assume(pod.clone(), &node);
        gathered.iter().for_each(|uid| self.queue.activate_waiting(uid, now));
        for (uid, plugin) in released {
            self.allow(&uid, plugin, now);
        }
        if holders.is_empty() {
            return Some(self.bind(pod, node, now));
        }
        self.waiting.insert(pod.uid.clone(), Waiting { pod, node, since: now, holders });
        None
    }

    fn unreserve(&self, pod: &PodInfo, node: &str) {
        self.profiles.of(pod).chain.reserve.iter().rev().for_each(|plugin| plugin.unreserve(pod, node, &self.cluster));
    }

    /// Plans the calls that bind a pod.
    fn bind(&mut self, pod: Arc<PodInfo>, node: Box<str>, now: Duration) -> Decision {
        let cluster = &self.cluster;
        let chain = &self.profiles.of(&pod).chain;
        let calls: Vec<ApiCall> =
            chain.pre_bind.iter().flat_map(|plugin| plugin.pre_bind(&pod, &node, cluster)).collect();
        if chain.pre_bind.iter().any(|plugin| plugin.waits(&pod, cluster)) {
            // It counts on its node as one that is nominated to it.
            self.unreserve(&pod, &node);
            self.cluster.forget(&pod.uid);
            self.cluster.nominate(pod.clone(), &node);
            let reading = self.filters_that(|plugin| plugin.reads_storage());
            self.queue.unschedulable(&pod.uid, reading, now);
            self.asking.release(&pod.uid);
            return Decision::Prepare { pod, calls };
        }
        let bind = chain.bind.iter().find_map(|plugin| plugin.bind(&pod, &node));
        let extenders = &self.profiles.extenders;
        let binder = extenders.among(extenders.interested(&pod)).find(|(_, extender)| extender.binds());
        let binder = binder.map(|(extender, _)| extender);
        self.asking.keep_only(&pod.uid, binder.map_or(0, |extender| 1 << extender));
        Decision::Bind { pod, node, binding: Binding { calls, bind, binder } }
    }

    /// Tells how the calls of a [`Decision::Prepare`] ended.
    pub fn prepared(&mut self, pod: &PodInfo, succeeded: bool, now: Duration) {
        if !succeeded {
            self.end_nomination(&pod.uid, now);
            self.queue.retry(&pod.uid, now);
        }
    }

    /// The pods that plugins hold: for a plugin that decides about several together.
    pub fn held(&self) -> impl Iterator<Item = (&Arc<PodInfo>, &str)> {
        self.waiting.values().map(|waiting| (&waiting.pod, &*waiting.node))
    }

    /// A plugin lets a pod go that it held.
    pub fn allow(&mut self, uid: &str, plugin: &str, now: Duration) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        waiting.holders.remove(plugin);
        if waiting.holders.is_empty()
            && let Some(Waiting { pod, node, since, .. }) = self.waiting.remove(uid)
        {
            self.waits.push((true, now.saturating_sub(since)));
            let decision = self.bind(pod, node, now);
            self.decided.push_back(decision);
        }
    }

    /// A pod that was held is not to be bound: it gives its node back and is tried again.
    pub fn reject(&mut self, uid: &str, reason: String, now: Duration) {
        let Some(Waiting { pod, node, since, .. }) = self.waiting.remove(uid) else { return };
        self.waits.push((false, now.saturating_sub(since)));
        self.asking.release(uid);
        self.unreserve(&pod, &node);
        if self.cluster.forget(uid) {
            self.room_was_made(&pod, now);
        }
        self.queue.failed(uid, now);
        self.decided.push_back(Decision::Unschedulable { pod, message: reason, remedy: Remedy::default() });
    }

    /// Tells how the calls of a [`Decision::Bind`] ended.
    pub fn bound(&mut self, pod: &PodInfo, node: &str, succeeded: bool, now: Duration) {
        self.asking.release(&pod.uid);
        if succeeded {
            self.queue.remove(&pod.uid);
            return;
        }
        self.unreserve(pod, node);
        if self.cluster.forget(&pod.uid) {
            self.room_was_made(pod, now);
        }
        self.queue.failed(&pod.uid, now);
    }
}

/// The filters with these bits in the profile of a pod that waits.
fn concerned<'a>(profiles: &'a Profiles, pod: &PodInfo, bits: u32) -> impl Iterator<Item = &'a dyn Filter> {
    let filters = profiles.of(pod).chain.filter.iter().enumerate();
    filters.filter(move |(bit, _)| bits & 1 << bit != 0).map(|(_, plugin)| &**plugin)
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
