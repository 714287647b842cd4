//! `event-ttl`: events go an hour after they last happened. Upstream leaves that to etcd's leases; here the store keeps what
//! it is given.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::DecodeError;
use kybern_apimachinery::time::{Clock, parse_rfc3339};
use kybern_apimachinery::{Gvr, Value, object};
use kybern_client::store::Cached;
use kybern_client::{Change, Client, DeleteOptions, Informer, ListOptions, Store};
use parking_lot::Mutex;

use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// The one key: all events are looked at together.
const SWEEP: &str = "sweep";
/// Sweeps are at least so far apart: an event may stay a little longer, so that many go at once.
const INTERVAL: Duration = Duration::from_secs(60);
/// The most events that one sweep removes.
const BATCH: usize = 500;

type Ages = Arc<Mutex<BTreeSet<(Timestamp, String)>>>;

/// What must be known of an event to end it in time.
#[derive(Debug)]
pub struct Expiring {
    key: Box<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    last: Timestamp,
}

impl Cached for Expiring {
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        let event: Value =
            serde_json::from_slice(json).map_err(|e| DecodeError { kind: "Event", cause: e.to_string() })?;
        let times = [
            &["lastTimestamp"][..],
            &["series", "lastObservedTime"],
            &["eventTime"],
            &["metadata", "creationTimestamp"],
        ];
        Ok(Self {
            key: object::key(&event).into(),
            uid: object::uid(&event).into(),
            resource_version: object::resource_version(&event).into(),
            last: times
                .iter()
                .filter_map(|path| parse_rfc3339(object::str_at(&event, path)))
                .max()
                .unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }
    fn key(&self) -> String {
        self.key.to_string()
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

pub struct EventTtlController {
    events: Store<Expiring>,
    /// When which event last happened, the oldest first. Some may be gone since.
    by_age: Ages,
    clock: Arc<dyn Clock>,
    ttl: Duration,
}

impl EventTtlController {
    pub fn new(client: &Client, clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        let events = Informer::of(client.clone(), &Gvr::new("", "v1", "events"), ListOptions::default()).spawn();
        Self { events, by_age: Ages::default(), clock, ttl }
    }

    fn end_of(&self, last: Timestamp) -> Timestamp {
        let ttl = SignedDuration::try_from(self.ttl).unwrap_or(SignedDuration::MAX);
        last.checked_add(ttl).unwrap_or(Timestamp::MAX)
    }
}

impl Controller for EventTtlController {
    fn name(&self) -> &'static str {
        "event-ttl-controller"
    }

    fn account(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let (queue, clock, ttl, by_age) = (watches.queue(), self.clock.clone(), self.ttl, self.by_age.clone());
        watches.on(&self.events, move |change, _| {
            follow(&mut by_age.lock(), change);
            if let (None, Some(event)) = (&change.old, &change.new) {
                let age = Duration::try_from(clock.now().duration_since(event.last)).unwrap_or_default();
                queue.add_after(SWEEP.to_owned(), ttl.saturating_sub(age).max(INTERVAL));
            }
            Vec::new()
        });
    }

    fn reconcile(&self, _: &str, _: &Snapshot, context: &Context) -> Plan {
        let (mut plan, mut ops) = (Plan::idle(), Vec::new());
        let mut by_age = self.by_age.lock();
        let (mut gone, mut next) = (Vec::new(), None);
        for aged in by_age.iter() {
            let end = self.end_of(aged.0);
            match self.events.get(&aged.1).filter(|event| event.last == aged.0) {
                None => gone.push(aged.clone()),
                Some(_) if end > context.now || ops.len() == BATCH => {
                    next = Some(end);
                    break;
                }
                Some(event) => ops.push(delete(&event)),
            }
        }
        for aged in &gone {
            by_age.remove(aged);
        }
        if let Some(next) = next {
            let soonest = if ops.len() == BATCH { Duration::from_millis(1) } else { INTERVAL };
            plan.requeue_at(next, context.now);
            plan.requeue_after = plan.requeue_after.map(|delay| delay.max(soonest));
        }
        if !ops.is_empty() {
            plan.push(Op::SlowStart(ops));
        }
        plan
    }
}

fn follow(by_age: &mut BTreeSet<(Timestamp, String)>, change: &Change<Expiring>) {
    if let Some(old) = &change.old {
        by_age.remove(&(old.last, old.key()));
    }
    if let Some(new) = &change.new {
        by_age.insert((new.last, new.key()));
    }
}

fn delete(event: &Expiring) -> Op {
    let (namespace, name) = object::split_key(&event.key);
    let (gvr, options) = (Gvr::new("", "v1", "events"), DeleteOptions::of_uid(&*event.uid));
    Op::Delete { gvr, namespace: namespace.to_owned(), name: name.to_owned(), options, announce: None }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;
    use kybern_apimachinery::time::to_rfc3339;

    use super::*;
    use crate::testing::{NOW, World, at, deleted};

    fn event(name: &str, age: i64) -> Expiring {
        let event = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "lastTimestamp": to_rfc3339(at(NOW - age)), "eventTime": null,
        });
        Expiring::decode(event.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn events_end_after_their_time() {
        let (events, writer) = Store::new([]);
        let clock = Arc::new(kybern_apimachinery::time::SystemClock);
        let ttl = Duration::from_secs(3600);
        let controller = EventTtlController { events, by_age: Ages::default(), clock, ttl };
        let put = |name: &str, age: i64| {
            let old = controller.events.get(&format!("default/{name}"));
            writer.upsert(event(name, age));
            let new = controller.events.get(&format!("default/{name}"));
            follow(&mut controller.by_age.lock(), &Change { old, new });
        };
        for (name, age) in [("old", 3700), ("older", 5000), ("young", 100), ("soon", 3590), ("again", 4000)] {
            put(name, age);
        }
        put("again", 10);
        // Its end was missed.
        put("gone", 6000);
        writer.remove("default/gone", "9");
        let plan = World::new().reconcile(&controller, SWEEP);
        assert_eq!(deleted(&plan), ["older", "old"]);
        assert_eq!(plan.requeue_after, Some(INTERVAL), "not ten seconds: sweeps are apart");
        assert_eq!(controller.by_age.lock().len(), 5, "what is gone is forgotten");
        for n in 0..=BATCH {
            put(&format!("many-{n}"), 4000);
        }
        let plan = World::new().reconcile(&controller, SWEEP);
        assert_eq!(deleted(&plan).len(), BATCH);
        assert!(plan.requeue_after.is_some_and(|delay| delay < INTERVAL), "the others go soon");
    }
}
