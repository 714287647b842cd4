//! `namespace`: empties a namespace that is being deleted, then lets it go
//! (`pkg/controller/namespace/deletion`).
//!
//! What is left is known from the inventory; before the end the server is asked about every resource, so that nothing that
//! the watches have not brought yet is left behind. Pods go first: what they use outlives them.

use std::collections::BTreeMap;

use kybern_api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use kybern_api::meta::v1::Time;
use kybern_api::{Condition, Object, condition};
use kybern_apimachinery::Gvr;
use kybern_client::{ApiResource, PartialMetadata};

use crate::controller::{Context, Controller, Op, Plan, Verb};
use crate::inventory::{Inventory, Seen};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// The finalizer in `spec.finalizers` that this controller removes.
const FINALIZER: &str = "kubernetes";

pub struct NamespaceController;

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn workers(&self) -> usize {
        10
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.namespaces);
        let (queue, namespaces) = (watches.queue(), snapshot.namespaces.clone());
        snapshot.inventory.listen(move |_, seen| {
            let Seen::Change(change) = seen else {
                let leaving = namespaces.list().into_iter().filter(|n| n.is_deleting());
                return leaving.for_each(|namespace| queue.add(namespace.key()));
            };
            let namespace = &change.object().namespace;
            let leaving = !namespace.is_empty() && namespaces.get(namespace).is_some_and(|n| n.is_deleting());
            if leaving {
                queue.add(namespace.to_string());
            }
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(namespace) = snapshot.namespaces.get(key) else { return Plan::idle() };
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if !namespace.is_deleting() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Plan::idle();
        }
        let inventory = &snapshot.inventory;
        if !inventory.is_complete() {
            let mut plan = Plan { waiting: Some("the list of all resources".into()), ..Plan::idle() };
            // No change tells that the last list is in.
            plan.requeue(std::time::Duration::from_secs(1));
            return plan;
        }
        let content = Content::of(inventory, key);
        let status = next_status(&namespace, &content, inventory, context);
        let mut plan = Plan::idle();
        if Some(&status) != namespace.status.as_ref() {
            plan.push(Op::update_status(&Namespace { status: Some(status), ..(*namespace).clone() }));
        }
        let delete = |gvr: &Gvr| Op::DeleteCollection { gvr: gvr.clone(), namespace: key.to_owned() };
        if content.pods > 0 {
            plan.ops.extend(content.live.iter().filter(|r| is_pods(r)).map(|r| delete(&r.gvr)));
            plan.waiting = Some(content.summary());
            return plan;
        }
        plan.ops.extend(content.live.iter().map(|r| delete(&r.gvr)));
        plan.ops.extend(inventory.unfollowed().iter().filter(|r| r.namespaced).map(|r| delete(&r.gvr)));
        if !content.is_empty() {
            plan.waiting = Some(content.summary());
            return plan;
        }
        if !inventory.stale().is_empty() {
            plan.waiting = Some(format!("the servers of {}", inventory.stale().join(", ")));
            plan.requeue(std::time::Duration::from_secs(10));
            return plan;
        }
        let followed = inventory.followed();
        let namespaced = followed.iter().map(|f| &*f.resource).filter(|r| r.namespaced);
        plan.ops.extend(namespaced.map(|r| Op::RequireEmpty { gvr: r.gvr.clone(), namespace: key.to_owned() }));
        let mut done = (*namespace).clone();
        // The status write above has moved the resourceVersion; the uid guards this one.
        done.metadata.resource_version = None;
        done.spec.get_or_insert_default().finalizers =
            Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
        let body = done.to_json();
        plan.push(Op::Put {
            gvr: Namespace::gvr(),
            namespace: String::new(),
            name: key.into(),
            subresource: Some("finalize"),
            body,
        });
        plan
    }
}

fn is_pods(resource: &ApiResource) -> bool {
    resource.gvr.group.is_empty() && resource.gvr.resource == "pods"
}

/// What is left in a namespace.
#[derive(Default)]
struct Content {
    /// Objects per resource.
    counts: BTreeMap<String, usize>,
    /// Objects per finalizer that keeps them.
    finalizers: BTreeMap<String, usize>,
    /// Resources with objects that nobody has deleted yet.
    live: Vec<ApiResource>,
    pods: usize,
}

