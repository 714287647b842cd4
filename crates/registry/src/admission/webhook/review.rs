//! AdmissionReviews: what a webhook is sent, and what its answer has to be.

use std::fmt;

use base64::Engine;
use kybern_apimachinery::{ApiError, Gvk, Gvr, Reason, Value, json};
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::admission::{AdmissionRequest, Equivalent};

use crate::tree::text;

/// What a webhook says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    /// The bytes of a JSON patch.
    pub(super) patch: Vec<u8>,
    pub(super) patch_type: String,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
    /// The `Status` of a refusal.
    pub(super) result: Value,
}

/// The version of reviews that a webhook is sent: the first of those it names that is known here.
pub(super) fn version(named: &[String]) -> Result<&str, String> {
    let known = named.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
    known
        .map(String::as_str)
        .ok_or_else(|| "webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_owned())
}

pub(super) fn request(
    version: &str,
    uid: &str,
    request: &AdmissionRequest<'_>,
    seen: &Equivalent,
    object: &Value,
    old: &Value,
) -> Value {
    let kind = |kind: &Gvk| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let resource = |of: &Gvr| json!({"group": of.group, "version": of.version, "resource": of.resource});
    let mut asked = json!({
        "uid": uid, "kind": kind(&seen.kind), "resource": resource(&seen.resource), "requestKind": kind(request.kind),
        "requestResource": resource(&request.resource.gvr), "operation": request.operation.as_str(),
        "object": object, "oldObject": old, "dryRun": request.dry_run, "options": request.options,
        "userInfo": user_info(request.user),
    });
    for (field, value) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", request.namespace),
    ] {
        if !value.is_empty() {
            asked[field] = value.into();
        }
    }
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": asked})
}

/// What is empty is left out.
fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({});
    for (field, value) in [("username", &user.name), ("uid", &user.uid)] {
        if !value.is_empty() {
            info[field] = value.as_str().into();
        }
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Reads an answer. What v1 demands of one, v1beta1 does not.
pub(super) fn response(version: &str, uid: &str, mutating: bool, body: &[u8]) -> Result<Verdict, String> {
    let review: Value = serde_json::from_slice(body).map_err(|e| format!("it is no JSON: {e}"))?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let strict = version == "v1";
    if strict && text(response, "uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
    }
    let (is, kind) = (text(&review, "apiVersion"), text(&review, "kind"));
    if strict && (is != "admission.k8s.io/v1" || kind != "AdmissionReview") {
        let told = format!("{is}, Kind={kind}");
        return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {told}"));
    }
    let encoded = text(response, "patch");
    let patch = base64::engine::general_purpose::STANDARD.decode(encoded);
    let patch = patch.map_err(|e| format!("illegal base64 data in response.patch: {e}"))?;
    let patch_type = response.get("patchType").filter(|t| !t.is_null());
    match (strict, mutating, patch.is_empty(), patch_type.is_none()) {
        (true, true, false, true) => {
            return Err("webhook returned response.patch but not response.patchType".to_owned());
        }
        (true, true, true, false) => {
            return Err("webhook returned response.patchType but not response.patch".to_owned());
        }
        (true, false, false, _) => return Err("validating webhook may not return response.patch".to_owned()),
        (true, false, _, false) => return Err("validating webhook may not return response.patchType".to_owned()),
        _ => {}
    }
    let patch_type = if strict { text(response, "patchType") } else { "JSONPatch" };
    if strict && !patch.is_empty() && patch_type.is_empty() {
        return Err("webhook returned invalid response.patchType of \"\"".to_owned());
    }
    let words = response["warnings"].as_array().into_iter().flatten();
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Verdict {
        allowed: response["allowed"] == true,
        patch: if mutating { patch } else { Vec::new() },
        patch_type: patch_type.to_owned(),
        warnings: words.filter_map(Value::as_str).map(str::to_owned).collect(),
        annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        result: response["status"].clone(),
    })
}

/// The refusal that a webhook's `status` makes: its code, reason, details, and its message behind who refused.
pub(super) fn denial(hook: &str, result: &Value) -> ApiError {
    let denied = format!("admission webhook {hook:?} denied the request");
    let reason = text(result, "reason");
    let message = match (text(result, "message"), reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code =
        result["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    let mut error = ApiError::new(Reason::parse(reason), message).with_code(code.unwrap_or(400)).with_reason(reason);
    if result["details"].is_object() {
        error = error.with_details(result["details"].clone());
    }
    error
}

/// What an answer must not be for its plugin.
pub(super) fn invalid(cause: impl fmt::Display) -> String {
    format!("received invalid webhook response: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mutating: bool, change: Value) -> Result<Verdict, String> {
        let mut review = json!({
            "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": "u", "allowed": true},
        });
        for (field, value) in change.as_object().unwrap() {
            match field.as_str() {
                "kind" | "apiVersion" | "response" => review[field] = value.clone(),
                field => review["response"][field] = value.clone(),
            }
        }
        response("v1", "u", mutating, review.to_string().as_bytes())
    }

    #[test]
    fn what_an_answer_must_be() {
        for (mutating, change, expect) in [
            (true, json!({"response": null}), "webhook response was absent"),
            (true, json!({"uid": "v"}), "expected response.uid=\"u\", got \"v\""),
            (
                true,
                json!({"apiVersion": "v1", "kind": "Pod"}),
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod",
            ),
            (true, json!({"patch": "W10="}), "webhook returned response.patch but not response.patchType"),
            (true, json!({"patchType": "JSONPatch"}), "webhook returned response.patchType but not response.patch"),
            (false, json!({"patch": "W10="}), "validating webhook may not return response.patch"),
            (false, json!({"patchType": "JSONPatch"}), "validating webhook may not return response.patchType"),
            (true, json!({"patch": "W10=", "patchType": ""}), "webhook returned invalid response.patchType of \"\""),
        ] {
            assert_eq!(read(mutating, change), Err(expect.to_owned()));
        }
        let verdict = read(true, json!({"patch": "W10=", "patchType": "JSONPatch", "warnings": ["w"]})).unwrap();
        assert_eq!(
            (verdict.allowed, &verdict.patch[..], &verdict.warnings[..]),
            (true, &b"[]"[..], &["w".to_owned()][..])
        );
        // Only what is true is a permission.
        assert!(!read(true, json!({"allowed": "true"})).unwrap().allowed);
        // The old version demands nothing.
        let old = response("v1beta1", "u", true, br#"{"response": {"allowed": true, "patch": "W10="}}"#).unwrap();
        assert_eq!((old.allowed, old.patch_type.as_str()), (true, "JSONPatch"));
    }

    #[test]
    fn a_refusal_says_who_refused() {
        let check = |result: Value, code: u16, message: &str| {
            let error = denial("x.example", &result);
            let told = format!("admission webhook \"x.example\" denied the request{message}");
            assert_eq!((error.code(), error.message()), (code, told.as_str()), "{result}");
        };
        check(Value::Null, 400, " without explanation");
        check(json!({"message": "no"}), 400, ": no");
        check(json!({"message": "no", "code": 200}), 400, ": no");
        check(json!({"message": "no", "code": 422}), 422, ": no");
        check(json!({"message": "no", "code": 9999}), 400, ": no");
        check(json!({"reason": "Forbidden", "code": 403}), 403, ": Forbidden");
        let told = denial("x", &json!({"reason": "TooRainy", "details": {"causes": [{"message": "c"}]}})).to_status();
        assert_eq!((&told["reason"], &told["details"]["causes"][0]["message"]), (&json!("TooRainy"), &json!("c")));
    }
}
