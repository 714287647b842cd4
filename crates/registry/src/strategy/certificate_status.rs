//! What subresources write of a CertificateSigningRequest: whoever approves sets no certificate, and whoever signs does not
//! approve.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json, time};
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use kybern_auth::{pem, pki};

use super::status::keep_all_but;
use crate::tree::{default, has, keep, list, list_mut, text};
use crate::validation::update::diff;
use crate::validation::{Errors, format};

/// The conditions that decide whether a request is signed.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// `certificatesigningrequests/approval`: conditions alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Approval;

/// `certificatesigningrequests/status`: the certificate, and conditions that decide nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CertificateStatus;

fn of_kind<'a>(request: &'a Value, kind: &str) -> Vec<&'a Value> {
    list(&request["status"], "conditions").iter().filter(|c| text(c, "type") == kind).collect()
}

/// When a condition came and when it last changed, where its writer does not say so.
fn stamp(request: &mut Value, old: &Value, now: jiff::Timestamp) {
    let now = Value::from(time::to_rfc3339(now));
    let before = list(&old["status"], "conditions");
    for condition in list_mut(&mut request["status"], "conditions") {
        default(condition, "lastUpdateTime", now.clone());
        let same = |c: &&Value| {
            ["type", "status"].iter().all(|f| c.get(*f) == condition.get(*f)) && has(c, "lastTransitionTime")
        };
        let since = before.iter().find(same).map_or(&now, |c| &c["lastTransitionTime"]).clone();
        default(condition, "lastTransitionTime", since);
    }
}

fn conditions(request: &Value) -> Vec<FieldError> {
    let (mut out, path) = (Vec::new(), FieldPath::new("status.conditions"));
    let mut seen = BTreeSet::new();
    for (i, condition) in list(&request["status"], "conditions").iter().enumerate() {
        let (at, kind) = (path.index(i), text(condition, "type"));
        if kind.is_empty() {
            out.push(FieldError::required(&at.child("type"), ""));
        }
        let statuses: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        format::required_one_of(&mut out, &at.child("status"), text(condition, "status"), statuses);
        let opposite = DECISIONS.iter().find(|d| **d != kind).filter(|_| DECISIONS.contains(&kind));
        if opposite.is_some_and(|o| seen.contains(o)) {
            out.push(FieldError::invalid(&path, kind, "Approved and Denied conditions are mutually exclusive"));
        }
        if !seen.insert(kind) {
            out.push(FieldError::duplicate(&at.child("type"), kind));
        }
    }
    out
}

/// Why a certificate's bytes are none.
fn certificate(request: &Value) -> Result<(), String> {
    let given = text(&request["status"], "certificate");
    if given.is_empty() {
        return Ok(());
    }
    let bytes = STANDARD.decode(given).map_err(|e| e.to_string())?;
    let blocks = pem::decode(&String::from_utf8_lossy(&bytes))?;
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if pki::not_after(&block.der).is_none() {
            return Err("a CERTIFICATE PEM block holds no X.509 certificate".to_owned());
        }
    }
    Ok(())
}

