//! Requests without credentials.

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};

use crate::UNAUTHENTICATED;

/// The only paths that need no credential by default: health and version.
pub const HEALTH_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// Names everyone else `system:anonymous`. What that user may see is RBAC's to say; by default nothing beyond
/// [`HEALTH_PATHS`], which the role `system:public-info-viewer` opens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Authenticator for Anonymous {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        // A bad credential is not the same as none: it is refused, so that its bearer learns of it.
        let bare = !credentials.headers.contains_key(http::header::AUTHORIZATION);
        let user = UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        };
        Box::pin(async move { Ok(bare.then_some(user)) })
    }
}
