//! Requests without credentials.

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};

use crate::UNAUTHENTICATED;

/// The paths that need no credential: health and version, with what lies below them.
pub const HEALTH_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// Names who asks for [`HEALTH_PATHS`] without a credential `system:anonymous`, as the conditions of upstream's
/// `AuthenticationConfiguration` do; all other requests without one stay unauthenticated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

fn is_open(path: &str) -> bool {
    HEALTH_PATHS.iter().any(|open| path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

impl Authenticator for Anonymous {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        // A bad credential is not the same as none: it is refused, so that its bearer learns of it.
        let bare = !credentials.headers.contains_key(http::header::AUTHORIZATION);
        let user = (bare && is_open(credentials.path)).then(|| UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        });
        Box::pin(async { Ok(user) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_and_version_are_open() {
        for (path, open) in [
            ("/livez", true),
            ("/livez/etcd", true),
            ("/version", true),
            ("/versions", false),
            ("/api", false),
            ("/", false),
        ] {
            assert_eq!(is_open(path), open, "{path}");
        }
    }
}
