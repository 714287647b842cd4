//! What a certificate says, and how one is made and judged.

use std::net::IpAddr;

use kybern_component_base::x509::Subject;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::PkiError;
use crate::pem;

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct CertifiedKey {
    pub certificate_pem: String,
    pub key_pem: String,
    pub(super) der: Vec<u8>,
}

impl std::fmt::Debug for CertifiedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertifiedKey").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl CertifiedKey {
    pub(super) fn new(certificate_pem: String, key_pem: String) -> Result<Self, String> {
        let blocks = pem::decode(&certificate_pem)?;
        let der = blocks.into_iter().find(|b| b.label == "CERTIFICATE").ok_or("it holds no CERTIFICATE block")?.der;
        Ok(Self { certificate_pem, key_pem, der })
    }

    /// The (first) certificate in DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.der
    }

    /// Chain and key as rustls wants them.
    pub fn rustls(
        &self,
    ) -> Result<(Vec<rustls_pki_types::CertificateDer<'static>>, rustls_pki_types::PrivateKeyDer<'static>), String>
    {
        use rustls_pki_types::pem::PemObject;
        let chain = pem::decode(&self.certificate_pem)?.into_iter().map(|b| b.der.into()).collect();
        let key =
            rustls_pki_types::PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| e.to_string())?;
        Ok((chain, key))
    }
}

/// What a signed certificate is to say.
#[derive(Clone, Debug)]
pub struct Profile {
    pub common_name: String,
    /// The user's group.
    pub organization: Option<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub server: bool,
    pub client: bool,
}

impl Profile {
    pub fn client(common_name: &str, organization: Option<&str>) -> Self {
        Self {
            common_name: common_name.to_owned(),
            organization: organization.map(str::to_owned),
            dns_names: Vec::new(),
            ips: Vec::new(),
            server: false,
            client: true,
        }
    }

    pub fn server(common_name: &str, organization: Option<&str>, dns_names: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self { dns_names, ips, server: true, client: false, ..Self::client(common_name, organization) }
    }

    pub(super) fn params(&self) -> Result<CertificateParams, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        if let Some(organization) = &self.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        if self.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if self.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        for name in &self.dns_names {
            let name = name.as_str().try_into().map_err(|e: rcgen::Error| format!("{name}: {e}"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(self.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// The parameters of a self-signed authority of ten years, as kubeadm's.
pub(super) fn authority_params(common_name: &str, now: jiff::Timestamp) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    let name = common_name.try_into().map_err(|e: rcgen::Error| e.to_string())?;
    params.subject_alt_names.push(SanType::DnsName(name));
    set_validity(&mut params, now, 3650)?;
    Ok(params)
}

/// Valid from five minutes ago, so that clocks which lag a little accept it, and with a random serial number.
pub(super) fn set_validity(params: &mut CertificateParams, now: jiff::Timestamp, days: i64) -> Result<(), String> {
    let start = now - jiff::SignedDuration::from_mins(5);
    let end = now + jiff::SignedDuration::from_hours(24 * days);
    params.not_before = std::time::SystemTime::from(start).into();
    params.not_after = std::time::SystemTime::from(end).into();
    let mut serial = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial)
        .map_err(|_| "the system gives no random numbers")?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

pub(super) fn generate_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|e| PkiError::Sign { subject: "a new key".to_owned(), cause: e.to_string() })
}

/// The end of a certificate's validity.
pub fn not_after(der: &[u8]) -> Option<jiff::Timestamp> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    jiff::Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The end of the validity of the first certificate in a PEM text.
pub fn end_of_pem(text: &[u8]) -> Option<jiff::Timestamp> {
    let blocks = pem::decode(std::str::from_utf8(text).ok()?).ok()?;
    not_after(&blocks.into_iter().find(|b| b.label == "CERTIFICATE")?.der)
}

/// Whether a certificate must be made anew to serve `profile`: it ends within `days` or lacks something of it.
pub fn needs_renewal(der: &[u8], profile: &Profile, now: jiff::Timestamp, days: i64) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return true };
    let ends_soon = certificate.validity().not_after.timestamp() - now.as_second() < days * 86_400;
    let organizations = profile.organization.iter().cloned().collect();
    let wanted = Subject { common_name: profile.common_name.clone(), organizations };
    let (mut names, mut ips) = (Vec::new(), Vec::new());
    if let Ok(Some(san)) = certificate.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                    16 => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
                    _ => None,
                }),
                _ => {}
            }
        }
    }
    ends_soon
        || Subject::of(certificate.subject()).as_ref() != Ok(&wanted)
        || profile.dns_names.iter().any(|n| !names.contains(n))
        || profile.ips.iter().any(|ip| !ips.contains(ip))
}