impl Content {
    fn of(inventory: &Inventory, namespace: &str) -> Self {
        let mut content = Self::default();
        for followed in inventory.followed() {
            if !followed.resource.namespaced {
                continue;
            }
            let objects = followed.store.list_in(namespace);
            if objects.is_empty() {
                continue;
            }
            if objects.iter().any(|o: &std::sync::Arc<PartialMetadata>| !o.deleting) {
                content.live.push((*followed.resource).clone());
            }
            if is_pods(&followed.resource) {
                content.pods = objects.len();
            }
            for finalizer in objects.iter().flat_map(|o| o.finalizers.iter()) {
                *content.finalizers.entry(finalizer.to_string()).or_default() += 1;
            }
            content.counts.insert(followed.resource.gvr.group_resource().to_string(), objects.len());
        }
        content
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// `pods. has 2 resource instances, secrets. has 1 resource instances`, as upstream puts it.
    fn summary(&self) -> String {
        let dotted = |name: &str| if name.contains('.') { name.to_owned() } else { format!("{name}.") };
        let parts: Vec<String> =
            self.counts.iter().map(|(n, c)| format!("{} has {c} resource instances", dotted(n))).collect();
        format!("Some resources are remaining: {}", parts.join(", "))
    }

    fn finalizer_summary(&self) -> String {
        let parts: Vec<String> =
            self.finalizers.iter().map(|(n, c)| format!("{n} in {c} resource instances")).collect();
        format!("Some content in the namespace has finalizers remaining: {}", parts.join(", "))
    }
}

fn next_status(namespace: &Namespace, content: &Content, inventory: &Inventory, context: &Context) -> NamespaceStatus {
    let mut status = namespace.status.clone().unwrap_or_default();
    status.phase = Some("Terminating".into());
    let stale = inventory.stale();
    let failed = context.failure.as_ref().filter(|f| f.verb == Verb::Delete);
    let states: [(&str, bool, &str, String); 5] = [
        match stale.is_empty() {
            true => (
                "NamespaceDeletionDiscoveryFailure",
                false,
                "ResourcesDiscovered",
                "All resources successfully discovered".into(),
            ),
            false => (
                "NamespaceDeletionDiscoveryFailure",
                true,
                "DiscoveryFailed",
                format!("Discovery failed for some groups: {}", stale.join(", ")),
            ),
        },
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        match failed {
            None => (
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".into(),
            ),
            Some(f) => (
                "NamespaceDeletionContentFailure",
                true,
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, 1 remaining: {}", f.message),
            ),
        },
        match content.is_empty() {
            true => ("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed".into()),
            false => ("NamespaceContentRemaining", true, "SomeResourcesRemain", content.summary()),
        },
        match content.finalizers.is_empty() {
            true => (
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".into(),
            ),
            false => ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", content.finalizer_summary()),
        },
    ];
    for (kind, is_true, reason, message) in states {
        let new = NamespaceCondition {
            type_: kind.into(),
            status: if is_true { "True" } else { "False" }.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(context.now)),
        };
        let known = condition::find(&status.conditions, kind);
        if known.is_none_or(|old| old.status() != new.status || old.message != new.message) {
            condition::set(&mut status.conditions, new);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, namespace, now, resource, status_of};

    fn world() -> World {
        let world = World::with_resources([
            resource("", "pods", "Pod", true),
            resource("", "secrets", "Secret", true),
            resource("apps", "deployments", "Deployment", true),
            resource("", "nodes", "Node", false),
            resource("", "events", "Event", true),
        ]);
        let mut leaving = namespace("work");
        leaving.metadata.deletion_timestamp = Some(Time(now()));
        leaving.spec.get_or_insert_default().finalizers = Some(vec![FINALIZER.into()]);
        world.writers.namespaces.upsert(leaving);
        world
    }

    fn put(world: &World, resource: &str, name: &str, finalizers: &[&str]) {
        world.inventory[resource].upsert(PartialMetadata {
            name: name.into(),
            namespace: "work".into(),
            uid: name.into(),
            resource_version: "5".into(),
            finalizers: finalizers.iter().map(|f| Box::from(*f)).collect(),
            ..PartialMetadata::default()
        });
    }

    fn collections(plan: &Plan) -> Vec<&str> {
        fn name(op: &Op) -> Option<&str> {
            match op {
                Op::DeleteCollection { gvr, .. } => Some(gvr.resource.as_str()),
                _ => None,
            }
        }
        plan.ops.iter().filter_map(name).collect()
    }

    fn finalizes(plan: &Plan) -> bool {
        plan.ops.iter().any(|op| matches!(op, Op::Put { subresource: Some("finalize"), .. }))
    }

    #[test]
    fn pods_go_first_then_the_rest_then_the_namespace() {
        let world = world();
        put(&world, "pods", "p", &[]);
        put(&world, "secrets", "s", &["example.com/keep"]);
        let plan = world.reconcile(&NamespaceController, "work");
        assert_eq!(collections(&plan), ["pods"]);
        let conditions = status_of::<Namespace>(&plan).unwrap().status.unwrap().conditions;
        let message = |kind: &str| condition::find(&conditions, kind).unwrap().message.clone().unwrap();
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: pods. has 1 resource instances, secrets. has 1 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances"
        );
        world.inventory["pods"].remove("work/p", "6");
        let plan = world.reconcile(&NamespaceController, "work");
        assert_eq!(collections(&plan), ["secrets", "events"]);
        assert!(!finalizes(&plan));
        world.inventory["secrets"].remove("work/s", "7");
        let plan = world.reconcile(&NamespaceController, "work");
        assert!(finalizes(&plan));
        let checked = plan.ops.iter().filter(|op| matches!(op, Op::RequireEmpty { .. })).count();
        assert_eq!(checked, 3, "every followed namespaced resource is asked for");
    }

    #[test]
    fn what_is_not_leaving_stays() {
        let world = world();
        world.writers.namespaces.upsert(namespace("stays"));
        for key in ["stays", "unknown"] {
            assert!(world.reconcile(&NamespaceController, key).ops.is_empty());
        }
    }
}
