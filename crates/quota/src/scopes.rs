//! Which objects a quota is about.

use kybern_apimachinery::Value;
use kybern_apimachinery::selector::{Operator, Requirement};
use kybern_apimachinery::tree::{has, int, list, text};

use crate::evaluator::Evaluator;
use crate::qos;

/// A `ScopedResourceSelectorRequirement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub name: String,
    pub operator: String,
    pub values: Vec<String>,
}

impl Scope {
    pub fn of(requirement: &Value) -> Self {
        let values = list(requirement, "values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            name: text(requirement, "scopeName").to_owned(),
            operator: text(requirement, "operator").to_owned(),
            values,
        }
    }

    /// Those of a quota, whichever way it tells them.
    pub(crate) fn of_quota(quota: &Value) -> Vec<Self> {
        let spec = &quota["spec"];
        let plain = list(spec, "scopes").iter().filter_map(Value::as_str);
        let plain = plain.map(|name| Self { name: name.to_owned(), operator: "Exists".to_owned(), values: Vec::new() });
        plain.chain(list(&spec["scopeSelector"], "matchExpressions").iter().map(Self::of)).collect()
    }

    /// As Go prints it.
    pub(crate) fn shown(&self) -> String {
        format!("{{{} {} [{}]}}", self.name, self.operator, self.values.join(" "))
    }

    /// What is wrong with it, if anything: what validation keeps out of quotas may stand in a configuration.
    fn requirement(&self) -> Result<Requirement, String> {
        let operator = match self.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                return Err(format!(
                    "failed to parse and convert selector: {other:?} is not a valid scope selector operator"
                ));
            }
        };
        Ok(Requirement { key: self.name.clone(), operator, values: self.values.clone() })
    }

    /// Whether one of the names that an object refers to is selected; an object without any has none.
    fn selects(&self, names: &[&str]) -> Result<bool, String> {
        let requirement = self.requirement()?;
        if names.is_empty() {
            return Ok(requirement.matches(&|_: &str| None));
        }
        Ok(names.iter().any(|name| requirement.matches(&|_: &str| Some(*name))))
    }
}

/// Whether an object is in a scope, as its kind's evaluator sees it.
pub fn in_scope(evaluator: &Evaluator, scope: &Scope, object: &Value) -> Result<bool, String> {
    match evaluator {
        Evaluator::Pods => of_pod(scope, object),
        Evaluator::Claims if scope.name == "VolumeAttributesClass" => {
            let names = attribute_classes(object);
            if scope.operator == "Exists" { Ok(!names.is_empty()) } else { scope.selects(&names) }
        }
        _ => Ok(false),
    }
}

fn of_pod(scope: &Scope, pod: &Value) -> Result<bool, String> {
    let best_effort = || match text(&pod["status"], "qosClass") {
        "" => qos::class(&pod["spec"]) == "BestEffort",
        class => class == "BestEffort",
    };
    Ok(match scope.name.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = text(&pod["spec"], "priorityClassName");
            let names: Vec<&str> = Some(class).filter(|class| !class.is_empty()).into_iter().collect();
            if scope.operator == "Exists" { !names.is_empty() } else { scope.selects(&names)? }
        }
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        _ => false,
    })
}

/// Whether a pod has a deadline.
pub(crate) fn is_terminating(pod: &Value) -> bool {
    int(&pod["spec"], "activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0)
}

fn reaches_other_namespaces(pod: &Value) -> bool {
    let affinity = &pod["spec"]["affinity"];
    let reaches = |term: &Value| !list(term, "namespaces").is_empty() || has(term, "namespaceSelector");
    ["podAffinity", "podAntiAffinity"].iter().map(|side| &affinity[*side]).any(|side| {
        list(side, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(reaches)
            || list(side, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| reaches(&weighted["podAffinityTerm"]))
    })
}

/// The classes of attributes that a claim asks for, has, or is being given.
fn attribute_classes(claim: &Value) -> Vec<&str> {
    let status = &claim["status"];
    let mut names = vec![
        text(&claim["spec"], "volumeAttributesClassName"),
        text(status, "currentVolumeAttributesClassName"),
        text(&status["modifyVolumeStatus"], "targetVolumeAttributesClassName"),
    ];
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn scope(name: &str, operator: &str, values: &[&str]) -> Scope {
        Scope {
            name: name.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[test]
    fn pods() {
        let check = |spec: Value, name: &str, operator: &str, values: &[&str], expect: bool| {
            let pod = json!({"spec": spec});
            assert_eq!(in_scope(&Evaluator::Pods, &scope(name, operator, values), &pod), Ok(expect), "{name} {pod}");
        };
        check(json!({"activeDeadlineSeconds": 0}), "Terminating", "Exists", &[], true);
        check(json!({}), "Terminating", "Exists", &[], false);
        check(json!({}), "NotTerminating", "Exists", &[], true);
        check(json!({"containers": [{}]}), "BestEffort", "Exists", &[], true);
        check(json!({"containers": [{"resources": {"limits": {"cpu": "1"}}}]}), "NotBestEffort", "Exists", &[], true);
        let class = json!({"priorityClassName": "high"});
        check(class.clone(), "PriorityClass", "Exists", &[], true);
        check(class.clone(), "PriorityClass", "In", &["high", "low"], true);
        check(class.clone(), "PriorityClass", "NotIn", &["high"], false);
        check(json!({}), "PriorityClass", "NotIn", &["high"], true);
        check(json!({}), "PriorityClass", "DoesNotExist", &[], true);
        check(class, "PriorityClass", "DoesNotExist", &[], false);
        let term = json!({"topologyKey": "a", "namespaceSelector": {}});
        let weighted = json!([{"weight": 1, "podAffinityTerm": {"topologyKey": "a", "namespaces": ["b"]}}]);
        let name = "CrossNamespacePodAffinity";
        let required = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
        check(required, name, "Exists", &[], true);
        let preferred =
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": weighted}}});
        check(preferred, name, "Exists", &[], true);
        let own = json!([{"topologyKey": "a"}]);
        let own = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": own}}});
        check(own, name, "Exists", &[], false);
        check(json!({}), "VolumeAttributesClass", "Exists", &[], false);
    }

    #[test]
    fn claims() {
        let claim = json!({"spec": {"volumeAttributesClassName": "gold"}, "status": {"currentVolumeAttributesClassName": "old"}});
        let check = |operator: &str, values: &[&str], expect: bool| {
            let scope = scope("VolumeAttributesClass", operator, values);
            assert_eq!(in_scope(&Evaluator::Claims, &scope, &claim), Ok(expect), "{scope:?}");
        };
        check("Exists", &[], true);
        check("In", &["old"], true);
        check("In", &["new"], false);
        check("NotIn", &["gold"], true);
        check("DoesNotExist", &[], false);
        let bad = scope("VolumeAttributesClass", "Like", &[]);
        assert!(in_scope(&Evaluator::Claims, &bad, &claim).unwrap_err().contains("\"Like\" is not a valid"));
        assert_eq!(in_scope(&Evaluator::Services, &bad, &claim), Ok(false));
    }
}
