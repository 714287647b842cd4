//! A pod goes where its volumes are. Claims that wait for their first consumer get a volume that the chosen node reaches, or
//! are provisioned for it; the pod is bound once they are.

use std::sync::Arc;

use kybern_api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim};
use kybern_api::node_affinity::NodeTerm;
use kybern_api::storage::v1::{CSIStorageCapacity, StorageClass};
use kybern_api::{Object, label_selector};
use kybern_apimachinery::json;
use kybern_apimachinery::quantity::Quantity;
use kybern_client::Patch;

use crate::cache::Cluster;
use crate::framework::{ApiCall, Filter, Plugin, PreBind, PreFilter, Reason, Verb, Verdict};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;
use crate::stores::{BY_CLASS, Capacity, Kept, ON_OFFER, Stores};

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }
}

/// A pod's claims, and what each may get.
#[derive(Default)]
struct Claims {
    /// The volumes of bound ones; `None` for one that does not exist.
    bound: Vec<Option<Reachable>>,
    delayed: Vec<Delayed>,
}

/// A claim that waits for its first consumer.
struct Delayed {
    claim: Arc<PersistentVolumeClaim>,
    class: Arc<StorageClass>,
    /// Where it is being provisioned already.
    selected_node: Option<String>,
    /// Volumes that it could have, the smallest first.
    candidates: Vec<Reachable>,
    /// Where there is room for a new one; `None` where nobody says.
    room: Option<Vec<Arc<Kept<CSIStorageCapacity, Capacity>>>>,
}

/// A volume, and the nodes that reach it.
struct Reachable {
    volume: Arc<PersistentVolume>,
    terms: Option<Vec<NodeTerm>>,
}

impl Reachable {
    fn of(volume: Arc<PersistentVolume>) -> Self {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
        let terms = |selector: &NodeSelector| selector.node_selector_terms.iter().map(NodeTerm::of).collect();
        Self { terms: affinity.map(terms), volume }
    }

    fn is_on(&self, node: &Node) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
    }
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The name of the volume that a claim is bound to for good.
fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())?;
    annotation(claim, BIND_COMPLETED).map(|_| name)
}

pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    annotation(claim, CLASS)
        .or_else(|| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()))
        .unwrap_or("")
}

/// Finds a pod's claims; an error says what is wrong with one.
fn claims(pod: &PodInfo, stores: &Stores) -> Result<Claims, Reason> {
    let mut found = Claims::default();
    for (name, is_ephemeral) in &pod.claims {
        let Some(claim) = stores.claims.get_in(&pod.namespace, name) else {
            return Err(match is_ephemeral {
                true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                    .into(),
                false => format!("persistentvolumeclaim {name:?} not found").into(),
            });
        };
        let spec = claim.spec.clone().unwrap_or_default();
        let volume = spec.volume_name.as_deref().unwrap_or("");
        if claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Lost")) {
            return Err(
                format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}").into()
            );
        }
        if claim.is_deleting() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted").into());
        }
        let owned = claim.metadata.owner_references.iter().flatten().any(|owner| owner.uid == *pod.uid);
        if *is_ephemeral && !owned {
            return Err(format!(
                "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                pod.namespace, pod.namespace, pod.name
            )
            .into());
        }
        if let Some(volume) = volume_of(&claim) {
            found.bound.push(stores.volumes.get(volume).map(Reachable::of));
            continue;
        }
        let class = stores.classes.get(class_of(&claim));
        let waits = |class: &Arc<StorageClass>| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        let Some(class) = class.filter(|class| waits(class) && volume.is_empty()) else {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        };
        let selected_node = annotation(&claim, SELECTED_NODE).map(str::to_owned);
        let candidates = candidates(&claim, stores);
        let room = room(&claim, &class, stores);
        found.delayed.push(Delayed { claim, class, selected_node, candidates, room });
    }
    Ok(found)
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(|quantity| Quantity::parse(&quantity.0).ok()).map_or(0, |quantity| quantity.value())
}

/// How much a claim requests.
fn request(claim: &PersistentVolumeClaim) -> Option<i64> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Quantity::parse(&requests.get("storage")?.0).ok().map(|quantity| quantity.value())
}

/// What drivers that tell capacities have left of a class for a new volume of a claim's size.
fn room(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    stores: &Stores,
) -> Option<Vec<Arc<Kept<CSIStorageCapacity, Capacity>>>> {
    let size = request(claim)?;
    stores.csi_drivers.get(&class.provisioner).filter(|driver| driver.facts.0)?;
    let mut found = stores.capacities.by_index(BY_CLASS, class.name());
    found.retain(|capacity| capacity.facts.limit.is_some_and(|limit| limit >= size));
    Some(found)
}

