//! The typed selectors of labels and of nodes, as what matches.

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kybern_apimachinery::selector::{LabelSelector, Operator, Requirement};

/// Upstream's `LabelSelectorAsSelector`. An error names the operator that is none.
pub fn label_selector(selector: &meta::LabelSelector) -> Result<LabelSelector, String> {
    let equal = |(key, value): (&String, &String)| Requirement {
        key: key.clone(),
        operator: Operator::Equals,
        values: vec![value.clone()],
    };
    let mut requirements: Vec<Requirement> = selector.match_labels.iter().flatten().map(equal).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(format!("{other:?} is not a valid label selector operator")),
        };
        let values = expression.values.clone().unwrap_or_default();
        requirements.push(Requirement { key: expression.key.clone(), operator, values });
    }
    Ok(LabelSelector { requirements, nothing: false })
}

/// Whether a node meets one of a node selector's terms (`MatchNodeSelectorTerms`). An empty term, or one with an operator that
/// is none, is met by no node.
pub fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(node.metadata.name.as_deref()).flatten();
    selector.node_selector_terms.iter().any(|term| {
        let (labels, fields) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
        (labels.clone().next().is_some() || fields.clone().next().is_some())
            && labels.into_iter().all(|r| of_node(r).is_some_and(|r| r.matches(&label)))
            && fields.into_iter().all(|r| of_node(r).is_some_and(|r| r.matches(&field)))
    })
}

fn of_node(requirement: &NodeSelectorRequirement) -> Option<Requirement> {
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

/// The selector as Go prints it, in upstream's messages.
pub fn to_go_text(selector: Option<&meta::LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},"));
    let expression = |e: &meta::LabelSelectorRequirement| {
        let values = e.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
    };
    let expressions = selector.match_expressions.iter().flatten().map(expression);
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.collect::<String>(),
        expressions.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn labels_and_expressions_are_both_required() {
        let expression = |operator: &str| meta::LabelSelectorRequirement {
            key: "tier".into(),
            operator: operator.into(),
            values: Some(vec!["web".into()]),
        };
        let selector = |operator: &str| meta::LabelSelector {
            match_labels: Some(BTreeMap::from([("app".into(), "x".into())])),
            match_expressions: Some(vec![expression(operator)]),
        };
        let labels = BTreeMap::from([("app".to_owned(), "x".to_owned()), ("tier".to_owned(), "web".to_owned())]);
        assert!(label_selector(&selector("In")).unwrap().matches_btree(&labels));
        assert!(!label_selector(&selector("NotIn")).unwrap().matches_btree(&labels));
        assert!(label_selector(&selector("Near")).unwrap_err().contains("\"Near\""));
    }
}
