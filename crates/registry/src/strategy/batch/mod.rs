//! Job and CronJob.

mod cron_job;
mod policy;
mod schedule;
mod spec;
pub(super) mod status;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::validation::{dns1123_label, label_value};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

pub(super) use self::cron_job::CronJob;
use super::apps::drop_disabled;
use super::pod::defaults;
use super::status::reset_status;
use crate::tree::{default, flag, has, int, keep, text};
use crate::validation::{Errors, meta, update, warnings};

/// The labels by which a Job finds its pods; the old names are kept beside the new ones.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
/// The names of pods are made from the Job's.
const NAMED_AFTER: &str = "Pod names and hostnames";

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Job;

fn job_defaults(job: &mut Value) {
    let labels = object::at(job, &["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels.filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
        && object::labels(job).is_none_or(serde_json::Map::is_empty)
    {
        object::set(job, &["metadata", "labels"], labels);
    }
    let spec = &mut job["spec"];
    // With neither given, a Job is done after one pod has succeeded.
    if !has(spec, "completions") && !has(spec, "parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    if !has(spec, "podReplacementPolicy") {
        spec["podReplacementPolicy"] =
            if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" }.into();
    }
    if let Some(template) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(template);
    }
}

/// Labels the template and selects by it, as the Job's uid demands, where nobody has done so before.
fn generate_selector(job: &mut Value) {
    if flag(&job["spec"], "manualSelector") {
        return;
    }
    let (name, uid) = (object::name(job).to_owned(), object::uid(job).to_owned());
    // Labels that a Job has from its template are the template's, upstream the very same map. Where the template had none, the
    // Job has them once it is stored, and a name that is no label's value is told of the template only.
    let from_template = object::labels(job) == job["spec"]["template"]["metadata"]["labels"].as_object();
    let shared = from_template && (object::labels(job).is_some() || label_value(&name).is_empty());
    let labels = object::map_at_mut(job, &["spec", "template", "metadata", "labels"]);
    for (keys, value) in [(NAME_LABELS, name), (UID_LABELS, uid.clone())] {
        for key in keys {
            labels.entry(key).or_insert_with(|| value.clone().into());
        }
    }
    if shared {
        let labels = job["spec"]["template"]["metadata"]["labels"].clone();
        object::set(job, &["metadata", "labels"], labels);
    }
    object::map_at_mut(job, &["spec", "selector", "matchLabels"]).entry(UID_LABELS[1]).or_insert_with(|| uid.into());
}

/// A label of the template must be what the server makes it.
fn has_label(out: &mut Errors, job: &Value, key: &str, expect: &str) {
    let path = FieldPath::new("spec.template.metadata.labels").key(key);
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    let detail = format!("must be '{expect}'");
    match labels.get(key).and_then(Value::as_str) {
        None => out.push(FieldError::required(&path, detail)),
        Some(value) if value != expect => out.push(FieldError::invalid(&path, labels.clone(), detail)),
        Some(_) => {}
    }
}

/// `validateGeneratedSelector`; `prefixed`: whether the labels with a prefix must be there, too.
fn generated(out: &mut Errors, job: &Value, prefixed: bool) {
    let spec = &job["spec"];
    if flag(spec, "manualSelector") || !has(spec, "selector") {
        return;
    }
    let (name, uid) = (object::name(job), object::uid(job));
    let mut labels = serde_json::Map::new();
    for i in 0..if prefixed { 2 } else { 1 } {
        for (key, value) in [(UID_LABELS[i], uid), (NAME_LABELS[i], name)] {
            has_label(out, job, key, value);
            labels.insert(key.to_owned(), value.into());
        }
    }
    if LabelSelector::from_object(&spec["selector"]).is_ok_and(|parsed| !parsed.matches_map(Some(&labels))) {
        let path = FieldPath::new("spec.selector");
        out.push(FieldError::invalid(&path, spec["selector"].clone(), "`selector` not auto-generated"));
    }
}

fn job_spec(out: &mut Errors, spec: &Value) {
    let path = FieldPath::new("spec");
    spec::job(out, &path, spec);
    if has(spec, "selector") {
        meta::selector(out, &path.child("selector"), &spec["selector"]);
    } else {
        out.push(FieldError::required(&path.child("selector"), ""));
    }
    meta::template_selected(out, &path, spec);
}

/// The old template with what may change of a Job that is held back and has never run.
fn held(old: &Value, new: &Value) -> Value {
    let mut template = old.clone();
    for (part, fields) in [
        ("metadata", &["annotations", "labels"][..]),
        ("spec", &["nodeSelector", "tolerations", "schedulingGates"][..]),
    ] {
        for field in fields {
            keep(&mut template[part], &new[part], field);
        }
    }
    let affinity = &mut template["spec"]["affinity"];
    let wanted = new["spec"]["affinity"].get("nodeAffinity");
    match (wanted, affinity.is_object()) {
        (None, false) => {}
        (Some(wanted), _) => *affinity = with(affinity, wanted),
        (None, true) => crate::tree::drop_field(affinity, "nodeAffinity"),
    }
    let empty = |v: &Value| v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty);
    if empty(&template["spec"]["affinity"]) && !has(&new["spec"], "affinity") {
        crate::tree::drop_field(&mut template["spec"], "affinity");
    }
    template
}

