//! The rule of Services: no two share an address or a node port.

use std::collections::BTreeMap;

use kybern_apimachinery::{Value, object};

use super::model::Model;

impl Model {
    pub(super) fn check_services(&mut self) {
        let (mut seen, mut doubled) = (BTreeMap::new(), None);
        for service in self.all("services/specs") {
            let name = object::key(service);
            let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let claims = ips
                .filter(|ip| *ip != "None")
                .map(str::to_owned)
                .chain(ports.filter_map(|p| p["nodePort"].as_i64()).map(|port| format!("node port {port}")));
            for claim in claims {
                if let Some(other) = seen.insert(claim.clone(), name.clone()).filter(|other| *other != name) {
                    doubled = Some(format!("services {other} and {name} both have {claim}"));
                }
            }
        }
        if let Some(text) = doubled {
            self.violated(text);
        }
    }
}
