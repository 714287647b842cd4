//! Pods (`pkg/registry/core/pod/strategy.go`).

pub(crate) mod defaults;
pub(crate) mod parts;
pub(crate) mod prepare;
mod update;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{list, text};
use crate::validation::{pod_spec, warnings};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodStrategy;

impl Strategy for PodStrategy {
    fn default(&self, pod: &mut Value) {
        defaults::pod(pod);
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, pod: &mut Value) {
        prepare::drop_disabled(ctx, &mut pod["spec"], None);
        pod["status"] = prepare::status(pod, ctx.now);
        prepare::merge_label_keys(pod);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, pod: &mut Value, old: &Value) {
        prepare::drop_disabled(ctx, &mut pod["spec"], Some(&old["spec"]));
    }

    fn validate(&self, pod: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        pod_spec::pod(&mut out, pod);
        out
    }

    fn validate_create(&self, pod: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &pod["spec"], FieldPath::new("spec"));
        if !list(spec, "ephemeralContainers").is_empty() {
            out.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
        }
        if !list(spec, "schedulingGates").is_empty() && !text(spec, "nodeName").is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            out.push(FieldError::forbidden(&path.child("nodeName"), detail));
        }
        out
    }

    fn warnings(&self, pod: &Value, old: Option<&Value>) -> Vec<String> {
        // Of a pod that exists there is little that could be changed.
        if old.is_some() {
            return Vec::new();
        }
        let mut out = warnings::name(pod, "the Pod's hostname");
        out.extend(warnings::pod(&FieldPath::root(), &pod["metadata"], &pod["spec"]));
        out
    }

    fn validate_update(&self, pod: &Value, old: &Value) -> Vec<FieldError> {
        update::validate(pod, old)
    }

    fn graceful_deletion(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let phase = object::str_at(pod, &["status", "phase"]);
        // Nothing runs that could be given time.
        if object::str_at(pod, &["spec", "nodeName"]).is_empty() || matches!(phase, "Failed" | "Succeeded") {
            return Some(0);
        }
        let own = || object::at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(30);
        // Below zero, the smallest grace that is one.
        Some(match requested.unwrap_or_else(own) {
            ..0 => 1,
            seconds => seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn grace_is_for_what_may_be_running() {
        let check = |spec: Value, phase: &str, requested: Option<i64>, expect: Option<i64>| {
            let pod = json!({"spec": spec, "status": {"phase": phase}});
            assert_eq!(PodStrategy.graceful_deletion(&pod, requested), expect, "{pod} {requested:?}");
        };
        let running = json!({"nodeName": "a", "terminationGracePeriodSeconds": 7});
        check(running.clone(), "Running", None, Some(7));
        check(running.clone(), "Running", Some(3), Some(3));
        check(running.clone(), "Running", Some(0), Some(0));
        check(running.clone(), "Running", Some(-5), Some(1));
        check(running, "Succeeded", Some(3), Some(0));
        check(json!({}), "Pending", None, Some(0));
    }

    #[test]
    fn a_pod_is_validated_as_upstream_does() {
        let check = |pod: Value, expect: &[&str]| {
            let texts: Vec<String> = PodStrategy.validate(&pod).iter().map(ToString::to_string).collect();
            assert_eq!(texts, expect);
        };
        let container =
            json!({"name": "a", "image": "nginx", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
        let spec = |containers: Value| json!({"spec": {"containers": containers, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}});
        check(spec(json!([container])), &[]);
        check(spec(json!([])), &["spec.containers: Required value"]);
        check(spec(json!([container, container])), &["spec.containers[1].name: Duplicate value: \"a\""]);
        let mut bad = container.clone();
        bad["image"] = "".into();
        bad["ports"] = json!([{"containerPort": 70000, "protocol": "TCP"}]);
        check(
            spec(json!([bad])),
            &[
                "spec.containers[0].image: Required value",
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        );
        let mut spec = spec(json!([container]));
        spec["spec"]["restartPolicy"] = "Sometimes".into();
        check(
            spec,
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        );
    }
}
