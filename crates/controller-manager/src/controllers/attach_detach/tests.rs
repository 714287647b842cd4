use kybern_api::core::v1::PersistentVolumeClaim;
use kybern_apimachinery::{Value, json};

use super::*;
use crate::testing::{NOW, World, at, created, deleted, events, flat};

const DRIVER: &str = "d.example.com";
const UNIQUE: &str = "kubernetes.io/csi/d.example.com^h-disk";

fn object<K: Object>(value: Value) -> K {
    K::from_json(value.to_string().as_bytes()).unwrap()
}

/// Two nodes, a claim and its volume, and a pod that uses it on node a.
fn world(modes: Value) -> World {
    let world = World::new();
    for node in ["a", "b"] {
        world.writers.nodes.upsert(node_with(node, "True", NOW, json!({})));
    }
    let claim = json!({"metadata": {"name": "c", "namespace": "default", "uid": "u"}, "spec": {"volumeName": "disk"}});
    world.writers.claims.upsert(object::<PersistentVolumeClaim>(claim));
    let reference = json!({"namespace": "default", "name": "c", "uid": "u"});
    let spec =
        json!({"csi": {"driver": DRIVER, "volumeHandle": "h-disk"}, "claimRef": reference, "accessModes": modes});
    world.writers.volumes.upsert(object(json!({"metadata": {"name": "disk"}, "spec": spec})));
    world.writers.pods.upsert(user("p", "a", json!({})));
    world
}

fn node_with(name: &str, ready: &str, since: i64, status: Value) -> Node {
    let mut status = status;
    status["conditions"] = json!([{"type": "Ready", "status": ready, "lastTransitionTime": at(since).to_string()}]);
    object(json!({"metadata": {"name": name, "annotations": {MANAGED: "true"}}, "status": status}))
}

fn user(name: &str, node: &str, metadata: Value) -> Pod {
    let mut metadata = metadata;
    metadata["name"] = name.into();
    metadata["namespace"] = "default".into();
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    object(json!({"metadata": metadata, "spec": {"nodeName": node, "volumes": volumes, "containers": []}}))
}

fn attachment(node: &str, change: impl Fn(&mut VolumeAttachment)) -> VolumeAttachment {
    let name = attachment_name("h-disk", DRIVER, node);
    let spec = json!({"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": "disk"}});
    let status = json!({"attached": true});
    let metadata = json!({"name": name, "creationTimestamp": at(NOW - 10).to_string()});
    let mut attachment = object(json!({"metadata": metadata, "spec": spec, "status": status}));
    change(&mut attachment);
    attachment
}

fn plan(world: &World, node: &str) -> Plan {
    world.reconcile(&AttachDetachController, node)
}

/// What a plan makes of the node's `volumesAttached`.
fn reported(plan: &Plan) -> Option<Value> {
    flat(plan).iter().find_map(|op| match op {
        Op::Patch { subresource: Some("status"), patch: Patch::Merge(patch), .. } => {
            Some(patch["status"]["volumesAttached"].clone())
        }
        _ => None,
    })
}

#[test]
fn the_name_is_the_one_that_attachers_and_kubelets_know() {
    // sha256 of "h-diskd.example.coma"
    let name = attachment_name("h-disk", DRIVER, "a");
    assert_eq!(name, "csi-42cbe9e0811531f732ac8a3ba6c1f27f9a678dd2969565d2084e3899be7f8faf");
    assert_eq!(attachment_of(UNIQUE, "a"), Some(name));
    assert_eq!(attachment_of("kubernetes.io/nfs/x", "a"), None);
}

#[test]
fn a_volume_is_attached_where_a_pod_needs_it_and_only_by_drivers_that_attach() {
    let one = || world(json!(["ReadWriteOnce"]));
    let made = |world: &World| created::<VolumeAttachment>(&plan(world, "a"));
    let world = one();
    let made_here = made(&world);
    assert_eq!(made_here.len(), 1);
    assert_eq!((made_here[0].spec.attacher.as_str(), made_here[0].spec.node_name.as_str()), (DRIVER, "a"));
    assert!(created::<VolumeAttachment>(&plan(&world, "b")).is_empty());
    let failure = Failure { verb: Verb::Create, stale: false, message: "denied".into() };
    let told = events(&world.reconcile_after(&AttachDetachController, "a", failure));
    assert_eq!(told, ["FailedAttachVolume: AttachVolume.Attach failed for volume \"disk\" : denied"]);

    let driver = json!({"metadata": {"name": DRIVER}, "spec": {"attachRequired": false}});
    world.writers.csi_drivers.upsert(object(driver));
    assert!(made(&world).is_empty());
    let world = one();
    world.writers.pods.upsert(user("p", "a", json!({"deletionTimestamp": at(NOW).to_string()})));
    assert!(made(&world).is_empty(), "nothing of the pod runs");
    let world = one();
    let mut node = node_with("a", "True", NOW, json!({}));
    node.metadata.annotations = None;
    world.writers.nodes.upsert(node);
    assert!(made(&world).is_empty(), "the node attaches itself");
    // The volume was given to another claim of that name.
    let world = one();
    let spec = json!({"csi": {"driver": DRIVER, "volumeHandle": "h"}, "claimRef": {"namespace": "default", "name": "c", "uid": "x"}});
    world.writers.volumes.upsert(object(json!({"metadata": {"name": "disk"}, "spec": spec})));
    assert!(made(&world).is_empty());
}

