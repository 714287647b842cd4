//! `pods/log`, `exec`, `attach` and `portforward`: passed on to the kubelet of the pod's node.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::ready;
use http::header::{CONNECTION, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::BodyExt;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::percent::encode;
use kybern_apimachinery::{ApiError, GroupKind, Value, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture, body};
use kybern_streaming::upgrade::{self, Transport};
use kybern_streaming::{Wants, port_forward, translate, websocket};

use super::exchange::query_values;
use super::kubelet::{KubeletClient, Verify};
use super::stream::Switched;
use crate::tree::{list, text};

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// The container that is meant: the one that is named, or the only one.
fn container(pod: &Value, named: &str) -> Result<String, ApiError> {
    let (name, spec) = (object::name(pod), &pod["spec"]);
    let names = |field: &str| list(spec, field).iter().map(|c| text(c, "name")).collect::<Vec<_>>();
    if !named.is_empty() {
        return if CONTAINERS.iter().any(|f| names(f).contains(&named)) {
            Ok(named.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {named} is not valid for pod {name}")))
        };
    }
    let [regular, init, ephemeral] = CONTAINERS.map(names);
    match regular.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
        many => {
            // kubectl's annotation says which is the main one.
            if let Some(main) =
                object::annotation(pod, "kubectl.kubernetes.io/default-container").filter(|m| many.contains(m))
            {
                return Ok(main.to_owned());
            }
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(ApiError::bad_request(text))
        }
    }
}

/// What a kubelet is told of a streaming request beside its path: how to switch protocols, and to which.
const UPGRADE_HEADERS: [HeaderName; 7] = [
    CONNECTION,
    UPGRADE,
    ORIGIN,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// The request to switch protocols, under the kubelet's path and without what else the caller said.
fn redirect(request: Request<Body>, path: &str) -> Result<Request<Body>, ApiError> {
    let (mut parts, body) = request.into_parts();
    parts.uri = path.parse().map_err(ApiError::internal)?;
    let mut headers = HeaderMap::new();
    for (name, value) in parts.headers.iter().filter(|(name, _)| UPGRADE_HEADERS.contains(name)) {
        headers.append(name, value.clone());
    }
    parts.headers = headers;
    Ok(Request::from_parts(parts, body))
}

async fn node_of(server: &dyn Objects, pod: &Value) -> Result<Value, ApiError> {
    let node = object::str_at(pod, &["spec", "nodeName"]);
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", object::name(pod))));
    }
    server.get("", "nodes", "", node).await
}

pub(super) struct Log {
    pub(super) kubelet: Arc<KubeletClient>,
}

/// The options that the kubelet is told.
const LOG_OPTIONS: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

fn log_query(pod: &str, query: &str) -> Result<String, ApiError> {
    let first = |name: &'static str| query_values(query, name).next();
    let mut errors = Vec::new();
    for (name, least, detail) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        let Some(value) = first(name).filter(|v| !v.is_empty()) else { continue };
        match value.parse::<i64>() {
            Ok(number) if number < least => errors.push(FieldError::invalid(&FieldPath::new(name), number, detail)),
            Ok(_) => {}
            Err(_) => {
                return Err(ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax")));
            }
        }
    }
    if first("sinceSeconds").is_some() && first("sinceTime").is_some() {
        errors.push(FieldError::forbidden(
            &FieldPath::root(),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(&GroupKind::new("", "PodLogOptions"), pod, &errors));
    }
    let pairs: Vec<String> =
        LOG_OPTIONS.iter().filter_map(|name| Some(format!("{name}={}", encode(first(name)?, b"")))).collect();
    Ok(pairs.join("&"))
}

impl Connector for Log {
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let ConnectRequest { namespace, name, request, .. } = request;
            let query = request.uri().query().unwrap_or("").to_owned();
            let options = log_query(&name, &query)?;
            let pod = server.get("", "pods", &namespace, &name).await?;
            let container = container(&pod, &query_values(&query, "container").next().unwrap_or_default())?;
            // What was never scheduled has said nothing.
            if object::str_at(&pod, &["spec", "nodeName"]).is_empty() {
                return Ok(body::text(http::StatusCode::OK, ""));
            }
            let node = node_of(server, &pod).await?;
            let path = format!("/containerLogs/{namespace}/{name}/{container}?{options}");
            let verify =
                if is_set(&query, "insecureSkipTLSVerifyBackend") { Verify::Never } else { Verify::AsConfigured };
            // Nothing of what the caller accepts or brings concerns the kubelet.
            let asked = Request::get(path).body(body::empty()).map_err(ApiError::internal)?;
            let answer = refused(self.kubelet.send(&node, verify, asked).await?, &name).await?;
            if upgrade::transport(request.headers()) != Some(Transport::WebSocket) {
                return Ok(answer);
            }
            // A kubelet that fails midway ends the log, as it does over plain HTTP.
            let pieces = answer.into_body().into_data_stream().take_while(|piece| ready(piece.is_ok()));
            let pieces = pieces.filter_map(|piece| ready(piece.ok()));
            let answer = kybern_streaming::reader(request, pieces);
            Ok(answer.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
        })
    }
}