/// The volumes that a claim could have, wherever they are.
fn candidates(claim: &PersistentVolumeClaim, stores: &Stores) -> Vec<Reachable> {
    let spec = claim.spec.clone().unwrap_or_default();
    let request = request(claim).unwrap_or(0);
    let selector = spec.selector.as_ref().map(label_selector);
    fn mode(mode: &Option<String>) -> &str {
        mode.as_deref().unwrap_or("Filesystem")
    }
    let selects = |volume: &PersistentVolume| {
        let label = |key: &str| volume.metadata.labels.as_ref()?.get(key).map(String::as_str);
        selector.as_ref().is_none_or(|s| s.as_ref().is_ok_and(|selector| selector.matches(label)))
    };
    let suits = |volume: &PersistentVolume| {
        volume.spec.as_ref().is_some_and(|own| {
            capacity(volume) >= request
                && own.storage_class_name.as_deref().unwrap_or("") == class_of(claim)
                && mode(&own.volume_mode) == mode(&spec.volume_mode)
                && own.volume_attributes_class_name.as_deref().unwrap_or("")
                    == spec.volume_attributes_class_name.as_deref().unwrap_or("")
        })
    };
    let grants = |volume: &PersistentVolume| {
        let modes = volume.spec.as_ref().and_then(|own| own.access_modes.as_deref()).unwrap_or_default();
        spec.access_modes.iter().flatten().all(|wanted| modes.contains(wanted))
    };
    // One that was set aside for the claim goes before all others.
    let mut found = stores.volumes.by_index(ON_OFFER, &claim.key());
    found.retain(|volume| is_claimed_by(volume, claim) && suits(volume));
    if found.is_empty() {
        found = stores.volumes.by_index(ON_OFFER, class_of(claim));
        found.retain(|volume| suits(volume) && grants(volume) && selects(volume));
        found.sort_by_key(|volume| capacity(volume));
    }
    found.into_iter().map(Reachable::of).collect()
}

fn is_claimed_by(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).is_some_and(|reference| {
        reference.namespace.as_deref() == Some(claim.namespace())
            && reference.name.as_deref() == Some(claim.name())
            && reference.uid.as_deref().is_none_or(|uid| uid == claim.uid())
    })
}

/// What each delayed claim would get on a node: a volume, or one that is provisioned. An error says why it cannot be.
fn choose<'a>(claims: &'a Claims, node: &Node) -> Result<Vec<(&'a Delayed, Option<&'a Reachable>)>, &'static str> {
    let mut taken: Vec<&str> = Vec::new();
    let mut chosen = Vec::new();
    for delayed in &claims.delayed {
        let free = |volume: &&Reachable| volume.is_on(node) && !taken.contains(&volume.volume.name());
        let volume = match &delayed.selected_node {
            Some(selected) if *selected != *node.name => return Err(NO_VOLUME),
            Some(_) => None,
            None => delayed.candidates.iter().find(free),
        };
        if volume.is_none() && !can_provision(&delayed.class, node) {
            return Err(NO_VOLUME);
        }
        let reaches = |capacity: &Arc<Kept<_, Capacity>>| {
            capacity.facts.nodes.matches(|key| node.labels.get(key).map(String::as_str))
        };
        if volume.is_none() && delayed.room.as_ref().is_some_and(|room| !room.iter().any(reaches)) {
            return Err(NO_SPACE);
        }
        taken.extend(volume.map(|volume| volume.volume.name()));
        chosen.push((delayed, volume));
    }
    Ok(chosen)
}

fn can_provision(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let matches = |key: &str, values: &[String]| node.labels.get(key).is_some_and(|value| values.contains(value));
    !class.provisioner.is_empty()
        && class.provisioner != NO_PROVISIONER
        && (terms.is_empty()
            || terms.iter().any(|term| {
                let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
                !expressions.is_empty() && expressions.iter().all(|e| matches(&e.key, &e.values))
            }))
}

fn check(claims: &Claims, node: &Node) -> Verdict {
    let mut reasons: Vec<Reason> = Vec::new();
    if claims.bound.iter().flatten().any(|volume| !volume.is_on(node)) {
        reasons.push("node(s) didn't match PersistentVolume's node affinity".into());
    }
    reasons.extend(choose(claims, node).err().map(Reason::from));
    if claims.bound.iter().any(Option::is_none) {
        reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into());
    }
    if reasons.is_empty() { Verdict::Fits } else { Verdict::Unresolvable(reasons) }
}

