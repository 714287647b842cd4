//! Environment variables: sources, service links, references to the pod's own fields, and `$(VAR)`.

use std::collections::BTreeMap;

use kybern_api::core::v1::{ConfigMap, Container, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service};
use kybern_apimachinery::quantity::Quantity;

use super::resources;
use super::spec;

/// The objects that a pod refers to, as far as they exist.
pub trait References {
    fn config_map(&self, name: &str) -> Option<std::sync::Arc<ConfigMap>>;
    fn secret(&self, name: &str) -> Option<std::sync::Arc<Secret>>;
}

/// What downward references can read besides the pod.
#[derive(Clone, Debug, Default)]
pub struct Downward {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    /// The node's allocatable cpu (milli) and memory (bytes): the limit of a container without one.
    pub allocatable_milli_cpu: i64,
    pub allocatable_memory_bytes: i64,
    pub allocatable_storage_bytes: i64,
}

/// Replaces `$(NAME)` by a variable's value, keeps what names none, and reads `$$` as `$`.
pub fn expand(text: &str, get: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match get(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// `fieldpath.ExtractFieldPathAsString` and the fields that only the kubelet knows.
pub fn field(pod: &Pod, selector: &ObjectFieldSelector, facts: &Downward) -> Result<String, String> {
    let path = selector.field_path.as_str();
    let meta = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: &Option<BTreeMap<String, String>>| {
        map.iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
    };
    let spec = spec::spec(pod);
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `resource.ExtractContainerResourceValue`: the amount in units of the divisor, rounded up.
pub fn resource_field(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    facts: &Downward,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let other = named.and_then(|name| spec::container(pod, name)).map(|(_, c)| c);
    let container = match (named, &other) {
        (Some(name), None) => return Err(format!("container {name} not found")),
        (Some(_), Some(other)) => other,
        (None, _) => container,
    };
    let divisor = selector.divisor.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).filter(|q| !q.is_zero());
    let (list, name) = selector.resource.split_once('.').unwrap_or(("", ""));
    let amounts = match list {
        "limits" => resources::limits(container.resources.as_ref()),
        "requests" => resources::requests(container.resources.as_ref()),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let default = |value: i64| if list == "limits" { value } else { 0 };
    let milli = match (name, amounts.get(name)) {
        (_, Some(amount)) => i128::from(amount.milli_value()),
        ("cpu", None) => i128::from(default(facts.allocatable_milli_cpu)),
        ("memory", None) => i128::from(default(facts.allocatable_memory_bytes)) * 1000,
        ("ephemeral-storage", None) => i128::from(default(facts.allocatable_storage_bytes)) * 1000,
        _ => 0,
    };
    let divisor = divisor.map_or(1000, |q| i128::from(q.milli_value())).max(1);
    Ok(((milli + divisor - 1) / divisor).to_string())
}

/// The variables of a container, in order. An error is a `CreateContainerConfigError`'s message.
pub fn environment(
    pod: &Pod,
    container: &Container,
    refs: &dyn References,
    services: &[std::sync::Arc<Service>],
    facts: &Downward,
) -> Result<Vec<(String, String)>, String> {
    let mut vars = Variables::default();
    let links = spec::spec(pod).enable_service_links != Some(false);
    for (name, value) in service_variables(services, spec::namespace(pod), links) {
        vars.set(name, value);
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        if let Some(from) = &source.config_map_ref {
            match refs.config_map(&from.name) {
                Some(map) => map.data.iter().flatten().for_each(|(k, v)| vars.set_key(prefix, k, v.clone())),
                None if from.optional == Some(true) => {}
                None => return Err(missing("configmap", &from.name)),
            }
        }
        if let Some(from) = &source.secret_ref {
            match refs.secret(&from.name) {
                Some(secret) => secret.data.iter().flatten().for_each(|(k, v)| {
                    vars.set_key(prefix, k, String::from_utf8_lossy(&v.0).into_owned());
                }),
                None if from.optional == Some(true) => {}
                None => return Err(missing("secret", &from.name)),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, &|name| vars.get(name))),
            (_, None) => Some(String::new()),
            (_, Some(from)) => value_from(pod, container, from, refs, facts)?,
        };
        if let Some(value) = value {
            vars.set(var.name.clone(), value);
        }
    }
    Ok(vars.list)
}

fn missing(kind: &str, name: &str) -> String {
    format!("{kind} {name:?} not found")
}

fn value_from(
    pod: &Pod,
    container: &Container,
    from: &kybern_api::core::v1::EnvVarSource,
    refs: &dyn References,
    facts: &Downward,
) -> Result<Option<String>, String> {
    let namespace = spec::namespace(pod);
    if let Some(selector) = &from.field_ref {
        return field(pod, selector, facts).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return resource_field(pod, container, selector, facts).map(Some);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(map) = refs.config_map(&selector.name) else {
            return if optional { Ok(None) } else { Err(missing("configmap", &selector.name)) };
        };
        return match map.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name)),
        };
    }
    if let Some(selector) = &from.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = refs.secret(&selector.name) else {
            return if optional { Ok(None) } else { Err(missing("secret", &selector.name)) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name)),
        };
    }
    Ok(None)
}

/// Variables in order of first definition; a later definition replaces the value.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<String> {
        self.index.get(name).map(|at| self.list[*at].1.clone())
    }

    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    /// Sets a key of a whole ConfigMap or Secret; a key that cannot be a variable is passed over.
    fn set_key(&mut self, prefix: &str, key: &str, value: String) {
        if !key.is_empty() && !key.contains('=') {
            self.set(format!("{prefix}{key}"), value);
        }
    }
}

/// The variables of the namespace's Services and of the API server's (`pkg/kubelet/envvars`).
fn service_variables(services: &[std::sync::Arc<Service>], namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut vars = Vec::new();
    for service in services {
        let (name, of) =
            (service.metadata.name.as_deref().unwrap_or(""), service.metadata.namespace.as_deref().unwrap_or(""));
        let is_master = (of, name) == ("default", "kubernetes");
        let shadowed = is_master
            && namespace != "default"
            && links
            && services.iter().any(|s| {
                s.metadata.name.as_deref() == Some(name) && s.metadata.namespace.as_deref() == Some(namespace)
            });
        if shadowed || !(is_master || (links && of == namespace)) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let prefix = variable_name(name);
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        vars.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
        vars.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                vars.push((format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string()));
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                vars.push((format!("{prefix}_PORT"), url.clone()));
            }
            let prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            vars.push((prefix.clone(), url));
            vars.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
            vars.push((format!("{prefix}_PORT"), port.port.to_string()));
            vars.push((format!("{prefix}_ADDR"), ip.to_owned()));
        }
    }
    vars
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
