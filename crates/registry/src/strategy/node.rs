//! Nodes and leases.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::label_key;
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{has, int, list, text};
use crate::validation::{format, scheduling};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Node;

impl Strategy for Node {
    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, node: &mut Value) {
        object::map_at_mut(node, &["spec"]);
        object::map_at_mut(node, &["status"]);
    }

    fn validate(&self, node: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &node["spec"], FieldPath::new("spec"));
        scheduling::taints(&mut out, &path, spec);
        for (i, range) in list(spec, "podCIDRs").iter().enumerate() {
            let text = range.as_str().unwrap_or("");
            if text.parse::<ipnet::IpNet>().is_err() {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                out.push(FieldError::invalid(&path.child("podCIDRs").index(i), text, detail));
            }
        }
        out
    }

    fn validate_update(&self, node: &Value, old: &Value) -> Vec<FieldError> {
        let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
        for field in ["podCIDR", "providerID"] {
            let (new, old) = (text(&node["spec"], field), text(&old["spec"], field));
            if !old.is_empty() && new != old {
                out.push(FieldError::forbidden(
                    &path.child(field),
                    "node updates may not change this field except from \"\" to valid",
                ));
            }
        }
        out
    }
}

/// Never stored, hence without rules.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 ComponentStatus is deprecated in v1.19+")
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease;

impl Strategy for Lease {
    fn validate(&self, lease: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &lease["spec"], FieldPath::new("spec"));
        if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
            out.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        format::not_negative(&mut out, &path.child("leaseTransitions"), int(spec, "leaseTransitions"));
        let strategy = text(spec, "strategy");
        if has(spec, "strategy") {
            // Upstream names the field twice.
            let path = path.child("strategy").child("strategy");
            if strategy.contains('/') {
                format::invalid(&mut out, &path, strategy, label_key(strategy));
            } else {
                format::one_of(&mut out, &path, strategy, &["OldestEmulationVersion"]);
            }
        }
        if !text(spec, "preferredHolder").is_empty() && strategy.is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            out.push(FieldError::forbidden(&path.child("preferredHolder"), detail));
        }
        out
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn taints_are_unique_and_ranges_stay() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        assert!(Node.validate(&json!({"spec": {"taints": [taint]}})).is_empty());
        let text = Node.validate(&json!({"spec": {"taints": [taint, taint]}}))[0].to_string();
        assert!(text.ends_with("taints must be unique by key and effect pair"), "{text}");
        let spec = |range: &str| json!({"spec": {"podCIDR": range}});
        assert!(Node.validate_update(&spec("10.0.0.0/24"), &spec("")).is_empty());
        assert_eq!(Node.validate_update(&spec("10.0.1.0/24"), &spec("10.0.0.0/24")).len(), 1);
    }
}
