//! HorizontalPodAutoscaler, in its stored version v2.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_label;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{default, has, int, list, text};
use crate::validation::names::path_segment;
use crate::validation::resources::container_name;
use crate::validation::resources::quantity;
use crate::validation::{Errors, format};

/// The longest window that a rule may look back.
const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;
const SOURCES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HorizontalPodAutoscaler;

/// What a direction's rules are where the object says nothing.
fn default_rules(behavior: &mut Value, direction: &str, window: Option<i64>, policies: &Value) {
    default(behavior, direction, json!({}));
    let rules = &mut behavior[direction];
    if let Some(window) = window {
        default(rules, "stabilizationWindowSeconds", window);
    }
    default(rules, "selectPolicy", "Max");
    default(rules, "policies", policies.clone());
}

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, scaler: &mut Value) {
        let spec = &mut scaler["spec"];
        if !spec.is_object() {
            *spec = json!({});
        }
        default(spec, "minReplicas", 1);
        if list(spec, "metrics").is_empty() {
            let target = json!({"type": "Utilization", "averageUtilization": 80});
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        }
        if has(spec, "behavior") {
            let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
            default_rules(&mut spec["behavior"], "scaleUp", Some(0), &json!([pods, percent]));
            default_rules(&mut spec["behavior"], "scaleDown", None, &json!([percent]));
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, scaler: &mut Value) {
        scaler["status"] = json!({"desiredReplicas": 0, "currentMetrics": null});
    }

    fn validate_create(&self, scaler: &Value) -> Vec<FieldError> {
        let replication_controller = text(&scaler["spec"]["scaleTargetRef"], "kind") == "ReplicationController";
        spec(&scaler["spec"], &TargetVersion::new(replication_controller), &TargetVersion::new(true), 1)
    }

    fn validate_update(&self, scaler: &Value, old: &Value) -> Vec<FieldError> {
        let (new_ref, old_ref) = (&scaler["spec"]["scaleTargetRef"], &old["spec"]["scaleTargetRef"]);
        let kept = ["apiVersion", "kind"].iter().all(|f| text(new_ref, f) == text(old_ref, f));
        let target = TargetVersion { any: kept, no_group: text(new_ref, "kind") == "ReplicationController" };
        let strict = TargetVersion::new(true);
        let malformed = |metric: &Value| {
            text(metric, "type") == "Object"
                && has(metric, "object")
                && strict.fault(text(&metric["object"]["describedObject"], "apiVersion")).is_some()
        };
        let described = TargetVersion { any: list(&old["spec"], "metrics").iter().any(malformed), no_group: true };
        spec(&scaler["spec"], &target, &described, i64::from(int(&old["spec"], "minReplicas") != Some(0)))
    }
}

/// `status`: counts are not negative.
pub(super) fn validate_status(scaler: &Value, _old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        format::not_negative(&mut out, &FieldPath::new("status").child(field), int(&scaler["status"], field));
    }
    out
}

/// What the `apiVersion` of a reference must be.
struct TargetVersion {
    any: bool,
    no_group: bool,
}

impl TargetVersion {
    fn new(no_group: bool) -> Self {
        Self { any: false, no_group }
    }

    fn fault(&self, version: &str) -> Option<String> {
        if self.any {
            return None;
        }
        if version.matches('/').count() > 1 {
            return Some(format!("unexpected GroupVersion string: {version}"));
        }
        let grouped = version.split_once('/').is_some_and(|(group, _)| !group.is_empty());
        (!grouped && !self.no_group).then(|| "apiVersion must specify API group".to_owned())
    }
}

fn reference(out: &mut Errors, path: &FieldPath, reference: &Value, version: &TargetVersion) {
    for field in ["kind", "name"] {
        format::required_name(out, &path.child(field), text(reference, field), path_segment);
    }
    if let Some(fault) = version.fault(text(reference, "apiVersion")) {
        out.push(FieldError::invalid(&path.child("apiVersion"), text(reference, "apiVersion"), fault));
    }
}

