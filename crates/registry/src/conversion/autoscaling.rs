//! `autoscaling/v1 HorizontalPodAutoscaler` and the stored `v2`: v1 knows the CPU target alone; what else v2 says
//! travels in annotations.

use kybern_apimachinery::{Value, json, object};

use crate::tree::{drop_field, has, list, text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu_utilization(metric: &Value, side: &str) -> bool {
    text(metric, "type") == "Resource"
        && text(&metric["resource"], "name") == "cpu"
        && has(&metric["resource"][side], "averageUtilization")
}

fn take_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let text = object::remove(object, &["metadata", "annotations", key])?;
    serde_json::from_str(text.as_str()?).ok()
}

pub(super) fn to_v2(mut scaler: Value) -> Value {
    scaler["apiVersion"] = "autoscaling/v2".into();
    let others = [METRICS, CURRENT, CONDITIONS, BEHAVIOR].map(|key| take_annotation(&mut scaler, key));
    let [metrics, current, conditions, behavior] = others;
    let mut all = match metrics {
        Some(Value::Array(metrics)) => metrics,
        _ => Vec::new(),
    };
    if let Some(target) =
        object::remove(&mut scaler, &["spec", "targetCPUUtilizationPercentage"]).filter(|t| !t.is_null())
    {
        let target = json!({"type": "Utilization", "averageUtilization": target});
        all.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !all.is_empty() {
        scaler["spec"]["metrics"] = all.into();
    }
    if let Some(behavior) = behavior {
        scaler["spec"]["behavior"] = behavior;
    }
    let mut now = match current {
        Some(Value::Array(current)) => current,
        _ => Vec::new(),
    };
    if let Some(percent) =
        object::remove(&mut scaler, &["status", "currentCPUUtilizationPercentage"]).filter(|p| !p.is_null())
    {
        now.insert(
            0,
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}),
        );
    }
    if !now.is_empty() {
        scaler["status"]["currentMetrics"] = now.into();
    }
    if let Some(conditions) = conditions {
        scaler["status"]["conditions"] = conditions;
    }
    scaler
}

pub(super) fn from_v2(mut scaler: Value) -> Value {
    scaler["apiVersion"] = "autoscaling/v1".into();
    let mut annotate = Vec::new();
    for (part, field, side, v1, key) in [
        ("spec", "metrics", "target", "targetCPUUtilizationPercentage", METRICS),
        ("status", "currentMetrics", "current", "currentCPUUtilizationPercentage", CURRENT),
    ] {
        let mut all = list(&scaler[part], field).to_vec();
        if let Some(i) = all.iter().position(|m| is_cpu_utilization(m, side)) {
            let metric = all.remove(i);
            scaler[part][v1] = metric["resource"][side]["averageUtilization"].clone();
        }
        if !all.is_empty() {
            annotate.push((key, Value::Array(all)));
        }
        if scaler.get(part).is_some() {
            drop_field(&mut scaler[part], field);
        }
    }
    for (part, field, key) in [("status", "conditions", CONDITIONS), ("spec", "behavior", BEHAVIOR)] {
        if let Some(value) = object::remove(&mut scaler, &[part, field]).filter(|v| !v.is_null()) {
            annotate.push((key, value));
        }
    }
    for (key, value) in annotate {
        object::set(&mut scaler, &["metadata", "annotations", key], value.to_string());
    }
    if let Some(status) = scaler.get_mut("status").filter(|s| s.is_object()) {
        crate::tree::default(status, "currentReplicas", 0);
        crate::tree::default(status, "desiredReplicas", 0);
    }
    scaler
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_a_field_and_the_rest_annotations() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        let v2 = to_v2(v1.clone());
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(from_v2(v2.clone()), v1);
        let mut more = v2;
        more["spec"]["metrics"].as_array_mut().unwrap().push(json!({"type": "Pods", "pods": {}}));
        more["spec"]["behavior"] = json!({"scaleUp": {}});
        let back = from_v2(more.clone());
        assert_eq!(back["spec"]["targetCPUUtilizationPercentage"], 80);
        let mut again = to_v2(back);
        object::remove(&mut again, &["metadata", "annotations"]);
        assert_eq!(again, more);
    }
}
