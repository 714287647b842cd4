//! Job and CronJob.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::pod::defaults;
use super::status::reset_status;
use crate::tree::{default, flag, has, int, list, text};
use crate::validation::{Errors, format, meta, pod_spec, update};

/// The labels by which a Job finds its pods; the old names are kept beside the new ones.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Job;

fn job_defaults(spec: &mut Value) {
    // With neither given, a Job is done after one pod has succeeded.
    if !has(spec, "completions") && !has(spec, "parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    if !has(spec, "podReplacementPolicy") {
        spec["podReplacementPolicy"] =
            if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" }.into();
    }
    if let Some(template) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(template);
    }
}

/// Labels the template and selects by it, as the Job's uid demands.
fn generate_selector(job: &mut Value) {
    if flag(&job["spec"], "manualSelector") {
        return;
    }
    let (name, uid) = (object::name(job).to_owned(), object::uid(job).to_owned());
    if uid.is_empty() {
        return;
    }
    let labels = object::map_at_mut(job, &["spec", "template", "metadata", "labels"]);
    for key in NAME_LABELS {
        labels.insert(key.to_owned(), name.clone().into());
    }
    for key in UID_LABELS {
        labels.insert(key.to_owned(), uid.clone().into());
    }
    job["spec"]["selector"] = json!({"matchLabels": {UID_LABELS[1]: uid}});
}

fn job_spec(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ] {
        format::not_negative(out, &path.child(field), int(spec, field));
    }
    let mode = text(spec, "completionMode");
    format::one_of(out, &path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    if mode == "Indexed" && !has(spec, "completions") {
        out.push(FieldError::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    let template = &spec["template"];
    let template_path = path.child("template");
    let restart = object::str_at(template, &["spec", "restartPolicy"]);
    if restart == "Always" {
        out.push(FieldError::required(
            &template_path.child("spec").child("restartPolicy"),
            "valid values: \"OnFailure\", \"Never\"",
        ));
    }
    pod_spec::template(out, &template_path, template, &["Always", "OnFailure", "Never"]);
    if has(spec, "podFailurePolicy") {
        if restart != "Never" {
            out.push(FieldError::invalid(
                path,
                spec["podFailurePolicy"].clone(),
                "only \"Never\" is supported when podFailurePolicy is specified",
            ));
        }
        for (i, rule) in list(&spec["podFailurePolicy"], "rules").iter().enumerate() {
            let action = path.child("podFailurePolicy").child("rules").index(i).child("action");
            format::required_one_of(out, &action, text(rule, "action"), &["Count", "FailIndex", "FailJob", "Ignore"]);
        }
    }
}

impl Strategy for Job {
    fn default(&self, job: &mut Value) {
        job_defaults(&mut job["spec"]);
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, job: &mut Value) {
        reset_status(job);
        generate_selector(job);
    }

    fn validate(&self, job: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &job["spec"]);
        job_spec(&mut out, &FieldPath::new("spec"), spec);
        if has(spec, "selector") {
            meta::selector(&mut out, &FieldPath::new("spec.selector"), &spec["selector"]);
        } else {
            out.push(FieldError::required(&FieldPath::new("spec.selector"), ""));
        }
        out
    }

    fn validate_update(&self, job: &Value, old: &Value) -> Vec<FieldError> {
        let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
        let mut fixed = vec!["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"];
        if text(&job["spec"], "completionMode") != "Indexed" {
            fixed.push("completions");
        }
        // The template of a Job that is held back and has never run may still change.
        let held = flag(&old["spec"], "suspend") && object::str_at(old, &["status", "startTime"]).is_empty();
        if !held {
            fixed.push("template");
        }
        for field in fixed {
            update::immutable(&mut out, &path.child(field), job["spec"].get(field), old["spec"].get(field));
        }
        out
    }

    fn orphans_by_default(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/spec/jobTemplate/spec/template/spec") {
            defaults::pod_spec(spec);
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, object: &mut Value) {
        reset_status(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &object["spec"], FieldPath::new("spec"));
        let schedule = text(spec, "schedule");
        if schedule.is_empty() {
            out.push(FieldError::required(&path.child("schedule"), ""));
        } else if schedule.contains("TZ") {
            out.push(FieldError::invalid(
                &path.child("schedule"),
                schedule,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ));
        } else if !is_schedule(schedule) {
            let count = schedule.split_whitespace().count();
            let detail = if count == 5 {
                "a field of the schedule is out of its range".to_owned()
            } else {
                format!("expected exactly 5 fields, found {count}: {schedule:?}")
            };
            out.push(FieldError::invalid(&path.child("schedule"), schedule, detail));
        }
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            format::not_negative(&mut out, &path.child(field), int(spec, field));
        }
        format::required_one_of(
            &mut out,
            &path.child("concurrencyPolicy"),
            text(spec, "concurrencyPolicy"),
            &["Allow", "Forbid", "Replace"],
        );
        let template = &spec["jobTemplate"]["spec"];
        let restart = object::str_at(template, &["template", "spec", "restartPolicy"]);
        let template_path = path.child("jobTemplate").child("spec").child("template");
        if restart == "Always" {
            out.push(FieldError::required(
                &template_path.child("spec").child("restartPolicy"),
                "valid values: \"OnFailure\", \"Never\"",
            ));
        }
        pod_spec::template(&mut out, &template_path, &template["template"], &["Always", "OnFailure", "Never"]);
        out
    }

    /// Eleven characters are left for the Jobs' suffix.
    fn validate_name(&self, name: &str) -> Vec<String> {
        let mut texts = kybern_apimachinery::validation::dns1123_subdomain(name);
        if name.len() > 52 {
            texts.push("must be no more than 52 characters".to_owned());
        }
        texts
    }
}

