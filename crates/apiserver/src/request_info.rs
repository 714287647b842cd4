//! What a request is about, read from its method, path and query: upstream's `RequestInfo`.

use kybern_apimachinery::percent;
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};

use crate::options::Query;

/// See the module. Names are decoded; all parts that do not apply are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub(crate) resource_request: bool,
    /// Of a resource: `get list watch create update patch delete deletecollection`; else the method in lower case.
    pub(crate) verb: &'static str,
    pub(crate) path: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
    /// Of a request for a collection; empty where it is malformed, which its handler refuses.
    pub(crate) field_selector: FieldSelector,
    /// The same by labels.
    pub(crate) label_selector: LabelSelector,
    /// What follows a subresource, as it came: `/healthz` of `…/proxy/healthz`.
    pub(crate) tail: String,
}

impl RequestInfo {
    pub(crate) fn parse(method: &http::Method, path: &str, query: &Query) -> Self {
        let mut info = Self { path: path.to_owned(), verb: method_verb(method), ..Self::default() };
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let all = parts.len();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !version.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !group.is_empty() && !version.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        // `/api/v1/` is the discovery of the version.
        let end = rest.iter().rposition(|p| !p.is_empty()).map_or(0, |i| i + 1);
        let trailing = rest.len() - end;
        let mut rest = &rest[..end];
        if rest.is_empty() {
            (info.group, info.version) = Default::default();
            return info;
        }
        info.resource_request = true;
        // The deprecated prefix of watches.
        let watch_prefix = rest[0] == "watch" && rest.len() > 1;
        if watch_prefix {
            rest = &rest[1..];
        }
        if let ["namespaces", namespace, below @ ..] = rest {
            info.namespace = decode(namespace);
            // `namespaces/x` and its own subresources are about the namespace itself.
            if !matches!(below, [] | ["status" | "finalize"]) {
                rest = below;
            }
        }
        let mut parts = rest.iter();
        let mut next = || parts.next().map_or_else(String::new, |p| decode(p));
        (info.resource, info.name, info.subresource) = (next(), next(), next());
        if !info.subresource.is_empty() {
            let before = path.split('/').take(1 + all - trailing - parts.len()).map(|p| 1 + p.len()).sum::<usize>() - 1;
            info.tail = path[before..].to_owned();
        }
        info.verb =
            if watch_prefix { "watch" } else { resource_verb(method, &info.name, !info.subresource.is_empty(), query) };
        if info.name.is_empty() && matches!(info.verb, "list" | "watch" | "deletecollection") {
            info.field_selector = FieldSelector::parse(query.get("fieldSelector")).unwrap_or_default();
            info.label_selector = LabelSelector::parse(query.get("labelSelector")).unwrap_or_default();
            if info.verb != "deletecollection" {
                // Authorized as a request for that name.
                info.name = info.field_selector.exact("metadata.name").unwrap_or("").to_owned();
            }
        }
        info
    }

    /// Requests that change something, or may.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    /// Requests that may last: watches, logs, exec, profiles and the like.
    pub(crate) fn is_long_running(&self) -> bool {
        if !self.resource_request && self.path.starts_with("/debug/pprof/") {
            return true;
        }
        self.verb == "watch" || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }
}

fn method_verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "HEAD" => "head",
        "OPTIONS" => "options",
        _ => "",
    }
}

fn resource_verb(method: &http::Method, name: &str, below: bool, query: &Query) -> &'static str {
    match method.as_str() {
        "GET" | "HEAD" if below || (!name.is_empty() && !query.flag("watch")) => "get",
        "GET" | "HEAD" if query.flag("watch") => "watch",
        "GET" | "HEAD" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        _ => "",
    }
}

/// Hardly any name has anything to decode.
fn decode(text: &str) -> String {
    if text.contains('%') { percent::decode(text) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expects `verb group/version namespace resource name subresource tail`, `-` for empty.
    fn check(request: &str, expect: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query));
        let or = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
        let parts =
            [&info.namespace, &info.resource, &info.name, &info.subresource, &info.tail].map(|s| or(s)).join(" ");
        let got = if info.resource_request {
            format!("{} {}/{} {parts}", info.verb, info.group, info.version)
        } else {
            info.verb.to_owned()
        };
        assert_eq!(got, expect, "{request}");
    }

    #[test]
    fn paths() {
        check("GET /api/v1/pods", "list /v1 - pods - - -");
        check("GET /api/v1/namespaces/ns/pods/a", "get /v1 ns pods a - -");
        check("GET /api/v1/namespaces/ns/pods?watch=true", "watch /v1 ns pods - - -");
        check("GET /api/v1/watch/namespaces/ns/pods", "watch /v1 ns pods - - -");
        check("GET /api/v1/pods?fieldSelector=metadata.name%3Da", "list /v1 - pods a - -");
        check("GET /api/v1/namespaces", "list /v1 - namespaces - - -");
        check("GET /api/v1/namespaces/ns", "get /v1 ns namespaces ns - -");
        check("PUT /api/v1/namespaces/ns/finalize", "update /v1 ns namespaces ns finalize -");
        check("POST /apis/apps/v1/namespaces/ns/deployments", "create apps/v1 ns deployments - - -");
        check("PATCH /apis/apps/v1/namespaces/ns/deployments/d/status", "patch apps/v1 ns deployments d status -");
        check("DELETE /apis/apps/v1/namespaces/ns/deployments", "deletecollection apps/v1 ns deployments - - -");
        check("GET /api/v1/nodes/n/proxy/logs/a%20b", "get /v1 - nodes n proxy /logs/a%20b");
        check("GET /api/v1/nodes/n/proxy", "get /v1 - nodes n proxy -");
        check("GET /api/v1/nodes/n/proxy/", "get /v1 - nodes n proxy /");
        check("GET /api/v1/nodes/n/proxy//a/../b//", "get /v1 - nodes n proxy //a/../b//");
        // Only what follows the subresource is its own.
        check(
            "POST /api/v1/namespaces/proxy/services/proxy-a/proxy/proxy",
            "create /v1 proxy services proxy-a proxy /proxy",
        );
        // The query of a subresource is for whatever serves it.
        check("GET /api/v1/namespaces/ns/pods/a/proxy/x?watch=true", "get /v1 ns pods a proxy /x");
        check(
            "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "get rbac.authorization.k8s.io/v1 - clusterroles system:node - -",
        );
        for discovery in
            ["GET /api", "GET /api/v1", "GET /api/v1/", "GET /apis/apps/v1", "GET /apis/apps", "GET /version", "GET /"]
        {
            check(discovery, "get");
        }
    }
}
