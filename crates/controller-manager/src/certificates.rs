//! What the controllers of certificate requests ask about them.

use kybern_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kybern_auth::pki::SigningRequest;

pub(crate) const KUBE_APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const KUBE_APISERVER_CLIENT_KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

pub(crate) fn conditions(csr: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    csr.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

pub(crate) fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(csr).iter().any(|c| c.type_ == kind)
}

pub(crate) fn certificate(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    csr.status.as_ref()?.certificate.as_ref().map(|c| c.0.as_slice()).filter(|c| !c.is_empty())
}

pub(crate) fn usages(csr: &CertificateSigningRequest) -> &[String] {
    csr.spec.usages.as_deref().unwrap_or_default()
}

/// What the request asks for.
pub(crate) fn parse(csr: &CertificateSigningRequest) -> Result<SigningRequest, String> {
    let text = std::str::from_utf8(&csr.spec.request.0).map_err(|e| e.to_string())?;
    SigningRequest::from_pem(text)
}

/// Whether it is what a kubelet asks for to be a client (`ValidateKubeletClientCSR`).
pub(crate) fn kubelet_client(request: &SigningRequest, usages: &[String]) -> Result<(), String> {
    of_a_node(request)?;
    let forbidden = [
        (request.dns_names.is_empty(), "DNS subjectAltNames are not allowed"),
        (request.emails.is_empty(), "Email subjectAltNames are not allowed"),
        (request.ips.is_empty(), "IP subjectAltNames are not allowed"),
        (request.uris.is_empty(), "URI subjectAltNames are not allowed"),
    ];
    first_wrong(&forbidden)?;
    names_a_node(request)?;
    exactly(usages, "client auth")
}

/// Whether it is what a kubelet asks for to serve (`ValidateKubeletServingCSR`).
pub(crate) fn kubelet_serving(request: &SigningRequest, usages: &[String]) -> Result<(), String> {
    of_a_node(request)?;
    let names = !request.dns_names.is_empty() || !request.ips.is_empty();
    first_wrong(&[
        (names, "DNS or IP subjectAltName is required"),
        (request.emails.is_empty(), "Email subjectAltNames are not allowed"),
        (request.uris.is_empty(), "URI subjectAltNames are not allowed"),
    ])?;
    exactly(usages, "server auth")?;
    names_a_node(request)
}

/// The usages of a client of the API server (`validAPIServerClientUsages`).
pub(crate) fn client_usages(usages: &[String]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(usage) = usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    if !usages.iter().any(|usage| usage == "client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}

fn first_wrong(checks: &[(bool, &str)]) -> Result<(), String> {
    checks.iter().find(|(good, _)| !good).map_or(Ok(()), |(_, message)| Err((*message).to_owned()))
}

fn of_a_node(request: &SigningRequest) -> Result<(), String> {
    first_wrong(&[(request.organizations == ["system:nodes"], "subject organization is not system:nodes")])
}

fn names_a_node(request: &SigningRequest) -> Result<(), String> {
    let good = request.common_name.starts_with("system:node:");
    first_wrong(&[(good, "subject common name does not begin with system:node:")])
}

/// `digital signature`, the one that is meant, and `key encipherment` or not: keys that are not RSA have no use for it.
fn exactly(usages: &[String], main: &str) -> Result<(), String> {
    let has = |name: &str| usages.iter().any(|usage| usage == name);
    let known = |usage: &String| ["digital signature", "key encipherment", main].contains(&usage.as_str());
    if has("digital signature") && has(main) && usages.iter().all(known) {
        return Ok(());
    }
    let mut all = ["digital signature", "key encipherment", main];
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}