/// Turns a kubelet's refusal, which is plain text, into a `Status`.
async fn refused(answer: Response<Body>, name: &str) -> Result<Response<Body>, ApiError> {
    let code = answer.status();
    if code.is_success() || code == http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer);
    }
    let bytes = body::read(answer.into_body()).await.unwrap_or_default();
    let error = ApiError::from_response(code.as_u16(), &bytes);
    if error.reason() != kybern_apimachinery::Reason::Unknown {
        return Err(error);
    }
    Err(match code.as_u16() {
        400 => ApiError::bad_request(error.message()),
        404 => ApiError::new(kybern_apimachinery::Reason::NotFound, error.message()),
        _ => {
            let text = format!(
                "an error on the server ({:?}) has prevented the request from succeeding (pods {name})",
                error.message()
            );
            ApiError::new(kybern_apimachinery::Reason::InternalError, text).with_code(code.as_u16())
        }
    })
}

/// The kubelet's calls that stream both ways.
#[derive(Clone, Copy)]
pub(super) enum Call {
    Exec,
    Attach,
    PortForward,
}

pub(super) struct Streams {
    pub(super) kubelet: Arc<KubeletClient>,
    pub(super) call: Call,
}

/// The kubelet's names of the stream flags differ from the API's.
const STREAMS: [(&str, &str); 4] = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

