//! Health as upstream's kube-proxy serves it: of the proxy itself (`/healthz`, `/livez`), and of services with
//! `externalTrafficPolicy: Local` on their `healthCheckNodePort`, which load balancers ask.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;
use kybern_component_base::{Reply, Server};
use tokio::task::AbortHandle;

use crate::service::{Endpoints, ServicePort, usable};

/// What the health endpoints tell.
#[derive(Debug, Default)]
pub struct Health {
    /// Whether the last change of the rules went through.
    programmed: AtomicBool,
    /// Whether this node is going away (`deletionTimestamp`), so that load balancers stop sending.
    node_deleting: AtomicBool,
}

impl Health {
    pub fn set_programmed(&self, ok: bool) {
        self.programmed.store(ok, Ordering::Relaxed);
    }

    pub fn set_node_deleting(&self, deleting: bool) {
        self.node_deleting.store(deleting, Ordering::Relaxed);
    }

    /// Whether the rules are what they should be.
    pub fn is_live(&self) -> bool {
        self.programmed.load(Ordering::Relaxed)
    }

    /// Whether load balancers should send traffic here.
    pub fn is_healthy(&self) -> bool {
        self.is_live() && !self.node_deleting.load(Ordering::Relaxed)
    }

    /// The answer of the server on port 10256. `now` is RFC 3339.
    pub fn answer(&self, path: &str, now: &str) -> Reply {
        let ok = match path {
            "/healthz" => self.is_healthy(),
            "/livez" => self.is_live(),
            _ => return Reply::not_found(),
        };
        let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Reply::json(
            status,
            format!("{{\"lastUpdated\": \"{now}\",\"currentTime\": \"{now}\", \"nodeEligible\": {ok}}}"),
        )
    }
}

/// One service that wants its health known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    pub namespace: String,
    pub name: String,
    pub local_endpoints: usize,
}

/// Which ports should answer, and what. Pure.
pub fn wanted(services: &[ServicePort], endpoints: &Endpoints) -> BTreeMap<u16, ServiceHealth> {
    let mut wanted: BTreeMap<u16, ServiceHealth> = BTreeMap::new();
    for service in services.iter().filter(|service| service.external_local) {
        let Some(port) = service.health_check_node_port else { continue };
        let local = endpoints.get(&service.name).map_or(0, |all| usable(all, |e| e.is_local && e.ready).len());
        let entry = wanted.entry(port).or_insert_with(|| ServiceHealth {
            namespace: service.name.namespace.clone(),
            name: service.name.name.clone(),
            local_endpoints: 0,
        });
        entry.local_endpoints = entry.local_endpoints.max(local);
    }
    wanted
}

/// The answer on a service's health port.
fn service_answer(namespace: &str, name: &str, local_endpoints: usize, healthy: bool) -> Reply {
    let status = if local_endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    Reply::json(status, body.to_string())
}

/// The servers of health ports that are open now.
pub struct ServiceHealthServers {
    health: Arc<Health>,
    open: BTreeMap<u16, OpenPort>,
}

struct OpenPort {
    namespace: String,
    name: String,
    local_endpoints: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ServiceHealthServers {
    pub fn new(health: Arc<Health>) -> Self {
        Self { health, open: BTreeMap::new() }
    }

    /// Opens, closes and updates ports.
    pub async fn reconcile(&mut self, wanted: BTreeMap<u16, ServiceHealth>) {
        self.open.retain(|port, open| {
            wanted.get(port).is_some_and(|want| want.namespace == open.namespace && want.name == open.name)
        });
        for (port, want) in wanted {
            if let Some(open) = self.open.get(&port) {
                open.local_endpoints.store(want.local_endpoints, Ordering::Relaxed);
                continue;
            }
            let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
            let server = match Server::bind(any).await {
                Err(_) => Server::bind(([0, 0, 0, 0], port).into()).await,
                bound => bound,
            };
            let server = match server {
                Ok(server) => server,
                Err(error) => {
                    tracing::error!(service = %format_args!("{}/{}", want.namespace, want.name), port, %error,
                        "Failed to start healthcheck: the port is in use by another program");
                    continue;
                }
            };
            let count = Arc::new(AtomicUsize::new(want.local_endpoints));
            let (health, local) = (self.health.clone(), count.clone());
            let (namespace, name) = (want.namespace.clone(), want.name.clone());
            let answer =
                move |_: &str| service_answer(&namespace, &name, local.load(Ordering::Relaxed), health.is_healthy());
            let task = tokio::spawn(server.run(answer)).abort_handle();
            let open = OpenPort { namespace: want.namespace, name: want.name, local_endpoints: count, task };
            self.open.insert(port, open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_the_rules_and_the_node() {
        let health = Health::default();
        let status = |path: &str| health.answer(path, "now").status.as_u16();
        assert_eq!((status("/healthz"), status("/livez"), status("/other")), (503, 503, 404));
        health.set_programmed(true);
        assert_eq!((status("/healthz"), status("/livez")), (200, 200));
        health.set_node_deleting(true);
        assert_eq!((status("/healthz"), status("/livez")), (503, 200));
    }

    #[test]
    fn a_service_is_healthy_where_it_has_endpoints() {
        assert_eq!(service_answer("n", "s", 2, true).status, 200);
        assert_eq!(service_answer("n", "s", 0, true).status, 503);
        let reply = service_answer("n", "s", 2, false);
        assert_eq!(reply.status, 503);
        assert_eq!(
            reply.body,
            r#"{"localEndpoints":2,"service":{"name":"s","namespace":"n"},"serviceProxyHealthy":false}"#
        );
    }

    #[tokio::test]
    async fn health_ports_open_follow_and_close() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let get = async || {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            text.split(' ').nth(1).map(str::to_owned)
        };
        let health = Arc::new(Health::default());
        health.set_programmed(true);
        let mut servers = ServiceHealthServers::new(health);
        let want = |local_endpoints| {
            BTreeMap::from([(port, ServiceHealth { namespace: "n".into(), name: "s".into(), local_endpoints })])
        };
        servers.reconcile(want(1)).await;
        assert_eq!(get().await.as_deref(), Some("200"));
        servers.reconcile(want(0)).await;
        assert_eq!(get().await.as_deref(), Some("503"));
        servers.reconcile(BTreeMap::new()).await;
        // The task ends at its next await.
        tokio::task::yield_now().await;
        assert_eq!(get().await, None);
    }
}
