//! What of a backend's answer is turned so that the caller comes back through the proxy.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION,
};
use http::{HeaderValue, Response};
use kybern_apimachinery::ApiError;
use kybern_apiserver::Body;

use super::page;

/// What a backend must not say about this server's origin.
const CORS: [http::HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// Turns URLs of the backend into such that lead through the proxy.
#[derive(Clone, Debug)]
pub(super) struct Rewriter {
    /// The path of this server under which the backend's lie, ending in `/proxy`.
    pub(super) base: String,
    /// Host and port of the backend as it was dialled.
    pub(super) backend: String,
    /// The caller's name of this server, which the backend was told.
    pub(super) host: String,
}

/// Turns an answer; `with_body`: it has one to look into.
pub(super) fn answer(
    mut answer: Response<Body>,
    rewriter: Rewriter,
    with_body: bool,
) -> Result<Response<Body>, ApiError> {
    for name in &CORS {
        answer.headers_mut().remove(name);
    }
    if let Some(location) = answer.headers().get(LOCATION) {
        let unusable = |e| ApiError::internal(format!("error trying to parse Location header: {e}"));
        let location = location.to_str().map_err(unusable)?;
        if let Some(value) = rewriter.rewrite(location).and_then(|l| HeaderValue::from_str(&l).ok()) {
            answer.headers_mut().insert(LOCATION, value);
        }
        return Ok(answer);
    }
    let text = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let media = text(CONTENT_TYPE);
    let is_page = media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("text/html"));
    if !is_page || !with_body {
        return Ok(answer);
    }
    let coding = text(CONTENT_ENCODING);
    let (mut parts, body) = answer.into_parts();
    let body = match page::turned(body, &coding, rewriter) {
        Ok(turned) => {
            parts.headers.remove(CONTENT_LENGTH);
            turned
        }
        Err(body) => body,
    };
    Ok(Response::from_parts(parts, body))
}

impl Rewriter {
    /// The URL through the proxy; `None` for one that stays: relative ones, those of other servers, and those that lead
    /// through the proxy already.
    pub(super) fn rewrite(&self, url: &str) -> Option<String> {
        let Url { host, rest } = split(url)?;
        let ours = host.is_none_or(|h| h.is_empty() || h == self.backend || h == self.host);
        if !ours || !rest.starts_with('/') {
            return None;
        }
        let (path, more) = rest.find(['?', '#']).map_or((rest, ""), |i| rest.split_at(i));
        // The caller's own name of this server is right as it is.
        let origin = if host == Some(self.host.as_str()) { &url[..url.len() - rest.len()] } else { "" };
        let within = path.strip_prefix(self.base.as_str()).is_some_and(|p| p.is_empty() || p.starts_with('/'));
        let turned =
            if within { format!("{origin}{rest}") } else { format!("{origin}{}{}{more}", self.base, joined(path)) };
        (turned != url).then_some(turned)
    }
}

struct Url<'a> {
    host: Option<&'a str>,
    /// Path, query and fragment.
    rest: &'a str,
}

/// `None` for what is no URL of a path, such as `mailto:`.
fn split(url: &str) -> Option<Url<'_>> {
    let scheme = url.find([':', '/', '?', '#']).filter(|i| url[*i..].starts_with(':'));
    let after = scheme.map_or(url, |i| &url[i + 1..]);
    match after.strip_prefix("//") {
        Some(after) => {
            let end = after.find(['/', '?', '#']).unwrap_or(after.len());
            let host = after[..end].rsplit('@').next();
            Some(Url { host, rest: &after[end..] })
        }
        // `javascript:/…` and the like are no URLs of a server's.
        None => scheme.is_none().then_some(Url { host: None, rest: after }),
    }
}

/// A path without `.`, `..` and empty parts; it ends with `/` where it did.
fn joined(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let slash = if path.ends_with('/') { "/" } else { "" };
    if parts.is_empty() { "/".to_owned() } else { format!("/{}{slash}", parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expect: &str) {
        let rewriter = Rewriter {
            base: "/api/v1/namespaces/x/pods/a/proxy".to_owned(),
            backend: "10.0.0.1:80".to_owned(),
            host: "front:6443".to_owned(),
        };
        assert_eq!(rewriter.rewrite(url).as_deref().unwrap_or(url), expect, "{url}");
    }

    #[test]
    fn urls() {
        const BASE: &str = "/api/v1/namespaces/x/pods/a/proxy";
        check("/login", &format!("{BASE}/login"));
        check("/a/../b//c/?q=/x#y", &format!("{BASE}/b/c/?q=/x#y"));
        check("/", &format!("{BASE}/"));
        // Absolute, to the backend as it was dialled and as the caller knows it.
        check("http://10.0.0.1:80/login", &format!("{BASE}/login"));
        check("https://10.0.0.1:80/", &format!("{BASE}/"));
        check("//10.0.0.1:80/a", &format!("{BASE}/a"));
        check("https://front:6443/a?b", &format!("https://front:6443{BASE}/a?b"));
        // Through the proxy already.
        check(&format!("{BASE}/a"), &format!("{BASE}/a"));
        check(&format!("http://10.0.0.1:80{BASE}/a"), &format!("{BASE}/a"));
        check(&format!("{BASE}x"), &format!("{BASE}{BASE}x"));
        // Not ours to turn.
        for kept in
            ["a/b", "", "?x", "#x", "mailto:a@b", "javascript:/x/", "http://other/a", "//other/a", "http://10.0.0.1:80"]
        {
            check(kept, kept);
        }
    }
}
