//! The addresses and ports that a Service claims.

use std::sync::Arc;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, GroupKind, Value, json, object};

use super::{needs_ip, needs_node_ports};
use crate::allocation::{Claiming, protocol};
use crate::allocation::{ServiceAllocators, ServiceClaims};
use crate::tree::{default, drop_field, has, int, list, text};

/// Brings `clusterIP` and `clusterIPs` into step: the first of the list is the address.
pub(super) fn normalize_ips(spec: &mut Value) {
    if !needs_ip(text(spec, "type")) {
        return;
    }
    let single = text(spec, "clusterIP").to_owned();
    if !single.is_empty() && list(spec, "clusterIPs").is_empty() {
        spec["clusterIPs"] = json!([single]);
    }
}

/// A client that changes `clusterIP` alone means both.
pub(super) fn follow_ip(spec: &mut Value, old: &Value) {
    if text(spec, "clusterIP") == text(old, "clusterIP") || spec.get("clusterIPs") != old.get("clusterIPs") {
        return;
    }
    match text(spec, "clusterIP").to_owned().as_str() {
        "" => drop_field(spec, "clusterIPs"),
        ip => spec["clusterIPs"] = json!([ip]),
    }
}

/// Claims what `service` newly has, and writes what was chosen into it.
pub(super) fn claim(
    allocators: &Arc<ServiceAllocators>,
    service: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<Claiming, ApiError> {
    let mut claims = allocators.begin(dry_run);
    let held = old.map(ServiceClaims::of).unwrap_or_default();
    let mut errors = Vec::new();
    addresses(&mut claims, allocators.family(), &mut service["spec"], &held, &mut errors);
    if errors.is_empty() {
        ports(&mut claims, &mut service["spec"], &held, &mut errors);
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(&GroupKind::new("", "Service"), object::name(service), &errors));
    }
    let now = ServiceClaims::of(service);
    claims.give_up(ServiceClaims {
        ips: held.ips.into_iter().filter(|ip| !now.ips.contains(ip)).collect(),
        ports: held.ports.into_iter().filter(|p| !now.ports.contains(p)).collect(),
    });
    Ok(claims)
}

fn addresses(
    claims: &mut Claiming,
    family: &str,
    spec: &mut Value,
    held: &ServiceClaims,
    errors: &mut Vec<FieldError>,
) {
    if !needs_ip(text(spec, "type")) {
        return;
    }
    default(spec, "ipFamilies", json!([family]));
    for (i, other) in list(spec, "ipFamilies").iter().enumerate().filter(|(_, f)| *f != family) {
        let path = FieldPath::new("spec.ipFamilies").index(i);
        errors.push(FieldError::invalid(&path, other.clone(), "not configured on this cluster"));
    }
    default(spec, "ipFamilyPolicy", "SingleStack");
    let chosen = text(spec, "clusterIP").to_owned();
    if chosen == "None" {
        spec["clusterIPs"] = json!(["None"]);
        return;
    }
    let path = FieldPath::new("spec.clusterIPs");
    if chosen.is_empty() {
        match claims.any_ip() {
            Ok(ip) => {
                spec["clusterIP"] = ip.to_string().into();
                spec["clusterIPs"] = json!([ip.to_string()]);
            }
            Err(cause) => errors.push(FieldError::internal(&path, format!("failed to allocate a serviceIP: {cause}"))),
        }
        return;
    }
    let Ok(ip) = chosen.parse() else { return };
    if !held.ips.contains(&ip)
        && let Err(cause) = claims.ip(ip)
    {
        errors.push(FieldError::invalid(
            &path,
            spec["clusterIPs"].clone(),
            format!("failed to allocate IP {ip}: {cause}"),
        ));
    }
}

