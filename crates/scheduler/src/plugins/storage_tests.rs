//! The plugins that look at a pod's volumes, besides [`super::volume_binding`].

use std::sync::Arc;

use kybern_api::Object;
use kybern_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kybern_apimachinery::{Value, json};
use kybern_client::Store;

use super::node_volume_limits::NodeVolumeLimits;
use super::volume_restrictions::VolumeRestrictions;
use super::volume_zone::VolumeZone;
use crate::cache::Cluster;
use crate::fixture;
use crate::framework::{Filter, PreFilter, Verdict};
use crate::pod::PodInfo;
use crate::stores::{BY_NODE, Kept, ON_OFFER, Stores, node_of, offer};

fn object<K: Object>(object: &Value) -> K {
    K::from_json(object.to_string().as_bytes()).unwrap()
}

/// Nodes a and b in zones of their names, and c without; and what else there is, by kind.
fn cluster(objects: &[Value]) -> Cluster {
    let (claims, claim_writer) = Store::new([]);
    let (volumes, volume_writer) = Store::new([(ON_OFFER, offer as fn(&PersistentVolume) -> Vec<String>)]);
    let (classes, class_writer) = Store::new([]);
    let (csi_nodes, csi_node_writer) = Store::new([]);
    let (attachments, attachment_writer) = Store::new([(BY_NODE, node_of as fn(&Kept<_, _>) -> Vec<String>)]);
    for value in objects {
        match value["kind"].as_str().unwrap() {
            "PersistentVolumeClaim" => claim_writer.upsert(object::<PersistentVolumeClaim>(value)),
            "PersistentVolume" => volume_writer.upsert(object(value)),
            "StorageClass" => class_writer.upsert(object(value)),
            "CSINode" => csi_node_writer.upsert(Kept::of(&object(value))),
            _ => attachment_writer.upsert(Kept::of(&object(value))),
        }
    }
    let mut cluster = Cluster::new(Stores { claims, volumes, classes, csi_nodes, attachments, ..Stores::default() });
    for name in ["a", "b", "c"] {
        let labels = match name {
            "c" => json!({}),
            zone => json!({"topology.kubernetes.io/zone": zone}),
        };
        cluster.set_node(Arc::new(fixture::node(json!({"metadata": {"name": name, "labels": labels}}))));
    }
    cluster
}

fn claim(name: &str, volume: &str, mode: &str) -> Value {
    let spec = json!({"volumeName": volume, "storageClassName": "fast", "accessModes": [mode]});
    json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn volume(name: &str, labels: Value) -> Value {
    let csi = json!({"driver": "d", "volumeHandle": name});
    json!({"kind": "PersistentVolume", "metadata": {"name": name, "labels": labels}, "spec": {"csi": csi}})
}

fn class(mode: Value) -> Value {
    json!({"kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": "d", "volumeBindingMode": mode})
}

fn pod(name: &str, claims: &[&str]) -> PodInfo {
    let volume = |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
    fixture::pod_named(name, json!({"volumes": claims.iter().map(volume).collect::<Vec<_>>()}))
}

/// What is said of each node, or why not even they are asked.
fn verdicts(plugin: &impl Filter, cluster: &Cluster, pod: &PodInfo) -> Vec<String> {
    let text = |verdict: Verdict| match verdict {
        Verdict::Fits => "fits".to_owned(),
        Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons) => reasons.join("; "),
    };
    match plugin.pre_filter(pod, cluster) {
        PreFilter::Filter(filter) => cluster.nodes().map(|info| text(filter.check(info))).collect(),
        PreFilter::Reject(reason) => vec![reason.into_owned()],
        _ => vec!["skip".to_owned()],
    }
}

