//! Paths that others serve: single ones, and whole subtrees that come and go while the server runs.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{Request, Response};
use kybern_apimachinery::ApiError;

use crate::access::UserInfo;
use crate::held::Held;
use crate::warnings::Warnings;
use crate::{Body, BoxFuture};

/// Serves a path that is no resource: `/.well-known/openid-configuration`.
pub trait Route: Send + Sync + 'static {
    /// A request that is authorized for `get` on the path.
    fn serve(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>>;
}

/// Serves everything at and below a path, such as a version of an API group that is another server's.
pub trait PrefixRoute: Send + Sync + 'static {
    /// A request that is authenticated and authorized, as any for this path.
    fn serve(&self, request: PrefixRequest) -> BoxFuture<'_, Result<Response<Body>, ApiError>>;
}

/// A request for a [`PrefixRoute`].
pub struct PrefixRequest {
    pub user: UserInfo,
    pub warnings: Arc<Warnings>,
    /// To be kept by whatever works on when the answer is given, such as a stream's task.
    pub held: Held,
    pub request: Request<Body>,
}

/// The prefixes, replaced one by one. Of several that fit a path the longest counts, before everything that the server
/// serves itself.
#[derive(Default)]
pub struct PrefixRoutes(ArcSwap<HashMap<String, Arc<dyn PrefixRoute>>>);

impl PrefixRoutes {
    /// Routes a path, without a slash at its end, and all below it; `None` ends that.
    pub fn set(&self, prefix: &str, route: Option<Arc<dyn PrefixRoute>>) {
        self.0.rcu(|routes| {
            let mut routes = HashMap::clone(routes);
            match &route {
                Some(route) => routes.insert(prefix.to_owned(), route.clone()),
                None => routes.remove(prefix),
            };
            routes
        });
    }

    pub(crate) fn find(&self, path: &str) -> Option<Arc<dyn PrefixRoute>> {
        let routes = self.0.load();
        if routes.is_empty() {
            return None;
        }
        let ends = std::iter::once(path.len()).chain(path.rmatch_indices('/').map(|(at, _)| at));
        ends.filter_map(|end| routes.get(&path[..end])).next().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    struct Named(&'static str);
    impl PrefixRoute for Named {
        fn serve(&self, _: PrefixRequest) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
            Box::pin(async { Ok(body::text(http::StatusCode::OK, self.0)) })
        }
    }

    #[test]
    fn the_longest_prefix_counts() {
        let routes = PrefixRoutes::default();
        let found = |path: &str| routes.find(path).map(|route| Arc::as_ptr(&route).cast::<()>());
        assert_eq!(found("/apis/a/v1/x"), None);
        let (short, long) = (Arc::new(Named("short")), Arc::new(Named("long")));
        let (a, b) = (Arc::as_ptr(&short).cast::<()>(), Arc::as_ptr(&long).cast::<()>());
        routes.set("/apis/a", Some(short));
        routes.set("/apis/a/v1", Some(long));
        let cases = [
            ("/apis/a/v1/x/y", Some(b)),
            ("/apis/a/v1", Some(b)),
            ("/apis/a/v1/", Some(b)),
            ("/apis/a/v10", Some(a)),
            ("/apis/a", Some(a)),
            ("/apis/ab", None),
            ("/apis", None),
            ("/", None),
            ("", None),
        ];
        for (path, expect) in cases {
            assert_eq!(found(path), expect, "{path}");
        }
        routes.set("/apis/a/v1", None);
        assert_eq!(found("/apis/a/v1/x"), Some(a));
    }
}
