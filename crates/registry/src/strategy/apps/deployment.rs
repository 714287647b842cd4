//! Deployment and ReplicaSet.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::{NAMED_AFTER, at_most_all, counts, drop_disabled, fixed, number, template};
use crate::strategy::pod::defaults;
use crate::strategy::status::reset_status;
use crate::tree::{has, int, text};
use crate::validation::{Errors, format, meta, warnings};

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct Deployment;

fn strategy(out: &mut Errors, path: &FieldPath, strategy: &Value) {
    let (at, rolling) = (path.child("rollingUpdate"), &strategy["rollingUpdate"]);
    match text(strategy, "type") {
        "Recreate" if has(strategy, "rollingUpdate") => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            out.push(FieldError::forbidden(&at, detail));
        }
        "RollingUpdate" if !has(strategy, "rollingUpdate") => {
            out.push(FieldError::required(&at, "this should be defaulted and never be nil"));
        }
        "RollingUpdate" => {
            for field in ["maxUnavailable", "maxSurge"].into_iter().filter(|f| has(rolling, f)) {
                format::count_or_percent(out, &at.child(field), &rolling[field]);
            }
            let at = at.child("maxUnavailable");
            if number(&rolling["maxUnavailable"]) == 0 && number(&rolling["maxSurge"]) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                out.push(FieldError::invalid(&at, rolling["maxUnavailable"].clone(), detail));
            }
            at_most_all(out, &at, &rolling["maxUnavailable"]);
        }
        "Recreate" => {}
        _ => out.push(FieldError::not_supported(path, strategy.clone(), &["Recreate", "RollingUpdate"])),
    }
}

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, object: &mut Value) {
        reset_status(object);
        drop_disabled(ctx, object, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        drop_disabled(ctx, object, Some(old));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &object["spec"]);
        counts(&mut out, spec, &["replicas"]);
        if meta::workload_selector(&mut out, spec, "deployment", "invalid label selector") {
            template(&mut out, spec, "ReplicaSet");
        }
        strategy(&mut out, &FieldPath::new("spec.strategy"), &spec["strategy"]);
        counts(&mut out, spec, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]);
        let deadline = int(spec, "progressDeadlineSeconds");
        if let Some(deadline) = deadline.filter(|d| *d <= int(spec, "minReadySeconds").unwrap_or(0)) {
            let path = FieldPath::new("spec.progressDeadlineSeconds");
            out.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        fixed(&["selector"], object, old)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { warnings::name(object, NAMED_AFTER) } else { Vec::new() };
        out.extend(warnings::template(object, old));
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
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
        counts(&mut out, spec, &["replicas", "minReadySeconds"]);
        if meta::workload_selector(&mut out, spec, "deployment", "invalid label selector") {
            template(&mut out, spec, "ReplicaSet");
        }
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        fixed(&["selector"], object, old)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        Deployment.warnings(object, old)
    }
}
