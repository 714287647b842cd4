//! ResourceQuota.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::status::reset_status;
use crate::tree::{has, list, map, text};
use crate::validation::Errors;
use crate::validation::resources::{is_quota_name, quota_amount};

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Scopes of which a selector can only say that a pod has it.
const EXISTING: [&str; 5] =
    ["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "Terminating"];

const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, quota: &mut Value) {
        reset_status(quota);
    }

    fn validate(&self, quota: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Errors::new(), &quota["spec"], FieldPath::new("spec"));
        amounts(&mut out, &path, spec, "hard");
        scopes(&mut out, &path, spec);
        if has(spec, "scopeSelector") {
            selector(&mut out, &path, spec);
        }
        out
    }

    fn validate_update(&self, quota: &Value, old: &Value) -> Vec<FieldError> {
        let (new, before) = (list(&quota["spec"], "scopes"), list(&old["spec"], "scopes"));
        let same = new.iter().all(|scope| before.contains(scope)) && before.iter().all(|scope| new.contains(scope));
        if same {
            return Vec::new();
        }
        let scopes = quota["spec"]["scopes"].clone();
        vec![FieldError::invalid(&FieldPath::new("spec.scopes"), scopes, "field is immutable")]
    }
}

/// `status`: what is used, and of what.
pub(super) fn validate_status(quota: &Value, _old: &Value) -> Vec<FieldError> {
    let (mut out, path) = (Errors::new(), FieldPath::new("status"));
    for field in ["hard", "used"] {
        amounts(&mut out, &path, &quota["status"], field);
    }
    out
}

fn amounts(out: &mut Errors, path: &FieldPath, owner: &Value, field: &str) {
    for (name, amount) in map(owner, field) {
        quota_amount(out, &path.child(field).key(name), name, amount);
    }
}

/// Whether a resource is such as a scope chooses from.
fn scoped(scope: &str, resource: &str) -> bool {
    let pods = resource == "pods";
    let compute =
        matches!(resource, "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory");
    match scope {
        "BestEffort" => pods,
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        scope if SCOPES.contains(&scope) => pods || compute,
        _ => true,
    }
}

fn misapplied<'a>(spec: &'a Value, scope: &'a str) -> impl Iterator<Item = &'a String> {
    map(spec, "hard").map(|(name, _)| name).filter(move |name| is_quota_name(name) && !scoped(scope, name))
}

fn conflicting(out: &mut Errors, path: &FieldPath, spec: &Value, scopes: &[&str]) {
    for pair in CONFLICTS {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            out.push(FieldError::invalid(path, spec["scopes"].clone(), "conflicting scopes"));
        }
    }
}

fn scopes(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let path = path.child("scopes");
    let scopes: Vec<&str> = list(spec, "scopes").iter().map(|scope| scope.as_str().unwrap_or("")).collect();
    let wrong = |detail: &str| FieldError::invalid(&path, spec["scopes"].clone(), detail);
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            out.push(wrong("unsupported scope"));
        }
        out.extend(misapplied(spec, scope).map(|_| wrong("unsupported scope applied to resource")));
    }
    conflicting(out, &path, spec, &scopes);
}

fn selector(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (path, selector) = (path.child("scopeSelector").child("matchExpressions"), &spec["scopeSelector"]);
    let expressions = list(selector, "matchExpressions");
    for expression in expressions {
        let (scope, operator) = (text(expression, "scopeName"), text(expression, "operator"));
        let (operator_path, values) = (path.child("operator"), list(expression, "values"));
        if !SCOPES.contains(&scope) {
            out.push(FieldError::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        let detail = "unsupported scope applied to resource";
        out.extend(misapplied(spec, scope).map(|_| FieldError::invalid(&path, selector.clone(), detail)));
        if EXISTING.contains(&scope) && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                          ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            out.push(FieldError::invalid(&operator_path, operator, detail));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                out.push(FieldError::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                out.push(FieldError::invalid(&path.child("values"), expression["values"].clone(), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => out.push(FieldError::invalid(&operator_path, other, "not a valid selector operator")),
        }
    }
    let scopes: Vec<&str> = expressions.iter().map(|expression| text(expression, "scopeName")).collect();
    conflicting(out, &path, spec, &scopes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn quotas() {
        let check = |spec: Value, expect: &str| {
            let errors = ResourceQuota.validate(&json!({"spec": spec}));
            let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert_eq!(text, expect);
        };
        check(
            json!({"hard": {"pods": "3", "requests.cpu": "1", "count/deployments.apps": "2"}, "scopes": ["NotTerminating"]}),
            "",
        );
        check(
            json!({"hard": {"storage": "1"}}),
            "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
        );
        check(json!({"hard": {"pods": "1500m"}}), "spec.hard[pods]: Invalid value: \"1500m\": must be an integer");
        check(json!({"scopes": ["X"]}), "spec.scopes: Invalid value: [\"X\"]: unsupported scope");
        check(
            json!({"hard": {"services": "1"}, "scopes": ["BestEffort"]}),
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        );
        check(
            json!({"scopes": ["Terminating", "NotTerminating"]}),
            "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
        );
        check(
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        );
    }

    #[test]
    fn scopes_stay() {
        let quota = |scopes: &[&str]| json!({"spec": {"scopes": scopes}});
        let (both, turned) = (quota(&["PriorityClass", "BestEffort"]), quota(&["BestEffort", "PriorityClass"]));
        assert!(ResourceQuota.validate_update(&turned, &both).is_empty());
        assert_eq!(ResourceQuota.validate_update(&quota(&["BestEffort"]), &both).len(), 1);
    }
}
