//! The rules of Services: no two share an address or a node port, and none is taken for nobody.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kybern_apimachinery::{Value, object};

use super::model::Model;

impl Model {
    pub(super) fn check_services(&mut self) {
        let (mut seen, mut doubled) = (BTreeMap::new(), None);
        for service in self.all("services/specs") {
            let name = object::key(service);
            let ports = node_ports(service).into_iter().map(|port| format!("node port {port}"));
            for claim in addresses(service).into_iter().chain(ports) {
                if let Some(other) = seen.insert(claim.clone(), name.clone()).filter(|other| *other != name) {
                    doubled = Some(format!("services {other} and {name} both have {claim}"));
                }
            }
        }
        if let Some(text) = doubled {
            self.violated(text);
        }
    }

    /// Names what is taken of addresses and node ports for no Service, and what Services have that is not.
    pub(super) fn unsettled_addresses(&self, complaints: &mut Vec<String>) {
        let of_services = |what: fn(&Value) -> Vec<String>| self.all("services/specs").flat_map(what).collect();
        let had: BTreeSet<String> = of_services(addresses);
        let taken: BTreeSet<String> = self.all("ipaddresses").map(|ip| object::name(ip).to_owned()).collect();
        if had != taken {
            complaints.push(format!("Services have the addresses {had:?}, and these are taken: {taken:?}"));
        }
        let had: BTreeSet<String> = of_services(node_ports);
        let taken = self.objects.get("/registry/ranges/servicenodeports").map(taken_ports).unwrap_or_default();
        if had != taken {
            complaints.push(format!("Services have the node ports {had:?}, and these are taken: {taken:?}"));
        }
    }
}

fn addresses(service: &Value) -> Vec<String> {
    let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ips.filter(|ip| *ip != "None").map(str::to_owned).collect()
}

fn node_ports(service: &Value) -> Vec<String> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| port["nodePort"].as_i64()).map(|port| port.to_string()).collect()
}

/// The bits of a `RangeAllocation`, highest byte first.
fn taken_ports(allocation: &Value) -> BTreeSet<String> {
    let first = object::str_at(allocation, &["range"]).split('-').next().and_then(|port| port.parse::<usize>().ok());
    let bytes = BASE64_STANDARD.decode(object::str_at(allocation, &["data"])).unwrap_or_default();
    let bits = bytes.iter().rev().enumerate().flat_map(|(i, byte)| {
        let byte = *byte;
        (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| i * 8 + bit)
    });
    bits.map(|offset| (first.unwrap_or(0) + offset).to_string()).collect()
}