#[test]
fn a_node_reads_in_its_status_what_is_attached() {
    let world = world(json!(["ReadWriteOnce"]));
    world.writers.volume_attachments.upsert(attachment("a", |_| {}));
    let first = plan(&world, "a");
    assert_eq!(reported(&first), Some(json!([{"name": UNIQUE, "devicePath": ""}])));
    assert_eq!(events(&first), ["SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"disk\" "]);
    let entries = json!({"volumesAttached": [{"name": UNIQUE, "devicePath": ""}]});
    world.writers.nodes.upsert(node_with("a", "True", NOW, entries));
    assert!(plan(&world, "a").ops.is_empty());

    let failing = |error: Option<&str>, age: i64| {
        world.writers.volume_attachments.upsert(attachment("a", |a| {
            let error = error.map(|message| json!({"message": message}));
            a.status = Some(serde_json::from_value(json!({"attached": false, "attachError": error})).unwrap());
            a.metadata.creation_timestamp = Some(kybern_api::meta::v1::Time(at(NOW - age)));
        }));
        plan(&world, "a")
    };
    let failed = failing(Some("no such disk"), 10);
    assert_eq!(events(&failed), ["FailedAttachVolume: AttachVolume.Attach failed for volume \"disk\" : no such disk"]);
    assert_eq!(reported(&failed), Some(json!([])), "it is not attached any more");
    assert!(events(&failing(None, 10)).is_empty());
    let waits = "timed out waiting for external-attacher of d.example.com CSI driver to attach volume h-disk";
    assert!(events(&failing(None, 120))[0].ends_with(waits));
}

#[test]
fn what_nobody_needs_is_detached_once_the_node_has_let_it_go() {
    let detached = |ready: &str, since: i64, in_use: bool, out: bool| {
        let world = world(json!(["ReadWriteOnce"]));
        world.writers.pods.remove("default/p", "9");
        world.writers.volume_attachments.upsert(attachment("a", |_| {}));
        let mut status = json!({"volumesAttached": [{"name": UNIQUE, "devicePath": ""}]});
        if in_use {
            status["volumesInUse"] = json!([UNIQUE]);
        }
        let mut node = node_with("a", ready, NOW - since, status);
        let taint = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        node.spec.get_or_insert_default().taints = out.then(|| serde_json::from_value(taint).unwrap());
        world.writers.nodes.upsert(node);
        let plan = plan(&world, "a");
        let gone = !deleted(&plan).is_empty();
        assert_eq!(reported(&plan), gone.then(|| json!([])), "it is taken out of the status first");
        if gone {
            assert!(matches!(plan.ops[0], Op::Patch { .. }));
        }
        (gone, plan.requeue_after)
    };
    assert_eq!(detached("True", 1000, false, false), (true, None));
    assert_eq!(detached("True", 1000, true, false), (false, None));
    assert_eq!(detached("Unknown", 60, true, false), (false, Some(Duration::from_secs(300))));
    assert_eq!(detached("Unknown", 360, true, false), (true, None));
    assert_eq!(detached("True", 1000, true, true), (true, None));
}

#[test]
fn of_a_node_that_is_gone_all_goes_but_what_others_have_made() {
    let world = world(json!(["ReadWriteOnce"]));
    world.writers.nodes.remove("a", "9");
    world.writers.volume_attachments.upsert(attachment("a", |_| {}));
    world.writers.volume_attachments.upsert(attachment("a", |a| a.metadata.name = Some("by-hand".into())));
    assert_eq!(deleted(&plan(&world, "a")), [attachment_name("h-disk", DRIVER, "a")]);
    world.writers.volumes.remove("disk", "10");
    assert_eq!(deleted(&plan(&world, "a")), [attachment_name("h-disk", DRIVER, "a")]);
}

#[test]
fn one_node_at_a_time_unless_the_volume_can_be_shared() {
    let on_b = |modes: Value, gone: bool| {
        let world = world(modes);
        world.writers.pods.upsert(user("q", "b", json!({})));
        if gone {
            world.writers.pods.remove("default/p", "9");
        }
        world.writers.volume_attachments.upsert(attachment("a", |_| {}));
        let plan = plan(&world, "b");
        (created::<VolumeAttachment>(&plan).len(), events(&plan).join(""))
    };
    let error = "FailedAttachVolume: Multi-Attach error for volume \"disk\" Volume is already";
    assert_eq!(on_b(json!(["ReadWriteOnce"]), false), (0, format!("{error} used by pod(s) p")));
    let alone = format!("{error} exclusively attached to one node and can't be attached to another");
    assert_eq!(on_b(json!(["ReadWriteOnce"]), true), (0, alone));
    assert_eq!(on_b(json!(["ReadWriteMany"]), false), (1, String::new()));
}
