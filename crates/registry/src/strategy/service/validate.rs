//! `ValidateService`.

use std::collections::BTreeSet;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key};
use kybern_apimachinery::{Value, json, object};

use super::addresses::{self, is_headless};
use super::{externally_accessible, has_node_ports, is_external_name, needs_health_check};
use crate::strategy::network::endpoint_address;
use crate::tree::{has, int, list, text};
use crate::validation::{Errors, format, ip, meta};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
const BALANCED_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
pub(super) const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn service(service: &Value, old: Option<&Value>) -> Errors {
    let (mut out, spec, path) = (Errors::new(), &service["spec"], FieldPath::new("spec"));
    let before = old.map(|old| &old["spec"]);
    let kind = text(spec, "type");
    topology(&mut out, service);
    if list(spec, "ports").is_empty() && !is_headless(spec) && !is_external_name(spec) {
        out.push(FieldError::required(&path.child("ports"), ""));
    }
    if has_node_ports(spec) && is_headless(spec) {
        let detail = format!("may not be set to 'None' for {kind} services");
        out.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", detail));
    }
    if is_external_name(spec) {
        external_name(&mut out, &path, spec);
    }
    each_port(&mut out, &path.child("ports"), list(spec, "ports"));
    meta::labels(&mut out, &path, spec, "selector");
    affinity(&mut out, &path, spec);
    out.extend(addresses::validate(spec, before));
    let kept = before.map_or(&[][..], |before| list(before, "externalIPs"));
    for (i, address) in list(spec, "externalIPs").iter().enumerate() {
        let (path, text) = (path.child("externalIPs").index(i), address.as_str().unwrap_or(""));
        if kept.contains(address) || ip::legacy(&mut out, &path, text).is_some() {
            endpoint_address(&mut out, &path, text);
        }
    }
    format::required_one_of(&mut out, &path.child("type"), kind, &TYPES);
    port_uniqueness(&mut out, &path.child("ports"), spec);
    source_ranges(&mut out, service, old);
    if has(spec, "allocateLoadBalancerNodePorts") && kind != "LoadBalancer" {
        out.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), BALANCED_ONLY));
    }
    balancer_class(&mut out, &path, spec);
    traffic(&mut out, &path, spec);
    out
}

fn topology(out: &mut Errors, service: &Value) {
    let (mode, hints) = (object::annotation(service, TOPOLOGY_MODE), object::annotation(service, TOPOLOGY_HINTS));
    if let (Some(mode), Some(hints)) = (mode, hints)
        && mode != hints
    {
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        out.push(FieldError::invalid(&FieldPath::new("metadata.annotations").key(TOPOLOGY_MODE), mode, detail));
    }
}

fn external_name(out: &mut Errors, path: &FieldPath, spec: &Value) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let given = has(spec, field) && spec[field].as_array().is_none_or(|items| !items.is_empty());
        if given {
            out.push(FieldError::forbidden(&path.child(field), "may not be set for ExternalName services"));
        }
    }
    // A dot at its end makes a name fully qualified.
    let name = text(spec, "externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    format::required_name(out, &path.child("externalName"), name, dns1123_subdomain);
}

fn each_port(out: &mut Errors, path: &FieldPath, ports: &[Value]) {
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(i), text(port, "name"));
        if !name.is_empty() {
            format::invalid(out, &path.child("name"), name, dns1123_label(name));
            if !names.insert(name) {
                out.push(FieldError::duplicate(&path.child("name"), name));
            }
        } else if ports.len() > 1 {
            out.push(FieldError::required(&path.child("name"), ""));
        }
        format::port_number(out, &path.child("port"), int(port, "port").unwrap_or(0));
        format::required_one_of(out, &path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        format::port(out, &path.child("targetPort"), &port["targetPort"]);
        if has(port, "appProtocol") {
            let name = text(port, "appProtocol");
            format::invalid(out, &path.child("appProtocol"), name, label_key(name));
        }
    }
}

