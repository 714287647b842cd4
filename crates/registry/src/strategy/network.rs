//! Endpoints, EndpointSlice, Ingress and NetworkPolicy.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{has, int, list, text};
use crate::validation::update::immutable;
use crate::validation::{Errors, format, meta};

/// An address of a backend: no loopback, link-local, multicast or unspecified one.
fn endpoint_address(out: &mut Errors, path: &FieldPath, text: &str) {
    let Some(ip) = format::ip(out, path, text) else { return };
    let link_local = match ip {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    for (wrong, detail) in [
        (ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (ip.is_multicast(), "may not be in the multicast range (224.0.0.0/4, ff00::/8)"),
    ] {
        if wrong {
            out.push(FieldError::invalid(path, text, detail));
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn validate(&self, endpoints: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for (i, subset) in list(endpoints, "subsets").iter().enumerate() {
            let path = FieldPath::new("subsets").index(i);
            if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
                out.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for field in ["addresses", "notReadyAddresses"] {
                for (j, address) in list(subset, field).iter().enumerate() {
                    endpoint_address(&mut out, &path.child(field).index(j).child("ip"), text(address, "ip"));
                }
            }
            let ports = list(subset, "ports");
            for (j, port) in ports.iter().enumerate() {
                let path = path.child("ports").index(j);
                if text(port, "name").is_empty() && ports.len() > 1 {
                    out.push(FieldError::required(&path.child("name"), ""));
                } else if !text(port, "name").is_empty() {
                    format::invalid(
                        &mut out,
                        &path.child("name"),
                        text(port, "name"),
                        dns1123_label(text(port, "name")),
                    );
                }
                format::port_number(&mut out, &path.child("port"), int(port, "port").unwrap_or(0));
                format::required_one_of(
                    &mut out,
                    &path.child("protocol"),
                    text(port, "protocol"),
                    &["SCTP", "TCP", "UDP"],
                );
            }
        }
        out
    }

    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn validate(&self, slice: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let kind = text(slice, "addressType");
        format::required_one_of(&mut out, &FieldPath::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
        let endpoints = list(slice, "endpoints");
        if endpoints.len() > 1000 {
            out.push(FieldError::too_many(&FieldPath::new("endpoints"), endpoints.len(), 1000));
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            let path = FieldPath::new("endpoints").index(i).child("addresses");
            let addresses = list(endpoint, "addresses");
            if addresses.is_empty() {
                out.push(FieldError::required(&path, "must contain at least 1 item"));
            }
            for (j, address) in addresses.iter().enumerate() {
                let (path, address) = (path.index(j), address.as_str().unwrap_or(""));
                match (kind, address.parse::<std::net::IpAddr>()) {
                    ("FQDN", _) => format::invalid(&mut out, &path, address, dns1123_subdomain(address)),
                    ("IPv4", Ok(std::net::IpAddr::V6(_)) | Err(_)) => {
                        out.push(FieldError::invalid(&path, address, "must be an IPv4 address"))
                    }
                    ("IPv6", Ok(std::net::IpAddr::V4(_)) | Err(_)) => {
                        out.push(FieldError::invalid(&path, address, "must be an IPv6 address"))
                    }
                    _ => endpoint_address(&mut out, &path, address),
                }
            }
        }
        for (i, port) in list(slice, "ports").iter().enumerate() {
            let path = FieldPath::new("ports").index(i);
            if !text(port, "name").is_empty() {
                format::invalid(&mut out, &path.child("name"), text(port, "name"), dns1123_label(text(port, "name")));
            }
            format::required_one_of(&mut out, &path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        }
        out
    }

    fn validate_update(&self, slice: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        immutable(&mut out, &FieldPath::new("addressType"), slice.get("addressType"), old.get("addressType"));
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ingress;

fn backend(out: &mut Errors, path: &FieldPath, backend: &Value) {
    match (has(backend, "service"), has(backend, "resource")) {
        (false, false) => out.push(FieldError::required(path, "")),
        (true, true) => out.push(FieldError::invalid(path, "", "cannot set both resource and service backends")),
        (true, false) => {
            let service = &backend["service"];
            let path = path.child("service");
            format::required_name(out, &path.child("name"), text(service, "name"), dns1123_label);
            let port = &service["port"];
            match (text(port, "name"), int(port, "number").unwrap_or(0)) {
                ("", 0) => out.push(FieldError::required(&path, "port name or number is required")),
                ("", number) => format::port_number(out, &path.child("port").child("number"), number),
                (name, 0) => format::invalid(out, &path.child("port").child("name"), name, format::port_name(name)),
                _ => out.push(FieldError::invalid(&path, "", "cannot set both port name & port number")),
            }
        }
        (false, true) => {}
    }
}

impl Strategy for Ingress {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, ingress: &mut Value) {
        ingress["status"] = json!({"loadBalancer": {}});
    }

    fn validate(&self, ingress: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &ingress["spec"], FieldPath::new("spec"));
        let rules = list(spec, "rules");
        if rules.is_empty() && !has(spec, "defaultBackend") {
            out.push(FieldError::invalid(&path, json!([]), "either `defaultBackend` or `rules` must be specified"));
        }
        if has(spec, "defaultBackend") {
            backend(&mut out, &path.child("defaultBackend"), &spec["defaultBackend"]);
        }
        for (i, rule) in rules.iter().enumerate() {
            let path = path.child("rules").index(i);
            let host = text(rule, "host");
            if !host.is_empty() {
                let plain = host.strip_prefix("*.").unwrap_or(host);
                format::invalid(&mut out, &path.child("host"), host, dns1123_subdomain(plain));
            }
            if !has(rule, "http") {
                continue;
            }
            let paths = list(&rule["http"], "paths");
            if paths.is_empty() {
                out.push(FieldError::required(&path.child("http").child("paths"), ""));
            }
            for (j, entry) in paths.iter().enumerate() {
                let path = path.child("http").child("paths").index(j);
                let (kind, place) = (text(entry, "pathType"), text(entry, "path"));
                format::required_one_of(
                    &mut out,
                    &path.child("pathType"),
                    kind,
                    &["Exact", "ImplementationSpecific", "Prefix"],
                );
                if matches!(kind, "Exact" | "Prefix") && !place.starts_with('/') {
                    out.push(FieldError::invalid(&path.child("path"), place, "must be an absolute path"));
                }
                backend(&mut out, &path.child("backend"), &entry["backend"]);
            }
        }
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn validate(&self, policy: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &policy["spec"], FieldPath::new("spec"));
        meta::selector(&mut out, &path.child("podSelector"), &spec["podSelector"]);
        for (direction, side) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in list(spec, direction).iter().enumerate() {
                let path = path.child(direction).index(i);
                for (j, peer) in list(rule, side).iter().enumerate() {
                    let path = path.child(side).index(j);
                    let selects = has(peer, "podSelector") || has(peer, "namespaceSelector");
                    match (selects, has(peer, "ipBlock")) {
                        (false, false) => out.push(FieldError::required(&path, "must specify a peer")),
                        (true, true) => {
                            out.push(FieldError::forbidden(&path, "may not specify both ipBlock and another peer"))
                        }
                        _ => {}
                    }
                    for selector in ["podSelector", "namespaceSelector"] {
                        meta::selector(&mut out, &path.child(selector), &peer[selector]);
                    }
                    if has(peer, "ipBlock") {
                        ip_block(&mut out, &path.child("ipBlock"), &peer["ipBlock"]);
                    }
                }
                for (j, port) in list(rule, "ports").iter().enumerate() {
                    let path = path.child("ports").index(j);
                    format::one_of(&mut out, &path.child("protocol"), text(port, "protocol"), &["TCP", "UDP", "SCTP"]);
                    if has(port, "port") {
                        format::port(&mut out, &path.child("port"), &port["port"]);
                    }
                }
            }
        }
        for (i, kind) in list(spec, "policyTypes").iter().enumerate() {
            format::one_of(
                &mut out,
                &path.child("policyTypes").index(i),
                kind.as_str().unwrap_or(""),
                &["Egress", "Ingress"],
            );
        }
        out
    }
}

fn ip_block(out: &mut Errors, path: &FieldPath, block: &Value) {
    let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let parse = |text: &str| text.parse::<ipnet::IpNet>().ok();
    let range = parse(text(block, "cidr"));
    if range.is_none() {
        out.push(FieldError::invalid(&path.child("cidr"), text(block, "cidr"), detail));
    }
    for (i, except) in list(block, "except").iter().enumerate() {
        let (path, text) = (path.child("except").index(i), except.as_str().unwrap_or(""));
        match (parse(text), range) {
            (None, _) => out.push(FieldError::invalid(&path, text, detail)),
            (Some(except), Some(range)) if !(range.contains(&except) && except.prefix_len() > range.prefix_len()) => {
                out.push(FieldError::invalid(&path, text, format!("must be a strict subset of `cidr`: {range}")));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_real_addresses() {
        let check = |ip: &str, wrong: usize| {
            let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": [ip]}], "ports": []});
            assert_eq!(EndpointSlice.validate(&slice).len(), wrong, "{ip}");
            let endpoints =
                json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 1, "protocol": "TCP"}]}]});
            assert_eq!(Endpoints.validate(&endpoints).len(), wrong, "{ip}");
        };
        check("10.244.0.5", 0);
        check("127.0.0.1", 1);
        check("169.254.1.1", 1);
        check("x", 1);
    }

    #[test]
    fn policies_and_ingresses() {
        let peer = |peer: Value| json!({"spec": {"podSelector": {}, "ingress": [{"from": [peer]}]}});
        assert!(NetworkPolicy.validate(&peer(json!({"podSelector": {}}))).is_empty());
        assert_eq!(NetworkPolicy.validate(&peer(json!({}))).len(), 1);
        assert_eq!(
            NetworkPolicy.validate(&peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}))).len(),
            1
        );
        let ingress = |backend: Value| json!({"spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
        assert!(Ingress.validate(&ingress(json!({"service": {"name": "a", "port": {"number": 80}}}))).is_empty());
        let text = Ingress.validate(&ingress(json!({"service": {"name": "a"}})))[0].to_string();
        assert_eq!(
            text,
            "spec.rules[0].http.paths[0].backend.service: Required value: port name or number is required"
        );
    }
}
