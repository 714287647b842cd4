//! The typed selector of labels, as what matches.

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
