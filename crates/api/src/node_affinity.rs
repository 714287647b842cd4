//! Node selector terms and tolerations: whether a pod and a node suit each other
//! (`k8s.io/component-helpers/scheduling/corev1`).

use std::collections::BTreeMap;

use kybern_apimachinery::selector::{Operator, Requirement};

use crate::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm, Taint, Toleration,
};

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

    /// Whether it selects a node of this name with these labels.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        if self.malformed || (self.expressions.is_empty() && self.names.is_empty()) {
            return false;
        }
        let label = |key: &str| labels.get(key).map(String::as_str);
        let field = |key: &str| (key == "metadata.name").then_some(name);
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

/// Whether a node meets one of a selector's terms (`MatchNodeSelectorTerms`).
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    let (name, empty) = (node.metadata.name.as_deref().unwrap_or(""), BTreeMap::new());
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    terms(selector).iter().any(|term| term.matches(name, labels))
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

/// Whether a toleration covers a taint (`ToleratesTaint`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or("")
    }
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match text(&toleration.operator) {
            "" | "Equal" => text(&toleration.value) == text(&taint.value),
            "Exists" => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(kind: &str, key: &str, operator: &str, values: &[&str]) -> NodeTerm {
        let values = Some(values.iter().map(|value| (*value).to_owned()).collect());
        let requirement = NodeSelectorRequirement { key: key.into(), operator: operator.into(), values };
        let mut term = NodeSelectorTerm::default();
        match kind {
            "field" => term.match_fields = Some(vec![requirement]),
            _ => term.match_expressions = Some(vec![requirement]),
        }
        NodeTerm::of(&term)
    }

    #[test]
    fn terms() {
        let labels = [("zone", "a"), ("cores", "8"), ("broken", "x")];
        let labels: BTreeMap<String, String> = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let check = |kind: &str, key: &str, operator: &str, values: &[&str], expect: bool| {
            assert_eq!(term(kind, key, operator, values).matches("n1", &labels), expect, "{key} {operator} {values:?}");
        };
        check("label", "zone", "In", &["a", "b"], true);
        check("label", "zone", "NotIn", &["a"], false);
        check("label", "missing", "In", &["a"], false);
        check("label", "missing", "NotIn", &["a"], true);
        check("label", "zone", "Exists", &[], true);
        check("label", "missing", "Exists", &[], false);
        check("label", "missing", "DoesNotExist", &[], true);
        check("label", "zone", "DoesNotExist", &[], false);
        check("label", "cores", "Gt", &["4"], true);
        check("label", "cores", "Lt", &["4"], false);
        check("label", "cores", "Gt", &["four"], false);
        check("label", "broken", "Gt", &["4"], false);
        check("label", "missing", "Lt", &["4"], false);
        check("label", "zone", "Frob", &[], false);
        check("field", "metadata.name", "In", &["n1"], true);
        check("field", "metadata.name", "In", &["n2"], false);
        assert!(!NodeTerm::of(&NodeSelectorTerm::default()).matches("n1", &labels), "an empty term selects nothing");
        assert_eq!(term("field", "metadata.name", "In", &["n1"]).pinned_name(), Some("n1"));
        assert_eq!(term("field", "metadata.name", "In", &["n1", "n2"]).pinned_name(), None);
    }

    #[test]
    fn tolerations() {
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into(), time_added: None };
        let check = |key: &str, operator: &str, value: &str, effect: &str, expect: bool| {
            let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
            let toleration = Toleration {
                key: some(key),
                operator: some(operator),
                value: some(value),
                effect: some(effect),
                toleration_seconds: None,
            };
            assert_eq!(tolerates(&toleration, &taint), expect, "{toleration:?}");
        };
        check("k", "Equal", "v", "NoSchedule", true);
        check("k", "", "v", "", true);
        check("k", "Equal", "w", "", false);
        check("k", "Exists", "", "NoExecute", false);
        check("", "Exists", "", "", true);
        check("other", "Exists", "", "", false);
        // Validation lets none such pass; upstream's matcher does.
        check("", "Equal", "v", "", true);
        check("k", "Frob", "v", "", false);
    }
}
