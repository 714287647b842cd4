use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::pki::CertificateAuthority;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    "2026-11-20T00:00:00Z".parse().unwrap()
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::create("kubernetes", now()).unwrap()
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "system:node:a");
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params
}

fn request(params: &CertificateParams) -> SigningRequest {
    let text = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    SigningRequest::from_pem(&text).unwrap()
}

fn der_of(text: &str) -> Vec<u8> {
    pem::decode(text).unwrap().remove(0).der
}

fn usages(list: &[&str]) -> Vec<String> {
    list.iter().map(|u| (*u).to_owned()).collect()
}

#[test]
fn a_certificate_says_what_was_judged_and_nothing_else() {
    let authority = authority();
    let mut wanted = params(&["a.example", "a.example", "192.0.2.1", "2001:db8::1"]);
    wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    wanted.distinguished_name.push(DnType::CountryName, "XX");
    let text = authority
        .request_signer()
        .sign(&request(&wanted), &usages(&["server auth", "digital signature", "key encipherment"]), DAY, now())
        .unwrap();
    let der = der_of(&text);
    assert!(authority.signed(&der));
    let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty());
    assert!(!certificate.is_ca());
    let bits = certificate.key_usage().unwrap().unwrap().value;
    assert!(bits.digital_signature() && bits.key_encipherment() && !bits.key_cert_sign() && !bits.crl_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth && !extended.any);
    assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:a");
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.iter().filter(|n| matches!(n, GeneralName::DNSName("a.example"))).count(), 2);
    assert_eq!(names.len(), 4);
    assert!(certificate.issuer_uid.is_none());
    assert_eq!(certificate.issuer().to_string(), "CN=kubernetes");
}

#[test]
fn its_life_is_bounded() {
    let signer = authority().request_signer();
    let life = |ttl: Duration| {
        let der = der_of(&signer.sign(&request(&params(&[])), &usages(&["client auth"]), ttl, now()).unwrap());
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let seconds = |t: &x509_parser::time::ASN1Time| t.timestamp() - now().as_second();
        (seconds(&certificate.validity().not_before), seconds(&certificate.validity().not_after))
    };
    assert_eq!(life(DAY), (-300, 86_400 - 300));
    assert_eq!(life(Duration::from_secs(600)), (-300, 600), "a short life is not shortened");
    assert_eq!(life(DAY * 36_500).1, 3650 * 86_400, "the authority's own end");
    let later = now() + SignedDuration::from_hours(24 * 3651);
    assert!(signer.sign(&request(&params(&[])), &[], DAY, later).unwrap_err().contains("expired"));
}

#[test]
fn what_cannot_be_signed_is_refused() {
    let authority = authority();
    let error = authority.request_signer().sign(&request(&params(&[])), &usages(&["client auth", "root"]), DAY, now());
    assert_eq!(error.unwrap_err(), r#"unrecognized usage values: ["root"]"#);
    let other = CertificateAuthority::create("other", now()).unwrap();
    let key = other.issue(&crate::pki::Profile::client("a", None), now()).unwrap();
    assert!(RequestSigner::from_pem(authority.certificate_pem(), &key.key_pem).unwrap_err().contains("belong"));
    assert!(RequestSigner::from_pem(&key.certificate_pem, &key.key_pem).unwrap_err().contains("authority"));
}

/// Go takes the last common name; who took the first would judge another name than is signed.
#[test]
fn of_two_names_the_last_counts() {
    let two = |first: &str, last: &str| {
        // rcgen holds one name of a kind: the second goes in under another type and is renamed in the bytes.
        let mut params = params(&[]);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, first);
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), last);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    };
    let read = SigningRequest::from_pem(&two("system:node:me", "system:node:other")).unwrap();
    assert_eq!(read.common_name, "system:node:other");
}
