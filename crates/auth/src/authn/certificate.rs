//! Client certificates: the common name is the user, each organization a group.

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};
use kybern_component_base::x509::Subject;

use super::ClientAuthorities;
use crate::AUTHENTICATED;
use crate::hash::sha256_hex;

/// Reads who a certificate names that one of the clients' authorities certifies. TLS lets others in, too: the front proxies'.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    authorities: ClientAuthorities,
}

impl ClientCertificate {
    pub fn new(authorities: ClientAuthorities) -> Self {
        Self { authorities }
    }
}

impl Authenticator for ClientCertificate {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        Box::pin(async {
            let chain = credentials.client_certificates;
            chain.first().filter(|_| self.authorities.certify(chain)).map(|c| user(c.as_ref())).transpose()
        })
    }
}

fn user(der: &[u8]) -> Result<UserInfo, String> {
    let Subject { common_name: name, organizations: mut groups } = Subject::of_certificate(der)?;
    if name.is_empty() {
        return Err("the client certificate has no common name to take the user's name from".to_owned());
    }
    groups.push(AUTHENTICATED.to_owned());
    let id = format!("X509SHA256={}", sha256_hex(der));
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![id])].into();
    Ok(UserInfo { name, uid: String::new(), groups, extra })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{CertificateAuthority, Profile};

    #[test]
    fn the_subject_is_the_user() {
        let now = "2026-11-20T00:00:00Z".parse().unwrap();
        let ca = CertificateAuthority::create("ca", now).unwrap();
        let pair = ca.issue(&Profile::client("system:node:a", Some("system:nodes")), now).unwrap();
        let user = user(pair.certificate_der()).unwrap();
        assert_eq!(user.name, "system:node:a");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert!(super::user(b"rubbish").is_err());
    }
}
