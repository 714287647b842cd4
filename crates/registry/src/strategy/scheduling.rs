//! PriorityClass.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apiserver::strategy::Strategy;

use crate::tree::{flag, has, int, text};
use crate::validation::format;
use crate::validation::update::immutable;

/// The largest value that users may give; above are the system's classes.
pub(super) const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// What is wrong with a class whose name begins as those of the system.
fn system_class_fault(name: &str, value: i64, global_default: bool) -> Option<String> {
    if !name.starts_with("system-") {
        return None;
    }
    match SYSTEM_CLASSES.iter().find(|(class, _)| *class == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if value != *wanted => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if global_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PriorityClass;

impl Strategy for PriorityClass {
    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let name = kybern_apimachinery::object::name(class);
        let value = int(class, "value").unwrap_or(0);
        if let Some(fault) = system_class_fault(name, value, flag(class, "globalDefault")) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            out.push(FieldError::forbidden(&FieldPath::new("metadata.name"), format!("{detail}{fault}")));
        } else if !name.starts_with("system-") && value > HIGHEST_USER_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            out.push(FieldError::forbidden(&FieldPath::new("value"), detail));
        }
        if has(class, "preemptionPolicy") {
            let path = FieldPath::new("preemptionPolicy");
            let policies = ["PreemptLowerPriority", "Never"];
            format::required_one_of(&mut out, &path, text(class, "preemptionPolicy"), &policies);
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

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

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