fn spec(spec: &Value, target: &TargetVersion, described: &TargetVersion, lowest: i64) -> Errors {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
    let (least, most) = (int(spec, "minReplicas"), int(spec, "maxReplicas").unwrap_or(0));
    if let Some(least) = least.filter(|l| *l < lowest) {
        let detail = format!("must be greater than or equal to {lowest}");
        out.push(FieldError::invalid(&path.child("minReplicas"), least, detail));
    }
    let most_path = path.child("maxReplicas");
    if most < 1 {
        out.push(FieldError::invalid(&most_path, most, "must be greater than 0"));
    }
    if least.is_some_and(|least| most < least) {
        out.push(FieldError::invalid(&most_path, most, "must be greater than or equal to `minReplicas`"));
    }
    reference(&mut out, &path.child("scaleTargetRef"), &spec["scaleTargetRef"], target);
    let (metrics, metrics_path) = (list(spec, "metrics"), path.child("metrics"));
    for (i, item) in metrics.iter().enumerate() {
        metric(&mut out, &metrics_path.index(i), item, described);
    }
    if least == Some(0) && !metrics.iter().any(|m| matches!(text(m, "type"), "Object" | "External")) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        out.push(FieldError::forbidden(&metrics_path, detail));
    }
    for direction in ["scaleUp", "scaleDown"] {
        if has(spec, "behavior") && has(&spec["behavior"], direction) {
            scaling_rules(&mut out, &path.child("behavior").child(direction), &spec["behavior"][direction]);
        }
    }
    out
}

fn scaling_rules(out: &mut Errors, path: &FieldPath, rules: &Value) {
    if let Some(window) = int(rules, "stabilizationWindowSeconds") {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            out.push(FieldError::invalid(&path, window, "must be greater than or equal to zero"));
        }
        if window > MAX_WINDOW {
            out.push(FieldError::invalid(&path, window, format!("must be less than or equal to {MAX_WINDOW}")));
        }
    }
    if has(rules, "selectPolicy") {
        let path = path.child("selectPolicy");
        format::one_of(out, &path, text(rules, "selectPolicy"), &["Disabled", "Max", "Min"]);
    }
    let (policies, policies_path) = (list(rules, "policies"), path.child("policies"));
    if policies.is_empty() {
        out.push(FieldError::required(&policies_path, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = policies_path.index(i);
        format::one_of(out, &path.child("type"), text(policy, "type"), &["Percent", "Pods"]);
        let period = int(policy, "periodSeconds").unwrap_or(0);
        for (field, value) in [("value", int(policy, "value").unwrap_or(0)), ("periodSeconds", period)] {
            if value <= 0 {
                out.push(FieldError::invalid(&path.child(field), value, "must be greater than zero"));
            }
        }
        if period > MAX_PERIOD {
            let detail = format!("must be less than or equal to {MAX_PERIOD}");
            out.push(FieldError::invalid(&path.child("periodSeconds"), period, detail));
        }
    }
    if let Some(tolerance) = quantity(&rules["tolerance"]).filter(|t| t.is_negative()) {
        let detail = "must be greater than or equal to 0";
        out.push(FieldError::invalid(&path.child("tolerance"), tolerance.to_string(), detail));
    }
}

fn metric(out: &mut Errors, path: &FieldPath, metric: &Value, described: &TargetVersion) {
    let (kind, kind_path) = (text(metric, "type"), path.child("type"));
    if kind.is_empty() {
        out.push(FieldError::required(&kind_path, "must specify a metric source type"));
    }
    format::one_of(out, &kind_path, kind, &SOURCES);
    let present: Vec<&str> = ["object", "external", "pods", "resource", "containerResource"]
        .into_iter()
        .filter(|field| has(metric, field))
        .collect();
    if let Some(first) = present.first() {
        source(out, &path.child(first), first, &metric[*first], described);
    }
    let expected = match kind {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        other => {
            out.push(FieldError::not_supported(&kind_path, other, &SOURCES));
            ""
        }
    };
    if !expected.is_empty() && !has(metric, expected) {
        let detail = "must populate information for the given metric source";
        out.push(FieldError::required(&path.child(expected), detail));
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| **field != expected) {
            out.push(FieldError::forbidden(&path.child(other), "must populate the given metric source only"));
        }
    }
}

