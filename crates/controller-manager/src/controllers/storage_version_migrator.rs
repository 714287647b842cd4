//! `storage-version-migrator`: writes all objects of a resource anew where somebody asks for it, so that they are stored in the
//! form of today (`pkg/controller/storageversionmigrator`). Works where the API server serves the kind, which it does not
//! unless it is told to.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kybern_apimachinery::{Gvr, Value, json, object, time};
use kybern_client::{PartialMetadata, Patch};

use crate::ask::{Answer, Ask, Then};
use crate::controller::{Context, Controller, Op, Plan};
use crate::inventory::{Followed, Inventory, Seen};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const RESOURCE: &str = "storageversionmigrations";
const GROUP: &str = "storagemigration.k8s.io";
/// So long a resource may be too new to be known.
const PATIENCE: Duration = Duration::from_secs(60);
/// Objects whose answers are judged together.
const PIECE: usize = 64;

pub struct StorageVersionMigrator;

fn migrations() -> Gvr {
    Gvr::new(GROUP, "v1beta1", RESOURCE)
}

impl Controller for StorageVersionMigrator {
    fn name(&self) -> &'static str {
        "storage-version-migrator-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let (queue, inventory) = (watches.queue(), Arc::downgrade(&watches.snapshot.inventory));
        watches.snapshot.inventory.listen(move |resource, seen| {
            if resource.gvr != migrations() {
                return;
            }
            match (seen, inventory.upgrade()) {
                (Seen::Change(change), _) => queue.add(change.object().name.to_string()),
                (Seen::Missed, Some(inventory)) => {
                    let all = inventory.resource(&migrations()).map(|found| found.store.list());
                    all.into_iter().flatten().for_each(|migration| queue.add(migration.name.to_string()));
                }
                (Seen::Missed, None) => {}
            }
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let (inventory, now) = (snapshot.inventory.clone(), context.now);
        if inventory.resource(&migrations()).is_none_or(|found| found.store.get(key).is_none()) {
            return Plan::idle();
        }
        let path = format!("/apis/{GROUP}/v1beta1/{RESOURCE}/{key}");
        Plan::of(vec![Op::ask(Ask::Get(path), move |answer| decide(answer, &inventory, now))])
    }
}

fn decide(answer: Answer, inventory: &Inventory, now: Timestamp) -> Vec<Op> {
    let migration = match answer {
        Ok(migration) => migration,
        Err(refusal) if refusal.not_found => return Vec::new(),
        Err(refusal) => return vec![Op::Fail(refusal.message)],
    };
    let is = |kind: &str| {
        let conditions = migration["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    if is("Succeeded") || is("Failed") {
        return Vec::new();
    }
    let (group, resource) = ("/spec/resource/group", "/spec/resource/resource");
    let text = |path: &str| migration.pointer(path).and_then(Value::as_str).unwrap_or("");
    let followed = inventory.followed();
    let wanted =
        |found: &&Followed| found.resource.gvr.group == text(group) && found.resource.gvr.resource == text(resource);
    let Some(found) = followed.iter().find(wanted) else {
        let created = time::parse_rfc3339(object::str_at(&migration, &["metadata", "creationTimestamp"]));
        if created.is_some_and(|created| created.checked_add(PATIENCE).is_ok_and(|end| end > now)) {
            return vec![Op::Fail(format!("{} of group {:?} is not known yet", text(resource), text(group)))];
        }
        return vec![say(
            &migration,
            &[("Failed", "True", "StorageVersionMigrationFailed", "resource not found")],
            "",
            now,
        )];
    };
    if !found.store.is_synced() {
        return vec![Op::Fail(format!("the objects of {} are not known yet", found.resource.gvr.group_resource()))];
    }
    let running = ("Running", "True", "StorageVersionMigrationInProgress", "");
    let version = found.store.resource_version().to_string();
    let mut ops = vec![say(&migration, &[running], &version, now)];
    let objects = found.store.list();
    ops.extend(objects.chunks(PIECE).map(|piece| rewrite(&found.resource.gvr, piece, &migration, now)));
    let ended = ("Running", "False", running.2, "");
    ops.push(say(&migration, &[ended, ("Succeeded", "True", "StorageVersionMigrationSucceeded", "")], &version, now));
    ops
}

/// Writes some objects as they are. Whichever has changed or gone meanwhile has the form of today, or none.
fn rewrite(gvr: &Gvr, objects: &[Arc<PartialMetadata>], migration: &Value, now: Timestamp) -> Op {
    let ask = |object: &Arc<PartialMetadata>| Ask::Patch {
        gvr: gvr.clone(),
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        // The uid: not one that took its name.
        patch: Patch::Merge(json!({"metadata": {"uid": &*object.uid, "resourceVersion": &*object.resource_version}})),
    };
    let migration = migration.clone();
    let then = Then::new(move |answers| {
        let bad = answers.into_iter().filter_map(Result::err).find(|refusal| !refusal.conflict && !refusal.not_found);
        let Some(refusal) = bad else { return Vec::new() };
        let why = format!("migration encountered unhandled error: {}", refusal.message);
        let conditions = [
            ("Running", "False", "StorageVersionMigrationInProgress", ""),
            ("Failed", "True", "StorageVersionMigrationFailed", &*why),
        ];
        // What would come next in the plan must not.
        vec![say(&migration, &conditions, "", now), Op::Fail(why.clone())]
    });
    Op::Ask { asks: objects.iter().map(ask).collect(), then }
}

/// Writes the status: conditions with their statuses, reasons and messages.
fn say(migration: &Value, conditions: &[(&str, &str, &str, &str)], version: &str, now: Timestamp) -> Op {
    let condition = |(kind, status, reason, message): &(&str, &str, &str, &str)| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": time::to_rfc3339(now),
        })
    };
    let conditions: Vec<Value> = conditions.iter().map(condition).collect();
    let mut status = json!({"conditions": conditions});
    if !version.is_empty() {
        status["resourceVersion"] = version.into();
    }
    Op::Patch {
        gvr: migrations(),
        namespace: String::new(),
        name: object::name(migration).to_owned(),
        subresource: Some("status"),
        patch: Patch::Merge(json!({"metadata": {"uid": object::uid(migration)}, "status": status})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Refusal;
    use crate::testing::{NOW, World, at, resource};
    use kybern_client::ApiResource;

    fn world() -> World {
        World::with_resources([
            ApiResource { gvr: migrations(), ..resource(GROUP, RESOURCE, "StorageVersionMigration", false) },
            resource("example.com", "widgets", "Widget", true),
        ])
    }

    fn migration(of: &str, age: i64, conditions: Value) -> Value {
        json!({
            "metadata": {"name": "m", "uid": "m", "creationTimestamp": time::to_rfc3339(at(NOW - age))},
            "spec": {"resource": {"group": "example.com", "resource": of}}, "status": {"conditions": conditions},
        })
    }

    /// What statuses are written, in order.
    fn said(ops: &[Op]) -> Vec<String> {
        let all = ops.iter().filter_map(|op| match op {
            Op::Patch { subresource: Some("status"), patch: Patch::Merge(patch), .. } => Some(patch),
            _ => None,
        });
        let last = all.map(|patch| patch["status"]["conditions"].as_array().unwrap().last().unwrap().clone());
        last.map(|c| {
            format!(
                "{}={} {}",
                c["type"].as_str().unwrap(),
                c["status"].as_str().unwrap(),
                c["message"].as_str().unwrap()
            )
        })
        .collect()
    }

    #[test]
    fn every_object_is_written_and_the_outcome_said() {
        let world = world();
        for n in 0..100 {
            world.inventory["widgets"].upsert(PartialMetadata {
                name: format!("w{n}").into(),
                namespace: "a".into(),
                uid: n.to_string().into(),
                resource_version: "7".into(),
                ..PartialMetadata::default()
            });
        }
        let ops = decide(Ok(migration("widgets", 0, json!([]))), &world.snapshot.inventory, at(NOW));
        assert_eq!(said(&ops), ["Running=True ", "Succeeded=True "]);
        let mut written = 0;
        for op in &ops {
            let Op::Ask { asks, then } = op else { continue };
            written += asks.len();
            assert!(
                matches!(&asks[0], Ask::Patch { patch: Patch::Merge(p), .. } if p["metadata"]["resourceVersion"] == "7")
            );
            let refusal =
                |conflict, not_found, message: &str| Err(Refusal { conflict, not_found, message: message.into() });
            let moved_on = vec![Ok(json!({})), refusal(true, false, "changed"), refusal(false, true, "gone")];
            assert!(then.decide(moved_on).is_empty());
            let failed = then.decide(vec![refusal(false, false, "not valid any more")]);
            assert_eq!(said(&failed), ["Failed=True migration encountered unhandled error: not valid any more"]);
            assert!(matches!(failed.last(), Some(Op::Fail(_))), "nothing follows");
        }
        assert_eq!(written, 100);
    }

    #[test]
    fn what_is_not_known_is_waited_for_a_while_and_what_ended_stays() {
        let world = world();
        let decide =
            |of, age, conditions| decide(Ok(migration(of, age, conditions)), &world.snapshot.inventory, at(NOW));
        assert!(matches!(decide("gadgets", 10, json!([])).as_slice(), [Op::Fail(_)]));
        assert_eq!(said(&decide("gadgets", 90, json!([]))), ["Failed=True resource not found"]);
        for ended in ["Succeeded", "Failed"] {
            assert!(decide("widgets", 90, json!([{"type": ended, "status": "True"}])).is_empty());
        }
        assert_eq!(world.reconcile(&StorageVersionMigrator, "m").ops.len(), 0, "there is none of the name");
        world.inventory[RESOURCE].upsert(PartialMetadata { name: "m".into(), ..PartialMetadata::default() });
        assert_eq!(world.reconcile(&StorageVersionMigrator, "m").ops.len(), 1);
    }
}
