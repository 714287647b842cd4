//! PriorityClass, PodDisruptionBudget, HorizontalPodAutoscaler, LimitRange, ResourceQuota.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::status::reset_status;
use crate::tree::{has, int, list, map, text};
use crate::validation::resources::quantity;
use crate::validation::update::immutable;
use crate::validation::{format, meta};

/// The largest value that users may give; above are the system's classes.
pub(super) const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PriorityClass;

impl Strategy for PriorityClass {
    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let name = kybern_apimachinery::object::name(class);
        let value = int(class, "value").unwrap_or(0);
        let system = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        if name.starts_with("system-") && !system.contains(&(name, value)) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            out.push(FieldError::forbidden(
                &FieldPath::new("metadata.name"),
                format!("{detail}{name} is not one of the system's classes"),
            ));
        } else if !name.starts_with("system-") && value > HIGHEST_USER_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            out.push(FieldError::forbidden(&FieldPath::new("value"), detail));
        }
        if has(class, "preemptionPolicy") {
            let path = FieldPath::new("preemptionPolicy");
            format::one_of(&mut out, &path, text(class, "preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
        }
        out
    }

    fn validate_update(&self, class: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if int(class, "value") != int(old, "value") {
            out.push(FieldError::forbidden(&FieldPath::new("value"), "may not be changed in an update."));
        }
        immutable(
            &mut out,
            &FieldPath::new("preemptionPolicy"),
            class.get("preemptionPolicy"),
            old.get("preemptionPolicy"),
        );
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, budget: &mut Value) {
        budget["status"] =
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    }

    fn validate(&self, budget: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &budget["spec"], FieldPath::new("spec"));
        if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
            out.push(FieldError::invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set"));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            if has(spec, field) {
                format::count_or_percent(&mut out, &path.child(field), &spec[field]);
            }
        }
        meta::selector(&mut out, &path.child("selector"), &spec["selector"]);
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, scaler: &mut Value) {
        scaler["status"] = json!({"desiredReplicas": 0, "currentMetrics": null});
    }

    fn validate(&self, scaler: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &scaler["spec"], FieldPath::new("spec"));
        let (least, most) = (int(spec, "minReplicas").unwrap_or(1), int(spec, "maxReplicas").unwrap_or(0));
        if least < 1 {
            out.push(FieldError::invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1"));
        }
        if most < 1 {
            out.push(FieldError::invalid(&path.child("maxReplicas"), most, "must be greater than 0"));
        } else if most < least {
            out.push(FieldError::invalid(
                &path.child("maxReplicas"),
                most,
                "must be greater than or equal to `minReplicas`",
            ));
        }
        for field in ["kind", "name"] {
            if text(&spec["scaleTargetRef"], field).is_empty() {
                out.push(FieldError::required(&path.child("scaleTargetRef").child(field), ""));
            }
        }
        out
    }
}

/// `hard` of a quota and the amounts of a limit range: quantities that are not negative.
fn amounts(out: &mut Vec<FieldError>, path: &FieldPath, owner: &Value, field: &str) {
    for (name, amount) in map(owner, field) {
        if quantity(amount).is_none_or(|q| q.is_negative()) {
            out.push(FieldError::invalid(
                &path.child(field).key(name),
                amount.clone(),
                "must be greater than or equal to 0",
            ));
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LimitRange;

impl Strategy for LimitRange {
    fn validate(&self, range: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let mut seen = Vec::new();
        for (i, limit) in list(&range["spec"], "limits").iter().enumerate() {
            let path = FieldPath::new("spec.limits").index(i);
            let kind = text(limit, "type");
            if seen.contains(&kind) {
                out.push(FieldError::duplicate(&path.child("type"), kind));
            }
            seen.push(kind);
            for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                amounts(&mut out, &path, limit, field);
            }
            for (name, least) in map(limit, "min") {
                let most = limit["max"].get(name);
                if let (Some(least), Some(most)) = (quantity(least), most.and_then(quantity))
                    && least > most
                {
                    let detail = format!("min value {least} is greater than max value {most}");
                    out.push(FieldError::invalid(&path.child("min").key(name), least.to_string(), detail));
                }
            }
        }
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, quota: &mut Value) {
        reset_status(quota);
    }

    fn validate(&self, quota: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        amounts(&mut out, &FieldPath::new("spec"), &quota["spec"], "hard");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_of_the_system_are_its_own() {
        let class =
            |name: &str, value: i64| PriorityClass.validate(&json!({"metadata": {"name": name}, "value": value})).len();
        assert_eq!(class("high", 1_000_000_000), 0);
        assert_eq!(class("high", 1_000_000_001), 1);
        assert_eq!(class("system-mine", 1), 1);
        assert_eq!(class("system-node-critical", 2_000_001_000), 0);
    }
}
