//! StatefulSet.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::{at_most_all, counts, drop_disabled, number};
use crate::strategy::pod::defaults;
use crate::tree::{default, drop_field, has, int, keep, list, text};
use crate::validation::{Errors, claim, format, meta, pod_spec, warnings};
use kybern_apimachinery::validation::dns1123_label;

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct StatefulSet;

/// What of a StatefulSet's spec may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn strategy(out: &mut Errors, path: &FieldPath, strategy: &Value) {
    let (at, rolling) = (path.child("rollingUpdate"), &strategy["rollingUpdate"]);
    match text(strategy, "type") {
        "" => out.push(FieldError::required(path, "")),
        "OnDelete" if has(strategy, "rollingUpdate") => {
            out.push(FieldError::invalid(&at, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'"));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            format::not_negative(out, &at.child("partition"), int(rolling, "partition"));
            if has(rolling, "maxUnavailable") {
                let (at, value) = (at.child("maxUnavailable"), &rolling["maxUnavailable"]);
                format::count_or_percent(out, &at, value);
                if number(value) == 0 {
                    out.push(FieldError::invalid(&at, value.clone(), "cannot be 0"));
                }
                at_most_all(out, &at, value);
            }
        }
        _ => out.push(FieldError::invalid(path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

/// The template as its pods will be: with the claims as volumes, and without the names that each pod gets for itself.
fn munged(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let Some(pod) = template.get_mut("spec").filter(|spec| spec.is_object()) else { return template };
    drop_field(pod, "subdomain");
    drop_field(pod, "hostname");
    let claims = list(spec, "volumeClaimTemplates");
    if !claims.is_empty() {
        let name = |claim: &Value| text(&claim["metadata"], "name").to_owned();
        let mut volumes: Vec<Value> = Vec::new();
        for claim in claims {
            let name = name(claim);
            volumes.retain(|volume| text(volume, "name") != name);
            volumes.push(serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
        let others = list(pod, "volumes").iter().filter(|v| claims.iter().all(|c| name(c) != text(v, "name")));
        volumes.extend(others.cloned());
        pod["volumes"] = volumes.into();
    }
    template
}

/// Upstream's `ValidateStatefulSetSpec`. `create`: what cannot change later is looked at, too. `whole`: the template, too.
fn spec(out: &mut Errors, spec: &Value, create: bool, whole: bool) {
    let path = FieldPath::new("spec");
    match text(spec, "podManagementPolicy") {
        "" => out.push(FieldError::required(&path.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            out.push(FieldError::invalid(&path.child("podManagementPolicy"), other, detail));
        }
    }
    strategy(out, &path.child("updateStrategy"), &spec["updateStrategy"]);
    if has(spec, "persistentVolumeClaimRetentionPolicy") {
        let policy = &spec["persistentVolumeClaimRetentionPolicy"];
        for field in ["whenDeleted", "whenScaled"] {
            let path = path.child("persistentVolumeClaimRetentionPolicy").child(field);
            format::one_of(out, &path, text(policy, field), &["Retain", "Delete"]);
        }
    }
    for (i, template) in list(spec, "volumeClaimTemplates").iter().enumerate().filter(|_| create) {
        claim::spec(out, &path.child("volumeClaimTemplates").index(i).child("spec"), &template["spec"]);
    }
    counts(out, spec, &["replicas", "minReadySeconds"]);
    format::not_negative(out, &path.child("ordinals.start"), int(&spec["ordinals"], "start"));
    let service = text(spec, "serviceName");
    if create && !service.is_empty() {
        format::invalid(out, &path.child("serviceName"), service, dns1123_label(service));
    }
    let template = path.child("template");
    if meta::workload_selector(out, spec, "statefulset", "") {
        let pods = munged(spec);
        if whole {
            pod_spec::template(out, &template, &pods);
        }
        pod_spec::template_meta(out, &template, &pods);
    }
    pod_spec::kept_running(out, &template, &spec["template"], "StatefulSet");
}

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

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, object: &mut Value) {
        object["status"] = serde_json::json!({"replicas": 0, "availableReplicas": 0});
        drop_disabled(ctx, object, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        drop_disabled(ctx, object, Some(old));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        spec(&mut out, &object["spec"], true, true);
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        // What was wrong before may stay so.
        let mut before = Vec::new();
        spec(&mut before, &old["spec"], false, true);
        let mut out = Vec::new();
        spec(&mut out, &object["spec"], false, before.is_empty());
        let mut rest = object["spec"].clone();
        for field in &MUTABLE {
            keep(&mut rest, &old["spec"], field);
        }
        if rest != old["spec"] {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                          'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            out.push(FieldError::forbidden(&FieldPath::new("spec"), detail));
        }
        out
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        dns1123_label(name)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = warnings::template(object, old);
        for (i, template) in list(&object["spec"], "volumeClaimTemplates").iter().enumerate() {
            let path = FieldPath::new("spec.volumeClaimTemplates").index(i);
            let path = if old.is_some() { path.child("Spec") } else { path };
            warnings::claim(&mut out, &path, &template["spec"]);
        }
        if int(&object["spec"], "revisionHistoryLimit").is_some_and(|limit| limit < 0) {
            let text = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
            out.push(text.to_owned());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn claims_are_volumes_of_the_pods() {
        let spec = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}],
            "template": {"spec": {"hostname": "x", "volumes": [{"name": "data", "emptyDir": {}}, {"name": "b", "emptyDir": {}}]}}});
        let names: Vec<Value> = list(&munged(&spec)["spec"], "volumes").iter().map(|v| v["name"].clone()).collect();
        assert_eq!(names, ["data", "b"]);
        assert!(!has(&munged(&spec)["spec"], "hostname"));
    }
}
