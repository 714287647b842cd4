//! The spec of a Job, as Jobs and CronJobs have it.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::policy;
use crate::tree::{has, int, text};
use crate::validation::{Errors, format, names, pod_spec};

const MAX_INDEXED: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const FEW_AT_ONCE: i64 = 10_000;

/// Upstream's `validateJobSpec`.
pub(super) fn job(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        format::not_negative(out, &path.child(field), int(spec, field));
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        let detail = "when maxFailedIndexes is specified";
        out.push(FieldError::required(&path.child("backoffLimitPerIndex"), detail));
    }
    if has(spec, "managedBy") {
        let manager = text(spec, "managedBy");
        names::domain_prefixed_path(out, &path.child("managedBy"), manager);
        if manager.len() > 63 {
            out.push(FieldError::too_long(&path.child("managedBy"), 63));
        }
    }
    let mode = text(spec, "completionMode");
    if has(spec, "completionMode") {
        format::one_of(out, &path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    let indexed = mode == "Indexed";
    if indexed {
        indexes(out, path, spec);
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if let Some(value) = int(spec, field).filter(|_| matches!(mode, "" | "NonIndexed")) {
            out.push(FieldError::invalid(&path.child(field), value, "requires indexed completion mode"));
        }
    }
    let failure = has(spec, "podFailurePolicy");
    if failure {
        policy::failure(out, &path.child("podFailurePolicy"), spec);
    }
    if has(spec, "successPolicy") {
        let path = path.child("successPolicy");
        if indexed {
            policy::success(out, &path, spec);
        } else {
            out.push(FieldError::invalid(&path, spec["successPolicy"].clone(), "requires indexed completion mode"));
        }
    }
    if has(spec, "podReplacementPolicy") {
        let policies: &[&str] = if failure { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        format::one_of(out, &path.child("podReplacementPolicy"), text(spec, "podReplacementPolicy"), policies);
    }
    let template = path.child("template");
    pod_spec::template(out, &template, &spec["template"]);
    let path = template.child("spec").child("restartPolicy");
    match text(&spec["template"]["spec"], "restartPolicy") {
        "" | "Always" => out.push(FieldError::required(&path, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" if failure => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            out.push(FieldError::invalid(&path, "OnFailure", detail));
        }
        "OnFailure" => {}
        other => out.push(FieldError::not_supported(&path, other, &["OnFailure", "Never"])),
    }
}

/// What an indexed Job must keep to, so that its indexes can be kept in its status.
fn indexes(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let value = |field: &str| int(spec, field);
    let mut invalid = |field: &str, value: i64, detail: String| {
        out.push(FieldError::invalid(&path.child(field), value, detail));
    };
    let (parallelism, completions, failed) = (value("parallelism"), value("completions"), value("maxFailedIndexes"));
    if let Some(n) = parallelism.filter(|n| *n > MAX_INDEXED) {
        let detail = format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed");
        invalid("parallelism", n, detail);
    }
    if let (Some(all), Some(n)) = (completions, failed)
        && n > all
    {
        invalid("maxFailedIndexes", n, "must be less than or equal to completions".to_owned());
    }
    if let Some(n) = failed.filter(|n| *n > MAX_INDEXED) {
        invalid("maxFailedIndexes", n, format!("must be less than or equal to {MAX_INDEXED}"));
    }
    let many = completions.is_some_and(|n| n > MANY_COMPLETIONS) && has(spec, "backoffLimitPerIndex");
    for (field, n) in [("parallelism", parallelism), ("maxFailedIndexes", failed)].into_iter().filter(|_| many) {
        if let Some(n) = n.filter(|n| *n > FEW_AT_ONCE) {
            let detail = format!(
                "must be less than or equal to {FEW_AT_ONCE} when completions are above {MANY_COMPLETIONS} and used with backoff \
                 limit per index"
            );
            invalid(field, n, detail);
        }
    }
    if completions.is_none() {
        out.push(FieldError::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if many && failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        out.push(FieldError::required(&path.child("maxFailedIndexes"), detail));
    }
}
