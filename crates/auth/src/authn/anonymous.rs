//! Requests without credentials.

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};

use crate::UNAUTHENTICATED;

/// Who asks without a credential is `system:anonymous`, whom the roles of a fresh cluster let read health and version, and
/// nothing else; kubeadm's discovery lets it read the ConfigMap `cluster-info`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Authenticator for Anonymous {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        // A bad credential is not the same as none: it is refused, so that its bearer learns of it.
        let bare = !credentials.headers.contains_key(http::header::AUTHORIZATION);
        let user = bare.then(|| UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        });
        Box::pin(async { Ok(user) })
    }
}
