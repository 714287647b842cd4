//! The front proxy: a client with a certificate of the front-proxy CA names the user in headers.

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::AUTHENTICATED;

/// `--requestheader-…`, with upstream's header names.
pub struct RequestHeader {
    /// The front-proxy CA, DER.
    pub ca: Vec<u8>,
    /// Common names that are trusted; empty: every certificate of the CA.
    pub allowed_names: Vec<String>,
}

impl RequestHeader {
    fn trusts(&self, der: &[u8]) -> bool {
        let parse = |der| X509Certificate::from_der(der).ok().map(|(_, c)| c);
        let (Some(leaf), Some(ca)) = (parse(der), parse(&self.ca)) else { return false };
        let name = leaf.subject().iter_common_name().find_map(|a| a.as_str().ok()).unwrap_or("");
        (self.allowed_names.is_empty() || self.allowed_names.iter().any(|n| n == name))
            && leaf.validity().is_valid()
            && leaf.verify_signature(Some(ca.public_key())).is_ok()
    }
}

impl Authenticator for RequestHeader {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        Box::pin(async {
            let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
            let Some(name) = credentials.headers.get("x-remote-user").and_then(text).filter(|n| !n.is_empty()) else {
                return Ok(None);
            };
            if !credentials.client_certificates.first().is_some_and(|c| self.trusts(c.as_ref())) {
                return Ok(None);
            }
            let mut user = UserInfo { name, ..UserInfo::default() };
            user.groups = credentials.headers.get_all("x-remote-group").iter().filter_map(text).collect();
            user.groups.push(AUTHENTICATED.to_owned());
            for (key, value) in credentials.headers {
                if let (Some(key), Some(value)) = (key.as_str().strip_prefix("x-remote-extra-"), text(value)) {
                    user.extra.entry(key.replace("%2f", "/")).or_default().push(value);
                }
            }
            Ok(Some(user))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{CertificateAuthority, Profile};

    #[test]
    fn only_the_proxys_certificate_is_trusted() {
        let now = jiff::Timestamp::now();
        let ca = CertificateAuthority::create("front-proxy-ca", now).unwrap();
        let other = CertificateAuthority::create("front-proxy-ca", now).unwrap();
        let proxy = ca.issue(&Profile::client("front-proxy-client", None), now).unwrap();
        let check = |ca: &CertificateAuthority, allowed: &[&str], expect| {
            let allowed_names = allowed.iter().map(|n| (*n).to_owned()).collect();
            let header = RequestHeader { ca: ca.certificate_der().to_vec(), allowed_names };
            assert_eq!(header.trusts(proxy.certificate_der()), expect, "{allowed:?}");
        };
        check(&ca, &[], true);
        check(&ca, &["front-proxy-client"], true);
        check(&ca, &["x"], false);
        check(&other, &[], false);
    }
}
