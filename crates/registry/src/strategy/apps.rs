//! Workloads that run pods from a template: Deployment, ReplicaSet, DaemonSet, StatefulSet, ReplicationController,
//! ControllerRevision.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::pod::defaults;
use super::status::reset_status;
use crate::tree::{default, has, int, keep, text};
use crate::validation::{Errors, format, meta, pod_spec, update, warnings};

/// What the workloads share.
fn template(out: &mut Errors, spec: &Value) {
    pod_spec::template(out, &FieldPath::new("spec.template"), &spec["template"], &["Always"]);
}

fn counts(out: &mut Errors, spec: &Value, fields: &[&str]) {
    for field in fields {
        format::not_negative(out, &FieldPath::new("spec").child(field), int(spec, field));
    }
}

fn fixed(fields: &[&str], new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    for field in fields {
        update::immutable(
            &mut out,
            &FieldPath::new("spec").child(field),
            new["spec"].get(field),
            old["spec"].get(field),
        );
    }
    out
}

/// Whether a number or percentage is zero.
fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || value.as_str().is_some_and(|t| t.trim_end_matches('%').parse() == Ok(0))
}

/// `rollingUpdate` with `maxSurge` and `maxUnavailable`, not both zero.
fn rolling_update(out: &mut Errors, path: &FieldPath, rolling: &Value) {
    for field in ["maxUnavailable", "maxSurge"] {
        if has(rolling, field) {
            format::count_or_percent(out, &path.child(field), &rolling[field]);
        }
    }
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
        out.push(FieldError::invalid(
            &path.child("maxUnavailable"),
            rolling["maxUnavailable"].clone(),
            "may not be 0 when `maxSurge` is 0",
        ));
    }
    let percent = rolling["maxUnavailable"].as_str().and_then(|t| t.trim_end_matches('%').parse::<i64>().ok());
    if percent.is_some_and(|p| p > 100) {
        out.push(FieldError::invalid(
            &path.child("maxUnavailable"),
            rolling["maxUnavailable"].clone(),
            "must not be greater than 100%",
        ));
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, object: &mut Value) {
        reset_status(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &object["spec"]);
        counts(&mut out, spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
        meta::workload_selector(&mut out, spec, "deployment");
        let (path, strategy) = (FieldPath::new("spec.strategy"), &spec["strategy"]);
        match text(strategy, "type") {
            "Recreate" if has(strategy, "rollingUpdate") => {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                out.push(FieldError::forbidden(&path.child("rollingUpdate"), detail));
            }
            "RollingUpdate" if !has(strategy, "rollingUpdate") => {
                out.push(FieldError::required(
                    &path.child("rollingUpdate"),
                    "this should be defaulted and never be nil",
                ));
            }
            "RollingUpdate" => rolling_update(&mut out, &path.child("rollingUpdate"), &strategy["rollingUpdate"]),
            "Recreate" => {}
            other => out.push(FieldError::not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"])),
        }
        if let Some(deadline) = int(spec, "progressDeadlineSeconds") {
            let path = FieldPath::new("spec.progressDeadlineSeconds");
            format::not_negative(&mut out, &path, Some(deadline));
            if deadline <= int(spec, "minReadySeconds").unwrap_or(0) {
                out.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
            }
        }
        template(&mut out, spec);
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        fixed(&["selector"], object, old)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::template(object, old)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, object: &mut Value) {
        object["status"] = serde_json::json!({"replicas": 0});
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &object["spec"]);
        counts(&mut out, spec, &["replicas", "minReadySeconds"]);
        meta::workload_selector(&mut out, spec, "replicaset");
        template(&mut out, spec);
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        fixed(&["selector"], object, old)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::template(object, old)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, object: &mut Value) {
        let zero = serde_json::json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        object["status"] = zero;
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &object["spec"]);
        counts(&mut out, spec, &["minReadySeconds", "revisionHistoryLimit"]);
        meta::workload_selector(&mut out, spec, "daemonset");
        let (path, strategy) = (FieldPath::new("spec.updateStrategy"), &spec["updateStrategy"]);
        match text(strategy, "type") {
            "OnDelete" => {}
            "RollingUpdate" if has(strategy, "rollingUpdate") => {
                rolling_update(&mut out, &path.child("rollingUpdate"), &strategy["rollingUpdate"]);
            }
            "RollingUpdate" => out.push(FieldError::required(&path.child("rollingUpdate"), "")),
            other => out.push(FieldError::not_supported(&path.child("type"), other, &["RollingUpdate", "OnDelete"])),
        }
        template(&mut out, spec);
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        fixed(&["selector"], object, old)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::template(object, old)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StatefulSet;

/// What of a StatefulSet's spec may change.
const STATEFUL_SET_MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
        if let Some(claims) = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut) {
            for claim in claims {
                default(claim, "apiVersion", "v1");
                default(claim, "kind", "PersistentVolumeClaim");
                default(claim, "status", serde_json::json!({"phase": "Pending"}));
            }
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, object: &mut Value) {
        object["status"] = serde_json::json!({"replicas": 0, "availableReplicas": 0});
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &object["spec"]);
        counts(&mut out, spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
        let path = FieldPath::new("spec");
        let policy = text(spec, "podManagementPolicy");
        format::required_one_of(&mut out, &path.child("podManagementPolicy"), policy, &["OrderedReady", "Parallel"]);
        let kind = object::str_at(spec, &["updateStrategy", "type"]);
        format::required_one_of(
            &mut out,
            &path.child("updateStrategy").child("type"),
            kind,
            &["RollingUpdate", "OnDelete"],
        );
        meta::workload_selector(&mut out, spec, "statefulset");
        template(&mut out, spec);
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut rest = object["spec"].clone();
        for field in &STATEFUL_SET_MUTABLE {
            keep(&mut rest, &old["spec"], field);
        }
        if rest == old["spec"] {
            return Vec::new();
        }
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                      'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        vec![FieldError::forbidden(&FieldPath::new("spec"), detail)]
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::template(object, old)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
        let labels = object::at(object, &["spec", "template", "metadata", "labels"]).cloned();
        if let (Some(labels), Some(spec)) = (labels, object.get_mut("spec")) {
            default(spec, "selector", labels.clone());
            if object::labels(object).is_none_or(serde_json::Map::is_empty) {
                object["metadata"]["labels"] = labels;
            }
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, object: &mut Value) {
        object["status"] = serde_json::json!({"replicas": 0});
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &object["spec"]);
        counts(&mut out, spec, &["replicas", "minReadySeconds"]);
        let selector: Vec<(&String, &Value)> = crate::tree::map(spec, "selector").collect();
        if selector.is_empty() {
            out.push(FieldError::required(&FieldPath::new("spec.selector"), ""));
        }
        let labels = object::at(spec, &["template", "metadata", "labels"]);
        if selector.iter().any(|(k, v)| labels.and_then(|l| l.get(*k)) != Some(*v)) {
            let labels = labels.cloned().unwrap_or(Value::Null);
            let path = FieldPath::new("spec.template.metadata.labels");
            out.push(FieldError::invalid(&path, labels, "`selector` does not match template `labels`"));
        }
        template(&mut out, spec);
        out
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::template(object, old)
    }
}