fn with(affinity: &Value, node: &Value) -> Value {
    let mut all = affinity.as_object().cloned().unwrap_or_default();
    all.insert("nodeAffinity".to_owned(), node.clone());
    all.into()
}

fn whole(job: &Value, prefixed: bool) -> Errors {
    let (mut out, spec) = (Vec::new(), &job["spec"]);
    generated(&mut out, job, prefixed);
    job_spec(&mut out, spec);
    let completions = int(spec, "completions").filter(|n| *n > 0 && text(spec, "completionMode") == "Indexed");
    if let Some(completions) = completions {
        let host = format!("{}-{}", object::name(job), completions - 1);
        if !dns1123_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            out.push(FieldError::invalid(&FieldPath::new("metadata.name"), object::name(job), detail));
        }
    }
    out
}

impl Strategy for Job {
    fn default(&self, job: &mut Value) {
        job_defaults(job);
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, job: &mut Value) {
        reset_status(job);
        generate_selector(job);
        drop_disabled(ctx, job, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, job: &mut Value, old: &Value) {
        drop_disabled(ctx, job, Some(old));
    }

    fn validate_create(&self, job: &Value) -> Vec<FieldError> {
        whole(job, true)
    }

    fn validate_update(&self, job: &Value, old: &Value) -> Vec<FieldError> {
        // A Job that has no labels with a prefix needs none.
        let before = &old["spec"]["template"]["metadata"]["labels"];
        let prefixed = has(before, UID_LABELS[1]) && has(before, NAME_LABELS[1]);
        // Upstream checks the spec twice.
        let (mut out, path) = (whole(job, prefixed), FieldPath::new("spec"));
        let (new, before) = (&job["spec"], &old["spec"]);
        job_spec(&mut out, new);
        let fixed = |out: &mut Errors, field: &str| {
            update::immutable(out, &path.child(field), new.get(field), before.get(field));
        };
        if text(new, "completionMode") != "Indexed" {
            fixed(&mut out, "completions");
        } else if has(new, "completions")
            && new.get("completions") != before.get("completions")
            && new.get("completions") != new.get("parallelism")
        {
            let detail = "can only be modified in tandem with spec.parallelism";
            out.push(FieldError::invalid(&path.child("completions"), new["completions"].clone(), detail));
        }
        fixed(&mut out, "selector");
        let never_ran = flag(before, "suspend") && object::str_at(old, &["status", "startTime"]).is_empty();
        let template = if never_ran { held(&before["template"], &new["template"]) } else { before["template"].clone() };
        update::immutable(&mut out, &path.child("template"), new.get("template"), Some(&template));
        for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
            fixed(&mut out, field);
        }
        out
    }

    fn warnings(&self, job: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = if old.is_none() { warnings::name(job, NAMED_AFTER) } else { Vec::new() };
        let spec = &job["spec"];
        let above = |field: &str, limit: i64| int(spec, field).is_some_and(|n| n > limit);
        let large = above("completions", 100_000) && above("parallelism", 10_000);
        if text(spec, "completionMode") == "Indexed" && large && old.is_none_or(|old| old["spec"] != *spec) {
            let text = "spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
                        Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
            out.push(text.to_owned());
        }
        out.extend(warnings::template(job, old));
        out
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
             propagationPolicy=Orphan to suppress this warning",
        )
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    #[test]
    fn a_job_selects_by_its_uid() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}});
        Job.default(&mut job);
        generate_selector(&mut job);
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!((&job["spec"]["completions"], &job["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
        assert_eq!(job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]);
        let mut out = Vec::new();
        generated(&mut out, &job, true);
        assert_eq!(out, []);
    }

    #[test]
    fn a_job_that_waits_may_be_told_where_to_run() {
        let old = json!({"metadata": {}, "spec": {"containers": [1]}});
        let new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [1], "nodeSelector": {"a": "b"}, "affinity": {"nodeAffinity": {"x": 1}}}});
        assert_eq!(held(&old, &new), new);
        let other = json!({"metadata": {}, "spec": {"containers": [2]}});
        assert_ne!(held(&old, &other), other);
    }
}
