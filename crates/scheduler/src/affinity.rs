//! Node selector terms and tolerations: whether a pod and a node suit each other
//! (`k8s.io/component-helpers/scheduling/corev1`).

use kybern_api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm, Taint, Toleration,
};
use kybern_apimachinery::selector::{Operator, Requirement};

use crate::node::Node;

/// One term of a node selector: all of its expressions must hold. An empty one matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTerm {
    /// On labels.
    expressions: Vec<Requirement>,
    /// On `metadata.name`, the only field there is.
    names: Vec<Requirement>,
    /// An operator that does not exist makes the term match nothing.
    malformed: bool,
}

/// A term that is better matched than not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferredTerm {
    pub weight: i64,
    pub term: NodeTerm,
}

impl NodeTerm {
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let mut malformed = false;
        let mut requirements = |list: &Option<Vec<NodeSelectorRequirement>>| {
            let parsed: Vec<Option<Requirement>> = list.iter().flatten().map(requirement).collect();
            malformed |= parsed.iter().any(Option::is_none);
            parsed.into_iter().flatten().collect()
        };
        let expressions = requirements(&term.match_expressions);
        let names = requirements(&term.match_fields);
        Self { expressions, names, malformed }
    }

    pub fn matches(&self, node: &Node) -> bool {
        if self.malformed || (self.expressions.is_empty() && self.names.is_empty()) {
            return false;
        }
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        let field = |key: &str| (key == "metadata.name").then_some(&*node.name);
        self.expressions.iter().all(|r| r.matches(&label)) && self.names.iter().all(|r| r.matches(&field))
    }

    /// The one node's name that the term can match, if it names one.
    pub fn pinned_name(&self) -> Option<&str> {
        let pin = self.names.iter().find(|r| r.operator == Operator::In && r.key == "metadata.name")?;
        match pin.values.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }
}

pub fn terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().map(NodeTerm::of).collect()
}

impl PreferredTerm {
    pub fn of(term: &PreferredSchedulingTerm) -> Self {
        Self { weight: i64::from(term.weight), term: NodeTerm::of(&term.preference) }
    }
}

fn requirement(requirement: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Some(Requirement { key: requirement.key.clone(), operator, values: requirement.values.clone().unwrap_or_default() })
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.as_deref().unwrap_or("").to_owned();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or("") {
            "Exists" => true,
            "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::{Value, json};

    use crate::fixture;

    #[test]
    fn terms() {
        let node = fixture::node(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}}));
        let check = |kind: &str, key: &str, operator: &str, values: Value, expect: bool| {
            let term = json!([{"key": key, "operator": operator, "values": values}]);
            let pod = fixture::pod(
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{kind: term}]}}}}),
            );
            assert_eq!(pod.wants().required.as_ref().unwrap()[0].matches(&node), expect, "{key} {operator}");
        };
        check("matchExpressions", "zone", "In", json!(["a", "b"]), true);
        check("matchExpressions", "zone", "NotIn", json!(["a"]), false);
        check("matchExpressions", "missing", "NotIn", json!(["a"]), true);
        check("matchExpressions", "missing", "Exists", json!([]), false);
        check("matchExpressions", "cores", "Gt", json!(["4"]), true);
        check("matchExpressions", "cores", "Lt", json!(["4"]), false);
        check("matchExpressions", "zone", "Frob", json!([]), false);
        check("matchFields", "metadata.name", "In", json!(["n1"]), true);
        check("matchFields", "metadata.name", "In", json!(["n2"]), false);
        let empty = NodeTerm::of(&NodeSelectorTerm::default());
        assert!(!empty.matches(&node));
    }

    #[test]
    fn tolerations() {
        let taint =
            |effect: &str| Taint { key: "k".into(), value: Some("v".into()), effect: effect.into(), time_added: None };
        let check = |key: &str, operator: &str, value: &str, effect: &str, expect: bool| {
            let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
            let toleration = Toleration {
                key: some(key),
                operator: some(operator),
                value: some(value),
                effect: some(effect),
                toleration_seconds: None,
            };
            assert_eq!(tolerates(&toleration, &taint("NoSchedule")), expect, "{toleration:?}");
        };
        check("k", "Equal", "v", "NoSchedule", true);
        check("k", "", "v", "", true);
        check("k", "Equal", "w", "", false);
        check("k", "Exists", "", "NoExecute", false);
        check("", "Exists", "", "", true);
        check("", "Equal", "v", "", false);
    }
}
