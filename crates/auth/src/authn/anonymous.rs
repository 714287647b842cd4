//! Requests without credentials.

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};

use crate::UNAUTHENTICATED;

/// Who asks without a credential is `system:anonymous`, whom the roles of a fresh cluster let read health and version, and
/// nothing else; kubeadm's discovery lets it read the ConfigMap `cluster-info`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Authenticator for Anonymous {
    fn authenticate<'a>(&'a self, _: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        let user = UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        };
        Box::pin(std::future::ready(Ok(Some(user))))
    }

    /// A bad credential is not the same as none: it is refused.
    fn is_last_resort(&self) -> bool {
        true
    }
}
