//! RuntimeClass.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::json;
use kybern_apimachinery::validation::dns1123_label;
use kybern_apiserver::strategy::Strategy;

use crate::tree::{has, list, text};
use crate::validation::update::immutable;
use crate::validation::{format, meta, resources, scheduling};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let handler = text(class, "handler");
        format::invalid(&mut out, &FieldPath::new("handler"), handler, dns1123_label(handler));
        if has(class, "overhead") {
            let fixed = json!({"limits": class["overhead"]["podFixed"]});
            resources::requirements(&mut out, &FieldPath::new("overhead"), &fixed, &Default::default());
        }
        if has(class, "scheduling") {
            let (path, rules) = (FieldPath::new("scheduling"), &class["scheduling"]);
            meta::labels(&mut out, &path, rules, "nodeSelector");
            // Upstream names the field twice.
            let path = path.child("tolerations");
            scheduling::tolerations(&mut out, &path, rules);
            let key = |t: &Value| ["key", "operator", "value", "effect"].map(|f| text(t, f).to_owned());
            let tolerations = list(rules, "tolerations");
            for (i, toleration) in tolerations.iter().enumerate() {
                if tolerations[..i].iter().any(|t| key(t) == key(toleration)) {
                    out.push(FieldError::duplicate(&path.index(i), toleration.clone()));
                }
            }
        }
        out
    }

    fn validate_update(&self, class: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        immutable(&mut out, &FieldPath::new("handler"), class.get("handler"), old.get("handler"));
        out
    }

    fn warnings(&self, class: &Value, _old: Option<&Value>) -> Vec<String> {
        crate::validation::node_labels::selector(&FieldPath::new("scheduling.nodeSelector"), &class["scheduling"])
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
