//! Builders of objects, and a world of stores to reconcile in.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use kybern_api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use kybern_api::core::v1::{ContainerStatus, Namespace, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec};
use kybern_api::meta::v1::{LabelSelector, ObjectMeta, Time};
use kybern_api::{Object, owner};
use kybern_apimachinery::object::{self, set};
use kybern_apimachinery::{Gvr, Value};
use kybern_client::{ApiResource, PartialMetadata, Patch, Store, StoreWriter};

use crate::controller::{Context, Controller, Failure, Op, Plan};
use crate::inventory::Inventory;
use crate::pods::trimmed::trim;
use crate::snapshot::{Snapshot, Writers};

/// The time it is in tests, seconds.
pub(crate) const NOW: i64 = 1_800_000_000;

pub(crate) fn now() -> Timestamp {
    at(NOW)
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) writers: Writers,
    /// By resource name.
    pub(crate) inventory: HashMap<String, StoreWriter<PartialMetadata>>,
    pub(crate) now: Timestamp,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_resources([])
    }

    pub(crate) fn with_resources(resources: impl IntoIterator<Item = ApiResource>) -> Self {
        let (inventory, inventory_writers) = Inventory::for_test(resources);
        let (snapshot, writers) = Snapshot::for_test(inventory);
        Self { snapshot, writers, inventory: inventory_writers, now: now() }
    }

    pub(crate) fn reconcile(&self, controller: &impl Controller, key: &str) -> Plan {
        self.run(controller, key, None)
    }

    pub(crate) fn reconcile_after(&self, controller: &impl Controller, key: &str, failure: Failure) -> Plan {
        self.run(controller, key, Some(failure))
    }

    /// Carries out a plan on the workloads of this world, as the API server would.
    pub(crate) fn apply(&self, plan: &Plan) {
        let (snapshot, writers) = (&self.snapshot, &self.writers);
        for op in flat(plan) {
            apply_to(op, &snapshot.deployments, &writers.deployments);
            apply_to(op, &snapshot.replica_sets, &writers.replica_sets);
            apply_to(op, &snapshot.revisions, &writers.revisions);
            apply_to(op, &snapshot.stateful_sets, &writers.stateful_sets);
            apply_to(op, &snapshot.claims, &writers.claims);
            apply_to(op, &snapshot.jobs, &writers.jobs);
            apply_to(op, &snapshot.cron_jobs, &writers.cron_jobs);
            apply_to(op, &snapshot.budgets, &writers.budgets);
        }
    }

    fn run(&self, controller: &impl Controller, key: &str, failure: Option<Failure>) -> Plan {
        let context = Context { now: self.now, started: at(NOW - 100_000), failure };
        // A controller sees of pods what its store keeps; tests look at all of them.
        let whole = self.snapshot.pods.list();
        for pod in &whole {
            let mut kept = (**pod).clone();
            trim(&mut kept);
            self.writers.pods.upsert(kept);
        }
        let plan = controller.reconcile(key, &self.snapshot, &context);
        whole.iter().for_each(|pod| self.writers.pods.upsert((**pod).clone()));
        plan
    }
}