fn source(out: &mut Errors, path: &FieldPath, kind: &str, source: &Value, described: &TargetVersion) {
    match kind {
        "object" => reference(out, &path.child("describedObject"), &source["describedObject"], described),
        "resource" | "containerResource" => {
            let (name, path) = (text(source, "name"), path.child("name"));
            if name.is_empty() {
                out.push(FieldError::required(&path, "must specify a resource name"));
            } else if kind == "containerResource" {
                container_name(out, &path, name);
            }
        }
        _ => {}
    }
    if kind == "containerResource" {
        let (container, path) = (text(source, "container"), path.child("container"));
        if container.is_empty() {
            out.push(FieldError::required(&path, "must specify a container"));
        } else {
            format::invalid(out, &path, container, dns1123_label(container));
        }
    }
    if matches!(kind, "object" | "external" | "pods") {
        let (name, path) = (text(&source["metric"], "name"), path.child("metric").child("name"));
        if name.is_empty() {
            out.push(FieldError::required(&path, "must specify a metric name"));
        } else {
            format::invalid(out, &path, name, path_segment(name));
        }
    }
    let (path, goal) = (path.child("target"), &source["target"]);
    target(out, &path, goal);
    // Which amounts a kind of source needs, and which exclude each other.
    let (value, average, utilization) =
        (has(goal, "value"), has(goal, "averageValue"), has(goal, "averageUtilization"));
    let missing = match kind {
        "object" if !value && !average => Some(("averageValue", "must set either a target value or averageValue")),
        "external" if !value && !average => {
            Some(("averageValue", "must set either a target value for metric or a per-pod target"))
        }
        "pods" if !average => Some(("averageValue", "must specify a positive target averageValue")),
        "resource" | "containerResource" if !utilization && !average => {
            Some(("averageUtilization", "must set either a target raw value or a target utilization"))
        }
        _ => None,
    };
    let excess = match kind {
        "external" if value && average => {
            Some(("value", "may not set both a target value for metric and a per-pod target"))
        }
        "resource" | "containerResource" if utilization && average => {
            Some(("averageValue", "may not set both a target raw value and a target utilization"))
        }
        _ => None,
    };
    out.extend(missing.map(|(field, detail)| FieldError::required(&path.child(field), detail)));
    out.extend(excess.map(|(field, detail)| FieldError::forbidden(&path.child(field), detail)));
}

fn target(out: &mut Errors, path: &FieldPath, target: &Value) {
    let (kind, kind_path) = (text(target, "type"), path.child("type"));
    if kind.is_empty() {
        out.push(FieldError::required(&kind_path, "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        out.push(FieldError::invalid(&kind_path, kind, "must be either Utilization, Value, or AverageValue"));
    }
    for field in ["value", "averageValue"] {
        if let Some(amount) = quantity(&target[field]).filter(|q| q.is_negative() || q.is_zero()) {
            out.push(FieldError::invalid(&path.child(field), amount.to_string(), "must be positive"));
        }
    }
    if let Some(percent) = int(target, "averageUtilization").filter(|p| *p < 1) {
        out.push(FieldError::invalid(&path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(mut scaler: Value) -> Vec<String> {
        HorizontalPodAutoscaler.default(&mut scaler);
        HorizontalPodAutoscaler.validate_create(&scaler).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_valid() {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
        assert!(texts(json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target, "behavior": {}}})).is_empty());
    }

    #[test]
    fn a_metric_has_the_source_of_its_type() {
        let target = json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "d"});
        let metric = json!({"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Value"}}});
        assert_eq!(
            texts(json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target, "metrics": [metric]}})),
            [
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ]
        );
    }

    #[test]
    fn targets_name_their_group() {
        let target = json!({"apiVersion": "v1", "kind": "Deployment", "name": "d"});
        assert_eq!(
            texts(json!({"spec": {"maxReplicas": 1, "scaleTargetRef": target}})),
            ["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"]
        );
    }
}
