//! How fast the pure core places pods, in the shapes of upstream's `scheduler_perf` and beside its published floors: on 1,000
//! and on 5,000 nodes, so that it shows how the cost of a decision grows. `cargo bench -p kybern-scheduler [SHAPE]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kybern_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kybern_apimachinery::{Value, json};
use kybern_client::store::Cached;
use kybern_client::{Store, StoreWriter};
use kybern_scheduler::Profiles;
use kybern_scheduler::core::{Core, Decision};
use kybern_scheduler::node::Node;
use kybern_scheduler::pod::PodInfo;
use kybern_scheduler::stores::{ON_OFFER, Stores, offer};

const NODES: [usize; 2] = [1000, 5000];
/// The budget is so many times upstream's floor.
const TIMES: f64 = 10.0;
const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What is measured: so many pods beside others that are there before.
struct Shape {
    name: &'static str,
    /// Upstream's, in pods/s on 5,000 nodes.
    floor: Option<f64>,
    before: Pods,
    measured: Pods,
}

struct Pods {
    /// For each node.
    per_node: usize,
    /// On 5,000 nodes, whatever `per_node` says.
    most: usize,
    /// Each has a claim that is bound to a volume of its own.
    claims: bool,
    labels: Value,
    spec: Value,
}

fn requests(cpu: &str) -> Value {
    json!([{"name": "c", "image": "pause", "resources": {"requests": {"cpu": cpu, "memory": "500Mi"}}}])
}

fn pods(per_node: usize, most: usize, color: &str, mut spec: Value) -> Pods {
    if spec["containers"].is_null() {
        spec["containers"] = requests("100m");
    }
    Pods { per_node, most, claims: false, labels: json!({"color": color}), spec }
}

/// Affinity of a kind to pods of a color within a domain.
fn affinity(kind: &str, preferred: bool, color: &str, key: &str) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key});
    let terms = match preferred {
        true => {
            json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]})
        }
        false => json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]}),
    };
    json!({"affinity": {kind: terms}})
}

fn shapes() -> Vec<Shape> {
    let plain = || json!({});
    let some = |spec: Value, color: &str| pods(1, 1000, color, spec);
    let shape = |name, floor, before, measured| Shape { name, floor, before, measured };
    let spread = |when: &str| {
        let constraint = json!({"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"color": "blue"}}});
        json!({"topologySpreadConstraints": [constraint]})
    };
    let zones =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["z0", "z1"]}]}]});
    let near = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": zones}}});
    let huge = json!({"containers": requests("1000")});
    let large = |priority: i64| json!({"priority": priority, "containers": requests("900m")});
    let urgent = json!({"priority": 10, "containers": requests("3500m")});
    let alone = affinity("podAntiAffinity", false, "green", HOSTNAME);
    let together = affinity("podAffinity", false, "blue", ZONE);
    let rather = |kind: &str| affinity(kind, true, "red", HOSTNAME);
    vec![
        shape("basic", Some(680.0), some(plain(), "none"), pods(10, 10_000, "none", plain())),
        shape("node affinity", Some(220.0), some(near.clone(), "none"), pods(10, 10_000, "none", near)),
        shape("topology spread", Some(460.0), some(plain(), "none"), pods(1, 5000, "blue", spread("DoNotSchedule"))),
        shape(
            "preferred topology spread",
            None,
            some(plain(), "none"),
            pods(1, 5000, "blue", spread("ScheduleAnyway")),
        ),
        shape("required anti-affinity", Some(60.0), some(alone.clone(), "green"), pods(1, 2000, "blue", alone)),
        shape("required affinity", Some(35.0), some(together.clone(), "blue"), pods(1, 5000, "blue", together)),
        shape(
            "preferred anti-affinity",
            Some(90.0),
            some(rather("podAntiAffinity"), "red"),
            pods(1, 5000, "red", rather("podAntiAffinity")),
        ),
        shape(
            "preferred affinity",
            Some(90.0),
            some(rather("podAffinity"), "red"),
            pods(1, 5000, "red", rather("podAffinity")),
        ),
        shape("unschedulable churn", None, pods(1, 200, "none", huge), pods(10, 10_000, "none", plain())),
        shape(
            "gates",
            None,
            pods(10, 10_000, "none", json!({"schedulingGates": [{"name": "g"}]})),
            pods(10, 10_000, "none", plain()),
        ),
        shape(
            "volumes",
            None,
            some(plain(), "none"),
            Pods { claims: true, ..pods(1, 5000, "none", json!({"volumes": [{"name": "data"}]})) },
        ),
        shape("preemption", None, pods(4, 20_000, "none", large(0)), pods(1, 5000, "none", urgent)),
    ]
}

/// The state machine and its clock, which is moved on to the next deadline where there is nothing to do.
struct Run {
    core: Core,
    claims: StoreWriter<PersistentVolumeClaim>,
    volumes: StoreWriter<PersistentVolume>,
    now: Duration,
    made: usize,
    placed: usize,
}