/// One operation on one store. A resourceVersion that is not the present one is a conflict.
fn apply_to<K: Object>(op: &Op, store: &Store<K>, writer: &StoreWriter<K>) {
    let get = |namespace: &str, name: &str| {
        let object = store.get_in(namespace, name).expect("a plan writes what there is");
        serde_json::from_slice::<Value>(&object.to_json()).unwrap()
    };
    let write = |mut object: Value| {
        let version = store.resource_version() + 1;
        set(&mut object, &["metadata", "resourceVersion"], version.to_string());
        let name = object::name(&object).to_owned();
        if object::uid(&object).is_empty() {
            set(&mut object, &["metadata", "uid"], format!("uid-{name}"));
        }
        writer.upsert(K::from_json(object.to_string().as_bytes()).unwrap());
    };
    match op {
        Op::Create { gvr, namespace, body, .. } if *gvr == K::gvr() => {
            let object: Value = serde_json::from_slice(body).unwrap();
            assert!(store.get_in(namespace, object::name(&object)).is_none(), "created twice");
            write(object);
        }
        Op::Put { gvr, namespace, name, subresource: Some("status"), body } if *gvr == K::gvr() => {
            let mut object = get(namespace, name);
            let new: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(object::resource_version(&object), object::resource_version(&new), "conflict");
            object["status"] = new["status"].clone();
            // Servers keep labels and the spec as they are.
            if let Some(annotations) = new["metadata"].get("annotations") {
                object["metadata"]["annotations"] = annotations.clone();
            }
            write(object);
        }
        Op::Put { gvr, namespace, name, subresource: None, body } if *gvr == K::gvr() => {
            let new: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(object::resource_version(&get(namespace, name)), object::resource_version(&new), "conflict");
            write(new);
        }
        Op::Patch { gvr, namespace, name, patch: Patch::Merge(patch), .. } if *gvr == K::gvr() => {
            let mut object = get(namespace, name);
            if let Some(version) = patch["metadata"]["resourceVersion"].as_str() {
                assert_eq!(object::resource_version(&object), version, "conflict");
            }
            let generation = object::generation(&object) + i64::from(patch.get("spec").is_some());
            merge(&mut object, patch);
            set(&mut object, &["metadata", "generation"], generation);
            write(object);
        }
        Op::Delete { gvr, namespace, name, .. } if *gvr == K::gvr() => {
            writer.remove(&object::key_of(namespace, name), &(store.resource_version() + 1).to_string());
        }
        _ => {}
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        let map = object::map_at_mut(target, &[]);
        match value {
            Value::Null => drop(map.remove(key)),
            value => merge(map.entry(key).or_insert(Value::Null), value),
        }
    }
}

pub(crate) fn resource(group: &str, name: &str, kind: &str, namespaced: bool) -> ApiResource {
    let verbs = ["get", "list", "watch", "delete", "deletecollection"].map(str::to_owned).to_vec();
    ApiResource { gvr: Gvr::new(group, "v1", name), kind: kind.into(), namespaced, verbs }
}

pub(crate) fn flat(plan: &Plan) -> Vec<&Op> {
    fn walk<'a>(ops: &'a [Op], all: &mut Vec<&'a Op>) {
        for op in ops {
            match op {
                Op::SlowStart(ops) => walk(ops, all),
                op => all.push(op),
            }
        }
    }
    let mut all = Vec::new();
    walk(&plan.ops, &mut all);
    all
}

/// The objects of a kind that a plan creates.
pub(crate) fn created<K: Object>(plan: &Plan) -> Vec<K> {
    let of_kind = |op: &&Op| match op {
        Op::Create { gvr, body, .. } if *gvr == K::gvr() => Some(K::from_json(body).unwrap()),
        _ => None,
    };
    flat(plan).iter().filter_map(of_kind).collect()
}

/// The names of the objects that a plan deletes.
pub(crate) fn deleted(plan: &Plan) -> Vec<String> {
    let name = |op: &&Op| match op {
        Op::Delete { name, .. } => Some(name.clone()),
        _ => None,
    };
    flat(plan).iter().filter_map(name).collect()
}

/// The object whose status a plan writes; of a patch, what it says.
pub(crate) fn status_of<K: Object>(plan: &Plan) -> Option<K> {
    flat(plan).iter().find_map(|op| match op {
        Op::Patch { gvr, subresource: Some("status"), patch: Patch::Strategic(patch), .. } if *gvr == K::gvr() => {
            Some(K::from_json(patch.to_string().as_bytes()).unwrap())
        }
        Op::Put { gvr, subresource: Some("status"), body, .. } if *gvr == K::gvr() => Some(K::from_json(body).unwrap()),
        _ => None,
    })
}