#[test]
fn zones() {
    const NO: &str = "node(s) had no available volume zone";
    let check = |objects: &[Value], expect: &[&str]| {
        assert_eq!(verdicts(&VolumeZone, &cluster(objects), &pod("p", &["c"])), expect, "{objects:?}");
    };
    let bound = || claim("c", "v", "ReadWriteOnce");
    let unbound = || claim("c", "", "ReadWriteOnce");
    let zone = |zone: &str| volume("v", json!({"topology.kubernetes.io/zone": zone}));
    check(&[], &["persistentvolumeclaim \"c\" not found"]);
    check(&[bound()], &["persistentvolume \"v\" not found"]);
    check(&[unbound()], &["storageclass.storage.k8s.io \"fast\" not found"]);
    check(&[unbound(), class(json!("Immediate"))], &["PersistentVolume had no name"]);
    check(&[unbound(), class(Value::Null)], &["VolumeBindingMode not set for StorageClass \"fast\""]);
    check(&[unbound(), class(json!("WaitForFirstConsumer"))], &["skip"]);
    check(&[bound(), volume("v", json!({}))], &["skip"]);
    check(&[bound(), zone("a")], &["fits", NO, "fits"]);
    check(&[bound(), zone("a__b")], &["fits", "fits", "fits"]);
    check(&[bound(), zone("x")], &[NO, NO, "fits"]);
    check(&[bound(), zone("a__")], &["skip"]);
    let old = volume("v", json!({"failure-domain.beta.kubernetes.io/zone": "b"}));
    check(&[bound(), old], &[NO, "fits", "fits"]);
    let region = volume("v", json!({"topology.kubernetes.io/region": "r"}));
    check(&[bound(), region], &[NO, NO, "fits"]);
}

#[test]
fn disks_and_exclusive_claims() {
    const TAKEN: &str = "node(s) had no available disk";
    const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    let disk = |kind: &str, source: Value| fixture::pod_named("p", json!({"volumes": [{"name": "v", kind: source}]}));
    let check = |kind: &str, source: Value, other: Value, conflict: bool| {
        let mut cluster = cluster(&[]);
        let mut there = disk(kind, other.clone());
        there.uid = "other".into();
        cluster.assume(Arc::new(there), "a");
        let expect = if conflict { TAKEN } else { "fits" };
        let found = verdicts(&VolumeRestrictions, &cluster, &disk(kind, source.clone()));
        assert_eq!(found, [expect, "fits", "fits"], "{source} {other}");
        assert_eq!(VolumeRestrictions.may_fit_without(&disk(kind, source), &disk(kind, other)), conflict);
    };
    let gce = |name: &str, read_only: bool| json!({"pdName": name, "readOnly": read_only});
    check("gcePersistentDisk", gce("x", false), gce("x", true), true);
    check("gcePersistentDisk", gce("x", true), gce("x", true), false);
    check("gcePersistentDisk", gce("x", false), gce("y", false), false);
    check(
        "awsElasticBlockStore",
        json!({"volumeID": "x", "readOnly": true}),
        json!({"volumeID": "x", "readOnly": true}),
        true,
    );
    let iscsi = |portal: &str| json!({"iqn": "x", "lun": 0, "targetPortal": portal});
    check("iscsi", iscsi("1"), iscsi("2"), true);
    let rbd = |monitors: Value, image: &str| json!({"monitors": monitors, "image": image, "pool": "p"});
    check("rbd", rbd(json!(["m", "n"]), "i"), rbd(json!(["n"]), "i"), true);
    check("rbd", rbd(json!(["m"]), "i"), rbd(json!(["n"]), "i"), false);
    check("rbd", rbd(json!(["m"]), "i"), rbd(json!(["m"]), "j"), false);

    let mut cluster = cluster(&[claim("once", "", "ReadWriteOncePod"), claim("shared", "", "ReadWriteOnce")]);
    let (user, other) = (pod("user", &["once", "shared"]), pod("other", &["shared"]));
    cluster.assume(Arc::new(other.clone()), "a");
    assert_eq!(verdicts(&VolumeRestrictions, &cluster, &pod("p", &["once"])), ["skip"]);
    cluster.assume(Arc::new(user.clone()), "b");
    assert_eq!(verdicts(&VolumeRestrictions, &cluster, &pod("p", &["shared"])), ["skip"]);
    assert_eq!(verdicts(&VolumeRestrictions, &cluster, &pod("p", &["once"])), [IN_USE; 3]);
    assert_eq!(
        verdicts(&VolumeRestrictions, &cluster, &pod("p", &["gone"])),
        ["persistentvolumeclaim \"gone\" not found"]
    );
    // Whoever mounts it may be preempted, wherever it is.
    let waiting = pod("p", &["once"]);
    let PreFilter::Filter(mut filter) = VolumeRestrictions.pre_filter(&waiting, &cluster) else { panic!("in use") };
    let (a, b) = (cluster.node("a").unwrap(), cluster.node("b").unwrap());
    filter.shift(&other, &a.node, -1);
    assert_eq!(filter.check(b), Verdict::unschedulable(IN_USE));
    filter.shift(&user, &b.node, -1);
    assert_eq!(filter.check(b), Verdict::Fits);
    filter.shift(&user, &b.node, 1);
    assert_eq!(filter.check(a), Verdict::unschedulable(IN_USE));
    drop(filter);
    assert!(VolumeRestrictions.may_fit_without(&waiting, &user));
    assert!(!VolumeRestrictions.may_fit_without(&waiting, &other));
    cluster.forget("user");
    assert_eq!(verdicts(&VolumeRestrictions, &cluster, &waiting), ["skip"]);
}

