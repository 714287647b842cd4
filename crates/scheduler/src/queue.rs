//! The pods that wait to be scheduled: those that are ready, those that wait out a back-off, and those that wait for the
//! cluster to change. Pure: `now` is the time since any fixed point.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::framework::{QueueSort, SortKey};
use crate::pod::PodInfo;

/// A pod that nothing moved for so long is tried again anyway, lest a missed event keep it waiting: upstream's five minutes.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// A waiting pod.
#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    /// When it was put where it is or was last tried.
    added: Duration,
    /// When it came.
    since: Duration,
    attempts: u32,
    /// Bits of the filters that rejected it.
    rejected_by: u32,
}

/// What a pod waits for room in, its turn, its uid.
type Parked = (u32, SortKey, Box<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(SortKey),
    /// Until then.
    Backoff(Duration),
    /// Since then.
    Unschedulable(Duration),
    /// Its turn has come, but others are being asked for it in all places that these bits stand for.
    Parked(u32, SortKey),
    /// Not ready for any plugin to see.
    Gated,
    /// Taken out, and not yet done with.
    InFlight,
}

/// Upstream's names of a queue and of an event.
pub type Incoming = (&'static str, &'static str);

/// How many pods that wait each filter has rejected, by the scheduler that they ask for.
#[derive(Default)]
struct Rejections {
    counts: BTreeMap<Box<str>, [usize; 32]>,
    changed: bool,
}

impl Rejections {
    /// A pod begins to wait, or does no longer.
    fn count(&mut self, pod: &PodInfo, rejected_by: u32, waits: bool) {
        if rejected_by == 0 {
            return;
        }
        self.changed = true;
        let counts = self.counts.entry(pod.wants().scheduler.clone()).or_default();
        for (_, count) in counts.iter_mut().enumerate().filter(|(bit, _)| rejected_by & 1 << bit != 0) {
            *count = if waits { *count + 1 } else { count.saturating_sub(1) };
        }
    }
}

pub struct Queue {
    entries: HashMap<Box<str>, Entry>,
    active: BTreeMap<(SortKey, Box<str>), ()>,
    backoff: BTreeMap<(Duration, Box<str>), ()>,
    unschedulable: BTreeMap<(Duration, Box<str>), ()>,
    parked: BTreeMap<Parked, ()>,
    rejections: Rejections,
    gated: usize,
    /// Why pods move now, by upstream's labels, and how many have come into which queue for what reason.
    event: &'static str,
    incoming: BTreeMap<Incoming, u64>,
    sort: Arc<dyn QueueSort>,
    initial_backoff: Duration,
    max_backoff: Duration,
}