/// The objects of a kind that a plan writes whole.
pub(crate) fn updated<K: Object>(plan: &Plan) -> Vec<K> {
    let of_kind = |op: &&Op| match op {
        Op::Put { gvr, subresource: None, body, .. } if *gvr == K::gvr() => Some(K::from_json(body).unwrap()),
        _ => None,
    };
    flat(plan).iter().filter_map(of_kind).collect()
}

/// The events of a plan, as `reason: message`.
pub(crate) fn events(plan: &Plan) -> Vec<String> {
    let event = |op: &&Op| match op {
        Op::Event { reason, message, .. } => Some(format!("{reason}: {message}")),
        _ => None,
    };
    flat(plan).iter().filter_map(event).collect()
}

pub(crate) fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("default".into()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("1".into()),
        creation_timestamp: Some(Time(at(NOW - 10_000))),
        ..ObjectMeta::default()
    }
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace { metadata: ObjectMeta { namespace: None, ..meta(name) }, ..Namespace::default() }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(crate) fn template(app: &str, image: &str) -> PodTemplateSpec {
    let container =
        kybern_api::core::v1::Container { name: "main".into(), image: Some(image.into()), ..Default::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(&[("app", app)])), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

pub(crate) fn selector(app: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(&[("app", app)])), match_expressions: None }
}

pub(crate) fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    let spec = ReplicaSetSpec {
        replicas: Some(replicas),
        selector: selector(name),
        template: Some(template(name, "nginx:1.14")),
        min_ready_seconds: None,
    };
    ReplicaSet { metadata: meta(name), spec: Some(spec), status: None }
}

pub(crate) fn pod(name: &str) -> PodBuilder {
    let status = PodStatus { phase: Some("Running".into()), ..PodStatus::default() };
    PodBuilder(Pod { metadata: meta(name), spec: Some(PodSpec::default()), status: Some(status) })
}

pub(crate) struct PodBuilder(Pod);

impl From<Pod> for PodBuilder {
    fn from(pod: Pod) -> Self {
        Self(pod)
    }
}

impl PodBuilder {
    pub(crate) fn build(self) -> Pod {
        self.0
    }
    fn status(&mut self) -> &mut PodStatus {
        self.0.status.get_or_insert_default()
    }
    pub(crate) fn uid(mut self, uid: &str) -> Self {
        self.0.metadata.uid = Some(uid.into());
        self
    }
    pub(crate) fn node(mut self, node: &str) -> Self {
        self.0.spec.get_or_insert_default().node_name = Some(node.into()).filter(|n: &String| !n.is_empty());
        self
    }
    pub(crate) fn phase(mut self, phase: &str) -> Self {
        self.status().phase = Some(phase.into());
        self
    }
    pub(crate) fn ip(mut self, ip: &str) -> Self {
        self.status().pod_ip = Some(ip.into());
        self.status().pod_ips = Some(vec![kybern_api::core::v1::PodIP { ip: ip.into() }]);
        self
    }
    pub(crate) fn ready_at(mut self, seconds: i64) -> Self {
        let ready = PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(at(seconds))),
            ..PodCondition::default()
        };
        self.status().conditions = Some(vec![ready]);
        self
    }
    pub(crate) fn not_ready(mut self) -> Self {
        self.status().conditions = None;
        self
    }
    pub(crate) fn restarts(mut self, restart_count: i32) -> Self {
        self.status().container_statuses = Some(vec![ContainerStatus { restart_count, ..ContainerStatus::default() }]);
        self
    }
    pub(crate) fn created_at(mut self, seconds: i64) -> Self {
        self.0.metadata.creation_timestamp = Some(Time(at(seconds)));
        self
    }
    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
        self
    }
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.into(), value.into());
        self
    }
    pub(crate) fn owned_by<K: Object>(mut self, owner: &K) -> Self {
        self.0.metadata.owner_references = Some(vec![owner::controller_ref(owner)]);
        self
    }
    pub(crate) fn deleting(mut self) -> Self {
        self.0.metadata.deletion_timestamp = Some(Time(now()));
        self
    }
}
