//! ReplicationController.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_subdomain;
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::{NAMED_AFTER, counts, drop_disabled, template};
use crate::strategy::pod::defaults;
use crate::tree::{has, map};
use crate::validation::warnings;

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
        let labels = object::at(object, &["spec", "template", "metadata", "labels"]).cloned();
        if let (Some(labels), Some(spec)) = (labels, object.get_mut("spec")) {
            if map(spec, "selector").next().is_none() {
                spec["selector"] = labels.clone();
            }
            if object::labels(object).is_none_or(serde_json::Map::is_empty) {
                object["metadata"]["labels"] = labels;
            }
        }
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, object: &mut Value) {
        object["status"] = serde_json::json!({"replicas": 0});
        drop_disabled(ctx, object, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        drop_disabled(ctx, object, Some(old));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &object["spec"]);
        counts(&mut out, spec, &["minReadySeconds"]);
        let mut selector = map(spec, "selector").peekable();
        let none = selector.peek().is_none();
        if none {
            out.push(FieldError::required(&FieldPath::new("spec.selector"), ""));
        }
        counts(&mut out, spec, &["replicas"]);
        if !has(spec, "template") {
            out.push(FieldError::required(&FieldPath::new("spec.template"), ""));
            return out;
        }
        let labels = &spec["template"]["metadata"]["labels"];
        if selector.any(|(key, value)| labels.get(key) != Some(value)) {
            let path = FieldPath::new("spec.template.metadata.labels");
            out.push(FieldError::invalid(&path, labels.clone(), "`selector` does not match template `labels`"));
        }
        template(&mut out, spec, "ReplicationController");
        out
    }

    /// The one kind whose name's length upstream counts in bytes.
    fn validate_name(&self, name: &str) -> Vec<String> {
        dns1123_subdomain(name).into_iter().map(|text| text.replace("253 characters", "253 bytes")).collect()
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let Some(old) = old else {
            let mut out = warnings::name(object, NAMED_AFTER);
            out.extend(warnings::template(object, None));
            return out;
        };
        // Upstream looks at the old template, not the new one.
        warnings::template(old, Some(object))
    }
}
