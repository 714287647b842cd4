//! A fake metrics source: the load of each namespace, shared out evenly among the pods of its Deployment "elastic", and the
//! rules of what is scaled by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{Value, json, object};
use parking_lot::Mutex;

use super::manifests::{ELASTIC, ELASTIC_MILLI_CPU};
use super::model::{Model, is_serving, node_of, number};

pub(super) const LEAST: i64 = 2;
pub(super) const MOST: i64 = 6;
/// What of its request each pod should use.
pub(super) const TARGET_PERCENT: i64 = 50;
/// Upstream's, and one for rounding.
const TOLERANCE: f64 = 0.12;

/// See the module.
pub(super) struct Load {
    model: Arc<Mutex<Model>>,
    clock: Arc<dyn Clock>,
    /// In thousandths of a core.
    of: Mutex<BTreeMap<String, i64>>,
}

impl Load {
    pub(super) fn new(model: Arc<Mutex<Model>>, clock: Arc<dyn Clock>) -> Self {
        Self { model, clock, of: Mutex::default() }
    }

    pub(super) fn set(&self, namespace: &str, milli_cpu: i64) {
        self.of.lock().insert(namespace.to_owned(), milli_cpu);
    }

    fn of(&self, namespace: &str) -> i64 {
        self.of.lock().get(namespace).copied().unwrap_or(0)
    }

    /// What `metrics.k8s.io` says of the pods of a namespace.
    pub(super) fn pod_metrics(&self, namespace: &str) -> Value {
        let model = self.model.lock();
        let serving: Vec<&Value> =
            model.all("pods").filter(|p| object::namespace(p) == namespace && is_elastic(p) && is_serving(p)).collect();
        let each = self.of(namespace) / (serving.len() as i64).max(1);
        let now = to_rfc3339(self.clock.now());
        let metrics = |pod: &&Value| {
            let usage = json!({"cpu": format!("{each}m"), "memory": "1Mi"});
            json!({"metadata": {"name": object::name(pod), "namespace": namespace, "labels": pod["metadata"]["labels"]},
                "timestamp": now, "window": "15s", "containers": [{"name": "c", "usage": usage}]})
        };
        let items: Vec<Value> = serving.iter().map(metrics).collect();
        json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items})
    }

    /// Names what does not have the size that its load calls for.
    pub(super) fn unsettled(&self, model: &Model, complaints: &mut Vec<String>) {
        for scaler in model.all("horizontalpodautoscalers") {
            let namespace = object::namespace(scaler);
            let here = |o: &&Value| object::namespace(o) == namespace;
            let target = model.all("deployments").filter(here).find(|d| object::name(d) == ELASTIC);
            let waits = model.all("pods").filter(here).any(|pod| is_elastic(pod) && node_of(pod).is_empty());
            let Some(target) = target.filter(|_| !waits) else { continue };
            let (size, load) = (number(target, &["spec", "replicas"]), self.of(namespace));
            let each = ELASTIC_MILLI_CPU * TARGET_PERCENT / 100;
            let wanted = ((load + each - 1) / each).clamp(LEAST, MOST);
            let is_near = (load as f64 / (size * each) as f64 - 1.0).abs() <= TOLERANCE;
            if size != wanted && !is_near {
                let (key, status) = (object::key(scaler), &scaler["status"]);
                complaints.push(format!("a load of {load}m calls for {wanted} pods, not {size}: {key} says {status}"));
            }
        }
    }
}

fn is_elastic(pod: &Value) -> bool {
    object::label(pod, "app") == Some(ELASTIC)
}

impl Model {
    /// Nobody but its autoscaler sizes it.
    pub(super) fn check_elastic(&mut self, key: &str, new: Option<&Value>) {
        let Some(new) = new.filter(|new| object::name(new) == ELASTIC) else { return };
        let size = number(new, &["spec", "replicas"]);
        if !(LEAST..=MOST).contains(&size) {
            self.violated(format!("{key} was sized {size}, where {LEAST} to {MOST} are allowed"));
        }
    }
}