impl Filter for VolumeBinding {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a> {
        if pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        match claims(pod, cluster.stores()) {
            Ok(claims) => PreFilter::by(move |info: &NodeInfo| check(&claims, &info.node)),
            Err(reason) => PreFilter::Reject(reason),
        }
    }

    fn reads_storage(&self) -> bool {
        true
    }
}

impl PreBind for VolumeBinding {
    fn pre_bind(&self, pod: &PodInfo, node: &str, cluster: &Cluster) -> Vec<ApiCall> {
        let Some(info) = cluster.node(node).filter(|_| !pod.claims.is_empty()) else { return Vec::new() };
        let Ok(claims) = claims(pod, cluster.stores()) else { return Vec::new() };
        let chosen = choose(&claims, &info.node).unwrap_or_default();
        chosen.into_iter().filter_map(|(delayed, volume)| call(delayed, volume.map(|v| &*v.volume), node)).collect()
    }

    fn waits(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        // What is not as it was when the node was chosen is looked at again.
        !pod.claims.is_empty() && claims(pod, cluster.stores()).map_or(true, |claims| !claims.delayed.is_empty())
    }
}

/// The call that has a claim bound; `None` where it was made.
fn call(delayed: &Delayed, volume: Option<&PersistentVolume>, node: &str) -> Option<ApiCall> {
    let claim = &*delayed.claim;
    let (gvr, namespace, name, patch) = match volume {
        Some(volume) if is_claimed_by(volume, claim) => return None,
        Some(volume) => {
            let reference = json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(),
                "name": claim.name(),
                "uid": claim.uid(),
                "resourceVersion": Object::resource_version(claim),
            });
            // The version keeps two claims from getting the same volume.
            let version = Object::resource_version(volume);
            let metadata = json!({"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: "yes"}});
            (PersistentVolume::gvr(), "", volume.name(), json!({"metadata": metadata, "spec": {"claimRef": reference}}))
        }
        None if delayed.selected_node.is_some() => return None,
        None => {
            let metadata = json!({"uid": claim.uid(), "annotations": {SELECTED_NODE: node}});
            (PersistentVolumeClaim::gvr(), claim.namespace(), claim.name(), json!({"metadata": metadata}))
        }
    };
    let verb = Verb::Patch { subresource: None, patch: Patch::Merge(patch) };
    Some(ApiCall { gvr, namespace: namespace.to_owned(), name: name.to_owned(), verb })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::stores::class_of_capacity;
    use kybern_apimachinery::Value;
    use kybern_client::Store;

    const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";

    fn object<K: Object>(object: Value) -> K {
        K::from_json(object.to_string().as_bytes()).unwrap()
    }

    fn claim(name: &str, class: &str, volume: Option<&str>, annotations: Value) -> Value {
        let mut annotations = annotations;
        if volume.is_some() {
            annotations[BIND_COMPLETED] = "yes".into();
        }
        let spec = json!({"storageClassName": class, "volumeName": volume, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
        json!({"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "5", "annotations": annotations}, "spec": spec, "status": {}})
    }

    fn volume(name: &str, size: &str, node: &str) -> Value {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
        let affinity = json!({"required": {"nodeSelectorTerms": [term]}});
        let spec = json!({"storageClassName": "local", "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "nodeAffinity": affinity});
        json!({"metadata": {"name": name, "resourceVersion": "7"}, "spec": spec, "status": {"phase": "Available"}})
    }

    /// Nodes a and b; classes local (by hand), made (provisioned, on a only) and now (at once).
    fn cluster(claims: Vec<Value>, volumes: Vec<Value>) -> Cluster {
        let (claim_store, writer) = Store::new([]);
        claims.into_iter().for_each(|value| writer.upsert(object::<PersistentVolumeClaim>(value)));
        let stores = Stores { claims: claim_store, ..Stores::default() };
        let (volume_store, writer) =
            Store::new([(ON_OFFER, crate::stores::offer as fn(&PersistentVolume) -> Vec<String>)]);
        volumes.into_iter().for_each(|value| writer.upsert(object::<PersistentVolume>(value)));
        let (classes, writer) = Store::new([]);
        let topologies = json!([{"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["a"]}]}]);
        for (name, provisioner, mode, topologies) in [
            ("local", NO_PROVISIONER, "WaitForFirstConsumer", Value::Null),
            ("made", "example.com/x", "WaitForFirstConsumer", topologies),
            ("now", "example.com/x", "Immediate", Value::Null),
        ] {
            writer.upsert(object::<StorageClass>(json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode, "allowedTopologies": topologies})));
        }
        let mut cluster = Cluster::new(Stores { volumes: volume_store, classes, ..stores });
        for name in ["a", "b"] {
            let labels = json!({"kubernetes.io/hostname": name});
            cluster.set_node(Arc::new(fixture::node(json!({"metadata": {"name": name, "labels": labels}}))));
        }
        cluster
    }

    /// As [`cluster`], with the driver of class `made`, and what it has left: size, largest volume, and a node.
    fn with_capacities(claims: Vec<Value>, tells: bool, left: &[(&str, Value, Value)]) -> Cluster {
        let before = cluster(claims, vec![]);
        let (csi_drivers, writer) = Store::new([]);
        let driver = json!({"metadata": {"name": "example.com/x"}, "spec": {"storageCapacity": tells}});
        writer.upsert(Kept::of(&object(driver)));
        let (capacities, writer) = Store::new([(BY_CLASS, class_of_capacity as fn(&Kept<_, _>) -> Vec<String>)]);
        for (n, (size, largest, topology)) in left.iter().enumerate() {
            let metadata = json!({"name": format!("c{n}"), "namespace": "default"});
            let capacity = json!({"metadata": metadata, "storageClassName": "made", "capacity": size, "maximumVolumeSize": largest, "nodeTopology": topology});
            writer.upsert(Kept::of(&object(capacity)));
        }
        let mut after = Cluster::new(Stores { csi_drivers, capacities, ..before.stores().clone() });
        before.nodes().for_each(|info| drop(after.set_node(info.node.clone())));
        after
    }

    #[test]
    fn volumes_are_made_where_there_is_room() {
        let on = |node: &str| json!({"matchLabels": {"kubernetes.io/hostname": node}});
        let check = |tells: bool, left: &[(&str, Value, Value)], expect: &str| {
            let cluster = with_capacities(vec![claim("c", "made", None, json!({}))], tells, left);
            assert_eq!(verdicts(&cluster, &pod(&["c"])), [expect, NO_VOLUME], "{left:?}");
        };
        check(false, &[], "fits");
        check(true, &[], NO_SPACE);
        check(true, &[("2Gi", Value::Null, on("a"))], "fits");
        check(true, &[("1Gi", Value::Null, on("a")), ("9Gi", Value::Null, on("b"))], NO_SPACE);
        check(true, &[("1Gi", Value::Null, on("b")), ("9Gi", Value::Null, json!({}))], "fits");
        check(true, &[("9Gi", Value::Null, Value::Null)], NO_SPACE);
        check(true, &[("9Gi", json!("1Gi"), on("a"))], NO_SPACE);
        check(true, &[("1", json!("2Gi"), on("a"))], "fits");
        // One that is being made needs its room too; one that is there does not.
        let selected = with_capacities(vec![claim("c", "made", None, json!({SELECTED_NODE: "a"}))], true, &[]);
        assert_eq!(verdicts(&selected, &pod(&["c"])), [NO_SPACE, NO_VOLUME]);
        let mut sizeless = claim("c", "made", None, json!({}));
        sizeless["spec"]["resources"] = Value::Null;
        assert_eq!(verdicts(&with_capacities(vec![sizeless], true, &[]), &pod(&["c"])), ["fits", NO_VOLUME]);
    }

    fn pod(claims: &[&str]) -> PodInfo {
        let volume = |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        fixture::pod(json!({"volumes": claims.iter().map(volume).collect::<Vec<_>>()}))
    }

    /// What is said of a and b; or why not even they are asked.
    fn verdicts(cluster: &Cluster, pod: &PodInfo) -> Vec<String> {
        let text = |verdict: Verdict| match verdict {
            Verdict::Fits => "fits".to_owned(),
            Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons) => reasons.join("; "),
        };
        match VolumeBinding.pre_filter(pod, cluster) {
            PreFilter::Filter(filter) => cluster.nodes().map(|info| text(filter.check(info))).collect(),
            PreFilter::Reject(reason) => vec![reason.into_owned()],
            _ => vec!["skip".to_owned()],
        }
    }

    #[test]
    fn filters() {
        let none = || json!({});
        let check = |claims: Vec<Value>, volumes: Vec<Value>, expect: &[&str]| {
            let names: Vec<String> =
                claims.iter().map(|c| c["metadata"]["name"].as_str().unwrap().to_owned()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(verdicts(&cluster(claims, volumes), &pod(&names)), expect);
        };
        check(vec![], vec![], &["skip"]);
        check(vec![claim("c", "local", Some("v"), none())], vec![volume("v", "2Gi", "a")], &["fits", ELSEWHERE]);
        let lost = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        check(vec![claim("c", "local", Some("v"), none())], vec![], &[lost, lost]);
        check(vec![claim("c", "now", None, none())], vec![], &["pod has unbound immediate PersistentVolumeClaims"]);
        check(vec![claim("c", "local", None, none())], vec![volume("v", "2Gi", "b")], &[NO_VOLUME, "fits"]);
        check(vec![claim("c", "local", None, none())], vec![volume("v", "1Gi", "b")], &[NO_VOLUME, NO_VOLUME]);
        let two = || vec![claim("c", "local", None, none()), claim("d", "local", None, none())];
        check(two(), vec![volume("v", "2Gi", "b")], &[NO_VOLUME, NO_VOLUME]);
        check(two(), vec![volume("v", "2Gi", "b"), volume("w", "9Gi", "b")], &[NO_VOLUME, "fits"]);
        check(vec![claim("c", "made", None, none())], vec![], &["fits", NO_VOLUME]);
        check(vec![claim("c", "made", None, json!({SELECTED_NODE: "b"}))], vec![], &[NO_VOLUME, NO_VOLUME]);
        let mut deleted = claim("c", "made", None, none());
        deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        check(vec![deleted], vec![], &["persistentvolumeclaim \"c\" is being deleted"]);
        let mut lost = claim("c", "made", Some("v"), none());
        lost["status"]["phase"] = "Lost".into();
        check(vec![lost], vec![], &["persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\""]);
        let empty = cluster(vec![], vec![]);
        assert_eq!(verdicts(&empty, &pod(&["c"])), ["persistentvolumeclaim \"c\" not found"]);
        let ephemeral = fixture::pod(json!({"volumes": [{"name": "e", "ephemeral": {}}]}));
        let waiting = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"pod-e\"";
        assert_eq!(verdicts(&empty, &ephemeral), [waiting]);
        let foreign = cluster(vec![claim("pod-e", "made", None, none())], vec![]);
        assert_eq!(
            verdicts(&foreign, &ephemeral),
            ["PVC default/pod-e was not created for pod default/pod (pod is not owner)"]
        );
    }

    #[test]
    fn what_is_done_before_the_pod_is_bound() {
        let patches = |cluster: &Cluster, pod: &PodInfo, node: &str| -> Vec<(String, Value)> {
            let one = |call: ApiCall| match call.verb {
                Verb::Patch { subresource: None, patch: Patch::Merge(patch) } => (call.name, patch),
                other => panic!("{other:?}"),
            };
            VolumeBinding.pre_bind(pod, node, cluster).into_iter().map(one).collect()
        };
        let made = cluster(vec![claim("c", "made", None, json!({}))], vec![]);
        assert!(VolumeBinding.waits(&pod(&["c"]), &made));
        let expect = json!({"metadata": {"uid": "c", "annotations": {SELECTED_NODE: "a"}}});
        assert_eq!(patches(&made, &pod(&["c"]), "a"), [("c".to_owned(), expect)]);
        let asked = cluster(vec![claim("c", "made", None, json!({SELECTED_NODE: "a"}))], vec![]);
        assert!(VolumeBinding.waits(&pod(&["c"]), &asked) && patches(&asked, &pod(&["c"]), "a").is_empty());
        // The smallest that will do.
        let volumes = || vec![volume("big", "9Gi", "b"), volume("v", "2Gi", "b"), volume("small", "1Gi", "b")];
        let local = cluster(vec![claim("c", "local", None, json!({}))], volumes());
        let found = patches(&local, &pod(&["c"]), "b");
        assert_eq!((found.len(), found[0].0.as_str()), (1, "v"));
        assert_eq!(found[0].1["metadata"]["resourceVersion"], "7");
        assert_eq!(found[0].1["spec"]["claimRef"]["uid"], "c");
        let mut mine = volumes();
        mine[0]["spec"]["claimRef"] = json!({"namespace": "default", "name": "c", "uid": "c"});
        mine[1]["spec"]["claimRef"] = json!({"namespace": "default", "name": "other"});
        let claimed = cluster(vec![claim("c", "local", None, json!({}))], mine);
        assert!(VolumeBinding.waits(&pod(&["c"]), &claimed) && patches(&claimed, &pod(&["c"]), "b").is_empty());
        let bound = cluster(vec![claim("c", "local", Some("v"), json!({}))], volumes());
        assert!(!VolumeBinding.waits(&pod(&["c"]), &bound) && !VolumeBinding.waits(&pod(&[]), &bound));
        assert!(patches(&bound, &pod(&["c"]), "b").is_empty());
    }
}