#[test]
fn limits() {
    const FULL: &str = "node(s) exceed max volume count";
    let limit = |node: &str, count: Value| {
        let driver = json!({"name": "d", "nodeID": node, "allocatable": {"count": count}});
        json!({"kind": "CSINode", "metadata": {"name": node}, "spec": {"drivers": [driver]}})
    };
    let attached = |name: &str, node: &str, volume: &str| {
        let spec = json!({"attacher": "d", "nodeName": node, "source": {"persistentVolumeName": volume}});
        json!({"kind": "VolumeAttachment", "metadata": {"name": name}, "spec": spec})
    };
    let mut objects = vec![class(json!("WaitForFirstConsumer")), limit("a", json!(2)), limit("b", Value::Null)];
    for n in 0..3 {
        objects.push(claim(&format!("c{n}"), &format!("v{n}"), "ReadWriteMany"));
        objects.push(volume(&format!("v{n}"), json!({})));
    }
    objects.push(claim("new", "", "ReadWriteOnce"));
    objects.push(claim("newer", "", "ReadWriteOnce"));
    let check = |what: &str, more: &[Value], there: &[PodInfo], claims: &[&str], expect: &[&str]| {
        let mut cluster = cluster(&[&objects, more].concat());
        there.iter().for_each(|pod| cluster.assume(Arc::new(pod.clone()), "a"));
        assert_eq!(verdicts(&NodeVolumeLimits, &cluster, &pod("p", claims)), expect, "{what}");
    };
    let [one, two] = [pod("one", &["c0"]), pod("two", &["c0", "c1"])];
    check("no claims", &[], &[], &[], &["skip"]);
    check("no such claim", &[], &[], &["none"], &["skip"]);
    check("as many as there may be", &[], &[], &["c0", "c1"], &["fits", "fits", "fits"]);
    check("too many at once", &[], &[], &["c0", "c1", "c2"], &[FULL, "fits", "fits"]);
    check("one is there twice", &[], &[one.clone(), two.clone()], &["c1"], &["fits", "fits", "fits"]);
    check("one more", &[], &[one.clone(), two.clone()], &["c2"], &[FULL, "fits", "fits"]);
    check("one that is yet to be made", &[], std::slice::from_ref(&two), &["new"], &[FULL, "fits", "fits"]);
    check("two of them", &[], std::slice::from_ref(&one), &["new", "newer"], &[FULL, "fits", "fits"]);
    let leftover = [attached("x", "a", "v1"), attached("y", "a", "v0"), attached("z", "b", "v2")];
    check("attached, though no pod has it", &leftover, &[one], &["c2"], &[FULL, "fits", "fits"]);
    let lowered = [limit("a", json!(1))];
    check("over the limit, but nothing new", &lowered, &[two], &["c0"], &["fits", "fits", "fits"]);
}
