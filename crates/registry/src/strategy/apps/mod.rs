//! Workloads that run pods from a template: Deployment, ReplicaSet, DaemonSet, StatefulSet, ReplicationController,
//! ControllerRevision.

mod daemon_set;
mod deployment;
mod replication_controller;
mod stateful_set;
pub(super) mod status;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

pub(super) use self::daemon_set::DaemonSet;
pub(super) use self::deployment::{Deployment, ReplicaSet};
pub(super) use self::replication_controller::ReplicationController;
pub(super) use self::stateful_set::StatefulSet;
use super::pod::prepare;
use crate::tree::{has, int};
use crate::validation::{Errors, format, pod_spec, update};

/// The names of pods are made from the workload's.
const NAMED_AFTER: &str = "Pod names and hostnames";

/// The template of a workload that keeps its pods running.
fn template(out: &mut Errors, spec: &Value, kind: &str) {
    let path = FieldPath::new("spec.template");
    pod_spec::template(out, &path, &spec["template"]);
    pod_spec::kept_running(out, &path, &spec["template"], kind);
}

/// What is turned off does not get into a template either.
pub(super) fn drop_disabled(ctx: &StrategyContext<'_>, object: &mut Value, old: Option<&Value>) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        prepare::drop_disabled(ctx, spec, old.and_then(|old| old.pointer("/spec/template/spec")));
    }
}

fn counts(out: &mut Errors, spec: &Value, fields: &[&str]) {
    for field in fields {
        format::not_negative(out, &FieldPath::new("spec").child(field), int(spec, field));
    }
}

fn fixed(fields: &[&str], new: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    for field in fields {
        let path = FieldPath::new("spec").child(field);
        update::immutable(&mut out, &path, new["spec"].get(field), old["spec"].get(field));
    }
    out
}

/// The number of a percentage that is one.
fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    (!digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit())).then(|| digits.parse().unwrap_or(i64::MAX))
}

/// The number of a count or percentage; of what is neither, 0.
fn number(value: &Value) -> i64 {
    percent(value).or_else(|| value.as_i64()).or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn at_most_all(out: &mut Errors, path: &FieldPath, value: &Value) {
    if percent(value).is_some_and(|p| p > 100) {
        out.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

/// History that never changes but in its revision number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        format::not_negative(&mut out, &FieldPath::new("revision"), int(object, "revision"));
        out
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let path = FieldPath::new("data");
        if !has(object, "data") {
            return vec![FieldError::required(&path, "data is mandatory")];
        }
        if !object["data"].is_object() {
            return vec![FieldError::required(&path, "data must be a valid JSON object")];
        }
        Vec::new()
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
        let set = |service: &str, replicas: i64| json!({"spec": {"serviceName": service, "replicas": replicas}});
        let refused = |new: Value| {
            let errors = StatefulSet.validate_update(&new, &set("a", 1));
            errors
                .iter()
                .any(|e| e.to_string().starts_with("spec: Forbidden: updates to statefulset spec for fields other"))
        };
        assert!(!refused(set("a", 2)) && refused(set("b", 1)));
    }

    #[test]
    fn a_stateful_set_mounts_its_claims() {
        let check = |mounted: &str| {
            let mut set = deployment();
            let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
            set["spec"]["podManagementPolicy"] = "OrderedReady".into();
            set["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
            set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": claim}]);
            set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": mounted, "mountPath": "/d"}]);
            StatefulSet.validate_create(&set).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(check("data"), [""; 0]);
        assert_eq!(check("other"), ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"other\""]);
    }
}
