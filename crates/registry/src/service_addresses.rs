//! Where Services' servers are, for those that the API server itself calls: webhooks and extension servers.
//!
//! Ready endpoints are called directly, in turn: the API server's machine may have no kube-proxy. A Service without any is
//! called by its cluster IP.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use kybern_apimachinery::{Value, object};
use kybern_apiserver::connect::Observer;
use kybern_webhook::ServiceResolver;
use parking_lot::RwLock;

use crate::tree::{list, text};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

type Key = (String, String);

/// Told of every Service, by namespace and name, that changes itself or its endpoints.
type Listener = Box<dyn Fn(&str, &str) + Send + Sync>;

/// What is known of all Services.
#[derive(Default)]
pub struct ServiceAddresses {
    /// Where this server itself listens.
    own: Option<SocketAddr>,
    state: RwLock<State>,
    turn: AtomicUsize,
    listeners: RwLock<Vec<Listener>>,
}

/// By what a Service is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// One of its ready endpoints.
    Endpoints,
    /// Its cluster IP, or its external name.
    ClusterIp,
}

/// Whether a Service can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Missing,
    /// It has no such port.
    NotListening,
    NoSlices,
    /// No endpoint is ready that has the port of this name.
    NoneReady(String),
    Callable,
}

#[derive(Default)]
struct State {
    services: HashMap<Key, Service>,
    /// By Service and by the slice's name.
    slices: HashMap<Key, BTreeMap<String, Slice>>,
    /// Of which Service a slice is, by the slice.
    owners: HashMap<Key, Key>,
}

struct Service {
    r#type: String,
    cluster_ip: String,
    external_name: String,
    /// Number and name.
    ports: Vec<(u16, String)>,
}

struct Slice {
    ready: Vec<IpAddr>,
    ports: Vec<(String, u16)>,
}

impl Service {
    fn read(service: &Value) -> Self {
        let spec = &service["spec"];
        let ports = list(spec, "ports").iter().filter_map(|port| Some((number(port)?, text(port, "name").to_owned())));
        Self {
            r#type: text(spec, "type").to_owned(),
            cluster_ip: text(spec, "clusterIP").to_owned(),
            external_name: text(spec, "externalName").to_owned(),
            ports: ports.collect(),
        }
    }
}

impl Slice {
    fn read(slice: &Value) -> Self {
        let ready = list(slice, "endpoints").iter().filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses = ready.filter_map(|endpoint| list(endpoint, "addresses").first()?.as_str()?.parse().ok());
        let ports = list(slice, "ports").iter().filter_map(|port| Some((text(port, "name").to_owned(), number(port)?)));
        Self { ready: addresses.collect(), ports: ports.collect() }
    }
}

fn number(port: &Value) -> Option<u16> {
    u16::try_from(port["port"].as_u64()?).ok()
}

impl Service {
    fn port_name(&self, port: u16) -> Option<&str> {
        self.ports.iter().find(|(number, _)| *number == port).map(|(_, name)| name.as_str())
    }
}

impl ServiceAddresses {
    /// Those that a server knows which itself listens there.
    pub fn of_server(own: SocketAddr) -> Self {
        Self { own: Some(own), ..Self::default() }
    }

    /// The Service that stands for API servers is this one, as upstream: nothing else needs to work to reach it.
    fn own(&self, namespace: &str, name: &str, port: u16) -> Option<SocketAddr> {
        self.own.filter(|_| (namespace, name, port) == ("default", "kubernetes", 443))
    }

    /// Has a function called, in the commit path, for every Service that changes.
    pub(crate) fn listen(&self, listener: impl Fn(&str, &str) + Send + Sync + 'static) {
        self.listeners.write().push(Box::new(listener));
    }

    pub(crate) fn standing(&self, namespace: &str, name: &str, port: u16) -> Standing {
        let key = (namespace.to_owned(), name.to_owned());
        let state = self.state.read();
        let Some(service) = state.services.get(&key) else { return Standing::Missing };
        if !matches!(service.r#type.as_str(), "" | "ClusterIP") {
            return Standing::Callable;
        }
        let Some(port_name) = service.port_name(port) else { return Standing::NotListening };
        let Some(slices) = state.slices.get(&key) else { return Standing::NoSlices };
        let ready = |slice: &Slice| !slice.ready.is_empty() && slice.ports.iter().any(|(name, _)| name == port_name);
        if slices.values().any(ready) { Standing::Callable } else { Standing::NoneReady(port_name.to_owned()) }
    }

