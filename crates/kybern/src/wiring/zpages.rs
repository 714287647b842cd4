//! `/flagz` and `/statusz`: what the program runs with, and since when, as text for people (upstream's `zpages`).

use std::sync::Arc;

use http::header::{ACCEPT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use kybern_apiserver::{Body, BoxFuture, Route, body};

use crate::flags::used::used;
use crate::version;

const COMPONENT: &str = "kube-apiserver";
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
/// What there is for those who look for faults.
const PATHS: &str = "/debug /flagz /healthz /livez /metrics /readyz /statusz /version";

/// A page of text, made when it is asked for.
struct Page(Box<dyn Fn() -> String + Send + Sync>);

impl Route for Page {
    fn serve(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let response = if accepts_text(request.headers()) {
            body::text(StatusCode::OK, (self.0)())
        } else {
            let text = "media type not acceptable, must be: text/plain\n";
            let mut response = body::text(StatusCode::NOT_ACCEPTABLE, text);
            response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response
        };
        Box::pin(async move { response })
    }
}

/// Plain text, in UTF-8 if in anything.
fn accepts_text(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    accept.map(|media| media.split(';').map(str::trim).collect::<Vec<_>>()).any(|media| {
        let known = matches!(media[0], "text/plain" | "text/*" | "*/*" | "*/plain");
        let others: Vec<&&str> = media[1..].iter().filter(|parameter| !parameter.starts_with("q=")).collect();
        known && (others.is_empty() || matches!(*others, [one] if one.eq_ignore_ascii_case("charset=utf-8")))
    })
}

fn flagz() -> String {
    let flags: String = used().into_iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    format!("\n{COMPONENT} flags\n{WARNING}\n\n{flags}")
}

fn statusz(started: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let up = now.as_second() - started.as_second();
    let binary = version::KUBERNETES.trim_start_matches('v').split('+').next().unwrap_or_default();
    let emulated = format!("{}.{}", version::KUBERNETES_MAJOR, version::KUBERNETES_MINOR);
    // Go's version upstream; this program is none of Go's.
    format!(
        "\n{COMPONENT} statusz\n{WARNING}\n\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nKybern version: {}\n\
         Binary version: {binary}\nEmulation version: {emulated}\nPaths: {PATHS}\n",
        started.strftime("%a %b %e %H:%M:%S UTC %Y"),
        up / 3600,
        up / 60 % 60,
        up % 60,
        version::KYBERN,
    )
}

/// The pages by path.
pub(super) fn routes() -> Vec<(String, Arc<dyn Route>)> {
    let started = jiff::Timestamp::now();
    let page = |path: &str, make: Box<dyn Fn() -> String + Send + Sync>| -> (String, Arc<dyn Route>) {
        (path.to_owned(), Arc::new(Page(make)))
    };
    vec![page("/flagz", Box::new(flagz)), page("/statusz", Box::new(move || statusz(started, jiff::Timestamp::now())))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_text() {
        let accepts =
            |text: &'static str| accepts_text(&[(ACCEPT, HeaderValue::from_static(text))].into_iter().collect());
        for yes in ["text/plain", "*/*", "application/json, text/*;q=0.5", "text/plain; charset=UTF-8"] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["application/json", "text/plain;charset=latin1", "text/html", ""] {
            assert!(!accepts(no), "{no}");
        }
    }

    #[test]
    fn a_status_has_upstreams_lines() {
        let at = |text: &str| text.parse().unwrap();
        let page = statusz(at("2026-11-08T09:05:07Z"), at("2026-11-09T11:06:08Z"));
        let expect = "\nkube-apiserver statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
                      compatibility guarantees and is for debugging purposes only.\n\n\
                      Started: Sun Nov  8 09:05:07 UTC 2026\nUp: 26 hr 01 min 01 sec\n";
        assert!(page.starts_with(expect), "{page}");
        assert!(page.contains("\nBinary version: 1.35.0\nEmulation version: 1.35\nPaths: /debug"), "{page}");
        assert!(flagz().starts_with("\nkube-apiserver flags\nWarning: "));
    }
}
