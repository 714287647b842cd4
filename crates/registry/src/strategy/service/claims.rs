//! The addresses and ports that a Service claims, before anything else looks at it (`storage/alloc.go`).

use std::sync::Arc;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, GroupKind, Reason, Value, json, object};

use super::families::Families;
use super::{allocates_node_ports, carry_over, has_node_ports, is_external_name, needs_health_check};
use crate::allocation::{Claiming, ServiceAllocators};
use crate::tree::{int, list, text};
use crate::validation::{Errors, ip};

fn invalid(name: &str, errors: &[FieldError]) -> ApiError {
    ApiError::invalid(&GroupKind::new("", "Service"), name, errors)
}

/// Claims what `service` newly has, and writes what was chosen into it.
pub(super) fn claim(
    allocators: &Arc<ServiceAllocators>,
    service: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<Claiming, ApiError> {
    let name = object::name(service).to_owned();
    let mut claims = allocators.begin(dry_run);
    let before = old.map(|old| &old["spec"]);
    let spec = &mut service["spec"];
    if let Some(before) = before {
        carry_over::allocated(spec, before);
    }
    carry_over::normalize(spec, before);
    let families = allocators.families();
    let families = Families { spec, old: before, families: &families };
    families.fill().map_err(|errors: Errors| invalid(&name, &errors))?;
    // An update leaves addresses alone, unless there were none yet or a second is added.
    match before {
        Some(before) if !is_external_name(before) => {
            if list(before, "ipFamilies").len() == 1 && list(spec, "ipFamilies").len() == 2 {
                addresses(&mut claims, spec, &name, 1)?;
            }
        }
        _ => addresses(&mut claims, spec, &name, 0)?,
    }
    if has_node_ports(spec) {
        match before {
            None => new_ports(&mut claims, spec, &name)?,
            Some(before) => changed_ports(&mut claims, spec, before, &name)?,
        }
    }
    if needs_health_check(spec) && !before.is_some_and(needs_health_check) {
        health_port(&mut claims, spec)?;
    }
    Ok(claims)
}

/// Those from the `first` on; the ones before it are held already.
fn addresses(claims: &mut Claiming, spec: &mut Value, name: &str, first: usize) -> Result<(), ApiError> {
    let given = list(spec, "clusterIPs").to_vec();
    if is_external_name(spec) || given.first().is_some_and(|ip| ip == "None") {
        return Ok(());
    }
    let families = list(spec, "ipFamilies").to_vec();
    let mut all: Vec<Value> = given.iter().take(first).cloned().collect();
    for (i, family) in families.iter().enumerate().skip(first) {
        match given.get(i).and_then(Value::as_str).unwrap_or("") {
            "" => {
                let failed = |cause| ApiError::internal(format!("failed to allocate a serviceIP: {cause}"));
                all.push(Value::from(claims.any_ip(family.as_str().unwrap_or("")).map_err(failed)?.to_string()));
            }
            chosen => {
                let Some(parsed) = ip::parse(chosen) else {
                    return Err(ApiError::internal(format!("failed to parse service IP {chosen:?}")));
                };
                if let Err(cause) = claims.ip(parsed) {
                    let detail = format!("failed to allocate IP {chosen}: {cause}");
                    let error = FieldError::invalid(&FieldPath::new("spec.clusterIPs"), given.clone(), detail);
                    return Err(invalid(name, &[error]));
                }
                all.push(chosen.into());
            }
        }
    }
    if let Some(first) = all.first() {
        spec["clusterIP"] = first.clone();
        spec["clusterIPs"] = json!(all);
    }
    Ok(())
}

fn given_port(claims: &mut Claiming, i: usize, port: i64, name: &str) -> Result<(), ApiError> {
    claims.port(port).map_err(|cause| {
        let path = FieldPath::new("spec.ports").index(i).child("nodePort");
        invalid(name, &[FieldError::invalid(&path, port, cause)])
    })
}

fn any_port(claims: &mut Claiming) -> Result<i64, ApiError> {
    let failed = |cause| ApiError::internal(format!("failed to allocate a nodePort: {cause}"));
    claims.any_port().map_err(failed)
}

fn node_port(port: &Value) -> i64 {
    int(port, "nodePort").unwrap_or(0)
}

/// The same port under several protocols (DNS) has the same node port, unless it names another.
fn new_ports(claims: &mut Claiming, spec: &mut Value, name: &str) -> Result<(), ApiError> {
    let allocates = allocates_node_ports(spec);
    let mut chosen: Vec<(i64, i64)> = Vec::new();
    for i in 0..list(spec, "ports").len() {
        let ports = list(spec, "ports");
        let (number, own) = (int(&ports[i], "port").unwrap_or(0), node_port(&ports[i]));
        if own == 0 && !allocates {
            continue;
        }
        match chosen.iter().find(|(port, _)| *port == number) {
            None => {
                let same = ports.iter().filter(|p| int(p, "port").unwrap_or(0) == number);
                let named = same.map(node_port).find(|port| *port != 0);
                let port = match named {
                    Some(port) => {
                        given_port(claims, i, port, name)?;
                        port
                    }
                    None => any_port(claims)?,
                };
                spec["ports"][i]["nodePort"] = port.into();
                chosen.push((number, port));
            }
            Some((_, port)) if own == 0 => spec["ports"][i]["nodePort"] = (*port).into(),
            Some((_, port)) if own == *port => {}
            Some(_) => given_port(claims, i, own, name)?,
        }
    }
    Ok(())
}

fn changed_ports(claims: &mut Claiming, spec: &mut Value, before: &Value, name: &str) -> Result<(), ApiError> {
    let allocates = allocates_node_ports(spec);
    let mut held: Vec<i64> = list(before, "ports").iter().map(node_port).collect();
    let mut used: Vec<(String, i64)> = Vec::new();
    for i in 0..list(spec, "ports").len() {
        match node_port(&list(spec, "ports")[i]) {
            0 if allocates => spec["ports"][i]["nodePort"] = any_port(claims)?.into(),
            0 => {}
            own if held.contains(&own) => {}
            own => {
                given_port(claims, i, own, name)?;
                held.push(own);
            }
        }
        let port = &list(spec, "ports")[i];
        let pair = (text(port, "protocol").to_owned(), node_port(port));
        if pair.1 != 0 && used.contains(&pair) {
            // Upstream fails before anything is checked.
            let message = format!("duplicate nodePort: {{{} {}}}", pair.0, pair.1);
            return Err(ApiError::new(Reason::Unknown, message));
        }
        used.push(pair);
    }
    Ok(())
}

fn health_port(claims: &mut Claiming, spec: &mut Value) -> Result<(), ApiError> {
    match int(spec, "healthCheckNodePort").unwrap_or(0) {
        0 => {
            let failed = |cause| ApiError::internal(format!("failed to allocate a HealthCheck NodePort: {cause}"));
            spec["healthCheckNodePort"] = claims.any_port().map_err(failed)?.into();
            Ok(())
        }
        given => claims.port(given).map_err(|cause| {
            ApiError::internal(format!("failed to allocate requested HealthCheck NodePort {given}: {cause}"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use kybern_apiserver::connect::Observer;

    use super::*;

    #[test]
    fn a_service_gets_an_address_and_ports() {
        let allocators =
            Arc::new(ServiceAllocators::new(&["10.96.0.0/24".parse().unwrap()], 30000..=30200, Default::default()));
        let made = std::cell::Cell::new(0);
        let create = |spec: Value| {
            let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
            claim(&allocators, &mut service, None, false).map(|_| {
                made.set(made.get() + 1);
                allocators.changed("", "services", "", &made.get().to_string(), Some(&service));
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

        let refused = |spec: Value| create(spec).unwrap_err().message().to_owned();
        let text = refused(json!({"type": "ClusterIP", "clusterIP": spec["clusterIP"]}));
        assert!(text.contains("failed to allocate IP") && text.ends_with("provided IP is already allocated"), "{text}");
        // A number is one Service's, whatever the protocol.
        let taken = json!([{"protocol": "SCTP", "port": 1, "nodePort": spec["ports"][0]["nodePort"]}]);
        let text = refused(json!({"type": "NodePort", "ports": taken}));
        assert!(text.ends_with("provided port is already allocated"), "{text}");
        let text = refused(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 70000}]}));
        assert!(text.contains("spec.ports[0].nodePort: Invalid value: 70000: provided port is not in"), "{text}");

        let headless = create(json!({"type": "ClusterIP", "clusterIP": "None"})).unwrap();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let external = create(json!({"type": "ExternalName", "externalName": "a.example"})).unwrap();
        assert!(external["spec"].get("clusterIP").is_none());

        // A change of type gives the ports back, and the address stays.
        let mut plain = service.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        claim(&allocators, &mut plain, Some(&service), false).unwrap();
        allocators.changed("", "services", "", "1", Some(&plain));
        assert_eq!(plain["spec"]["clusterIP"], spec["clusterIP"]);
        assert!(create(json!({"type": "NodePort", "ports": taken})).is_ok());
    }

    #[test]
    fn a_dry_run_shows_ports_and_takes_none() {
        let allocators =
            Arc::new(ServiceAllocators::new(&["10.96.0.0/24".parse().unwrap()], 30000..=30000, Default::default()));
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"port": 1}, {"port": 2}]}});
        claim(&allocators, &mut service, None, true).unwrap();
        let spec = &service["spec"];
        let shown = [&spec["ports"][0]["nodePort"], &spec["ports"][1]["nodePort"], &spec["healthCheckNodePort"]];
        assert_eq!(shown, [32769, 32770, 32771]);
        assert_eq!(allocators.begin(false).any_port(), Ok(30000));
    }
}
