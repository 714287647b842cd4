//! Pods that are to be scheduled together: which are in which group, and how far each is (upstream's workload manager).

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kybern_api::scheduling::v1alpha1::Workload;
use kybern_apimachinery::object;
use kybern_client::Store;
use parking_lot::Mutex;

use crate::framework::Permission;
use crate::pod::{Membership, PodInfo};

/// How long the first pod of a gang that holds a node waits for enough others.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Clones share what they know.
#[derive(Clone)]
pub struct Gangs {
    pub workloads: Store<Workload>,
    state: Arc<Mutex<State>>,
}

/// Namespace, workload, group and replica.
type Key = (Box<str>, Membership);

#[derive(Default)]
struct State {
    groups: HashMap<Key, Group>,
    of: HashMap<Box<str>, Key>,
}

/// The uids of a group's pods.
#[derive(Default)]
struct Group {
    unscheduled: BTreeSet<Box<str>>,
    /// They have a node, and are not bound yet.
    assumed: BTreeSet<Box<str>>,
    bound: BTreeSet<Box<str>>,
    deadline: Option<Duration>,
}

impl Group {
    fn remove(&mut self, uid: &str) {
        for place in [&mut self.unscheduled, &mut self.assumed, &mut self.bound] {
            place.remove(uid);
        }
    }

    fn len(&self) -> usize {
        self.unscheduled.len() + self.assumed.len() + self.bound.len()
    }
}

impl Gangs {
    pub fn new(workloads: Store<Workload>) -> Self {
        Self { workloads, state: Arc::default() }
    }

    /// A pod is new or has changed; whether it is new.
    pub fn set(&self, pod: &PodInfo) -> bool {
        let Some(membership) = &pod.membership else { return false };
        let mut state = self.state.lock();
        let key = (pod.namespace.clone(), (**membership).clone());
        let is_new = state.of.insert(pod.uid.clone(), key.clone()).is_none();
        let group = state.groups.entry(key).or_default();
        if pod.is_bound() {
            group.remove(&pod.uid);
            group.bound.insert(pod.uid.clone());
        } else if !group.assumed.contains(&pod.uid) {
            group.unscheduled.insert(pod.uid.clone());
        }
        is_new
    }

    pub fn remove(&self, uid: &str) {
        let mut state = self.state.lock();
        let Some(key) = state.of.remove(uid) else { return };
        if let Some(group) = state.groups.get_mut(&key) {
            group.remove(uid);
            if group.len() == 0 {
                state.groups.remove(&key);
            }
        }
    }

    /// A pod has got a node, or has given it back.
    pub fn assume(&self, uid: &str, has_node: bool) {
        let mut state = self.state.lock();
        let Some(key) = state.of.get(uid).cloned() else { return };
        let Some(group) = state.groups.get_mut(&key).filter(|group| !group.bound.contains(uid)) else { return };
        group.remove(uid);
        let place = if has_node { &mut group.assumed } else { &mut group.unscheduled };
        place.insert(uid.into());
    }

    /// The pods without a node of the groups of a workload, or of all.
    pub fn unscheduled(&self, workload: Option<(&str, &str)>) -> Vec<Box<str>> {
        let state = self.state.lock();
        let is_meant =
            |(namespace, membership): &Key| workload.is_none_or(|meant| meant == (&**namespace, &*membership.workload));
        let groups = state.groups.iter().filter(|(key, _)| is_meant(key));
        groups.flat_map(|(_, group)| group.unscheduled.iter().cloned()).collect()
    }

    /// How many pods the group of a pod must have; `None` where each goes alone.
    fn least(&self, pod: &PodInfo) -> Result<Option<usize>, String> {
        let Some(membership) = &pod.membership else { return Ok(None) };
        let Membership { workload: name, group, .. } = &**membership;
        let Some(workload) = self.workloads.get_in(&pod.namespace, name) else {
            let key = object::key_of(&pod.namespace, name);
            return Err(format!("failed to get workload {key}: workload.scheduling.k8s.io {name:?} not found"));
        };
        let found = workload.spec.pod_groups.iter().find(|found| *found.name == **group);
        let found = found.ok_or_else(|| format!("pod group {group:?} doesn't exist for a workload {name:?}"))?;
        Ok(found.policy.gang.as_ref().map(|gang| usize::try_from(gang.min_count).unwrap_or(0)))
    }

    /// Whether it makes sense to look for a node: there are as many pods as there must be.
    pub fn is_whole(&self, pod: &PodInfo) -> bool {
        match self.least(pod) {
            Err(_) => false,
            Ok(None) => true,
            Ok(Some(least)) => self.with_group(pod, |group| group.len() >= least).unwrap_or(false),
        }
    }

    fn with_group<T>(&self, pod: &PodInfo, read: impl FnOnce(&mut Group) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let key = state.of.get(&pod.uid).cloned()?;
        state.groups.get_mut(&key).map(read)
    }

    /// Whether a pod with a node may be bound: once as many have one as must, all of them; until then the others take
    /// their turns.
    pub fn permit(&self, pod: &PodInfo, now: Duration) -> Permission {
        let least = match self.least(pod) {
            Err(why) => return Permission::Reject(format!("running Permit plugin \"GangScheduling\": {why}").into()),
            Ok(None) => return Permission::Allow,
            Ok(Some(least)) => least,
        };
        let decide = |group: &mut Group| {
            if group.assumed.len() + group.bound.len() >= least {
                return Permission::AllowAll(group.assumed.iter().cloned().collect());
            }
            let until = *group.deadline.get_or_insert(now + TIMEOUT);
            let until = if until < now { now + TIMEOUT } else { until };
            group.deadline = Some(until);
            Permission::Gather(until - now, group.unscheduled.iter().cloned().collect())
        };
        self.with_group(pod, decide).unwrap_or(Permission::Allow)
    }
}