/// History that never changes but in its revision number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if int(object, "revision").unwrap_or(0) < 0 {
            format::not_negative(&mut out, &FieldPath::new("revision"), int(object, "revision"));
        }
        if !has(object, "data") {
            out.push(FieldError::required(&FieldPath::new("data"), "data is mandatory"));
        }
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        update::immutable(&mut out, &FieldPath::new("data"), object.get("data"), old.get("data"));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn deployment() -> Value {
        json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "containers": [{"name": "a", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}}})
    }

    #[test]
    fn deployments() {
        let check = |pointer: &str, value: Value, expect: &str| {
            let mut object = deployment();
            *object.pointer_mut(pointer).unwrap() = value;
            let text = Deployment.validate(&object).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert_eq!(text, expect);
        };
        check("/spec/replicas", 3.into(), "");
        check("/spec/replicas", (-1).into(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        check(
            "/spec/strategy/rollingUpdate",
            json!({"maxSurge": 0, "maxUnavailable": "0%"}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        );
        check(
            "/spec/strategy/type",
            "Recreate".into(),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        );
        check(
            "/spec/template/spec/restartPolicy",
            "Never".into(),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        );
        let mut moved = deployment();
        moved["spec"]["selector"]["matchLabels"]["a"] = "c".into();
        let text = Deployment.validate_update(&moved, &deployment())[0].to_string();
        assert_eq!(text, "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable");
    }

    #[test]
    fn a_stateful_set_keeps_its_identity() {
        let old = json!({"spec": {"serviceName": "a", "replicas": 1}});
        assert!(StatefulSet.validate_update(&json!({"spec": {"serviceName": "a", "replicas": 2}}), &old).is_empty());
        assert_eq!(StatefulSet.validate_update(&json!({"spec": {"serviceName": "b", "replicas": 1}}), &old).len(), 1);
    }
}
