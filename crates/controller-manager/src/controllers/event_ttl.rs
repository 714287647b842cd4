//! `event-ttl`: events go an hour after they last happened. Upstream leaves that to etcd's leases; here the store keeps what
//! it is given.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::DecodeError;
use kybern_apimachinery::time::{Clock, parse_rfc3339};
use kybern_apimachinery::{Gvr, Value, object};
use kybern_client::store::Cached;
use kybern_client::{Client, DeleteOptions, Informer, ListOptions, Store};

use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// The one key: all events are looked at together.
const SWEEP: &str = "sweep";
/// Sweeps are at least so far apart: an event may stay a little longer, so that many go at once.
const INTERVAL: Duration = Duration::from_secs(60);
/// The most events that one sweep removes.
const BATCH: usize = 500;

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
    clock: Arc<dyn Clock>,
    ttl: Duration,
}

impl EventTtlController {
    pub fn new(client: &Client, clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        let events = Informer::of(client.clone(), &Gvr::new("", "v1", "events"), ListOptions::default()).spawn();
        Self { events, clock, ttl }
    }

    fn end_of(&self, event: &Expiring) -> Timestamp {
        let ttl = SignedDuration::try_from(self.ttl).unwrap_or(SignedDuration::MAX);
        event.last.checked_add(ttl).unwrap_or(Timestamp::MAX)
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
        let (queue, clock, ttl) = (watches.queue(), self.clock.clone(), self.ttl);
        watches.on(&self.events, move |change, _| {
            if let (None, Some(event)) = (&change.old, &change.new) {
                let age = Duration::try_from(clock.now().duration_since(event.last)).unwrap_or_default();
                queue.add_after(SWEEP.to_owned(), ttl.saturating_sub(age).max(INTERVAL));
            }
            Vec::new()
        });
    }

    fn reconcile(&self, _: &str, _: &Snapshot, context: &Context) -> Plan {
        let mut events = self.events.list();
        events.sort_by_key(|event| event.last);
        let mut plan = Plan::idle();
        let expired = events.partition_point(|event| self.end_of(event) <= context.now);
        let delete = |event: &Arc<Expiring>| {
            let (namespace, name) = object::split_key(&event.key);
            let (gvr, options) = (Gvr::new("", "v1", "events"), DeleteOptions::of_uid(&*event.uid));
            Op::Delete { gvr, namespace: namespace.to_owned(), name: name.to_owned(), options, announce: None }
        };
        let ops: Vec<Op> = events[..expired.min(BATCH)].iter().map(delete).collect();
        if !ops.is_empty() {
            plan.push(Op::SlowStart(ops));
        }
        if expired > BATCH {
            plan.requeue(Duration::from_millis(1));
        } else if let Some(next) = events.get(expired) {
            plan.requeue_at(self.end_of(next), context.now);
            plan.requeue_after = plan.requeue_after.map(|delay| delay.max(INTERVAL));
        }
        plan
    }
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
        writer.replace([event("old", 3700), event("older", 5000), event("young", 100), event("soon", 3590)], "9");
        let clock = Arc::new(kybern_apimachinery::time::SystemClock);
        let controller = EventTtlController { events, clock, ttl: Duration::from_secs(3600) };
        let plan = World::new().reconcile(&controller, SWEEP);
        assert_eq!(deleted(&plan), ["older", "old"]);
        assert_eq!(plan.requeue_after, Some(INTERVAL), "not ten seconds: sweeps are apart");
    }
}
