//! Where a proxied request goes: the addresses that pods, Services and nodes may be reached by, and no others
//! (upstream's `ResourceLocation`s).

use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::connect::Objects;

use crate::connect::dial::{self, NOT_ALLOWED, Reach, authority, is_global};
use crate::connect::kubelet::KubeletClient;
use crate::tree::{int, list, text};

#[derive(Clone, Copy)]
pub(in crate::connect) enum Kind {
    Pod,
    Service,
    Node,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Service => "service",
            Self::Node => "node",
        }
    }
}

/// `[SCHEME:]NAME[:PORT]`.
#[derive(Debug, PartialEq)]
struct Place<'a> {
    https: bool,
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
    (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(Place {
        https: scheme == "https",
        name,
        port,
    })
}

/// Whom the request is for, and with it what this server shows and demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// The node's own kubelet: the server's client certificate, the kubelet's verified.
    Kubelet,
    /// Anything else: no credential of the server's, and no certificate that would mean anything.
    Stranger { https: bool },
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) backend: Backend,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    /// Its host and port as a URL has them.
    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// Finds what `name` means.
pub(super) async fn find(
    kind: Kind,
    server: &dyn Objects,
    kubelets: &KubeletClient,
    namespace: &str,
    name: &str,
) -> Result<Target, ApiError> {
    let invalid = || ApiError::bad_request(format!("invalid {} request {name:?}", kind.name()));
    let place = parse(name).ok_or_else(invalid)?;
    match kind {
        Kind::Pod => pod(&place, &server.get("", "pods", namespace, place.name).await?),
        Kind::Service => service(&place, server, namespace, name).await,
        Kind::Node => node(&place, &server.get("", "nodes", "", place.name).await?, kubelets).await,
    }
}

fn stranger(place: &Place<'_>, host: &str, port: u16) -> Target {
    Target { backend: Backend::Stranger { https: place.https }, host: host.to_owned(), port }
}

fn port_number(port: i64) -> Result<u16, ApiError> {
    let number = u16::try_from(port).ok().filter(|p| *p > 0);
    number.ok_or_else(|| ApiError::bad_request(format!("invalid port {port}: must be between 1 and 65535")))
}

/// A pod's addresses: where both fields are set and differ, the old one counts.
fn pod_ips(pod: &Value) -> Vec<&str> {
    let old = object::str_at(pod, &["status", "podIP"]);
    let all: Vec<&str> = list(&pod["status"], "podIPs").iter().map(|ip| text(ip, "ip")).collect();
    if !old.is_empty() && all.first() != Some(&old) { vec![old] } else { all }
}

/// A pod's first address, and the port that is named, or its first one.
fn pod(place: &Place<'_>, pod: &Value) -> Result<Target, ApiError> {
    let ip = pod_ips(pod).first().copied().unwrap_or("");
    if !ip.parse().is_ok_and(is_global) {
        return Err(ApiError::bad_request(NOT_ALLOWED));
    }
    let mut ports = list(&pod["spec"], "containers").iter().flat_map(|c| list(c, "ports"));
    let number = match place.port {
        "" => ports.next().and_then(|p| int(p, "containerPort")).unwrap_or(if place.https { 443 } else { 80 }),
        named => match named.parse() {
            Ok(number) => number,
            Err(_) => {
                let found = ports.find(|p| text(p, "name") == named).and_then(|p| int(p, "containerPort"));
                let name = object::name(pod);
                found.ok_or_else(|| ApiError::bad_request(format!("pod {name:?} has no port named {named:?}")))?
            }
        },
    };
    Ok(stranger(place, ip, port_number(number)?))
}

/// A ready endpoint that is a pod of the Service's namespace, and has the address that it says.
async fn service(place: &Place<'_>, server: &dyn Objects, namespace: &str, id: &str) -> Result<Target, ApiError> {
    let unavailable = |text: String| ApiError::new(Reason::ServiceUnavailable, text);
    let mut port = place.port.to_owned();
    if let Ok(number) = place.port.parse::<i64>() {
        let service = server.get("", "services", namespace, place.name).await?;
        let declared = list(&service["spec"], "ports").iter().find(|p| int(p, "port") == Some(number));
        let none = || unavailable(format!("no service port {number} found for service {:?}", place.name));
        port = text(declared.ok_or_else(none)?, "name").to_owned();
    }
    let endpoints = server.get("", "endpoints", namespace, place.name).await?;
    let subsets = list(&endpoints, "subsets");
    if subsets.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {:?}", place.name)));
    }
    for subset in turned(subsets) {
        let Some(number) = list(subset, "ports").iter().find(|p| text(p, "name") == port) else { continue };
        for address in turned(list(subset, "addresses")) {
            let ip = text(address, "ip");
            match is_pod(address, ip, server, namespace).await {
                Ok(()) => return Ok(stranger(place, ip, port_number(int(number, "port").unwrap_or(0))?)),
                Err(cause) => tracing::debug!(ip, namespace, service = place.name, cause, "not proxied to"),
            }
        }
    }
    Err(unavailable(format!("no endpoints available for service {id:?}")))
}