fn ports(claims: &mut Claiming, spec: &mut Value, held: &ServiceClaims, errors: &mut Vec<FieldError>) {
    if !needs_node_ports(spec) {
        // A LoadBalancer without node ports of the cluster's choice may still name its own.
        if text(spec, "type") != "LoadBalancer" {
            return;
        }
    }
    let choose = needs_node_ports(spec);
    // First the ports that are named, so that a random one does not take them.
    let named: Vec<(usize, usize, i64)> = list(spec, "ports")
        .iter()
        .enumerate()
        .filter_map(|(i, p)| Some((i, protocol(p), int(p, "nodePort").filter(|n| *n != 0)?)))
        .collect();
    for (i, protocol, number) in named {
        let Ok(port) = u16::try_from(number) else { continue };
        if !held.ports.contains(&(protocol, port))
            && let Err(cause) = claims.port(protocol, port)
        {
            errors.push(FieldError::invalid(&FieldPath::new("spec.ports").index(i).child("nodePort"), number, cause));
        }
    }
    if !choose {
        return;
    }
    let count = list(spec, "ports").len();
    for i in 0..count {
        let port = &spec["ports"][i];
        if int(port, "nodePort").unwrap_or(0) != 0 {
            continue;
        }
        // The same port under another protocol (DNS) gets the same node port where it is free.
        let twin = list(spec, "ports")[..i]
            .iter()
            .find(|p| int(p, "port") == int(port, "port") && protocol(p) != protocol(port))
            .and_then(|p| int(p, "nodePort"))
            .and_then(|n| u16::try_from(n).ok());
        let index = protocol(port);
        let chosen = match twin {
            Some(number) if claims.port(index, number).is_ok() => Ok(number),
            _ => claims.any_port(index),
        };
        match chosen {
            Ok(number) => spec["ports"][i]["nodePort"] = number.into(),
            Err(cause) => {
                let path = FieldPath::new("spec.ports").index(i).child("nodePort");
                errors.push(FieldError::internal(&path, format!("failed to allocate a nodePort: {cause}")));
            }
        }
    }
    let wants_health = text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
    if wants_health && int(spec, "healthCheckNodePort").unwrap_or(0) == 0 {
        match claims.any_port(0) {
            Ok(number) => spec["healthCheckNodePort"] = number.into(),
            Err(cause) => {
                let path = FieldPath::new("spec.healthCheckNodePort");
                errors.push(FieldError::internal(&path, format!("failed to allocate a HealthCheck NodePort: {cause}")));
            }
        }
    } else if !wants_health && has(spec, "healthCheckNodePort") {
        drop_field(spec, "healthCheckNodePort");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gets_an_address_and_ports() {
        let allocators = Arc::new(ServiceAllocators::new("10.96.0.0/24".parse().unwrap(), 30000..=30200));
        let create = |spec: Value| {
            let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
            normalize_ips(&mut service["spec"]);
            claim(&allocators, &mut service, None, false).map(|c| {
                kybern_apiserver::strategy::Reservation::commit(Box::new(c));
                service
            })
        };
        let ports = json!([{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}]);
        let service = create(json!({"type": "NodePort", "ports": ports})).unwrap();
        let spec = &service["spec"];
        assert!(text(spec, "clusterIP").starts_with("10.96.0."));
        assert_eq!(spec["clusterIPs"][0], spec["clusterIP"]);
        assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
        assert_eq!(spec["ports"][0]["nodePort"], spec["ports"][1]["nodePort"]);

        let text =
            create(json!({"type": "ClusterIP", "clusterIP": spec["clusterIP"]})).unwrap_err().message().to_owned();
        assert!(text.contains("failed to allocate IP") && text.ends_with("provided IP is already allocated"), "{text}");
        let taken = json!([{"protocol": "TCP", "port": 1, "nodePort": spec["ports"][0]["nodePort"]}]);
        let text = create(json!({"type": "NodePort", "ports": taken})).unwrap_err().message().to_owned();
        assert!(text.ends_with("provided port is already allocated"), "{text}");

        let headless = create(json!({"type": "ClusterIP", "clusterIP": "None"})).unwrap();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let external = create(json!({"type": "ExternalName", "externalName": "a.example"})).unwrap();
        assert!(external["spec"].get("clusterIP").is_none());

        // A change of type gives the ports back, and the address stays.
        let mut plain = service.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        super::super::carry_over(&mut plain["spec"], &service["spec"]);
        kybern_apiserver::strategy::Reservation::commit(Box::new(
            claim(&allocators, &mut plain, Some(&service), false).unwrap(),
        ));
        assert!(create(json!({"type": "NodePort", "ports": taken})).is_ok());
    }
}
