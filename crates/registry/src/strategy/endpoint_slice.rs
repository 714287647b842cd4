//! EndpointSlice.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key, label_value};
use kybern_apiserver::strategy::Strategy;

use super::network::endpoint_address;
use crate::tree::{default, has, list, list_mut, map, text};
use crate::validation::update::immutable;
use crate::validation::{Errors, format, ip, meta, names};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_HINTS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, slice: &mut Value) {
        for port in list_mut(slice, "ports").iter_mut().filter(|p| p.is_object()) {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    }

    fn validate_create(&self, slice: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        kind_and_ports(&mut out, slice);
        endpoints(&mut out, slice);
        out
    }

    fn validate_update(&self, slice: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        kind_and_ports(&mut out, slice);
        // Endpoints of before a rule was made stay valid.
        if slice.get("endpoints") != old.get("endpoints") {
            endpoints(&mut out, slice);
        }
        immutable(&mut out, &FieldPath::new("addressType"), slice.get("addressType"), old.get("addressType"));
        out
    }

    fn warnings(&self, slice: &Value, _old: Option<&Value>) -> Vec<String> {
        if text(slice, "addressType") != "IPv4" {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (i, endpoint) in list(slice, "endpoints").iter().enumerate() {
            let path = FieldPath::new("endpoints").index(i).child("addresses");
            for (j, address) in list(endpoint, "addresses").iter().enumerate() {
                out.extend(ip::warn(&path.index(j), address.as_str().unwrap_or("")));
            }
        }
        out
    }
}

fn kind_and_ports(out: &mut Errors, slice: &Value) {
    let kind = text(slice, "addressType");
    format::required_one_of(out, &FieldPath::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    let (ports, path) = (list(slice, "ports"), FieldPath::new("ports"));
    if ports.len() > MAX_PORTS {
        out.push(FieldError::too_many(&path, ports.len(), MAX_PORTS));
    }
    for (i, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(i), text(port, "name"));
        if !name.is_empty() {
            format::invalid(out, &path.child("name"), name, dns1123_label(name));
        }
        if ports[..i].iter().any(|earlier| text(earlier, "name") == name) {
            out.push(FieldError::duplicate(&path.child("name"), name));
        }
        let protocol = if has(port, "protocol") { text(port, "protocol") } else { "TCP" };
        format::one_of(out, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if has(port, "appProtocol") {
            let name = text(port, "appProtocol");
            format::invalid(out, &path.child("appProtocol"), name, label_key(name));
        }
    }
}

fn endpoints(out: &mut Errors, slice: &Value) {
    let (endpoints, path) = (list(slice, "endpoints"), FieldPath::new("endpoints"));
    if endpoints.len() > MAX_ENDPOINTS {
        out.push(FieldError::too_many(&path, endpoints.len(), MAX_ENDPOINTS));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i);
        addresses(out, &path.child("addresses"), list(endpoint, "addresses"), text(slice, "addressType"));
        if has(endpoint, "nodeName") {
            let name = text(endpoint, "nodeName");
            format::invalid(out, &path.child("nodeName"), name, dns1123_subdomain(name));
        }
        let labels = map(endpoint, "deprecatedTopology").count();
        if labels > MAX_TOPOLOGY_LABELS {
            out.push(FieldError::too_many(&path.child("deprecatedTopology"), labels, MAX_TOPOLOGY_LABELS));
        }
        meta::labels(out, &path, endpoint, "deprecatedTopology");
        if endpoint["deprecatedTopology"].get("topology.kubernetes.io/zone").is_some() {
            let path = path.child("deprecatedTopology").key("topology.kubernetes.io/zone");
            out.push(FieldError::internal(&path, "reserved key was not removed in conversion"));
        }
        if has(endpoint, "hostname") {
            let name = text(endpoint, "hostname");
            format::invalid(out, &path.child("hostname"), name, dns1123_label(name));
        }
        for (field, check) in [("forZones", label_value as fn(&str) -> Vec<String>), ("forNodes", dns1123_subdomain)] {
            hints(out, &path.child("hints").child(field), list(&endpoint["hints"], field), check);
        }
    }
}

fn addresses(out: &mut Errors, path: &FieldPath, addresses: &[Value], kind: &str) {
    if addresses.is_empty() {
        out.push(FieldError::required(path, "must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        out.push(FieldError::too_many(path, addresses.len(), MAX_ADDRESSES));
    }
    for (i, address) in addresses.iter().enumerate() {
        let (each, text) = (path.index(i), address.as_str().unwrap_or(""));
        let before = out.len();
        match kind {
            "FQDN" => {
                names::domain(out, &each, text);
                continue;
            }
            "IPv4" => {
                ip::legacy(out, &each, text);
            }
            "IPv6" => format::invalid(out, &each, text, ip::strict(text)),
            _ => continue,
        }
        let Some(parsed) = ip::parse(text).filter(|_| out.len() == before) else { continue };
        if kind == "IPv4" && !parsed.to_canonical().is_ipv4() {
            out.push(FieldError::invalid(path, text, "must be an IPv4 address"));
        }
        if kind == "IPv6" && !parsed.is_ipv6() {
            out.push(FieldError::invalid(path, text, "must be an IPv6 address"));
        }
        endpoint_address(out, &each, text);
    }
}

fn hints(out: &mut Errors, path: &FieldPath, hints: &[Value], check: fn(&str) -> Vec<String>) {
    if hints.len() > MAX_HINTS {
        out.push(FieldError::too_many(path, hints.len(), MAX_HINTS));
    }
    for (i, hint) in hints.iter().enumerate() {
        let (path, name) = (path.index(i).child("name"), text(hint, "name"));
        if hints[..i].iter().any(|earlier| text(earlier, "name") == name) {
            out.push(FieldError::duplicate(&path, name));
        }
        format::invalid(out, &path, name, check(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn addresses_are_of_their_type() {
        let check = |kind: &str, address: &str, wrong: usize| {
            let slice = json!({"addressType": kind, "endpoints": [{"addresses": [address]}], "ports": []});
            assert_eq!(EndpointSlice.validate_create(&slice).len(), wrong, "{address}");
        };
        check("IPv4", "10.244.0.5", 0);
        check("IPv4", "127.0.0.1", 1);
        check("IPv4", "169.254.1.1", 1);
        check("IPv4", "2001:db8::1", 1);
        check("IPv6", "2001:db8::1", 0);
        check("IPv6", "2001:DB8::1", 1);
        check("FQDN", "a", 1);
        check("FQDN", "a.example.com", 0);
    }

    #[test]
    fn ports_differ_in_name() {
        let mut slice = json!({"addressType": "IPv4", "ports": [{"port": 1}, {"port": 2}]});
        EndpointSlice.default(&mut slice);
        let texts: Vec<String> = EndpointSlice.validate_create(&slice).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["ports[1].name: Duplicate value: \"\""]);
    }
}
