//! ClusterTrustBundle: certificates of authorities, of a signer's or of nobody's.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_subdomain;
use kybern_apiserver::strategy::Strategy;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::certificates::signer_name;
use crate::tree::text;
use crate::validation::Errors;
use crate::validation::update::immutable;

/// Bytes of all certificates.
const MOST: usize = 1 << 20;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClusterTrustBundle;

impl Strategy for ClusterTrustBundle {
    fn validate_name(&self, name: &str) -> Vec<String> {
        // What comes before depends on the signer.
        dns1123_subdomain(name.rsplit(':').next().unwrap_or(name))
    }

    fn validate(&self, bundle: &Value) -> Vec<FieldError> {
        let mut out = named(bundle);
        trust_anchors(&mut out, text(&bundle["spec"], "trustBundle"));
        out
    }

    fn check_update(&self, bundle: &Value, old: &Value, _: &mut Vec<String>) -> Vec<FieldError> {
        let path = FieldPath::new("spec").child("signerName");
        let mut out = Vec::new();
        immutable(&mut out, &path, bundle["spec"].get("signerName"), old["spec"].get("signerName"));
        out
    }
}

fn named(bundle: &Value) -> Errors {
    let mut out = Vec::new();
    let (name, signer) = (text(&bundle["metadata"], "name"), text(&bundle["spec"], "signerName"));
    let path = FieldPath::new("metadata").child("name");
    if signer.is_empty() {
        if name.contains(':') {
            let detail = "ClusterTrustBundle without signer name must not have \":\" in its name";
            out.push(FieldError::invalid(&path, name, detail));
        }
        return out;
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    if name.strip_prefix(&prefix).is_none_or(|rest| rest.contains(':')) {
        let detail = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
        out.push(FieldError::invalid(&path, name, detail));
    }
    signer_name(&mut out, &FieldPath::new("spec").child("signerName"), signer);
    out
}

fn trust_anchors(out: &mut Errors, pem: &str) {
    let path = FieldPath::new("spec").child("trustBundle");
    if pem.len() > MOST {
        out.push(FieldError::too_long(&path, MOST));
        return;
    }
    let before = out.len();
    let mut bad = |detail: String| out.push(FieldError::invalid(&path, "<value omitted>", detail));
    let mut seen: Vec<CertificateDer<'_>> = Vec::new();
    for (i, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        match certificate {
            Ok(certificate) if RootCertStore::empty().add(certificate.clone()).is_ok() => {
                match seen.iter().position(|other| *other == certificate) {
                    Some(first) => bad(format!("duplicate trust anchor (indices [{first} {i}])")),
                    None => seen.push(certificate),
                }
            }
            _ => bad(format!("entry {i} does not parse as X.509")),
        }
    }
    if seen.is_empty() && out.len() == before {
        out.push(FieldError::invalid(&path, "<value omitted>", "at least one trust anchor must be provided"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn check(name: &str, signer: &str, pem: &str) -> String {
        let bundle = json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": pem}});
        ClusterTrustBundle.validate(&bundle).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn bundles_are_named_after_their_signers_and_hold_certificates() {
        let ca = kybern_testbed::https::TestCa::new("test").pem;
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let table = [
            ("plain", "", ca.as_str(), ""),
            ("a:b", "", &ca, "must not have \":\" in its name"),
            ("example.com:s:one", "example.com/s", &ca, ""),
            ("one", "example.com/s", &ca, "must be named with prefix example.com:s:"),
            ("example.com:s:t:one", "example.com/s", &ca, "must be named with prefix"),
            ("plain", "", "", "at least one trust anchor"),
            ("plain", "", garbage, "entry 0 does not parse as X.509"),
            ("plain", "", &format!("{ca}{ca}"), "duplicate trust anchor (indices [0 1])"),
        ];
        for (name, signer, pem, expect) in table {
            let found = check(name, signer, pem);
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{name} {signer}: {found}");
        }
        assert!(ClusterTrustBundle.validate_name("example.com:s:One")[0].contains("RFC 1123"));
    }
}