/// All of them, beginning anywhere: requests spread over a Service's endpoints.
fn turned(all: &[Value]) -> impl Iterator<Item = &Value> {
    let mut random = [0; 4];
    let _ = getrandom::fill(&mut random);
    let first = u32::from_ne_bytes(random) as usize % all.len().max(1);
    all[first..].iter().chain(&all[..first])
}

/// Whether an endpoint's address is that of the pod it refers to.
async fn is_pod(address: &Value, ip: &str, server: &dyn Objects, namespace: &str) -> Result<(), String> {
    let target = &address["targetRef"];
    if !target.is_object() {
        return Err("it refers to no pod".to_owned());
    }
    if text(target, "namespace") != namespace {
        return Err("it refers to another namespace".to_owned());
    }
    let pod = server.get("", "pods", namespace, text(target, "name")).await.map_err(|e| e.message().to_owned())?;
    if !pod_ips(&pod).contains(&ip) {
        return Err("the pod that it refers to has another address".to_owned());
    }
    if !ip.parse().is_ok_and(is_global) {
        return Err(NOT_ALLOWED.to_owned());
    }
    Ok(())
}

/// A node's kubelet, or another port of its machine.
async fn node(place: &Place<'_>, node: &Value, kubelets: &KubeletClient) -> Result<Target, ApiError> {
    let (host, kubelet_port) = kubelets.address(node)?;
    dial::resolve(&host, kubelet_port, Reach::Global).await.map_err(|e| ApiError::bad_request(e.to_string()))?;
    let port = match place.port {
        "" => kubelet_port,
        given => {
            given.parse().map_err(|_| ApiError::bad_request(format!("invalid port {given:?}: must be a number")))?
        }
    };
    if port == kubelet_port {
        return Ok(Target { backend: Backend::Kubelet, host, port });
    }
    Ok(stranger(place, &host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn places() {
        let place = |https, name, port| Some(Place { https, name, port });
        assert_eq!(parse("a"), place(false, "a", ""));
        assert_eq!(parse("a:http"), place(false, "a", "http"));
        assert_eq!(parse("https:a:443"), place(true, "a", "443"));
        assert_eq!(parse("https:a:"), place(true, "a", ""));
        for bad in ["", ":80", "ftp:a:1", "a:b:c:d"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    fn check_pod(id: &str, status: Value, expect: Result<(&str, u16), &str>) {
        let object = json!({"metadata": {"name": "p"}, "status": status,
            "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let found = pod(&parse(id).unwrap(), &object);
        let found = found.as_ref().map(|t| (t.host.as_str(), t.port)).map_err(|e| e.message());
        assert_eq!(found, expect, "{id} {object}");
    }

    #[test]
    fn pods() {
        let at = |ip: &str| json!({"podIP": ip, "podIPs": [{"ip": ip}]});
        check_pod("p", at("10.0.0.1"), Ok(("10.0.0.1", 8080)));
        check_pod("https:p:web", at("10.0.0.1"), Ok(("10.0.0.1", 8080)));
        check_pod("p:81", at("fd00::1"), Ok(("fd00::1", 81)));
        check_pod("p:x", at("10.0.0.1"), Err("pod \"p\" has no port named \"x\""));
        check_pod("p:65536", at("10.0.0.1"), Err("invalid port 65536: must be between 1 and 65535"));
        // The fields disagree: what is checked is what is dialled.
        check_pod("p", json!({"podIP": "127.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}), Err(NOT_ALLOWED));
        check_pod("p", json!({"podIPs": [{"ip": "127.0.0.1"}, {"ip": "10.0.0.1"}]}), Err(NOT_ALLOWED));
        for ip in ["", "127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "::ffff:127.0.0.1", "localhost", "fe80::1"] {
            check_pod("p:6443", at(ip), Err(NOT_ALLOWED));
        }
    }
}
