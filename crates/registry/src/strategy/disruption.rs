//! PodDisruptionBudget.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{has, int, text};
use crate::validation::names::path_segment;
use crate::validation::{conditions, format, meta};

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
                let path = path.child(field);
                format::count_or_percent(&mut out, &path, &spec[field]);
                let percent = spec[field].as_str().and_then(|text| text.strip_suffix('%'));
                if percent.and_then(|p| p.parse::<u64>().ok()).is_some_and(|p| p > 100) {
                    out.push(FieldError::invalid(&path, spec[field].clone(), "must not be greater than 100%"));
                }
            }
        }
        meta::selector(&mut out, &path.child("selector"), &spec["selector"]);
        if has(spec, "unhealthyPodEvictionPolicy") {
            let policy = text(spec, "unhealthyPodEvictionPolicy");
            let path = path.child("unhealthyPodEvictionPolicy");
            format::one_of(&mut out, &path, policy, &["AlwaysAllow", "IfHealthyBudget"]);
        }
        out
    }

    /// Upstream looks at its name no closer than it has to.
    fn validate_name(&self, name: &str) -> Vec<String> {
        path_segment(name)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// `status`: conditions are well-formed, and counts not negative.
pub(super) fn validate_status(budget: &Value, _old: &Value) -> Vec<FieldError> {
    let (mut out, status, path) = (Vec::new(), &budget["status"], FieldPath::new("status"));
    conditions::validate(&mut out, &path, status);
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        format::not_negative(&mut out, &path.child(field), int(status, field));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bound_of_at_most_all() {
        let texts = |spec: Value| PodDisruptionBudget.validate(&json!({"spec": spec})).len();
        assert_eq!(texts(json!({"minAvailable": "100%"})), 0);
        assert_eq!(texts(json!({"minAvailable": "101%"})), 1);
        assert_eq!(texts(json!({"minAvailable": 1, "maxUnavailable": 1})), 1);
    }
}