/// What holds of every write; `decides` and `signs` tell what the writer may do.
fn update(request: &Value, old: &Value, decides: bool, signs: bool) -> Vec<FieldError> {
    let (mut out, path) = (Errors::new(), FieldPath::new("status.conditions"));
    // What is wrong already may stay.
    if conditions(old).is_empty() {
        out.extend(conditions(request));
    }
    let (new_certificate, old_certificate) =
        (text(&request["status"], "certificate"), text(&old["status"], "certificate"));
    let at = FieldPath::new("status.certificate");
    if new_certificate != old_certificate
        && let Err(detail) = certificate(request)
    {
        out.push(FieldError::invalid(&at, "<certificate data>", detail));
    }
    for kind in ["Approved", "Denied", "Failed"] {
        if of_kind(request, kind).len() < of_kind(old, kind).len() {
            out.push(FieldError::forbidden(&path, format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    for kind in DECISIONS.iter().filter(|_| !decides) {
        let (new, before) = (of_kind(request, kind), of_kind(old, kind));
        if new.len() > before.len() {
            out.push(FieldError::forbidden(&path, format!("updates may not add a condition of type {kind:?}")));
        } else if new.len() == before.len() && new != before {
            let changed = diff(&json!(new), &json!(before), &path);
            let detail = format!("updates may not modify a condition of type {kind:?}{changed}");
            out.push(FieldError::forbidden(&path, detail));
        }
    }
    if new_certificate != old_certificate && !signs {
        out.push(FieldError::forbidden(&at, "updates may not set certificate content"));
    } else if new_certificate != old_certificate && !old_certificate.is_empty() {
        out.push(FieldError::forbidden(&at, "updates may not modify existing certificate content"));
    }
    out
}

impl Strategy for Approval {
    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["spec"], &["status", "certificate"]]
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, request: &mut Value, old: &Value) {
        stamp(request, old, ctx.now);
        let conditions = request["status"].get("conditions").cloned();
        keep_all_but(request, old, "");
        if let Some(conditions) = conditions {
            request["status"]["conditions"] = conditions;
        }
    }

    fn validate_update(&self, request: &Value, old: &Value) -> Vec<FieldError> {
        update(request, old, true, false)
    }
}

impl Strategy for CertificateStatus {
    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["status", "conditions"]]
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, request: &mut Value, old: &Value) {
        keep_all_but(request, old, "status");
        if request["status"].is_null() {
            keep(request, old, "status");
        }
        stamp(request, old, ctx.now);
        // Decisions stay what they were, unless there are more or fewer of them: then the write is refused.
        for kind in DECISIONS {
            let before: Vec<Value> = of_kind(old, kind).into_iter().cloned().collect();
            if of_kind(request, kind).len() != before.len() {
                continue;
            }
            let conditions = list_mut(&mut request["status"], "conditions").iter_mut();
            for (condition, was) in conditions.filter(|c| text(c, "type") == kind).zip(before) {
                *condition = was;
            }
        }
    }

    fn validate_update(&self, request: &Value, old: &Value) -> Vec<FieldError> {
        update(request, old, false, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apiserver::strategy::Features;

    fn request(conditions: Value, certificate: &str) -> Value {
        json!({"metadata": {}, "spec": {"signerName": "a.b/c"},
            "status": {"conditions": conditions, "certificate": STANDARD.encode(certificate)}})
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True", "reason": "r"})
    }

    fn write(strategy: &dyn Strategy, new: &Value, old: &Value) -> (Value, String) {
        let (user, mut new) = (Default::default(), new.clone());
        let ctx = StrategyContext {
            user: &user,
            now: jiff::Timestamp::UNIX_EPOCH,
            dry_run: false,
            features: &Features::default(),
        };
        strategy.prepare_for_update(&ctx, &mut new, old);
        let errors: Vec<String> = strategy.validate_update(&new, old).iter().map(ToString::to_string).collect();
        (new, errors.join("; "))
    }

    #[test]
    fn who_signs_does_not_approve() {
        let (old, approved) = (request(json!([]), ""), request(json!([condition("Approved")]), ""));
        let (_, errors) = write(&CertificateStatus, &approved, &old);
        assert_eq!(errors, "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"");
        let (_, errors) = write(&CertificateStatus, &old, &approved);
        assert_eq!(errors, "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"");
        let mut changed = approved.clone();
        changed["status"]["conditions"][0]["reason"] = "other".into();
        let (kept, errors) = write(&CertificateStatus, &changed, &approved);
        assert_eq!((&kept["status"]["conditions"][0]["reason"], errors.as_str()), (&json!("r"), ""));
        let (failed, errors) = write(&CertificateStatus, &request(json!([condition("Failed")]), ""), &old);
        assert_eq!(
            (errors.as_str(), &failed["status"]["conditions"][0]["lastUpdateTime"]),
            ("", &json!("1970-01-01T00:00:00Z"))
        );
    }

    #[test]
    fn who_approves_does_not_sign() {
        let old = request(json!([]), "");
        let (new, errors) = write(&Approval, &request(json!([condition("Approved")]), "x"), &old);
        assert_eq!((errors.as_str(), &new["status"]["certificate"]), ("", &json!("")));
        let (_, errors) = write(&Approval, &request(json!([condition("Denied"), condition("Approved")]), ""), &old);
        assert_eq!(
            errors,
            "status.conditions: Invalid value: \"Approved\": Approved and Denied conditions are mutually exclusive"
        );
    }

    #[test]
    fn a_certificate_is_one_and_stays() {
        let old = request(json!([]), "");
        let (_, errors) = write(&CertificateStatus, &request(json!([]), "x"), &old);
        let invalid = "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block";
        assert_eq!(errors, invalid);
        let key = pem::encode("PRIVATE KEY", b"x");
        let (_, errors) = write(&CertificateStatus, &request(json!([]), &key), &old);
        assert!(errors.contains("only CERTIFICATE PEM blocks are allowed"), "{errors}");
        let (_, errors) = write(&CertificateStatus, &old, &request(json!([]), "x"));
        assert_eq!(errors, "status.certificate: Forbidden: updates may not modify existing certificate content");
    }
}
