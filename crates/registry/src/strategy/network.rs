//! Endpoints, and the addresses of backends.

use std::net::IpAddr;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::Strategy;

use crate::tree::{default, has, int, list, list_mut, text};
use crate::validation::{Errors, format, ip};

/// An address of a backend: no loopback, link-local or unspecified one.
pub(super) fn endpoint_address(out: &mut Errors, path: &FieldPath, text: &str) {
    let Some(ip) = ip::parse(text) else {
        out.push(FieldError::invalid(path, text, "must be a valid IP address"));
        return;
    };
    let ip = ip.to_canonical();
    let (link_local, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), matches!(v4.octets(), [224, 0, 0, _])),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    for (wrong, detail) in [
        (ip.is_unspecified(), format!("may not be unspecified ({text})").as_str()),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        if wrong {
            out.push(FieldError::invalid(path, text, detail));
        }
    }
}

/// The controller's own Endpoints have addresses that are written well.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, endpoints: &mut Value) {
        for subset in list_mut(endpoints, "subsets") {
            for port in list_mut(subset, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }

    fn validate_create(&self, endpoints: &Value) -> Vec<FieldError> {
        subsets(endpoints)
    }

    fn validate_update(&self, endpoints: &Value, old: &Value) -> Vec<FieldError> {
        // Addresses of before a rule was made stay valid.
        if endpoints.get("subsets") == old.get("subsets") { Errors::new() } else { subsets(endpoints) }
    }

    fn warnings(&self, endpoints: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if object::label(endpoints, MANAGED_BY) == Some(CONTROLLER) {
            return out;
        }
        for (i, subset) in list(endpoints, "subsets").iter().enumerate() {
            for field in ["addresses", "notReadyAddresses"] {
                for (j, address) in list(subset, field).iter().enumerate() {
                    let path = FieldPath::new("subsets").index(i).child(field).index(j).child("ip");
                    out.extend(ip::warn(&path, text(address, "ip")));
                }
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

fn subsets(endpoints: &Value) -> Errors {
    let mut out = Errors::new();
    for (i, subset) in list(endpoints, "subsets").iter().enumerate() {
        let path = FieldPath::new("subsets").index(i);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            out.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, item) in list(subset, field).iter().enumerate() {
                address(&mut out, &path.child(field).index(j), item);
            }
        }
        let ports = list(subset, "ports");
        for (j, item) in ports.iter().enumerate() {
            port(&mut out, &path.child("ports").index(j), item, ports.len() > 1);
        }
    }
    out
}

fn address(out: &mut Errors, path: &FieldPath, address: &Value) {
    let (ip_path, ip) = (path.child("ip"), text(address, "ip"));
    ip::legacy(out, &ip_path, ip);
    let hostname = text(address, "hostname");
    if !hostname.is_empty() {
        format::invalid(out, &path.child("hostname"), hostname, dns1123_label(hostname));
    }
    if has(address, "nodeName") {
        let name = text(address, "nodeName");
        format::invalid(out, &path.child("nodeName"), name, dns1123_subdomain(name));
    }
    endpoint_address(out, &ip_path, ip);
}

fn port(out: &mut Errors, path: &FieldPath, port: &Value, named: bool) {
    let name = text(port, "name");
    if !name.is_empty() {
        format::invalid(out, &path.child("name"), name, dns1123_label(name));
    } else if named {
        out.push(FieldError::required(&path.child("name"), ""));
    }
    format::port_number(out, &path.child("port"), int(port, "port").unwrap_or(0));
    format::required_one_of(out, &path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    if has(port, "appProtocol") {
        let name = text(port, "appProtocol");
        format::invalid(out, &path.child("appProtocol"), name, label_key(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn backends_have_real_addresses() {
        let check = |ip: &str, wrong: usize| {
            let endpoints =
                json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 1, "protocol": "TCP"}]}]});
            assert_eq!(Endpoints.validate_create(&endpoints).len(), wrong, "{ip}");
        };
        check("10.244.0.5", 0);
        check("127.0.0.1", 1);
        check("169.254.1.1", 1);
        check("224.0.0.1", 1);
        check("x", 2);
    }
}
