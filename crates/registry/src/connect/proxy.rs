//! `proxy` of pods, services and nodes: HTTP passed on to whatever serves behind them.

use std::sync::Arc;

use http::header::{HeaderValue, LOCATION};
use http::{Request, Response, Uri};
use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};

use super::kubelet::{KubeletClient, send_plain};
use crate::tree::{int, list, text};

#[derive(Clone, Copy)]
pub(super) enum Target {
    Pod,
    Service,
    Node,
}

pub(super) struct Proxy {
    pub(super) kubelet: Arc<KubeletClient>,
    pub(super) target: Target,
}

/// `[SCHEME:]NAME[:PORT]`.
#[derive(Debug, PartialEq)]
struct Place<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

fn parse(text: &str) -> Option<Place<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(Place { scheme, name, port })
}

impl Connector for Proxy {
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let ConnectRequest { namespace, name, tail, request, .. } = request;
            let invalid = || ApiError::bad_request(format!("invalid proxy request {name:?}: use [SCHEME:]NAME[:PORT]"));
            let place = parse(&name).ok_or_else(invalid)?;
            let prefix = prefix(request.uri().path());
            let query = request.uri().query().map_or(String::new(), |q| format!("?{q}"));
            let path = format!("/{}{query}", tail.trim_start_matches('/'));
            let request = rebase(request, &path)?;
            let answer = match self.target {
                Target::Node => {
                    let node = server.get("", "nodes", "", place.name).await?;
                    self.kubelet.send(&node, request).await?
                }
                Target::Pod => {
                    let pod = server.get("", "pods", &namespace, place.name).await?;
                    let (host, port) = pod_address(&pod, place.port)?;
                    self.send(&place, &host, port, request).await?
                }
                Target::Service => {
                    let service = server.get("", "services", &namespace, place.name).await?;
                    let slices = server.list("discovery.k8s.io", "endpointslices", &namespace).await?;
                    let (host, port) = service_address(&service, &slices, place.port)?;
                    self.send(&place, &host, port, request).await?
                }
            };
            Ok(relocate(answer, &prefix))
        })
    }
}

impl Proxy {
    async fn send(
        &self,
        place: &Place<'_>,
        host: &str,
        port: u16,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if place.scheme == "https" {
            self.kubelet.send_tls(host, port, request).await
        } else {
            send_plain(host, port, request).await
        }
    }
}

/// The path up to and with `/proxy`, to which redirects are relative.
fn prefix(path: &str) -> String {
    path.find("/proxy").map_or(String::new(), |i| path[..i + "/proxy".len()].to_owned())
}

fn rebase(request: Request<Body>, path: &str) -> Result<Request<Body>, ApiError> {
    let (mut parts, body) = request.into_parts();
    parts.uri = path.parse::<Uri>().map_err(|e| ApiError::bad_request(format!("invalid proxy path {path:?}: {e}")))?;
    // Neither credentials nor cookies of this server are the backend's business.
    parts.headers.remove(http::header::AUTHORIZATION);
    Ok(Request::from_parts(parts, body))
}

/// A redirect within the backend leads back through the proxy.
fn relocate(mut answer: Response<Body>, prefix: &str) -> Response<Body> {
    let moved = answer
        .headers()
        .get(LOCATION)
        .and_then(|l| l.to_str().ok())
        .filter(|l| l.starts_with('/') && !l.starts_with("//"));
    if let Some(value) = moved.and_then(|l| HeaderValue::from_str(&format!("{prefix}{l}")).ok()) {
        answer.headers_mut().insert(LOCATION, value);
    }
    answer
}

fn unavailable(text: String) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, text)
}

/// A pod's address, and the port that is named, or its first one.
fn pod_address(pod: &Value, port: &str) -> Result<(String, u16), ApiError> {
    let ip = object::str_at(pod, &["status", "podIP"]);
    if ip.is_empty() {
        return Err(unavailable(format!("pod {:?} has no address yet", object::name(pod))));
    }
    let mut ports = list(&pod["spec"], "containers").iter().flat_map(|c| list(c, "ports"));
    let number = match port {
        "" => ports.next().and_then(|p| int(p, "containerPort")).unwrap_or(80),
        named => match named.parse() {
            Ok(number) => number,
            Err(_) => {
                ports.find(|p| text(p, "name") == named).and_then(|p| int(p, "containerPort")).ok_or_else(|| {
                    ApiError::bad_request(format!("pod {:?} has no port named {named:?}", object::name(pod)))
                })?
            }
        },
    };
    let number = u16::try_from(number).map_err(|_| ApiError::bad_request(format!("invalid port {number}")))?;
    Ok((ip.to_owned(), number))
}

/// A ready endpoint of a Service's port.
fn service_address(service: &Value, slices: &[Value], port: &str) -> Result<(String, u16), ApiError> {
    let name = object::name(service);
    let ports = list(&service["spec"], "ports");
    let chosen = match port {
        "" => match ports {
            [only] => Some(only),
            _ => ports.iter().find(|p| text(p, "name").is_empty()),
        },
        wanted => ports.iter().find(|p| text(p, "name") == wanted || wanted.parse().ok() == int(p, "port")),
    };
    let Some(chosen) = chosen else {
        return Err(unavailable(format!("no service port {port:?} found for service {name:?}")));
    };
    let mine = slices.iter().filter(|s| object::label(s, "kubernetes.io/service-name") == Some(name));
    for slice in mine {
        let number =
            list(slice, "ports").iter().find(|p| text(p, "name") == text(chosen, "name")).and_then(|p| int(p, "port"));
        let ready = list(slice, "endpoints").iter().find(|e| e["conditions"]["ready"] != false);
        let address = ready.and_then(|e| list(e, "addresses").first()).and_then(Value::as_str);
        if let (Some(number), Some(address)) = (number.and_then(|n| u16::try_from(n).ok()), address) {
            return Ok((address.to_owned(), number));
        }
    }
    Err(unavailable(format!("no endpoints available for service {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn places() {
        assert_eq!(parse("a"), Some(Place { scheme: "", name: "a", port: "" }));
        assert_eq!(parse("a:http"), Some(Place { scheme: "", name: "a", port: "http" }));
        assert_eq!(parse("https:a:443"), Some(Place { scheme: "https", name: "a", port: "443" }));
        assert_eq!(parse("ftp:a:1"), None);
        assert_eq!(prefix("/api/v1/namespaces/x/pods/a/proxy/b"), "/api/v1/namespaces/x/pods/a/proxy");
    }

    #[test]
    fn addresses() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}, "status": {"podIP": "10.0.0.1"}});
        assert_eq!(pod_address(&pod, "").unwrap(), ("10.0.0.1".into(), 8080));
        assert_eq!(pod_address(&pod, "web").unwrap().1, 8080);
        assert_eq!(pod_address(&pod, "81").unwrap().1, 81);
        assert_eq!(pod_address(&pod, "x").unwrap_err().code(), 400);
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
        let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"name": "web", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.3"]}]});
        assert_eq!(service_address(&service, std::slice::from_ref(&slice), "80").unwrap(), ("10.0.0.3".into(), 8080));
        assert_eq!(service_address(&service, &[], "").unwrap_err().code(), 503);
    }
}