/// Whether a text is a standard cron schedule: five fields or one of the `@` names.
fn is_schedule(text: &str) -> bool {
    if let Some(name) = text.strip_prefix('@') {
        let every = name
            .strip_prefix("every ")
            .is_some_and(|d| d.ends_with(['s', 'm', 'h']) && d.starts_with(|c: char| c.is_ascii_digit()));
        return every || ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&name);
    }
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let ranges: [(i64, i64, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, &MONTHS), (0, 6, &DAYS)];
    let fields: Vec<&str> = text.split_whitespace().collect();
    let value = |word: &str, (low, high, names): (i64, i64, &[&str])| {
        let named = names
            .iter()
            .position(|n| n.eq_ignore_ascii_case(word))
            .and_then(|i| i64::try_from(i).ok())
            .map(|i| i + low);
        named.or_else(|| word.parse().ok()).filter(|v| (low..=high).contains(v))
    };
    fields.len() == 5
        && fields.iter().zip(ranges).all(|(field, range)| {
            field.split(',').all(|part| {
                let (span, step) = part.split_once('/').map_or((part, None), |(s, n)| (s, Some(n)));
                let step_good = step.is_none_or(|n| n.parse::<u32>().is_ok_and(|n| n > 0));
                let span_good = matches!(span, "*" | "?")
                    || match span.split_once('-') {
                        Some((a, b)) => matches!((value(a, range), value(b, range)), (Some(a), Some(b)) if a <= b),
                        None => value(span, range).is_some(),
                    };
                step_good && span_good
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for (text, good) in [
            ("* * * * *", true),
            ("*/5 0-6 1,15 jan-mar mon", true),
            ("@hourly", true),
            ("@every 5m", true),
            ("60 * * * *", false),
            ("* * * *", false),
            ("a b c d e", false),
            ("*/0 * * * *", false),
            ("5-1 * * * *", false),
            ("@never", false),
        ] {
            assert_eq!(is_schedule(text), good, "{text}");
        }
    }

    #[test]
    fn a_job_selects_by_its_uid() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        Job.default(&mut job);
        generate_selector(&mut job);
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!((&job["spec"]["completions"], &job["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
    }
}