fn is_set(query: &str, name: &str) -> bool {
    query_values(query, name)
        .next()
        .is_some_and(|v| matches!(v.as_str(), "" | "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn wants(query: &str) -> Wants {
    let [stdin, stdout, stderr, tty] = STREAMS.map(|(name, _)| is_set(query, name));
    Wants { stdin, stdout, stderr, tty }
}

/// The protocol that a kubelet is to speak over SPDY with what came as a WebSocket: for those of its protocols that say over
/// it what SPDY can. Older ones are for the kubelet to understand, as upstream has it.
fn translated(call: Call, headers: &HeaderMap) -> Option<&'static str> {
    if upgrade::transport(headers) != Some(Transport::WebSocket) {
        return None;
    }
    let (offer, protocol) = match call {
        Call::Exec | Call::Attach => (websocket::EXEC_PROTOCOLS[0], translate::EXEC_PROTOCOL),
        Call::PortForward => (port_forward::TUNNEL_PROTOCOL, port_forward::SPDY_PROTOCOL),
    };
    upgrade::offers(headers, offer).then_some(protocol)
}

/// This server's own request for SPDY.
fn to_spdy(path: &str, protocol: &str) -> Result<Request<Body>, ApiError> {
    let request = Request::post(path).header(CONNECTION, "Upgrade").header(UPGRADE, "SPDY/3.1");
    request.header(upgrade::STREAM_PROTOCOL, protocol).body(body::empty()).map_err(ApiError::internal)
}

fn stream_query(query: &str, command: bool) -> Result<String, ApiError> {
    let mut pairs: Vec<String> = Vec::new();
    for (ours, theirs) in STREAMS.iter().filter(|(ours, _)| is_set(query, ours)) {
        // A terminal has no stream of its own for errors.
        if *ours == "stderr" && is_set(query, "tty") {
            continue;
        }
        pairs.push(format!("{theirs}=1"));
    }
    if !["stdin", "stdout", "stderr"].iter().any(|s| is_set(query, s)) {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    if command {
        let words: Vec<String> = query_values(query, "command").collect();
        if words.is_empty() {
            return Err(ApiError::bad_request("you must specify at least one command for the container"));
        }
        pairs.extend(words.iter().map(|w| format!("command={}", encode(w, b""))));
    }
    Ok(pairs.join("&"))
}

/// The ports to forward, as the kubelet wants them: one list.
fn forwarded_ports(query: &str) -> Result<String, ApiError> {
    let named: Vec<String> = query_values(query, "ports").collect();
    let ports = named.iter().flat_map(|list| list.split(',')).filter(|port| !port.is_empty());
    let parsed = ports.map(|port| {
        let invalid = || ApiError::bad_request(format!("strconv.ParseInt: parsing {port:?}: invalid syntax"));
        port.parse::<i32>().map(|p| p.to_string()).map_err(|_| invalid())
    });
    Ok(parsed.collect::<Result<Vec<_>, _>>()?.join(","))
}

impl Connector for Streams {
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let ConnectRequest { namespace, name, held, mut request, .. } = request;
            // Until the stream ends, the request lasts.
            request.extensions_mut().insert(held.clone());
            let query = request.uri().query().unwrap_or("").to_owned();
            let pod = server.get("", "pods", &namespace, &name).await?;
            let chosen = || container(&pod, &query_values(&query, "container").next().unwrap_or_default());
            let path = match self.call {
                Call::Exec => format!("/exec/{namespace}/{name}/{}?{}", chosen()?, stream_query(&query, true)?),
                Call::Attach => format!("/attach/{namespace}/{name}/{}?{}", chosen()?, stream_query(&query, false)?),
                Call::PortForward => {
                    // WebSocket clients name the ports here; SPDY clients with each stream.
                    let ports = forwarded_ports(&query)?;
                    let query = if ports.is_empty() { String::new() } else { format!("?port={}", encode(ports, b"")) };
                    format!("/portForward/{namespace}/{name}{query}")
                }
            };
            let node = node_of(server, &pod).await?;
            if !request.headers().contains_key(UPGRADE) {
                return Err(ApiError::bad_request("Upgrade request required"));
            }
            let Some(protocol) = translated(self.call, request.headers()) else {
                let answer = self.kubelet.send(&node, Verify::AsConfigured, redirect(request, &path)?).await?;
                return refused(answer, &name).await;
            };
            // It is asked before the client is answered, so that a refusal is one.
            let io = match self.kubelet.switch(&node, to_spdy(&path, protocol)?).await? {
                Switched::To(io) => io,
                Switched::Not(answer) => return refused(answer, &name).await,
            };
            let answer = match self.call {
                Call::PortForward => translate::tunnel(request, io, held),
                Call::Exec | Call::Attach => {
                    let wants = wants(&query);
                    kybern_streaming::exec(request, wants, move |client| async move {
                        let _held = held;
                        translate::exec_at(io, wants, client).await
                    })
                }
            };
            Ok(answer.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn the_container_must_be_clear() {
        let pod = |names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
            json!({"metadata": {"name": "p"}, "spec": {"containers": containers, "initContainers": [{"name": "i"}]}})
        };
        assert_eq!(container(&pod(&["a"]), "").unwrap(), "a");
        assert_eq!(container(&pod(&["a"]), "i").unwrap(), "i");
        let text = container(&pod(&["a", "b"]), "").unwrap_err().message().to_owned();
        assert_eq!(
            text,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(container(&pod(&["a"]), "x").unwrap_err().message(), "container x is not valid for pod p");
        let mut annotated = pod(&["a", "b"]);
        annotated["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(container(&annotated, "").unwrap(), "b");
    }

    #[test]
    fn options_are_checked_and_translated() {
        assert_eq!(log_query("p", "follow=true&tailLines=5&container=a&evil=1").unwrap(), "follow=true&tailLines=5");
        assert!(log_query("p", "tailLines=-1").unwrap_err().message().contains("tailLines: Invalid value: -1"));
        assert_eq!(log_query("p", "sinceSeconds=x").unwrap_err().code(), 400);
        assert!(log_query("p", "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").is_err());
        let exec = stream_query("command=sh&command=-c&command=a+b&stdin=true&stdout=true&stderr=true&tty=true", true)
            .unwrap();
        assert_eq!(exec, "input=1&output=1&tty=1&command=sh&command=-c&command=a%20b");
        assert!(stream_query("command=sh", true).is_err() && stream_query("stdout=1", true).is_err());
        assert_eq!(stream_query("stdout=1", false).unwrap(), "output=1");
        assert_eq!(forwarded_ports("ports=80&ports=443,8080&x=1").unwrap(), "80,443,8080");
        assert_eq!(forwarded_ports("").unwrap(), "");
        assert_eq!(forwarded_ports("ports=a").unwrap_err().code(), 400);
    }
}
