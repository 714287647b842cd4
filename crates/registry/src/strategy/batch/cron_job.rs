//! CronJob.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::{NAMED_AFTER, schedule, spec};
use crate::strategy::pod::{defaults, prepare};
use crate::strategy::status::reset_status;
use crate::tree::{flag, has, int, text};
use crate::validation::{Errors, format, warnings};

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct CronJob;

fn drop_disabled(ctx: &StrategyContext<'_>, object: &mut Value, old: Option<&Value>) {
    if let Some(spec) = object.pointer_mut("/spec/jobTemplate/spec/template/spec") {
        prepare::drop_disabled(ctx, spec, old.and_then(|old| old.pointer("/spec/jobTemplate/spec/template/spec")));
    }
}

fn common(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let (cron, path) = (&object["spec"], FieldPath::new("spec"));
    let written = text(cron, "schedule");
    let at = path.child("schedule");
    if written.is_empty() {
        out.push(FieldError::required(&at, ""));
    } else {
        out.extend(schedule::fault(written).map(|fault| FieldError::invalid(&at, written, fault)));
        // A schedule that had a zone of its own may go on having one.
        let had = old.is_some_and(|old| text(&old["spec"], "schedule").contains("TZ"));
        if written.contains("TZ") && had && has(cron, "timeZone") {
            let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            out.push(FieldError::invalid(&at, written, detail));
        } else if written.contains("TZ") && !had {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            out.push(FieldError::invalid(&at, written, detail));
        }
    }
    format::not_negative(out, &path.child("startingDeadlineSeconds"), int(cron, "startingDeadlineSeconds"));
    if has(cron, "timeZone") && old.is_none_or(|old| old["spec"].get("timeZone") != cron.get("timeZone")) {
        let zone = text(cron, "timeZone");
        format::invalid(out, &path.child("timeZone"), zone, schedule::zone_faults(zone));
    }
    let policies = ["Allow", "Forbid", "Replace"];
    let policy = text(cron, "concurrencyPolicy");
    format::required_one_of(out, &path.child("concurrencyPolicy"), policy, &policies);
    let (template, at) = (&cron["jobTemplate"]["spec"], path.child("jobTemplate").child("spec"));
    spec::job(out, &at, template);
    if has(template, "selector") {
        let detail = "`selector` will be auto-generated";
        out.push(FieldError::invalid(&at.child("selector"), template["selector"].clone(), detail));
    }
    if flag(template, "manualSelector") {
        out.push(FieldError::not_supported(&at.child("manualSelector"), true, &["nil", "false"]));
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        format::not_negative(out, &path.child(field), int(cron, field));
    }
}

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/spec/jobTemplate/spec/template/spec") {
            defaults::pod_spec(spec);
        }
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, object: &mut Value) {
        reset_status(object);
        drop_disabled(ctx, object, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        drop_disabled(ctx, object, Some(old));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        common(&mut out, object, None);
        let name = object::name(object);
        // Eleven characters are left for the Jobs' suffix.
        if name.len() > 52 {
            out.push(FieldError::invalid(&FieldPath::new("metadata.name"), name, "must be no more than 52 characters"));
        }
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        common(&mut out, object, Some(old));
        out
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { warnings::name(object, NAMED_AFTER) } else { Vec::new() };
        let path = FieldPath::new("spec.jobTemplate.spec.template");
        out.extend(warnings::template_at(&path, object, old, &["spec", "jobTemplate", "spec", "template"]));
        if old.is_some() && text(&object["spec"], "schedule").contains("TZ") {
            // Upstream's path.
            let text = "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                        https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";
            out.push(text.to_owned());
        }
        out
    }
}
