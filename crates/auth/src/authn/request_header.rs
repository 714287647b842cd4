//! The front proxy: a client with a certificate of the front proxies' authority names the user in headers.

use http::HeaderMap;
use kybern_apimachinery::percent;
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, CredentialHeaders, Credentials, UserInfo};
use kybern_component_base::x509::Subject;

use super::ClientAuthorities;
use crate::AUTHENTICATED;

/// `--requestheader-…`: whom to believe, and in which headers.
#[derive(Clone, Debug)]
pub struct RequestHeaderNames {
    /// Common names that are trusted; empty: every certificate of the authority.
    pub allowed: Vec<String>,
    pub username: Vec<String>,
    pub uid: Vec<String>,
    pub group: Vec<String>,
    pub extra_prefix: Vec<String>,
}

impl Default for RequestHeaderNames {
    /// As kubeadm sets them.
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            allowed: one("front-proxy-client"),
            username: one("X-Remote-User"),
            uid: one("X-Remote-Uid"),
            group: one("X-Remote-Group"),
            extra_prefix: one("X-Remote-Extra-"),
        }
    }
}

pub struct RequestHeader {
    authorities: ClientAuthorities,
    names: RequestHeaderNames,
}

impl RequestHeader {
    pub fn new(authorities: ClientAuthorities, names: RequestHeaderNames) -> Self {
        Self { authorities, names }
    }

    fn trusts(&self, credentials: &Credentials<'_>) -> bool {
        let chain = credentials.client_certificates;
        if !self.authorities.certify(chain) {
            return false;
        }
        let subject = chain.first().and_then(|leaf| Subject::of_certificate(leaf).ok());
        self.names.allowed.is_empty() || subject.is_some_and(|s| self.names.allowed.contains(&s.common_name))
    }

    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let values = |names: &[String]| -> Vec<String> {
            let all = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            all.filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(str::to_owned).collect()
        };
        let first = |names: &[String]| values(names).into_iter().next().unwrap_or_default();
        let name = first(&self.names.username);
        if name.is_empty() {
            return None;
        }
        let mut user = UserInfo { name, uid: first(&self.names.uid), ..UserInfo::default() };
        user.groups = values(&self.names.group);
        if !user.in_group(AUTHENTICATED) && !user.in_group(crate::UNAUTHENTICATED) {
            user.groups.push(AUTHENTICATED.to_owned());
        }
        for prefix in &self.names.extra_prefix {
            for (header, value) in headers {
                let key = header.as_str().strip_prefix(prefix.to_ascii_lowercase().as_str());
                if let (Some(key), Ok(value)) = (key, value.to_str()) {
                    user.extra.entry(key_of(key)).or_default().push(value.to_owned());
                }
            }
        }
        Some(user)
    }
}

/// Go's rule: a key that is not properly escaped is taken as it is.
fn key_of(text: &str) -> String {
    percent::decode_strict(text).unwrap_or_else(|| text.to_owned())
}

impl Authenticator for RequestHeader {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        Box::pin(async { Ok(if self.trusts(credentials) { self.user(credentials.headers) } else { None }) })
    }

    fn credential_headers(&self) -> CredentialHeaders {
        let lower = |names: &[String]| names.iter().map(|n| n.to_ascii_lowercase()).collect::<Vec<_>>();
        let Self { names, .. } = self;
        let whole = [&names.username, &names.uid, &names.group].into_iter().flat_map(|list| lower(list));
        CredentialHeaders { names: whole.collect(), prefixes: lower(&names.extra_prefix) }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use rustls_pki_types::CertificateDer;

    use super::super::ClientCertificate;
    use super::*;
    use crate::pki::{CertificateAuthority, Profile};
    use crate::testing::block;

    fn authorities(ca: &CertificateAuthority) -> ClientAuthorities {
        ClientAuthorities::new(&[ca.certificate_der().to_vec().into()]).unwrap()
    }

    fn certificate(ca: &CertificateAuthority, name: &str) -> Vec<CertificateDer<'static>> {
        let pair = ca.issue(&Profile::client(name, Some("system:masters")), jiff::Timestamp::now()).unwrap();
        vec![pair.certificate_der().to_vec().into()]
    }

    fn headers() -> HeaderMap {
        let pairs =
            [("x-remote-user", "joe"), ("x-remote-group", "dev"), ("x-remote-uid", "7"), ("x-remote-extra-a%2fb", "c")];
        pairs.into_iter().map(|(k, v)| (HeaderName::from_static(k), v.parse().unwrap())).collect()
    }

    #[test]
    fn attack_only_an_allowed_front_proxy_names_the_user() {
        let now = jiff::Timestamp::now();
        let clients = CertificateAuthority::create("kubernetes", now).unwrap();
        let proxies = CertificateAuthority::create("front-proxy-ca", now).unwrap();
        let header = RequestHeader::new(authorities(&proxies), RequestHeaderNames::default());
        let certificates = ClientCertificate::new(authorities(&clients));
        let who = |chain: &[CertificateDer<'static>]| {
            let headers = headers();
            let credentials =
                Credentials { headers: &headers, path: "/api", client_certificates: chain, notes: &Default::default() };
            let found = block(header.authenticate(&credentials)).unwrap();
            found.or_else(|| block(certificates.authenticate(&credentials)).unwrap())
        };
        let user = who(&certificate(&proxies, "front-proxy-client")).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("joe", "7"));
        assert_eq!(user.groups, ["dev", "system:authenticated"]);
        assert_eq!(user.extra["a/b"], ["c"]);
        // Of the proxies' authority, but none that is allowed: nobody, whatever group it is in.
        assert_eq!(who(&certificate(&proxies, "other")), None);
        // A client of the cluster is itself, whatever it says in headers.
        assert_eq!(who(&certificate(&clients, "front-proxy-client")).unwrap().name, "front-proxy-client");
        assert_eq!(who(&certificate(&CertificateAuthority::create("kubernetes", now).unwrap(), "x")), None);
        assert_eq!(who(&[]), None);
        let taken = header.credential_headers();
        assert_eq!(taken.names, ["x-remote-user", "x-remote-uid", "x-remote-group"], "they go no further");
        assert_eq!(taken.prefixes, ["x-remote-extra-"]);
    }

    #[test]
    fn keys_are_unescaped() {
        assert_eq!(["a%2fb", "a%zz", "a%2", "plain"].map(key_of), ["a/b", "a%zz", "a%2", "plain"]);
    }
}
