//! CertificateSigningRequests: the server says who asks; the request itself never changes.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::status::keep_all_but;
use crate::tree::{keep, list, text};
use crate::validation::update::immutable;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, request: &mut Value) {
        let spec = &mut request["spec"];
        for field in ["username", "uid", "groups", "extra"] {
            crate::tree::drop_field(spec, field);
        }
        spec["username"] = ctx.user.name.clone().into();
        if !ctx.user.uid.is_empty() {
            spec["uid"] = ctx.user.uid.clone().into();
        }
        if !ctx.user.groups.is_empty() {
            spec["groups"] = json!(ctx.user.groups);
        }
        if !ctx.user.extra.is_empty() {
            spec["extra"] = json!(ctx.user.extra);
        }
        request["status"] = json!({});
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, request: &mut Value, old: &Value) {
        keep(request, old, "spec");
    }

    fn validate(&self, request: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &request["spec"], FieldPath::new("spec"));
        if text(spec, "request").is_empty() {
            out.push(FieldError::required(&path.child("request"), "must be a PEM-encoded CERTIFICATE REQUEST"));
        }
        if list(spec, "usages").is_empty() {
            out.push(FieldError::required(&path.child("usages"), ""));
        }
        let signer = text(spec, "signerName");
        if signer.is_empty() {
            out.push(FieldError::required(&path.child("signerName"), ""));
        } else if !signer.contains('/') {
            out.push(FieldError::invalid(
                &path.child("signerName"),
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ));
        }
        if let Some(seconds) = crate::tree::int(spec, "expirationSeconds").filter(|s| *s < 600) {
            out.push(FieldError::invalid(
                &path.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            ));
        }
        out
    }
}

/// `certificatesigningrequests/approval`: conditions alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Approval;

impl Strategy for Approval {
    fn prepare_for_update(&self, _: &StrategyContext<'_>, request: &mut Value, old: &Value) {
        let conditions = request["status"].get("conditions").cloned();
        keep_all_but(request, old, "");
        if let Some(conditions) = conditions {
            request["status"]["conditions"] = conditions;
        }
    }

    fn validate_update(&self, request: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let kinds = |r: &Value| -> Vec<String> {
            list(&r["status"], "conditions").iter().map(|c| text(c, "type").to_owned()).collect()
        };
        let (new, old_kinds) = (kinds(request), kinds(old));
        let path = FieldPath::new("status.conditions");
        for (kind, opposite) in [("Approved", "Denied"), ("Denied", "Approved")] {
            if new.iter().any(|k| k == kind) && new.iter().any(|k| k == opposite) {
                out.push(FieldError::invalid(&path, opposite, "Approved and Denied conditions are mutually exclusive"));
                break;
            }
            if old_kinds.iter().any(|k| k == kind) && !new.iter().any(|k| k == kind) {
                out.push(FieldError::forbidden(&path, format!("updates may not remove a condition of type {kind:?}")));
            }
        }
        immutable(&mut out, &FieldPath::new("spec"), request.get("spec"), old.get("spec"));
        out
    }
}