impl Run {
    fn new(nodes: usize) -> Self {
        let (claims, claims_writer) = Store::new([]);
        let (volumes, volumes_writer) = Store::new([(ON_OFFER, offer as fn(&PersistentVolume) -> Vec<String>)]);
        let mut core = Core::new(Profiles::default(), Stores { claims, volumes, ..Stores::default() });
        for n in 0..nodes {
            let name = format!("node-{n}");
            let labels = json!({ZONE: format!("z{}", n % 3), HOSTNAME: name});
            let allocatable = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
            let node = json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}});
            core.set_node(Arc::new(Node::decode(node.to_string().as_bytes()).expect("a node")), Duration::ZERO);
        }
        let (claims, volumes) = (claims_writer, volumes_writer);
        Self { core, claims, volumes, now: Duration::ZERO, made: 0, placed: 0 }
    }

    fn create(&mut self, pods: &Pods, count: usize) -> usize {
        for _ in 0..count {
            self.made += 1;
            let name = format!("pod-{}", self.made);
            let metadata = json!({"name": name, "namespace": "default", "uid": name, "labels": pods.labels});
            let mut pod = json!({"metadata": metadata, "spec": pods.spec, "status": {"phase": "Pending"}});
            if pods.claims {
                pod["spec"]["volumes"][0]["persistentVolumeClaim"] = json!({"claimName": name});
                self.bind_volume(&name);
            }
            self.core.set_pod(Arc::new(PodInfo::decode(pod.to_string().as_bytes()).expect("a pod")), self.now);
        }
        count
    }

    fn bind_volume(&self, name: &str) {
        let claim = json!({"metadata": {"name": name, "namespace": "default", "uid": name,
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": name}, "status": {"phase": "Bound"}});
        let volume = json!({"metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": name},
                "claimRef": {"namespace": "default", "name": name, "uid": name}},
            "status": {"phase": "Bound"}});
        self.claims.upsert(Cached::decode(claim.to_string().as_bytes()).expect("a claim"));
        self.volumes.upsert(Cached::decode(volume.to_string().as_bytes()).expect("a volume"));
    }

    /// Schedules until so many more pods are bound, or none can be; answers how long each decision took.
    fn place(&mut self, count: usize) -> Vec<Duration> {
        let (mut took, mut bound) = (Vec::with_capacity(count), 0);
        while bound < count {
            let start = Instant::now();
            let Some(decision) = self.core.schedule_next(self.now) else {
                let Some(next) = self.core.next_deadline() else { return took };
                // What is looked at again every five minutes only is not waited for.
                if next > self.now + Duration::from_secs(60) {
                    return took;
                }
                self.now = self.now.max(next);
                self.core.tick(self.now);
                continue;
            };
            match decision {
                Decision::Bind { pod, node, .. } => {
                    self.core.bound(&pod, &node, true, self.now);
                    self.placed += 1;
                    bound += 1;
                }
                Decision::Unschedulable { pod, remedy, .. } => {
                    self.core.preempted(&pod, [], self.now);
                    for victim in remedy.victims {
                        self.core.remove_pod(&victim.uid, self.now);
                    }
                }
                Decision::Prepare { .. } | Decision::Ask { .. } | Decision::Failed { .. } => {
                    unreachable!("there are no volumes and no extenders")
                }
            }
            took.push(start.elapsed());
        }
        took
    }
}

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    println!("{:<26} {:>6} {:>6} {:>9} {:>9} {:>9}  budget", "shape", "nodes", "pods", "pods/s", "p50", "p99");
    for shape in shapes() {
        if wanted.as_ref().is_some_and(|wanted| !shape.name.contains(wanted.as_str())) {
            continue;
        }
        for nodes in NODES {
            let mut run = Run::new(nodes);
            // Beforehand so many fewer on fewer nodes: they must leave room of every kind.
            let before = (shape.before.per_node * nodes).min(shape.before.most * nodes / NODES[1]);
            let before = run.create(&shape.before, before);
            run.place(before);
            let count = run.create(&shape.measured, (shape.measured.per_node * nodes).min(shape.measured.most));
            let (start, placed) = (Instant::now(), run.placed);
            let mut took = run.place(count);
            let elapsed = start.elapsed();
            let placed = run.placed - placed;
            took.sort();
            let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
            let rate = placed as f64 / elapsed.as_secs_f64();
            let budget = shape.floor.filter(|_| nodes == 5000).map_or(String::new(), |floor| {
                let met = if rate >= floor * TIMES { "met" } else { "MISSED" };
                format!("{:.0}: {met}, {:.1} times upstream's floor", floor * TIMES, rate / floor)
            });
            println!(
                "{:<26} {nodes:>6} {placed:>6} {rate:>9.0} {:>9.1?} {:>9.1?}  {budget}",
                shape.name,
                at(50),
                at(99)
            );
        }
    }
}
