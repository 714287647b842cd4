//! Requests without credentials.

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};

use crate::UNAUTHENTICATED;

/// Who asks without a credential is `system:anonymous`, whom the roles of a fresh cluster let read health and version, and
/// nothing else; kubeadm's discovery lets it read the ConfigMap `cluster-info`.
#[derive(Clone, Debug, Default)]
pub struct Anonymous {
    /// Where nobody need say who he is; empty: everywhere.
    paths: Vec<String>,
}

impl Anonymous {
    /// On these paths only; on all if there are none.
    pub fn on(paths: Vec<String>) -> Self {
        Self { paths }
    }

    fn passes(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|one| one == path)
    }
}

impl Authenticator for Anonymous {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        let user = self.passes(credentials.path).then(|| UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        });
        Box::pin(std::future::ready(Ok(user)))
    }

    /// A bad credential is not the same as none: it is refused.
    fn is_last_resort(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_they_are() {
        let some = Anonymous::on(vec!["/livez".to_owned(), "/healthz".to_owned()]);
        assert!(some.passes("/livez") && Anonymous::default().passes("/anything"));
        for other in ["/livez/", "/livez/ping", "//livez", "/livez%2F", "/LIVEZ", "/", "", "/api/v1/../../livez"] {
            assert!(!some.passes(other), "{other}");
        }
    }
}
