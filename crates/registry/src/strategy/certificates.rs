//! CertificateSigningRequests: the server says who asks; the request itself never changes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;

use crate::tree::{keep, list, text};
use crate::validation::names::path_segment;
use crate::validation::{Errors, format};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Whether base64 data is a certificate request in PEM.
fn is_pem_request(data: &str) -> bool {
    let pem = STANDARD.decode(data).unwrap_or_default();
    CertificateSigningRequestDer::from_pem_slice(&pem).is_ok()
}

/// The first of a name's parts that is wrong tells enough.
fn first_wrong_part(out: &mut Errors, path: &FieldPath, whole: &str, check: fn(&str) -> Vec<String>) {
    if let Some(part) = whole.split('.').find(|part| !check(part).is_empty()) {
        for fault in check(part) {
            out.push(FieldError::invalid(path, whole, format!("validating label {part:?}: {fault}")));
        }
    }
}

/// `example.com/signer`.
pub(super) fn signer_name(out: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let [domain, rest] = name.split('/').collect::<Vec<_>>()[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        out.push(FieldError::invalid(path, name, detail));
        return;
    };
    if domain.len() > 253 {
        out.push(FieldError::too_long(path, 253));
    }
    first_wrong_part(out, path, domain, dns1123_label);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        out.push(FieldError::invalid(path, domain, detail));
    }
    first_wrong_part(out, path, rest, dns1123_subdomain);
    if name.len() > 571 {
        out.push(FieldError::too_long(path, 571));
    }
}

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

    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["spec"]]
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, request: &mut Value, old: &Value) {
        keep(request, old, "spec");
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        path_segment(name)
    }

    fn validate(&self, request: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &request["spec"], FieldPath::new("spec"));
        if !is_pem_request(text(spec, "request")) {
            let given = spec.get("request").cloned().unwrap_or_default();
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            out.push(FieldError::invalid(&path.child("request"), given, detail));
        }
        let (usages, usages_path) = (list(spec, "usages"), path.child("usages"));
        if usages.is_empty() {
            out.push(FieldError::required(&usages_path, ""));
        }
        for (i, usage) in usages.iter().enumerate() {
            format::one_of(&mut out, &usages_path.index(i), usage.as_str().unwrap_or(""), &USAGES);
        }
        for (i, usage) in usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage)) {
            out.push(FieldError::duplicate(&usages_path.index(i), usage.clone()));
        }
        let (signer, signer_path) = (text(spec, "signerName"), path.child("signerName"));
        if signer == "kubernetes.io/legacy-unknown" {
            let detail = "the legacy signerName is not allowed via this API version";
            out.push(FieldError::invalid(&signer_path, signer, detail));
        } else {
            signer_name(&mut out, &signer_path, signer);
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
