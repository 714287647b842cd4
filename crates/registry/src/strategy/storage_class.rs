//! StorageClass and VolumeAttributesClass.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::label_key;
use kybern_apiserver::strategy::Strategy;

use crate::tree::{list, map, text};
use crate::validation::names::provisioner;
use crate::validation::node_labels::deprecation;
use crate::validation::update::{immutable, unchanged};
use crate::validation::{Errors, format};

/// Limits of `parameters`: their number, and the bytes of all.
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 << 10;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StorageClass;

impl Strategy for StorageClass {
    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        provisioner(&mut out, &FieldPath::new("provisioner"), text(class, "provisioner"));
        parameters(&mut out, class, true);
        let policy = text(class, "reclaimPolicy");
        if !policy.is_empty() {
            format::one_of(&mut out, &FieldPath::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        let mode = text(class, "volumeBindingMode");
        format::one_of(&mut out, &FieldPath::new("volumeBindingMode"), mode, &modes);
        topologies(&mut out, list(class, "allowedTopologies"));
        out
    }

    fn validate_update(&self, class: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            unchanged(&mut out, &FieldPath::new(field), class, old, field);
        }
        let field = "volumeBindingMode";
        immutable(&mut out, &FieldPath::new(field), class.get(field), old.get(field));
        out
    }

    fn warnings(&self, class: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (i, term) in list(class, "allowedTopologies").iter().enumerate() {
            for (j, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
                let path = FieldPath::new("allowedTopologies").index(i).child("matchLabelExpressions").index(j);
                let key = text(expression, "key");
                out.extend(deprecation(key).map(|told| format!("{}: {told}", path.child("key"))));
            }
        }
        out
    }
}

fn parameters(out: &mut Errors, class: &Value, may_be_empty: bool) {
    let path = FieldPath::new("parameters");
    let count = map(class, "parameters").count();
    if count > MAX_PARAMETERS {
        out.push(FieldError::too_long(&path, MAX_PARAMETERS));
        return;
    }
    let mut bytes = 0;
    for (key, value) in map(class, "parameters") {
        if key.is_empty() {
            out.push(FieldError::invalid(&path, "", "field can not be empty."));
        }
        bytes += key.len() + value.as_str().unwrap_or("").len();
    }
    if bytes > MAX_PARAMETER_BYTES {
        out.push(FieldError::too_long(&path, MAX_PARAMETER_BYTES));
    }
    if !may_be_empty && count == 0 {
        out.push(FieldError::required(&path, "must contain at least one key/value pair"));
    }
}

fn topologies(out: &mut Errors, terms: &[Value]) {
    /// What a term selects: the last values of each key, sorted.
    fn selects(term: &Value) -> Vec<(&str, Vec<&str>)> {
        let mut all: std::collections::BTreeMap<&str, Vec<&str>> = Default::default();
        for expression in list(term, "matchLabelExpressions") {
            let mut values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
            values.sort_unstable();
            values.dedup();
            all.insert(text(expression, "key"), values);
        }
        all.into_iter().collect()
    }
    for (i, term) in terms.iter().enumerate() {
        let path = FieldPath::new("allowedTopologies").index(i).child("matchLabelExpressions");
        let expressions = list(term, "matchLabelExpressions");
        for (j, expression) in expressions.iter().enumerate() {
            let path = path.index(j);
            let (values, key) = (list(expression, "values"), text(expression, "key"));
            if values.is_empty() {
                out.push(FieldError::required(&path.child("values"), ""));
            }
            for (k, value) in values.iter().enumerate().filter(|(k, value)| values[..*k].contains(value)) {
                out.push(FieldError::duplicate(&path.child("values").index(k), value.clone()));
            }
            format::invalid(out, &path.child("key"), key, label_key(key));
            if expressions[..j].iter().any(|earlier| text(earlier, "key") == key) {
                out.push(FieldError::duplicate(&path.child("key"), key));
            }
        }
        // A term without expressions repeats the empty one that upstream starts with, once for each term.
        let chosen = selects(term);
        let same = terms[..i].iter().filter(|earlier| selects(earlier) == chosen).count();
        let empty = if chosen.is_empty() { terms.len() } else { 0 };
        out.extend((0..same + empty).map(|_| FieldError::duplicate(&path, "")));
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate_create(&self, class: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        provisioner(&mut out, &FieldPath::new("driverName"), text(class, "driverName"));
        parameters(&mut out, class, false);
        out
    }

    fn validate_update(&self, class: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for field in ["driverName", "parameters"] {
            unchanged(&mut out, &FieldPath::new(field), class, old, field);
        }
        out.extend(self.validate_create(class));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn classes() {
        let class = json!({"provisioner": "a/b", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
        assert!(StorageClass.validate(&class).is_empty());
        let mut other = class.clone();
        other["provisioner"] = "c".into();
        let texts: Vec<String> = StorageClass.validate_update(&other, &class).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["provisioner: Forbidden: updates to provisioner are forbidden."]);
        assert_eq!(VolumeAttributesClass.validate_create(&json!({"driverName": "a"})).len(), 1);
    }
}