    /// Host and port by which a Service is called; errors are upstream's.
    pub(crate) fn locate(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
        routing: Routing,
    ) -> Result<(String, u16), String> {
        if let Some(own) = self.own(namespace, name, port) {
            return Ok((own.ip().to_string(), own.port()));
        }
        if routing == Routing::Endpoints {
            let found = self.endpoints(namespace, name, port)?;
            let first = found.first().ok_or_else(|| format!("no endpoints available for service {name:?}"))?;
            return Ok((first.ip().to_string(), first.port()));
        }
        let state = self.state.read();
        let service = state.services.get(&(namespace.to_owned(), name.to_owned()));
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
        match service.r#type.as_str() {
            "ExternalName" => Ok((service.external_name.clone(), port)),
            "" | "ClusterIP" if service.cluster_ip == "None" => {
                Err("cannot route to service with ClusterIP \"None\"".to_owned())
            }
            "" | "ClusterIP" | "NodePort" | "LoadBalancer" => match service.port_name(port) {
                Some(_) => Ok((service.cluster_ip.clone(), port)),
                None => Err(format!("no service port {port} found for service {name:?}")),
            },
            other => Err(format!("unsupported service type {other:?}")),
        }
    }

    fn is_external(&self, namespace: &str, name: &str) -> bool {
        let state = self.state.read();
        let service = state.services.get(&(namespace.to_owned(), name.to_owned()));
        service.is_some_and(|service| service.r#type == "ExternalName")
    }

    /// The ready endpoints of a Service, another first at every call.
    fn endpoints(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let key = (namespace.to_owned(), name.to_owned());
        let state = self.state.read();
        let service = state.services.get(&key).ok_or_else(|| format!("service {name:?} not found"))?;
        if service.r#type == "ExternalName" {
            return Err(format!("unsupported service type {:?}", service.r#type));
        }
        let port_name = service.port_name(port);
        let port_name = port_name.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
        let slices = state.slices.get(&key).into_iter().flat_map(BTreeMap::values);
        let mut found: Vec<SocketAddr> = slices
            .filter_map(|slice| slice.ports.iter().find(|(name, _)| name == port_name).map(|(_, port)| (slice, *port)))
            .flat_map(|(slice, port)| slice.ready.iter().map(move |ip| SocketAddr::new(*ip, port)))
            .collect();
        if !found.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len();
            found.rotate_left(turn);
        }
        Ok(found)
    }
}

impl State {
    /// Answers the Services whose endpoints these are, and were.
    fn slice_changed(&mut self, slice: Key, object: Option<&Value>) -> Vec<Key> {
        let (namespace, name) = slice.clone();
        let owner = object.and_then(|o| object::label(o, SERVICE_NAME)).map(|service| (namespace, service.to_owned()));
        let before = match &owner {
            Some(owner) => self.owners.insert(slice, owner.clone()),
            None => self.owners.remove(&slice),
        };
        let affected =
            owner.iter().chain(before.iter().filter(|before| owner.as_ref() != Some(before))).cloned().collect();
        if let Some(before) = before
            && let Some(slices) = self.slices.get_mut(&before)
        {
            slices.remove(&name);
            if slices.is_empty() {
                self.slices.remove(&before);
            }
        }
        if let (Some(owner), Some(object)) = (owner, object) {
            self.slices.entry(owner).or_default().insert(name, Slice::read(object));
        }
        affected
    }
}

impl Observer for ServiceAddresses {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "services"), ("discovery.k8s.io", "endpointslices")]
    }

    fn changed(&self, _group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut state = self.state.write();
        let affected = match (resource, object) {
            ("services", Some(service)) => {
                state.services.insert(key.clone(), Service::read(service));
                vec![key]
            }
            ("services", None) => {
                state.services.remove(&key);
                vec![key]
            }
            (_, object) => state.slice_changed(key, object),
        };
        drop(state);
        let listeners = self.listeners.read();
        for (namespace, name) in &affected {
            listeners.iter().for_each(|listener| listener(namespace, name));
        }
    }
}

