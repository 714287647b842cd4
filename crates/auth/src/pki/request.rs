//! Certificate signing requests (PKCS#10): what a request asks for.

use std::net::IpAddr;

use base64::Engine;
use kybern_component_base::x509::Subject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};

use crate::pem;

/// A request that its own key has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningRequest {
    /// `SubjectPublicKeyInfo`.
    pub(super) public_key: Vec<u8>,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
}

impl SigningRequest {
    /// From `spec.request` of a `CertificateSigningRequest`.
    pub fn from_base64(text: &str) -> Result<Self, String> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| e.to_string())?;
        Self::from_pem(std::str::from_utf8(&bytes).map_err(|e| e.to_string())?)
    }

    pub fn from_pem(text: &str) -> Result<Self, String> {
        const LABEL: &str = "CERTIFICATE REQUEST";
        let not_one = || format!("PEM block type must be {LABEL}");
        let block = pem::decode(text)?.into_iter().next().filter(|b| b.label == LABEL).ok_or_else(not_one)?;
        let (_, request) = X509CertificationRequest::from_der(&block.der).map_err(|e| e.to_string())?;
        request.verify_signature().map_err(|e| format!("its signature is wrong: {e}"))?;
        let info = &request.certification_request_info;
        let subject = Subject::of(&info.subject)?;
        let mut found = Self {
            public_key: info.subject_pki.raw.to_vec(),
            common_name: subject.common_name,
            organizations: subject.organizations,
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let names = match extension {
                ParsedExtension::SubjectAlternativeName(names) => names,
                ParsedExtension::ParseError { error } => return Err(format!("an extension cannot be read: {error}")),
                _ => continue,
            };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => found.dns_names.push((*name).to_owned()),
                    GeneralName::RFC822Name(name) => found.emails.push((*name).to_owned()),
                    GeneralName::URI(name) => found.uris.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => {
                        let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                        let ip = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                        found.ips.push(ip.map_err(|_| "an IP address has neither 4 nor 16 bytes")?);
                    }
                    other => return Err(format!("it asks for a name of a kind that is not signed: {other:?}")),
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_who_asks() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:a");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let key = rcgen::KeyPair::generate().unwrap();
        let text = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = SigningRequest::from_pem(&text).unwrap();
        assert_eq!(
            (request.common_name.as_str(), request.organizations.as_slice()),
            ("system:node:a", &["system:nodes".to_owned()][..])
        );
        assert_eq!(
            (request.dns_names, request.ips),
            (vec!["a.example".to_owned()], vec![IpAddr::from([192, 0, 2, 1])])
        );
        assert!(SigningRequest::from_pem(&text.replace("CERTIFICATE REQUEST", "CERTIFICATE")).is_err());
        assert!(SigningRequest::from_base64("!").is_err());
    }
}
