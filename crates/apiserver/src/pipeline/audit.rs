//! Records what becomes of a request.

use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::FutureExt;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{ApiError, Value};
use kybern_schema::proto;

use super::{Context, Next, Outcome};
use crate::access::Peer;
use crate::audit::{Level, Record, Request, Stage};
use crate::{Body, BoxFuture, authorization, body};

/// A `Status` has fewer bytes; an object that is answered is not looked into unless all of it is recorded.
const STATUS_BYTES: u64 = 16 << 10;

pub(super) fn stage(context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    if judge(&context) == Level::None {
        return next.run(context);
    }
    let (record, clock) = (context.audit.clone(), context.server.clock.clone());
    let (long_running, deletes) = (context.info.is_long_running(), context.info.verb == "delete");
    if !record.stage(Stage::RequestReceived, clock.now()) {
        return Box::pin(async { Err(ApiError::internal("failed to store audit event")) });
    }
    context.held.keep(Closing { record: record.clone(), clock: clock.clone(), long_running });
    Box::pin(async move {
        let outcome = AssertUnwindSafe(next.run(context)).catch_unwind().await.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            record.panicked(text.unwrap_or("a value that is no text"), clock.now());
            std::panic::resume_unwind(panic)
        });
        let outcome = match outcome {
            Ok(response) => {
                record.answered(response.status().as_u16());
                Ok(read(&record, response, long_running, deletes).await)
            }
            Err(error) => {
                record.refused(&error);
                Err(error)
            }
        };
        if long_running {
            record.stage(Stage::ResponseStarted, clock.now());
        }
        outcome
    })
}

/// Records the last of a request.
struct Closing {
    record: Arc<Record>,
    clock: Arc<dyn Clock>,
    long_running: bool,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.record.complete(self.long_running, self.clock.now());
    }
}

/// Records a request that does not come as far as this stage.
pub(super) fn failed(context: &Context, text: &str, code: u16) {
    if judge(context) > Level::None {
        context.audit.failed(text, code);
        context.audit.stage(Stage::ResponseStarted, context.server.clock.now());
    }
}

fn judge(context: &Context) -> Level {
    let Some(audit) = &context.server.audit else { return Level::None };
    let headers = context.request.headers();
    let uri = context.request.uri();
    let request = Request {
        attributes: &authorization::attributes(&context.info, context.user.clone()),
        uri: uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string),
        user_agent: headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or(""),
        source_ips: source_ips(headers, context.request.extensions().get::<Arc<Peer>>()),
        received: context.now,
    };
    context.audit.judge(audit, &request)
}

/// Whom the request passed, as it says, and who sent it, as is known.
fn source_ips(headers: &HeaderMap, peer: Option<&Arc<Peer>>) -> Vec<String> {
    let texts =
        |name: &str| headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let parse = |text: &str| text.trim().parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string());
    let mut found: Vec<String> = texts("x-forwarded-for").filter_map(parse).collect();
    if let Some(real) = texts("x-real-ip").find_map(parse)
        && !found.contains(&real)
    {
        found.push(real);
    }
    let remote = peer.and_then(|peer| peer.address).map(|address| address.ip().to_canonical().to_string());
    if let Some(remote) = remote.filter(|remote| found.last() != Some(remote)) {
        found.push(remote);
    }
    found
}

/// Records an answer's object, where that is wanted, and gives the answer back.
async fn read(record: &Record, response: Response<Body>, long_running: bool, deletes: bool) -> Response<Body> {
    let all = record.level() >= Level::RequestResponse && !long_running;
    let small = response.body().size_hint().exact().is_some_and(|bytes| bytes <= STATUS_BYTES);
    if !all && (!deletes || !small) {
        return response;
    }
    let (parts, body) = response.into_parts();
    // The deadline ends this, too. What was read goes on in one piece.
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            let broken = futures_util::stream::iter([Err(error)]);
            return Response::from_parts(parts, http_body_util::StreamBody::new(broken).boxed_unsync());
        }
    };
    if let Some(object) = object_of(&parts.headers, &bytes) {
        record.response_object(object);
    }
    Response::from_parts(parts, body::full(bytes))
}

fn object_of(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let mut plain = Vec::new();
    let bytes = match text(CONTENT_ENCODING) {
        Some("gzip") => {
            GzDecoder::new(&**bytes).read_to_end(&mut plain).ok()?;
            plain.as_slice()
        }
        _ => bytes,
    };
    match text(CONTENT_TYPE)?.split(';').next()?.trim() {
        "application/json" => serde_json::from_slice(bytes).ok(),
        "application/yaml" => kybern_schema::decode::yaml_to_value(bytes).ok(),
        proto::MEDIA_TYPE => {
            let gvk = proto::Envelope::open(bytes).ok()?.gvk()?;
            proto::decode(&kybern_schema::builtin().kind(&gvk)?, bytes).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_in_the_order_of_the_way() {
        let peer = Arc::new(Peer { address: Some("10.0.0.9:1234".parse().unwrap()), ..Peer::default() });
        let check = |sent: &[(&'static str, &'static str)], expect: &[&str]| {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(source_ips(&headers, Some(&peer)), expect, "{sent:?}");
        };
        check(&[], &["10.0.0.9"]);
        check(
            &[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-real-ip", "3.3.3.3")],
            &["1.1.1.1", "2.2.2.2", "3.3.3.3", "10.0.0.9"],
        );
        check(&[("x-forwarded-for", "1.1.1.1, rubbish"), ("x-real-ip", "1.1.1.1")], &["1.1.1.1", "10.0.0.9"]);
        check(&[("x-forwarded-for", "10.0.0.9")], &["10.0.0.9"]);
        assert!(source_ips(&HeaderMap::new(), None).is_empty());
    }
}
