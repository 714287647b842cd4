//! Priorities, disruption budgets, autoscalers.

use super::cell::Printer;
use kybern_apimachinery::Value;

use super::cell::{age, boolean, count, integer, name, object_name, string};
use crate::tree::{flag, has, int, list, text};

pub(super) const PRIORITY_CLASSES: Printer = Printer {
    definitions: &[name(), integer("Value"), boolean("Global-Default"), string("Age"), string("PreemptionPolicy")],
    cells: |c, now| {
        let policy = text(c, "preemptionPolicy");
        let default = flag(c, "globalDefault").into();
        vec![object_name(c), int(c, "value").unwrap_or(0).into(), default, age(c, now), policy.into()]
    },
};

pub(super) const DISRUPTION_BUDGETS: Printer = Printer {
    definitions: &[
        name(),
        string("Min Available"),
        string("Max Unavailable"),
        integer("Allowed Disruptions"),
        string("Age"),
    ],
    cells: |b, now| {
        let bound = |field: &str| if has(&b["spec"], field) { plain(&b["spec"][field]).into() } else { "N/A".into() };
        vec![
            object_name(b),
            bound("minAvailable"),
            bound("maxUnavailable"),
            count(b, &["status", "disruptionsAllowed"]).into(),
            age(b, now),
        ]
    },
};

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) const AUTOSCALERS: Printer = Printer {
    definitions: &[
        name(),
        string("Reference"),
        string("Targets"),
        string("MinPods"),
        string("MaxPods"),
        string("Replicas"),
        string("Age"),
    ],
    cells: |h, now| {
        let (spec, target) = (&h["spec"], &h["spec"]["scaleTargetRef"]);
        let least = int(spec, "minReplicas").map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
        vec![
            object_name(h),
            format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
            targets(h).into(),
            least.into(),
            int(spec, "maxReplicas").unwrap_or(0).into(),
            count(h, &["status", "currentReplicas"]).into(),
            age(h, now),
        ]
    },
};

/// `cpu: 10%/80%`, two at most.
fn targets(scaler: &Value) -> String {
    let (wanted, current) = (list(&scaler["spec"], "metrics"), list(&scaler["status"], "currentMetrics"));
    if wanted.is_empty() {
        return "<none>".to_owned();
    }
    let one = |(i, metric): (usize, &Value)| {
        let kind = text(metric, "type");
        let field = format!("{}{}", kind[..kind.len().min(1)].to_lowercase(), kind.get(1..).unwrap_or(""));
        let source = &metric[&field];
        let target = &source["target"];
        let now = current.get(i).map_or(&Value::Null, |c| &c[&field]["current"]);
        let (unit, percent) =
            if has(target, "averageUtilization") { ("averageUtilization", "%") } else { ("averageValue", "") };
        let unit = if has(target, "value") { "value" } else { unit };
        let show =
            |v: &Value| if has(v, unit) { format!("{}{percent}", plain(&v[unit])) } else { "<unknown>".to_owned() };
        let name = match text(source, "name") {
            "" => String::new(),
            name => format!("{name}: "),
        };
        format!("{name}{}/{}", show(now), show(target))
    };
    let shown: Vec<String> = wanted.iter().enumerate().take(2).map(one).collect();
    let more = wanted.len() - shown.len();
    if more > 0 { format!("{} + {more} more...", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn an_autoscaler_shows_its_targets() {
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let current = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10}}});
        assert_eq!(
            targets(&json!({"spec": {"metrics": [metric]}, "status": {"currentMetrics": [current]}})),
            "cpu: 10%/80%"
        );
        assert_eq!(targets(&json!({"spec": {"metrics": [metric]}})), "cpu: <unknown>/80%");
    }
}