impl Queue {
    pub fn new(sort: Arc<dyn QueueSort>, initial_backoff: Duration, max_backoff: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            unschedulable: BTreeMap::new(),
            parked: BTreeMap::new(),
            rejections: Rejections::default(),
            gated: 0,
            event: "",
            incoming: BTreeMap::new(),
            sort,
            initial_backoff,
            max_backoff,
        }
    }

    pub fn active(&self) -> usize {
        self.active.len()
    }

    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(uid).map(|entry| &entry.pod)
    }

    /// How often a pod was tried, and since when it waits.
    pub fn tries(&self, uid: &str) -> Option<(u32, Duration)> {
        self.entries.get(uid).map(|entry| (entry.attempts, entry.since))
    }

    /// Whether a pod waits for the cluster to change that one of these filters rejected.
    pub fn waits_for_any(&self, filters: u32) -> bool {
        let is_any =
            |counts: &[usize; 32]| counts.iter().enumerate().any(|(bit, count)| *count > 0 && filters & 1 << bit != 0);
        self.rejections.counts.values().any(is_any)
    }

    /// How many pods that wait each filter has rejected, by scheduler, if that is news.
    pub fn fetch_rejections(&mut self) -> Option<&BTreeMap<Box<str>, [usize; 32]>> {
        std::mem::take(&mut self.rejections.changed).then_some(&self.rejections.counts)
    }

    pub fn uids(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(|uid| &**uid)
    }

    /// Whether a pod waits until plugins may see it.
    pub fn is_gated(&self, uid: &str) -> bool {
        self.entries.get(uid).is_some_and(|entry| entry.place == Place::Gated)
    }

    /// Adds a pod or takes over a changed one. `ready` says whether plugins may see it.
    pub fn set(&mut self, pod: Arc<PodInfo>, ready: bool, now: Duration) {
        let uid = pod.uid.clone();
        self.event = "UnschedulablePodUpdate";
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.event = "UnschedulablePodAdd";
            self.gated += 1;
            self.entries.insert(
                uid.clone(),
                Entry { pod, place: Place::Gated, added: now, since: now, attempts: 0, rejected_by: 0 },
            );
            if ready {
                self.activate(&uid, now);
            }
            return;
        };
        let changed = entry.pod.asks_differently(&pod);
        let priority_changed = entry.pod.priority != pod.priority;
        entry.pod = pod;
        match entry.place {
            Place::InFlight => {}
            _ if !ready => self.put(&uid, Place::Gated),
            Place::Gated => self.activate(&uid, now),
            Place::Unschedulable(_) if changed => self.activate_or_back_off(&uid, now),
            Place::Active(_) | Place::Parked(..) if priority_changed => self.activate(&uid, now),
            _ => {}
        }
    }

    pub fn remove(&mut self, uid: &str) {
        if self.entries.contains_key(uid) {
            self.put(uid, Place::InFlight);
            self.entries.remove(uid);
        }
    }

    /// Takes the pod that goes first. It stays in flight until it is removed or failed.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let ((_, uid), ()) = self.active.pop_first()?;
        self.take(&uid)
    }

    fn take(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let entry = self.entries.get_mut(uid).expect("every place has its entry");
        entry.place = Place::InFlight;
        self.rejections.count(&entry.pod, std::mem::take(&mut entry.rejected_by), false);
        entry.attempts = entry.attempts.saturating_add(1);
        Some(entry.pod.clone())
    }

    /// Puts back a pod whose turn has come, until there is room in what the bits stand for.
    pub fn park(&mut self, uid: &str, bits: u32) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        // This was no try.
        entry.attempts = entry.attempts.saturating_sub(1);
        let key = self.sort.key(&entry.pod, entry.added);
        self.put(uid, Place::Parked(bits, key));
    }

    /// Takes the first of the parked pods for which there is room.
    pub fn pop_parked(&mut self, has_room: impl Fn(u32) -> bool) -> Option<Arc<PodInfo>> {
        let mut from = 0;
        let mut first: Option<&Parked> = None;
        while let Some((head, ())) = self.parked.range((from, (i64::MIN, Duration::ZERO), "".into())..).next() {
            if has_room(head.0) && first.is_none_or(|first| (head.1, &head.2) < (first.1, &first.2)) {
                first = Some(head);
            }
            from = head.0 + 1;
        }
        let (bits, key, uid) = first?.clone();
        self.parked.remove(&(bits, key, uid.clone()));
        self.take(&uid)
    }

    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// No node takes the pod: it waits for a change that concerns the filters that rejected it.
    pub fn unschedulable(&mut self, uid: &str, rejected_by: u32, now: Duration) {
        if self.entries.contains_key(uid) {
            // Out of its place first: the counts are of what rejected it there.
            self.put(uid, Place::InFlight);
            if let Some(entry) = self.entries.get_mut(uid) {
                entry.added = now;
                entry.rejected_by = rejected_by;
            }
            self.event = "ScheduleAttemptFailure";
            self.put(uid, Place::Unschedulable(now));
        }
    }

    /// A pod that waits for the cluster to change is tried again after its back-off.
    pub fn retry(&mut self, uid: &str, now: Duration) {
        if self.entries.get(uid).is_some_and(|entry| matches!(entry.place, Place::Unschedulable(_))) {
            self.event = "ForceActivate";
            self.activate_or_back_off(uid, now);
        }
    }

    /// Something went wrong that is no fault of the pod: it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.added = now;
            self.event = "ScheduleAttemptFailure";
            self.activate_or_back_off(uid, now);
        }
    }

    /// The try came to nothing because the cluster has changed meanwhile: it is the pod's turn again.
    pub fn again(&mut self, uid: &str, now: Duration) {
        self.event = "ForceActivate";
        self.activate(uid, now);
    }

    /// It is the turn of a pod that waits, whatever for.
    pub fn activate_waiting(&mut self, uid: &str, now: Duration) {
        let waits = |place| matches!(place, Place::Unschedulable(_) | Place::Backoff(_));
        if self.entries.get(uid).is_some_and(|entry| waits(entry.place)) {
            self.again(uid, now);
        }
    }

    /// Moves the pods on that may fit now, after an event, as `may_fit` says of each and the filters that rejected it.
    pub fn move_on(&mut self, event: &'static str, now: Duration, may_fit: impl Fn(&PodInfo, u32) -> bool) {
        let moving: Vec<Box<str>> = self
            .unschedulable
            .keys()
            .filter(|(_, uid)| self.entries.get(uid).is_some_and(|entry| may_fit(&entry.pod, entry.rejected_by)))
            .map(|(_, uid)| uid.clone())
            .collect();
        self.event = event;
        for uid in moving {
            self.activate_or_back_off(&uid, now);
        }
    }

    /// Moves on what has waited long enough.
    pub fn flush(&mut self, now: Duration) {
        self.event = "BackoffComplete";
        while let Some(((_, uid), ())) = self.backoff.first_key_value().filter(|((until, _), ())| *until <= now) {
            let uid = uid.clone();
            self.activate(&uid, now);
        }
        while let Some(((since, uid), ())) = self.unschedulable.first_key_value() {
            if now < *since + MAX_UNSCHEDULABLE {
                return;
            }
            let uid = uid.clone();
            self.event = "UnschedulableTimeout";
            self.activate_or_back_off(&uid, now);
        }
    }

    /// How many pods have come into which queue for what reason since this was last asked.
    pub fn fetch_incoming(&mut self) -> BTreeMap<Incoming, u64> {
        std::mem::take(&mut self.incoming)
    }

    /// When [`Queue::flush`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        let backoff = self.backoff.first_key_value().map(|((until, _), ())| *until);
        let unschedulable = self.unschedulable.first_key_value().map(|((since, _), ())| *since + MAX_UNSCHEDULABLE);
        [backoff, unschedulable].into_iter().flatten().min()
    }

    /// Counts by upstream's names of the queues: active, backoff, unschedulable, gated.
    pub fn counts(&self) -> [(&'static str, usize); 4] {
        [
            ("active", self.active.len() + self.parked.len()),
            ("backoff", self.backoff.len()),
            ("unschedulable", self.unschedulable.len()),
            ("gated", self.gated),
        ]
    }

    fn activate(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.attempts == 0 {
            entry.added = now;
        }
        let key = self.sort.key(&entry.pod, entry.added);
        self.put(uid, Place::Active(key));
    }

    fn activate_or_back_off(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get(uid) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(20);
        let until = entry.added + (self.initial_backoff * (1 << doublings)).min(self.max_backoff);
        if entry.attempts > 0 && now < until {
            self.put(uid, Place::Backoff(until));
        } else {
            self.activate(uid, now);
        }
    }

    fn put(&mut self, uid: &str, place: Place) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let old = std::mem::replace(&mut entry.place, place);
        if (old == Place::InFlight) != (place == Place::InFlight) {
            self.rejections.count(&entry.pod, entry.rejected_by, old == Place::InFlight);
        }
        self.gated -= usize::from(old == Place::Gated);
        self.gated += usize::from(place == Place::Gated);
        match old {
            Place::Active(key) => self.active.remove(&(key, uid.into())),
            Place::Backoff(until) => self.backoff.remove(&(until, uid.into())),
            Place::Unschedulable(since) => self.unschedulable.remove(&(since, uid.into())),
            Place::Parked(bits, key) => self.parked.remove(&(bits, key, uid.into())),
            Place::Gated | Place::InFlight => None,
        };
        let queue = match place {
            Place::Active(_) => Some("active"),
            Place::Backoff(_) => Some("backoff"),
            Place::Unschedulable(_) => Some("unschedulable"),
            Place::Parked(..) | Place::Gated | Place::InFlight => None,
        };
        if let Some(queue) = queue {
            *self.incoming.entry((queue, self.event)).or_default() += 1;
        }
        match place {
            Place::Active(key) => self.active.insert((key, uid.into()), ()),
            Place::Backoff(until) => self.backoff.insert((until, uid.into()), ()),
            Place::Unschedulable(since) => self.unschedulable.insert((since, uid.into()), ()),
            Place::Parked(bits, key) => self.parked.insert((bits, key, uid.into()), ()),
            Place::Gated | Place::InFlight => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::priority_sort::PrioritySort;
    use kybern_apimachinery::json;

    fn queue() -> Queue {
        Queue::new(Arc::new(PrioritySort), Duration::from_secs(1), Duration::from_secs(10))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(fixture::pod_named(name, json!({"priority": priority})))
    }

    fn popped(queue: &mut Queue) -> String {
        queue.pop().map(|pod| pod.name.to_string()).unwrap_or_default()
    }

    #[test]
    fn order_is_priority_then_age() {
        let mut queue = queue();
        queue.set(pod("young", 0), true, at(2));
        queue.set(pod("old", 0), true, at(1));
        queue.set(pod("high", 7), true, at(3));
        assert_eq!([popped(&mut queue), popped(&mut queue), popped(&mut queue)], ["high", "old", "young"]);
        assert!(!queue.has_active() && queue.contains("old"));
    }

    #[test]
    fn it_is_counted_why_pods_come_into_which_queue() {
        let mut queue = queue();
        queue.set(pod("p", 0), true, at(0));
        queue.pop();
        queue.unschedulable("p", 1, at(0));
        queue.move_on("NodeAdd", at(0), |_, _| true);
        queue.flush(at(1));
        queue.pop();
        queue.unschedulable("p", 1, at(1));
        queue.flush(at(301));
        let expect = [
            (("active", "BackoffComplete"), 1),
            (("active", "UnschedulablePodAdd"), 1),
            (("active", "UnschedulableTimeout"), 1),
            (("backoff", "NodeAdd"), 1),
            (("unschedulable", "ScheduleAttemptFailure"), 2),
        ];
        assert_eq!(queue.fetch_incoming(), BTreeMap::from(expect));
        assert!(queue.fetch_incoming().is_empty());
    }

    #[test]
    fn backoff_doubles_up_to_the_maximum() {
        let mut queue = queue();
        queue.set(pod("p", 0), true, at(0));
        let mut now = at(0);
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(popped(&mut queue), "p");
            queue.unschedulable("p", 1, now);
            assert_eq!(queue.next_deadline(), Some(now + MAX_UNSCHEDULABLE));
            queue.move_on("NodeAdd", now, |_, rejected_by| rejected_by == 1);
            assert_eq!(queue.next_deadline(), Some(now + at(seconds)));
            now += at(seconds);
            queue.flush(now);
        }
        queue.pop();
        queue.failed("p", now);
        assert_eq!(queue.next_deadline(), Some(now + at(10)));
    }

    #[test]
    fn pods_wait_for_what_concerns_them() {
        let mut queue = queue();
        queue.set(pod("p", 0), true, at(0));
        queue.pop();
        queue.unschedulable("p", 0b10, at(0));
        queue.move_on("NodeAdd", at(60), |_, rejected_by| rejected_by & 1 != 0);
        assert!(!queue.has_active());
        queue.move_on("NodeAdd", at(60), |_, rejected_by| rejected_by & 2 != 0);
        assert_eq!(popped(&mut queue), "p", "its back-off is long over");
        queue.unschedulable("p", 0b10, at(60));
        queue.flush(at(359));
        assert!(!queue.has_active());
        queue.flush(at(360));
        assert_eq!(popped(&mut queue), "p");
    }

    #[test]
    fn rejections_count_while_their_pods_wait() {
        let mut queue = queue();
        let count = |queue: &mut Queue| {
            let counts = queue.fetch_rejections()?.get("default-scheduler").copied().unwrap_or([0; 32]);
            Some((counts[0], counts[2]))
        };
        assert_eq!(count(&mut queue), None);
        queue.set(pod("a", 0), true, at(0));
        queue.set(pod("b", 0), true, at(0));
        for (name, bits) in [("a", 0b101), ("b", 0b100)] {
            queue.pop();
            queue.unschedulable(name, bits, at(0));
        }
        assert_eq!(count(&mut queue), Some((1, 2)));
        queue.move_on("NodeAdd", at(60), |pod, _| &*pod.name == "a");
        assert!(queue.waits_for_any(0b1), "its turn has come, but it waits for it");
        queue.pop();
        assert_eq!(count(&mut queue), Some((0, 1)));
        assert!(!queue.waits_for_any(0b1) && queue.waits_for_any(0b100));
        queue.remove("b");
        assert_eq!(count(&mut queue), Some((0, 0)));
        queue.failed("a", at(60));
        queue.remove("a");
        assert_eq!(count(&mut queue), None);
    }

    #[test]
    fn gates_and_changes() {
        let mut queue = queue();
        queue.set(pod("p", 0), false, at(0));
        assert!(queue.pop().is_none() && queue.counts()[3] == ("gated", 1));
        queue.set(pod("p", 0), true, at(5));
        assert_eq!(popped(&mut queue), "p");
        queue.unschedulable("p", 1, at(5));
        queue.set(pod("p", 0), true, at(20));
        assert!(!queue.has_active(), "a change of its status moves nothing");
        queue.set(Arc::new(fixture::pod_named("p", json!({"nodeSelector": {"a": "b"}}))), true, at(20));
        assert_eq!(popped(&mut queue), "p");
        queue.remove("p");
        queue.unschedulable("p", 1, at(20));
        assert!(!queue.contains("p") && queue.next_deadline().is_none());
    }
}
