//! `garbagecollector`: objects whose owners are gone go too (`pkg/controller/garbagecollector`). Background, foreground and
//! orphan deletion, over every resource there is.
//!
//! The graph is the inventory: an object's owners are looked up by kind and name, its dependents by the index over owner
//! uids. Before anything is deleted because an owner is missing, the server is asked whether it really is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::metadata::Owner;
use kybern_client::{ApiResource, Change, DeleteOptions, PartialMetadata, Patch, Propagation};

use crate::controller::{Context, Controller, Op, Plan};
use crate::inventory::{Inventory, Seen};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// When a resource that an object depends on is not known (yet), or not listed yet.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// An owner of a kind that the server does not have: a definition may come.
const UNKNOWN_KIND: Duration = Duration::from_secs(60);

pub struct GarbageCollector;

/// A queue key: resource and object.
fn key_of(gvr: &Gvr, object: &PartialMetadata) -> String {
    format!("{}|{}|{}|{}", gvr.group, gvr.version, gvr.resource, object.key())
}

fn parse_key(key: &str) -> Option<(Gvr, &str)> {
    let mut parts = key.splitn(4, '|');
    let gvr = Gvr::new(parts.next()?, parts.next()?, parts.next()?);
    Some((gvr, parts.next()?))
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn account(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn workers(&self) -> usize {
        20
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let (queue, inventory) = (watches.queue(), Arc::downgrade(&watches.snapshot.inventory));
        watches.snapshot.inventory.listen(move |resource, seen| {
            // Whose owner went unseen comes again itself.
            if let (Seen::Change(change), Some(inventory)) = (seen, inventory.upgrade()) {
                affected(&inventory, resource, change).into_iter().for_each(|key| queue.add(key));
            }
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some((gvr, name)) = parse_key(key) else { return Plan::idle() };
        let inventory = &snapshot.inventory;
        let Some(followed) = inventory.resource(&gvr) else { return Plan::idle() };
        let Some(object) = followed.store.get(name) else { return Plan::idle() };
        if object.deleting {
            return if object.has_finalizer(ORPHAN) {
                orphan_dependents(inventory, &gvr, &object)
            } else if object.has_finalizer(FOREGROUND) {
                await_dependents(inventory, &gvr, &object)
            } else {
                Plan::idle()
            };
        }
        if object.owners.is_empty() { Plan::idle() } else { check_owners(inventory, &followed.resource, &object) }
    }
}

/// The objects whose fate a change may decide.
fn affected(inventory: &Inventory, resource: &ApiResource, change: &Change<PartialMetadata>) -> Vec<String> {
    let mut keys = Vec::new();
    let dependents =
        |uid: &str| inventory.dependents(uid).into_iter().map(|(r, o)| key_of(&r.gvr, &o)).collect::<Vec<_>>();
    if let Some(old) = &change.old
        && change.new.as_ref().is_none_or(|new| new.uid != old.uid)
    {
        keys.extend(dependents(&old.uid));
        // An owner that is deleted in the foreground waits for this.
        for owner in &old.owners {
            if let Some((followed, namespace)) = resource_of(inventory, owner, &old.namespace)
                && let Some(found) = followed.store.get_in(namespace, &owner.name)
            {
                keys.push(key_of(&followed.resource.gvr, &found));
            }
        }
    }
    if let Some(new) = &change.new {
        let finalizing = new.deleting && (new.has_finalizer(FOREGROUND) || new.has_finalizer(ORPHAN));
        if finalizing || !new.owners.is_empty() {
            keys.push(key_of(&resource.gvr, new));
        }
        if finalizing {
            keys.extend(dependents(&new.uid));
        }
    }
    keys
}

/// The resource an owner reference means, and the namespace to look in: an owner lives beside its dependent, or in none.
fn resource_of<'a>(
    inventory: &Inventory,
    owner: &Owner,
    namespace: &'a str,
) -> Option<(crate::inventory::Followed, &'a str)> {
    let followed = inventory.resource_of_kind(&owner.api_version, &owner.kind)?;
    let namespace = if followed.resource.namespaced { namespace } else { "" };
    Some((followed, namespace))
}

enum OwnerState {
    /// There, and to stay.
    Solid,
    /// Not there, as far as is known: ask the server.
    Absent(Box<Op>),
    /// Waits for its dependents to go.
    Waiting,
    /// Not to be told now.
    Unknown(Duration),
}

fn state_of(inventory: &Inventory, owner: &Owner, dependent: &PartialMetadata) -> OwnerState {
    let Some((followed, namespace)) = resource_of(inventory, owner, &dependent.namespace) else {
        return OwnerState::Unknown(UNKNOWN_KIND);
    };
    if !followed.store.is_synced() {
        return OwnerState::Unknown(LOOK_AGAIN);
    }
    if followed.resource.namespaced && namespace.is_empty() {
        // A cluster-scoped object cannot have a namespaced owner; the reference means nothing that could go.
        return OwnerState::Solid;
    }
    match followed.store.get_in(namespace, &owner.name).filter(|found| found.uid == owner.uid) {
        Some(found) if found.deleting && found.has_finalizer(FOREGROUND) => OwnerState::Waiting,
        Some(_) => OwnerState::Solid,
        None => OwnerState::Absent(Box::new(Op::RequireAbsent {
            gvr: followed.resource.gvr.clone(),
            namespace: namespace.to_owned(),
            name: owner.name.to_string(),
            uid: owner.uid.to_string(),
        })),
    }
}

fn check_owners(inventory: &Inventory, resource: &ApiResource, object: &PartialMetadata) -> Plan {
    let mut plan = Plan::idle();
    let (mut keep, mut absent, mut waiting) = (Vec::new(), Vec::new(), 0);
    for owner in &object.owners {
        match state_of(inventory, owner, object) {
            OwnerState::Solid => keep.push(owner),
            OwnerState::Absent(check) => absent.push(*check),
            OwnerState::Waiting => waiting += 1,
            OwnerState::Unknown(delay) => {
                plan.waiting = Some(format!("the owner {} {:?}", owner.kind, owner.name));
                plan.requeue(delay);
                return plan;
            }
        }
    }
    if absent.is_empty() && waiting == 0 {
        return plan;
    }
    plan.ops.extend(absent);
    if !keep.is_empty() {
        plan.push(write_owners(&resource.gvr, object, &keep));
        return plan;
    }
    let propagation = if object.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if object.has_finalizer(FOREGROUND) || (waiting > 0 && !inventory.dependents(&object.uid).is_empty()) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    plan.push(Op::Delete {
        gvr: resource.gvr.clone(),
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        options: DeleteOptions {
            propagation: Some(propagation),
            // A change of the owners since then makes this stale.
            resource_version: Some(object.resource_version.to_string()),
            ..DeleteOptions::of_uid(&*object.uid)
        },
        announce: None,
    });
    plan
}

/// Foreground: the owner goes when no dependent blocks it any more.
fn await_dependents(inventory: &Inventory, gvr: &Gvr, object: &PartialMetadata) -> Plan {
    if !inventory.is_complete() {
        return again();
    }
    let blocking = blocking(inventory, object).filter(|dependent| !waits_for(inventory, dependent, object)).count();
    if blocking > 0 {
        return Plan { waiting: Some(format!("{blocking} dependents of {}", object.key())), ..Plan::idle() };
    }
    Plan::of(vec![drop_finalizer(gvr, object, FOREGROUND)])
}

/// The dependents that say that they hold up their owner's deletion.
fn blocking(inventory: &Inventory, owner: &PartialMetadata) -> impl Iterator<Item = Arc<PartialMetadata>> + use<> {
    let uid = owner.uid.clone();
    let blocks = move |d: &PartialMetadata| d.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion);
    inventory.dependents(&owner.uid).into_iter().map(|(_, dependent)| dependent).filter(move |d| blocks(d))
}

/// Whether `object`, deleted in the foreground, waits for `other`, be it by way of others that wait as well: then `other` must
/// not wait for it, or none of the circle would ever go.
fn waits_for(inventory: &Inventory, object: &PartialMetadata, other: &PartialMetadata) -> bool {
    let waits = |o: &PartialMetadata| o.deleting && o.has_finalizer(FOREGROUND);
    let mut seen = HashSet::from([object.uid.clone()]);
    let mut open = if waits(object) { blocking(inventory, object).collect() } else { Vec::new() };
    while let Some(next) = open.pop() {
        if next.uid == other.uid {
            return true;
        }
        if seen.insert(next.uid.clone()) && waits(&next) {
            open.extend(blocking(inventory, &next));
        }
    }
    false
}

/// Orphan: the dependents lose the reference, then the owner goes.
fn orphan_dependents(inventory: &Inventory, gvr: &Gvr, object: &PartialMetadata) -> Plan {
    if !inventory.is_complete() {
        return again();
    }
    let mut plan = Plan::idle();
    for (resource, dependent) in inventory.dependents(&object.uid) {
        let keep: Vec<&Owner> = dependent.owners.iter().filter(|o| o.uid != object.uid).collect();
        plan.push(write_owners(&resource.gvr, &dependent, &keep));
    }
    plan.push(drop_finalizer(gvr, object, ORPHAN));
    plan
}

fn again() -> Plan {
    let mut plan = Plan { waiting: Some("the list of all objects".into()), ..Plan::idle() };
    plan.requeue(LOOK_AGAIN);
    plan
}

fn write_owners(gvr: &Gvr, object: &PartialMetadata, owners: &[&Owner]) -> Op {
    let reference = |owner: &&Owner| {
        let mut value =
            json!({"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid});
        for (key, set) in [("controller", owner.controller), ("blockOwnerDeletion", owner.block_owner_deletion)] {
            if set {
                value[key] = true.into();
            }
        }
        value
    };
    patch_metadata(gvr, object, "ownerReferences", owners.iter().map(reference).collect())
}

fn drop_finalizer(gvr: &Gvr, object: &PartialMetadata, finalizer: &str) -> Op {
    let rest = object.finalizers.iter().filter(|f| &***f != finalizer).map(|f| Value::from(&**f)).collect();
    patch_metadata(gvr, object, "finalizers", rest)
}

/// A merge patch works on every kind, custom ones included.
fn patch_metadata(gvr: &Gvr, object: &PartialMetadata, field: &str, list: Vec<Value>) -> Op {
    let mut patch = json!({"metadata": {"uid": object.uid, "resourceVersion": object.resource_version}});
    patch["metadata"][field] = list.into();
    let (namespace, name) = (object.namespace.to_string(), object.name.to_string());
    Op::Patch { gvr: gvr.clone(), namespace, name, subresource: None, patch: Patch::Merge(patch) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, deleted, resource};

    fn world() -> World {
        World::with_resources([
            resource("apps", "deployments", "Deployment", true),
            resource("apps", "replicasets", "ReplicaSet", true),
            resource("", "pods", "Pod", true),
            resource("", "nodes", "Node", false),
        ])
    }

    fn object(name: &str, owners: &[(&str, &str)]) -> PartialMetadata {
        let owner = |(kind, name): &(&str, &str)| Owner {
            api_version: if *kind == "Node" || *kind == "Pod" { "v1" } else { "apps/v1" }.into(),
            kind: (*kind).into(),
            name: (*name).into(),
            uid: format!("uid-{name}").into(),
            controller: true,
            block_owner_deletion: true,
        };
        PartialMetadata {
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}").into(),
            resource_version: "5".into(),
            owners: owners.iter().map(owner).collect(),
            ..PartialMetadata::default()
        }
    }

    fn finalizing(mut object: PartialMetadata, finalizer: &str) -> PartialMetadata {
        object.deleting = true;
        object.finalizers = [finalizer.into(), "other".into()].into();
        object
    }

    const POD: &str = "|v1|pods|default/p";
    const SET: &str = "apps|v1|replicasets|default/rs";

    #[test]
    fn an_object_goes_when_its_owner_is_gone() {
        let world = world();
        world.inventory["pods"].upsert(object("p", &[("ReplicaSet", "rs")]));
        world.inventory["replicasets"].upsert(object("rs", &[]));
        assert!(world.reconcile(&GarbageCollector, POD).ops.is_empty());
        world.inventory["replicasets"].remove("default/rs", "6");
        let plan = world.reconcile(&GarbageCollector, POD);
        assert!(
            matches!(&plan.ops[0], Op::RequireAbsent { name, uid, .. } if name == "rs" && uid == "uid-rs"),
            "{plan:?}"
        );
        let Op::Delete { options, .. } = &plan.ops[1] else { panic!("{plan:?}") };
        assert_eq!((options.uid.as_deref(), options.propagation), (Some("uid-p"), Some(Propagation::Background)));
        // One of the same name is another.
        world.inventory["replicasets"].upsert(PartialMetadata { uid: "new".into(), ..object("rs", &[]) });
        assert_eq!(deleted(&world.reconcile(&GarbageCollector, POD)), ["p"]);
    }

    #[test]
    fn with_another_owner_only_the_reference_goes() {
        let world = world();
        world.inventory["pods"].upsert(object("p", &[("ReplicaSet", "rs"), ("Node", "n")]));
        world.inventory["nodes"].upsert(PartialMetadata { namespace: "".into(), ..object("n", &[]) });
        let plan = world.reconcile(&GarbageCollector, POD);
        let Op::Patch { patch: Patch::Merge(patch), .. } = &plan.ops[1] else { panic!("{plan:?}") };
        assert_eq!(patch["metadata"]["ownerReferences"][0]["kind"], "Node");
        assert_eq!(patch["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn in_the_foreground_the_owner_waits() {
        let world = world();
        world.inventory["replicasets"].upsert(finalizing(object("rs", &[]), FOREGROUND));
        world.inventory["pods"].upsert(object("p", &[("ReplicaSet", "rs")]));
        assert!(world.reconcile(&GarbageCollector, SET).ops.is_empty());
        assert_eq!(deleted(&world.reconcile(&GarbageCollector, POD)), ["p"]);
        world.inventory["pods"].remove("default/p", "7");
        let plan = world.reconcile(&GarbageCollector, SET);
        let Op::Patch { patch: Patch::Merge(patch), .. } = &plan.ops[0] else { panic!("{plan:?}") };
        assert_eq!(patch["metadata"]["finalizers"], json!(["other"]));
    }

    #[test]
    fn a_circle_of_owners_goes() {
        let world = world();
        let pods = ["1", "2", "3"].map(|n| format!("|v1|pods|default/{n}"));
        let add = |name: &str, owner: &str, deleting: bool| {
            let pod = object(name, &[("Pod", owner)]);
            world.inventory["pods"].upsert(if deleting { finalizing(pod, FOREGROUND) } else { pod });
        };
        add("1", "3", true);
        add("2", "1", false);
        add("3", "2", false);
        // As long as one of them is only to be deleted, each waits for the next.
        assert!(world.reconcile(&GarbageCollector, &pods[0]).ops.is_empty());
        assert_eq!(deleted(&world.reconcile(&GarbageCollector, &pods[1])), ["2"]);
        add("2", "1", true);
        assert!(world.reconcile(&GarbageCollector, &pods[0]).ops.is_empty());
        assert!(world.reconcile(&GarbageCollector, &pods[1]).ops.is_empty());
        add("3", "2", true);
        for pod in &pods {
            assert!(matches!(&world.reconcile(&GarbageCollector, pod).ops[..], [Op::Patch { .. }]), "{pod}");
        }
        // Who is in no circle is waited for.
        world.inventory["pods"].upsert(object("4", &[("Pod", "1")]));
        assert!(world.reconcile(&GarbageCollector, &pods[0]).ops.is_empty());
    }

    #[test]
    fn orphans_lose_their_owner_before_it_goes() {
        let world = world();
        world.inventory["replicasets"].upsert(finalizing(object("rs", &[]), ORPHAN));
        world.inventory["pods"].upsert(object("p", &[("ReplicaSet", "rs")]));
        let plan = world.reconcile(&GarbageCollector, SET);
        let names: Vec<&str> =
            plan.ops.iter().map(|op| if let Op::Patch { name, .. } = op { name } else { "?" }).collect();
        assert_eq!(names, ["p", "rs"]);
        assert!(deleted(&plan).is_empty());
    }

    #[test]
    fn an_owner_of_unknown_kind_is_waited_for() {
        let world = world();
        world.inventory["pods"].upsert(object("p", &[("Widget", "w")]));
        let plan = world.reconcile(&GarbageCollector, POD);
        assert!(plan.ops.is_empty() && plan.requeue_after.is_some());
    }

    #[test]
    fn removals_concern_dependents_and_waiting_owners() {
        let world = world();
        let (set, pod) = (object("rs", &[("Deployment", "d")]), object("p", &[("ReplicaSet", "rs")]));
        world.inventory["deployments"].upsert(object("d", &[]));
        world.inventory["pods"].upsert(pod);
        let change = Change { old: Some(Arc::new(set)), new: None };
        let keys = affected(&world.snapshot.inventory, &resource("apps", "replicasets", "ReplicaSet", true), &change);
        assert_eq!(keys, [POD, "apps|v1|deployments|default/d"]);
    }
}
