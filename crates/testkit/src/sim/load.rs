//! A fake metrics source: the load of each namespace, shared out evenly among the pods of its Deployment "elastic", and the
//! rules of what is scaled by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{Value, json, object};
use parking_lot::Mutex;

use super::manifests::{ELASTIC, ELASTIC_MILLI_CPU};
use super::model::{Model, is_serving, number};

pub(super) const LEAST: i64 = 2;
pub(super) const MOST: i64 = 6;
/// What of its request each pod should use.
pub(super) const TARGET_PERCENT: i64 = 50;
/// How far usage may be from its target, in parts of that, before something is done.
const TOLERANCE: f64 = 0.1;

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
            let Some(target) = target else { continue };
            let pods = model.all("pods").filter(here).filter(|pod| is_elastic(pod) && !object::is_deleting(pod));
            let (serving, waiting): (Vec<_>, Vec<_>) = pods.partition(|pod| is_serving(pod));
            let (size, load) = (number(target, &["spec", "replicas"]), self.of(namespace));
            let wanted = called_for(load, size, serving.len() as i64, waiting.len() as i64);
            if size != wanted {
                let (key, status) = (object::key(scaler), &scaler["status"]);
                let pods = format!("with {} pods that serve and {} that wait", serving.len(), waiting.len());
                complaints
                    .push(format!("a load of {load}m {pods} calls for {wanted} pods, not {size}: {key} says {status}"));
            }
        }
    }
}

/// The size that an autoscaler leaves as it is: its own where that is near enough, or where nothing can be measured.
fn called_for(load: i64, size: i64, serving: i64, waiting: i64) -> i64 {
    if serving == 0 {
        return size;
    }
    let used = load / serving * serving;
    let ratio = |pods: i64| (used * 100 / (pods * ELASTIC_MILLI_CPU)) as f64 / TARGET_PERCENT as f64;
    let is_near = |ratio: f64| (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio);
    let (mut pods, mut now) = (serving, ratio(serving));
    if now > 1.0 && waiting > 0 {
        // Those that wait will have their share.
        (pods, now) = (serving + waiting, ratio(serving + waiting));
        if now < 1.0 {
            return size;
        }
    }
    let wanted = if is_near(now) { size } else { (now * pods as f64).ceil() as i64 };
    wanted.clamp(LEAST, MOST)
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

#[cfg(test)]
mod tests {
    use super::called_for;

    #[test]
    fn what_a_load_calls_for() {
        // Each should use 50m.
        let cases = [
            ("nothing to do", 0, 2, 2, 0, 2),
            ("too many for nothing", 0, 5, 5, 0, 2),
            ("too few", 200, 2, 2, 0, 4),
            ("near enough, above and below", 110, 2, 2, 0, 2),
            ("near enough below", 270, 6, 6, 0, 6),
            ("more than it may have", 900, 3, 3, 0, 6),
            ("none serves, so nothing is measured", 900, 3, 0, 3, 3),
            ("those that wait are what is lacking", 200, 4, 2, 2, 4),
            ("even with those that wait there are too few", 300, 4, 2, 2, 6),
            ("fewer than those that wait would do", 100, 6, 1, 5, 6),
            ("those that serve have too little to do, whoever waits", 100, 6, 5, 1, 2),
        ];
        for (name, load, size, serving, waiting, wanted) in cases {
            assert_eq!(called_for(load, size, serving, waiting), wanted, "{name}");
        }
    }
}