impl ServiceResolver for ServiceAddresses {
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        if let Some(own) = self.own(namespace, name, port) {
            return Ok(vec![own]);
        }
        if self.is_external(namespace, name) {
            return Err(format!("service {name:?} is of type ExternalName: name its server with a URL"));
        }
        let found = self.endpoints(namespace, name, port)?;
        if !found.is_empty() {
            return Ok(found);
        }
        let state = self.state.read();
        let service = state.services.get(&(namespace.to_owned(), name.to_owned()));
        match service.and_then(|service| service.cluster_ip.parse().ok()) {
            Some(ip) => Ok(vec![SocketAddr::new(ip, port)]),
            None => Err(format!("no endpoints available for service {name:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "hook", "namespace": "shop"}, "spec": spec})
    }

    fn slice(name: &str, of: &str, ready: &[(&str, Option<bool>)]) -> Value {
        let endpoints: Vec<Value> =
            ready.iter().map(|(ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready}})).collect();
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {SERVICE_NAME: of}}, "endpoints": endpoints,
            "ports": [{"name": "https", "port": 8443}, {"name": "metrics", "port": 9090}],
        })
    }

    fn put(addresses: &ServiceAddresses, resource: &str, name: &str, object: Option<&Value>) {
        addresses.changed("", resource, "shop", name, object);
    }

    #[test]
    fn ready_endpoints_are_called_in_turn_and_the_cluster_ip_where_there_is_none() {
        let addresses = ServiceAddresses::default();
        let resolve = |port| {
            addresses.resolve("shop", "hook", port).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(resolve(443), Err("service \"hook\" not found".to_owned()));
        let ports = json!([{"name": "https", "port": 443}]);
        put(
            &addresses,
            "services",
            "hook",
            Some(&service(json!({"type": "ClusterIP", "clusterIP": "10.0.0.9", "ports": ports}))),
        );
        assert_eq!(resolve(443), Ok(vec!["10.0.0.9:443".to_owned()]));
        assert_eq!(resolve(80), Err("no service port 80 found for service \"hook\"".to_owned()));
        let two = slice("a", "hook", &[("10.1.0.1", Some(true)), ("10.1.0.2", Some(false)), ("10.1.0.3", None)]);
        put(&addresses, "endpointslices", "a", Some(&two));
        let (first, second) = (resolve(443).unwrap(), resolve(443).unwrap());
        assert_eq!((&first[0], &first[1]), (&second[1], &second[0]));
        assert!(first.contains(&"10.1.0.1:8443".to_owned()) && first.contains(&"10.1.0.3:8443".to_owned()));
        // A slice that is another Service's now is none of this one's.
        put(&addresses, "endpointslices", "a", Some(&slice("a", "other", &[("10.1.0.1", Some(true))])));
        assert_eq!(resolve(443), Ok(vec!["10.0.0.9:443".to_owned()]));
        put(
            &addresses,
            "services",
            "hook",
            Some(&service(json!({"type": "ClusterIP", "clusterIP": "None", "ports": ports}))),
        );
        assert_eq!(resolve(443), Err("no endpoints available for service \"hook\"".to_owned()));
        put(&addresses, "services", "hook", None);
        assert_eq!(resolve(443), Err("service \"hook\" not found".to_owned()));
        assert_eq!(addresses.standing("shop", "hook", 443), Standing::Missing);
        put(&addresses, "endpointslices", "a", None);
        let state = addresses.state.read();
        assert!(state.owners.is_empty() && state.slices.is_empty(), "nothing is left of what is gone");
    }

    #[test]
    fn an_extension_server_is_called_where_upstream_calls_it() {
        let addresses = std::sync::Arc::new(ServiceAddresses::default());
        let told = std::sync::Arc::new(RwLock::new(Vec::new()));
        let heard = told.clone();
        addresses.listen(move |namespace, name| heard.write().push(format!("{namespace}/{name}")));
        let ports = json!([{"name": "https", "port": 443}]);
        let cluster_ip = |ip: &str| service(json!({"type": "ClusterIP", "clusterIP": ip, "ports": ports}));
        put(&addresses, "services", "hook", Some(&cluster_ip("10.0.0.9")));
        let standing = |port| addresses.standing("shop", "hook", port);
        assert_eq!((standing(80), standing(443)), (Standing::NotListening, Standing::NoSlices));
        put(&addresses, "endpointslices", "a", Some(&slice("a", "hook", &[("10.1.0.2", Some(false))])));
        assert_eq!(standing(443), Standing::NoneReady("https".to_owned()));
        let locate =
            |routing| addresses.locate("shop", "hook", 443, routing).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(locate(Routing::Endpoints), Err("no endpoints available for service \"hook\"".to_owned()));
        put(&addresses, "endpointslices", "a", Some(&slice("a", "hook", &[("10.1.0.2", None)])));
        assert_eq!(standing(443), Standing::Callable);
        assert_eq!(locate(Routing::Endpoints), Ok("10.1.0.2 8443".to_owned()));
        assert_eq!(locate(Routing::ClusterIp), Ok("10.0.0.9 443".to_owned()));
        put(&addresses, "services", "hook", Some(&cluster_ip("None")));
        assert_eq!(locate(Routing::ClusterIp), Err("cannot route to service with ClusterIP \"None\"".to_owned()));
        put(
            &addresses,
            "services",
            "hook",
            Some(&service(json!({"type": "ExternalName", "externalName": "a.example"}))),
        );
        assert_eq!((locate(Routing::ClusterIp), standing(1)), (Ok("a.example 443".to_owned()), Standing::Callable));
        assert_eq!(locate(Routing::Endpoints), Err("unsupported service type \"ExternalName\"".to_owned()));
        put(&addresses, "endpointslices", "a", None);
        assert_eq!(told.read().len(), 6, "{told:?}");
        assert!(told.read().iter().all(|service| service == "shop/hook"));
    }
    #[test]
    fn a_servers_own_service_is_itself() {
        let own: SocketAddr = "127.0.0.1:6443".parse().unwrap();
        let addresses = ServiceAddresses::of_server(own);
        for routing in [Routing::Endpoints, Routing::ClusterIp] {
            let locate = |namespace, name, port| addresses.locate(namespace, name, port, routing);
            assert_eq!(locate("default", "kubernetes", 443), Ok(("127.0.0.1".to_owned(), 6443)));
            for (namespace, name, port) in
                [("default", "kubernetes", 6443), ("shop", "kubernetes", 443), ("default", "kube", 443)]
            {
                assert_eq!(locate(namespace, name, port), Err(format!("service {name:?} not found")));
                assert!(addresses.resolve(namespace, name, port).is_err());
            }
        }
        assert_eq!(addresses.resolve("default", "kubernetes", 443), Ok(vec![own]));
        assert!(ServiceAddresses::default().resolve("default", "kubernetes", 443).is_err());
    }
}
