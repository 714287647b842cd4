//! Who may use the kubelet's API: client certificates of the cluster's authority, or bearer tokens that the API server
//! knows; and what they may do, by the API server's word (`nodes/proxy`, `nodes/log`, `nodes/stats`, `nodes/metrics`).

use futures_util::future::BoxFuture;
use kybern_client::Client;
use kybern_client::review::{Access, Lifetimes, Reviewed, Reviews};
use kybern_component_base::x509::Subject;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

/// Who shows no credential.
pub(super) const ANONYMOUS: &str = "system:anonymous";

pub(super) fn anonymous() -> Identity {
    Identity { user: ANONYMOUS.to_owned(), groups: vec!["system:unauthenticated".to_owned()] }
}

/// Decides about callers of the kubelet's API.
pub trait Authorizer: Send + Sync + 'static {
    /// Whose token it is; `None` when nobody's.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Option<Identity>>;
    /// Whether `who` may do `verb` on the node's `subresource`.
    fn authorize<'a>(&'a self, who: &'a Identity, verb: &'a str, subresource: &'a str) -> BoxFuture<'a, bool>;
}

/// Asks the API server with TokenReview and SubjectAccessReview, upstream's `Webhook` for both.
pub struct Delegated {
    /// Whether tokens are asked about.
    tokens: bool,
    reviews: Reviews,
    node: String,
}

impl Delegated {
    pub fn new(client: Client, node: impl Into<String>, tokens: bool, lifetimes: Lifetimes) -> Self {
        Self { tokens, reviews: Reviews::new(client, lifetimes), node: node.into() }
    }

    /// How long upstream's kubelet keeps answers: two minutes, five minutes and half a minute.
    pub fn lifetimes() -> Lifetimes {
        let seconds = std::time::Duration::from_secs;
        Lifetimes { token: seconds(120), allowed: seconds(300), denied: seconds(30) }
    }
}

impl Authorizer for Delegated {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Option<Identity>> {
        Box::pin(async move {
            if !self.tokens {
                return None;
            }
            match self.reviews.token(token).await {
                Ok(user) => user.map(|user| Identity { user: user.name, groups: user.groups }),
                Err(error) => {
                    tracing::warn!("cannot ask whose a token is: {error}");
                    None
                }
            }
        })
    }

    fn authorize<'a>(&'a self, who: &'a Identity, verb: &'a str, subresource: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let asks = Reviewed { name: who.user.clone(), groups: who.groups.clone(), ..Reviewed::default() };
            match self.reviews.access(&asks, &Access::Node { verb, name: &self.node, subresource }).await {
                Ok(verdict) => verdict.allowed,
                Err(error) => {
                    tracing::warn!("cannot ask who may do what: {error}");
                    false
                }
            }
        })
    }
}

/// The subject of a verified client certificate: its common name and organizations.
pub fn certificate_identity(der: &[u8]) -> Option<Identity> {
    let Subject { common_name, organizations } = Subject::of_certificate(der).ok()?;
    (!common_name.is_empty()).then_some(Identity { user: common_name, groups: organizations })
}

/// The verb of a request, and the node's subresources of which one has to be allowed (`pkg/kubelet/server/auth.go`).
pub fn attributes(method: &http::Method, path: &str) -> (&'static str, &'static [&'static str]) {
    let verb = match *method {
        http::Method::POST => "create",
        http::Method::PUT => "update",
        http::Method::PATCH => "patch",
        http::Method::DELETE => "delete",
        _ => "get",
    };
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    let subresources: &[&str] = match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    };
    (verb, subresources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_a_subresource() {
        let check = |method: http::Method, path: &str, verb, subresources: &[&str]| {
            assert_eq!(attributes(&method, path), (verb, subresources), "{path}");
        };
        check(http::Method::GET, "/stats/summary", "get", &["stats"]);
        check(http::Method::GET, "/metrics/resource", "get", &["metrics"]);
        check(http::Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(http::Method::GET, "//pods/../exec/a/b/c", "get", &["pods", "proxy"]);
        check(http::Method::POST, "/exec/a/b/c", "create", &["proxy"]);
        check(http::Method::GET, "/containerLogs/a/b/c", "get", &["proxy"]);
        check(http::Method::GET, "/statsx", "get", &["proxy"]);
    }
}