fn affinity(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let kind = text(spec, "sessionAffinity");
    format::required_one_of(out, &path.child("sessionAffinity"), kind, &["ClientIP", "None"]);
    let path = path.child("sessionAffinityConfig");
    if kind == "None" && has(spec, "sessionAffinityConfig") {
        out.push(FieldError::forbidden(&path, "must not be set when session affinity is None"));
    }
    if kind != "ClientIP" {
        return;
    }
    let seconds = object::at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).and_then(Value::as_i64);
    let path = path.child("clientIP").child("timeoutSeconds");
    match seconds {
        None => out.push(FieldError::required(&path, "when session affinity type is ClientIP")),
        Some(1..=86400) => {}
        Some(seconds) => {
            out.push(FieldError::invalid(&path, seconds, "must be greater than 0 and less than 86400"));
        }
    }
}

fn port_uniqueness(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let ports = list(spec, "ports");
    let node_port = |port: &Value| int(port, "nodePort").unwrap_or(0);
    if text(spec, "type") == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, port)| node_port(port) != 0) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            out.push(FieldError::forbidden(&path.index(i).child("nodePort"), detail));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate().filter(|(_, port)| node_port(port) != 0) {
        if !seen.insert((text(port, "protocol"), node_port(port))) {
            out.push(FieldError::duplicate(&path.index(i).child("nodePort"), node_port(port)));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let (protocol, number) = (text(port, "protocol"), int(port, "port").unwrap_or(0));
        if !seen.insert((protocol, number)) {
            out.push(FieldError::duplicate(&path.index(i), json!({"protocol": protocol, "port": number})));
        }
    }
}

/// From the field, or else from the annotation of before.
fn source_ranges(out: &mut Errors, service: &Value, old: Option<&Value>) {
    let spec = &service["spec"];
    let ranges = list(spec, "loadBalancerSourceRanges");
    let annotation = |service| object::annotation(service, SOURCE_RANGES);
    let (path, given): (FieldPath, Vec<&str>) = if !ranges.is_empty() {
        // The name in upstream's texts.
        (FieldPath::new("spec.LoadBalancerSourceRanges"), ranges.iter().map(|r| r.as_str().unwrap_or("")).collect())
    } else if let Some(ranges) = annotation(service) {
        let changed = old.is_none_or(|old| annotation(old) != Some(ranges));
        let ranges = Some(ranges.trim()).filter(|ranges| changed && !ranges.is_empty());
        (
            FieldPath::new("metadata.annotations").key(SOURCE_RANGES),
            ranges.into_iter().flat_map(|r| r.split(',')).collect(),
        )
    } else {
        return;
    };
    if text(spec, "type") != "LoadBalancer" {
        out.push(FieldError::forbidden(&path, BALANCED_ONLY));
    }
    let kept: Vec<&str> = old
        .map_or(&[][..], |old| list(&old["spec"], "loadBalancerSourceRanges"))
        .iter()
        .filter_map(|range| range.as_str().map(str::trim))
        .collect();
    for (i, range) in given.into_iter().map(str::trim).enumerate().filter(|(_, range)| !kept.contains(range)) {
        let path = if ranges.is_empty() { path.clone() } else { path.index(i) };
        ip::legacy_cidr(out, &path, range);
    }
}

fn balancer_class(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (path, class) = (path.child("loadBalancerClass"), text(spec, "loadBalancerClass"));
    if !has(spec, "loadBalancerClass") {
    } else if text(spec, "type") == "LoadBalancer" {
        format::invalid(out, &path, class, label_key(class));
    } else {
        out.push(FieldError::forbidden(&path, BALANCED_ONLY));
    }
}

fn traffic(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let (external, external_path) = (text(spec, "externalTrafficPolicy"), path.child("externalTrafficPolicy"));
    if externally_accessible(spec) {
        format::required_one_of(out, &external_path, external, &POLICIES);
    } else if !external.is_empty() {
        out.push(FieldError::invalid(&external_path, external, "may only be set for externally-accessible services"));
    }
    let (port, port_path) = (int(spec, "healthCheckNodePort").unwrap_or(0), path.child("healthCheckNodePort"));
    match (needs_health_check(spec), port) {
        (false, 0) => {}
        (false, port) => {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            out.push(FieldError::invalid(&port_path, port, detail));
        }
        (true, 0) => out.push(FieldError::required(&port_path, "")),
        (true, port) => format::port_number(out, &port_path, port),
    }
    let internal_path = path.child("internalTrafficPolicy");
    if has(spec, "internalTrafficPolicy") {
        format::one_of(out, &internal_path, text(spec, "internalTrafficPolicy"), &POLICIES);
    } else if matches!(text(spec, "type"), "ClusterIP" | "LoadBalancer" | "NodePort") {
        out.push(FieldError::required(&internal_path, ""));
    }
    if has(spec, "trafficDistribution") {
        let distribution = text(spec, "trafficDistribution");
        format::one_of(out, &path.child("trafficDistribution"), distribution, &DISTRIBUTIONS);
    }
}

