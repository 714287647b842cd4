//! Endpoints, and the addresses of backends.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_label;
use kybern_apiserver::strategy::Strategy;

use crate::tree::{int, list, text};
use crate::validation::{Errors, format};

/// An address of a backend: no loopback, link-local, multicast or unspecified one.
pub(super) fn endpoint_address(out: &mut Errors, path: &FieldPath, text: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn backends_have_real_addresses() {
        let check = |ip: &str, wrong: usize| {
            let endpoints =
                json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 1, "protocol": "TCP"}]}]});
            assert_eq!(Endpoints.validate(&endpoints).len(), wrong, "{ip}");
        };
        check("10.244.0.5", 0);
        check("127.0.0.1", 1);
        check("169.254.1.1", 1);
        check("x", 1);
    }
}
