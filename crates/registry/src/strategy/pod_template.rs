//! PodTemplate.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::pod::{defaults, prepare};
use crate::tree::has;
use crate::validation::{pod_spec, warnings};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PodTemplate;

fn drop_disabled(ctx: &StrategyContext<'_>, object: &mut Value, old: Option<&Value>) {
    if let Some(spec) = object.pointer_mut("/template/spec") {
        prepare::drop_disabled(ctx, spec, old.and_then(|old| old.pointer("/template/spec")));
    }
}

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/template/spec")
            && has(spec, "containers")
        {
            defaults::pod_spec(spec);
        }
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, object: &mut Value) {
        drop_disabled(ctx, object, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        drop_disabled(ctx, object, Some(old));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        pod_spec::template(&mut out, &FieldPath::new("template"), &object["template"]);
        out
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| old.get("template") == object.get("template")) {
            return Vec::new();
        }
        let template = &object["template"];
        warnings::pod(&FieldPath::new("template"), &template["metadata"], &template["spec"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_template_is_checked_as_a_workloads() {
        let mut object = json!({"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}});
        PodTemplate.default(&mut object);
        assert_eq!(object["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
        let texts: Vec<String> =
            PodTemplate.validate(&json!({"template": {}})).iter().map(ToString::to_string).collect();
        assert!(texts.contains(&"template.spec.containers: Required value".to_owned()), "{texts:?}");
    }
}