/// What an update may not change, besides the addresses.
pub(super) fn service_update(service: &Value, old: &Value) -> Errors {
    let (mut out, path) = (Errors::new(), FieldPath::new("spec"));
    let (spec, before) = (&service["spec"], &old["spec"]);
    let balanced = |spec: &Value| text(spec, "type") == "LoadBalancer";
    if balanced(spec) && balanced(before) && spec.get("loadBalancerClass") != before.get("loadBalancerClass") {
        let class = spec.get("loadBalancerClass").cloned().unwrap_or(Value::Null);
        out.push(FieldError::invalid(&path.child("loadBalancerClass"), class, "may not change once set"));
    }
    balancer_class(&mut out, &path, spec);
    let port = |spec: &Value| int(spec, "healthCheckNodePort").unwrap_or(0);
    if needs_health_check(spec) && needs_health_check(before) && port(spec) != port(before) {
        out.push(FieldError::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let check = |change: Value, expect: &str| {
            let mut spec = json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]});
            for (key, value) in change.as_object().unwrap() {
                spec[key] = value.clone();
            }
            let text =
                service(&json!({"spec": spec}), None).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert_eq!(text, expect);
        };
        check(json!({}), "");
        check(json!({"ports": []}), "spec.ports: Required value");
        check(json!({"ports": [], "clusterIP": "None", "clusterIPs": ["None"]}), "");
        check(
            json!({"type": "Foo"}),
            "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        );
        check(json!({"type": "ExternalName", "ports": []}), "spec.externalName: Required value");
        let port = |extra: Value| {
            let mut port = json!({"port": 80, "protocol": "TCP", "targetPort": 80});
            for (key, value) in extra.as_object().unwrap() {
                port[key] = value.clone();
            }
            port
        };
        check(
            json!({"ports": [port(json!({"nodePort": 30000}))]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        );
        check(
            json!({"ports": [port(json!({"name": "a"})), port(json!({"port": 81}))]}),
            "spec.ports[1].name: Required value",
        );
        check(
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
        );
        check(
            json!({"ports": [port(json!({"port": 0}))]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        );
    }

    #[test]
    fn fields_of_a_type() {
        let balanced = |change: Value| {
            let mut spec = json!({"type": "LoadBalancer", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true,
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]});
            for (key, value) in change.as_object().unwrap() {
                spec[key] = value.clone();
            }
            service(&json!({"spec": spec}), None).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(balanced(json!({"loadBalancerClass": "a.b/c", "loadBalancerSourceRanges": [" 10.0.0.0/8 "]})), "");
        assert!(balanced(json!({"loadBalancerClass": ""})).contains("spec.loadBalancerClass: Invalid value: \"\""));
        assert!(
            balanced(json!({"type": "NodePort"}))
                .ends_with("Forbidden: may only be used when `type` is 'LoadBalancer'")
        );
        assert_eq!(
            balanced(json!({"externalTrafficPolicy": "Local"})),
            "spec.healthCheckNodePort: Required value",
            "claimed before anything is checked"
        );
        assert!(
            balanced(json!({"trafficDistribution": "Near"})).starts_with("spec.trafficDistribution: Unsupported value")
        );
        assert!(
            balanced(json!({"loadBalancerSourceRanges": ["x"]}))
                .starts_with("spec.LoadBalancerSourceRanges[0]: Invalid")
        );
    }

    #[test]
    fn a_balancers_class_stays() {
        let spec = |class: &str| json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": class}});
        let texts: Vec<String> = service_update(&spec("a/b"), &spec("a/c")).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["spec.loadBalancerClass: Invalid value: \"a/b\": may not change once set"]);
    }
}
