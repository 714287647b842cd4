//! A pod's quality-of-service class (`pkg/apis/core/v1/helper/qos`).

use kybern_apimachinery::Value;
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::tree::{list, map};

/// `Guaranteed`: every container limits CPU and memory and requests as much; `BestEffort`: none asks for anything;
/// `Burstable`: the rest.
pub fn class(spec: &Value) -> &'static str {
    let pod_level = spec.get("resources").filter(|r| ["requests", "limits"].iter().any(|p| map(r, p).next().is_some()));
    let none = Value::Null;
    let units: Vec<&Value> = match pod_level {
        Some(resources) => vec![resources],
        None => ["containers", "initContainers"]
            .iter()
            .flat_map(|f| list(spec, f))
            .map(|c| c.get("resources").unwrap_or(&none))
            .collect(),
    };
    let amount = |unit: &Value, part: &str, name: &str| {
        unit.get(part)?.get(name).and_then(Quantity::of).filter(|q| !q.is_zero())
    };
    let (mut any, mut guaranteed) = (false, true);
    for unit in units {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(unit, "requests", name), amount(unit, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &=
                limit.is_some_and(|l| request.is_none_or(|r| r.partial_cmp(&l) == Some(std::cmp::Ordering::Equal)));
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn classes() {
        let check = |resources: Value, expect: &str| {
            assert_eq!(class(&json!({"containers": [{"resources": resources}]})), expect, "{resources}");
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(json!({"requests": {"cpu": "0"}}), "BestEffort");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
        check(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
            "Guaranteed",
        );
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Mi"}}), "Burstable");
        assert_eq!(
            class(&json!({"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {}]})),
            "Burstable"
        );
    }
}
