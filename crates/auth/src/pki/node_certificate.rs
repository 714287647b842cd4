//! A kubelet's client certificate as upstream keeps it: `kubelet-client-<time>.pem` with its key, and the link
//! `kubelet-client-current.pem` to the one in use.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::generate_key;
use super::{PkiError, files};
use crate::pem;

/// The usages that are asked for: the key is no RSA key, and has no use for `key encipherment`.
pub const NODE_CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];

pub struct NodeCertificate {
    directory: PathBuf,
    node: String,
}

/// What is asked for; nothing of the key is in it.
#[derive(Clone, Debug)]
pub struct NodeRequest {
    /// The same for the same key, so that a request that was sent before is found again.
    pub name: String,
    pub pem: String,
}

impl NodeCertificate {
    pub fn of(directory: &Path, node: &str) -> Result<Self, PkiError> {
        files::make_directory(directory)?;
        Ok(Self { directory: directory.to_owned(), node: node.to_owned() })
    }

    /// Certificate and key that are in use.
    pub fn current(&self) -> PathBuf {
        self.directory.join("kubelet-client-current.pem")
    }

    /// The key for which a certificate has been asked and not been got.
    fn pending_key(&self) -> PathBuf {
        self.directory.join("kubelet-client.key.tmp")
    }

    /// Makes a key, or takes up the one that was asked with last, and the request for it.
    pub fn request(&self) -> Result<NodeRequest, PkiError> {
        let path = self.pending_key();
        let key = match files::read(&path)?.and_then(|text| KeyPair::from_pem(&text).ok()) {
            Some(key) => key,
            None => {
                let key = generate_key()?;
                files::write(&path, &key.serialize_pem())?;
                key
            }
        };
        let subject = format!("system:node:{}", self.node);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, subject.as_str());
        let request = params.serialize_request(&key).and_then(|request| request.pem());
        let pem = request.map_err(|e| PkiError::Sign { subject: subject.clone(), cause: e.to_string() })?;
        let asked = [key.public_key_raw(), subject.as_bytes()].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, &asked);
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(NodeRequest { name: format!("node-csr-{digest}"), pem })
    }

    /// Puts a certificate into use, with the key that it was asked for with.
    pub fn accept(&self, certificate: &str, now: Timestamp) -> Result<(), PkiError> {
        let subject = || format!("system:node:{}", self.node);
        let pending = self.pending_key();
        let refuse = |cause: String| PkiError::Sign { subject: subject(), cause };
        let text = files::read(&pending)?.ok_or_else(|| refuse(format!("{} is gone", pending.display())))?;
        let key = KeyPair::from_pem(&text).map_err(|e| PkiError::unusable(&pending, e))?;
        let blocks = pem::decode(certificate).map_err(refuse)?;
        let leaf = blocks.first().filter(|b| b.label == "CERTIFICATE");
        let leaf = leaf.ok_or_else(|| refuse("what was signed is no certificate".to_owned()))?;
        if !files::belongs(&key, &leaf.der).map_err(refuse)? {
            return Err(refuse("the certificate is for another key: somebody else asked under this name".to_owned()));
        }
        let file = format!("kubelet-client-{}.pem", now.strftime("%Y-%m-%d-%H-%M-%S"));
        files::write(&self.directory.join(&file), &format!("{}\n{}", certificate.trim_end(), key.serialize_pem()))?;
        let (current, link) = (self.current(), self.directory.join("kubelet-client-current.new"));
        let _ = std::fs::remove_file(&link);
        let replace = std::os::unix::fs::symlink(&file, &link).and_then(|()| std::fs::rename(&link, &current));
        replace.map_err(|cause| PkiError::Io { action: "write", path: current, cause })?;
        let _ = std::fs::remove_file(&pending);
        Ok(())
    }

    /// When the next certificate is asked for: after 80 % of this one's life. Now, where there is none in use.
    pub fn renewal(&self, now: Timestamp) -> Timestamp {
        life_of(&self.current()).map_or(now, |(start, end)| start + (end.duration_since(start) * 4) / 5)
    }
}

/// Whether every certificate of a PEM text is still valid, and there is one.
pub fn are_valid(certificates: &[&[u8]], now: Timestamp) -> bool {
    !certificates.is_empty() && certificates.iter().all(|der| super::not_after(der).is_some_and(|end| now <= end))
}

fn life_of(path: &Path) -> Option<(Timestamp, Timestamp)> {
    let blocks = pem::decode(&std::fs::read_to_string(path).ok()?).ok()?;
    let block = blocks.into_iter().find(|b| b.label == "CERTIFICATE")?;
    let (_, certificate) = X509Certificate::from_der(&block.der).ok()?;
    let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).ok();
    let (start, end) = (time(certificate.validity().not_before)?, time(certificate.validity().not_after)?);
    (end.duration_since(start) > SignedDuration::ZERO).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pki::{CertificateAuthority, SigningRequest};

    #[test]
    fn a_certificate_is_asked_for_until_it_comes_and_renewed_before_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let ca = CertificateAuthority::create("ca", now).unwrap();
        let node = NodeCertificate::of(directory.path(), "a").unwrap();
        assert_eq!(node.renewal(now), now);
        let asked = node.request().unwrap();
        assert_eq!(node.request().unwrap().name, asked.name, "after a restart the same is asked for again");
        let request = SigningRequest::from_pem(&asked.pem).unwrap();
        let usages = NODE_CLIENT_USAGES.map(str::to_owned);
        let day = Duration::from_secs(86_400);
        let signed = ca.request_signer().sign(&request, &usages, day, now).unwrap();
        let others = ca.issue(&crate::pki::Profile::client("system:node:a", None), now).unwrap();
        assert!(node.accept(&others.certificate_pem, now).unwrap_err().to_string().contains("another key"));
        node.accept(&signed, now).unwrap();
        let text = std::fs::read_to_string(node.current()).unwrap();
        assert!(text.contains("BEGIN CERTIFICATE") && text.contains("PRIVATE KEY"));
        let renewal = node.renewal(now).duration_since(now).as_hours();
        assert!((18..20).contains(&renewal), "{renewal}");
        assert_ne!(node.request().unwrap().name, asked.name, "the next one has a key of its own");
    }
}
