//! `ValidateService`.

use std::collections::BTreeSet;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};
use kybern_apimachinery::{Value, object};

use super::needs_ip;
use crate::tree::{has, int, list, text};
use crate::validation::update::immutable;
use crate::validation::{format, meta};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub(super) fn service(service: &Value) -> Vec<FieldError> {
    let (mut out, spec, path) = (Vec::new(), &service["spec"], FieldPath::new("spec"));
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let ports = list(spec, "ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        out.push(FieldError::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            out.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => {
            if !text(spec, "clusterIP").is_empty() {
                out.push(FieldError::forbidden(&path.child("clusterIPs"), "may not be set for ExternalName services"));
            }
            let name = text(spec, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                out.push(FieldError::required(&path.child("externalName"), ""));
            } else {
                format::invalid(&mut out, &path.child("externalName"), name, dns1123_subdomain(name));
            }
        }
        _ => {}
    }
    format::required_one_of(&mut out, &path.child("type"), kind, &TYPES);
    each_port(&mut out, &path, ports, kind);
    meta::labels(&mut out, &path, spec, "selector");
    format::required_one_of(
        &mut out,
        &path.child("sessionAffinity"),
        text(spec, "sessionAffinity"),
        &["ClientIP", "None"],
    );
    if text(spec, "sessionAffinity") == "ClientIP" {
        let seconds = object::at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"])
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if !(1..=86400).contains(&seconds) {
            let path = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
            out.push(FieldError::invalid(&path, seconds, "must be greater than 0 and less than 86400"));
        }
    }
    addresses(&mut out, &path, spec, kind);
    let external = matches!(kind, "NodePort" | "LoadBalancer");
    if has(spec, "externalTrafficPolicy") && !external && list(spec, "externalIPs").is_empty() {
        let detail = "may only be set for externally-accessible services";
        out.push(FieldError::invalid(
            &path.child("externalTrafficPolicy"),
            text(spec, "externalTrafficPolicy"),
            detail,
        ));
    } else if external {
        format::required_one_of(
            &mut out,
            &path.child("externalTrafficPolicy"),
            text(spec, "externalTrafficPolicy"),
            &["Cluster", "Local"],
        );
    }
    if needs_ip(kind) {
        format::required_one_of(
            &mut out,
            &path.child("internalTrafficPolicy"),
            text(spec, "internalTrafficPolicy"),
            &["Cluster", "Local"],
        );
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if has(spec, field) && kind != "LoadBalancer" {
            out.push(FieldError::forbidden(&path.child(field), "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    out
}

fn each_port(out: &mut Vec<FieldError>, path: &FieldPath, ports: &[Value], kind: &str) {
    let (mut names, mut taken, mut nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let path = path.child("ports").index(i);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if name.is_empty() {
            if ports.len() > 1 {
                out.push(FieldError::required(&path.child("name"), ""));
            }
        } else {
            let texts = dns1123_label(name);
            if texts.is_empty() && !names.insert(name) {
                out.push(FieldError::duplicate(&path.child("name"), name));
            }
            format::invalid(out, &path.child("name"), name, texts);
        }
        let number = int(port, "port").unwrap_or(0);
        format::port_number(out, &path.child("port"), number);
        format::required_one_of(out, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        format::port(out, &path.child("targetPort"), &port["targetPort"]);
        if !taken.insert((protocol, number)) {
            out.push(FieldError::duplicate(&path, port.clone()));
        }
        let node = int(port, "nodePort").unwrap_or(0);
        if node != 0 {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                let detail = format!("may not be used when `type` is '{kind}'");
                out.push(FieldError::forbidden(&path.child("nodePort"), detail));
            } else if !nodes.insert((protocol, node)) {
                out.push(FieldError::duplicate(&path.child("nodePort"), node));
            }
        }
    }
}

fn addresses(out: &mut Vec<FieldError>, path: &FieldPath, spec: &Value, kind: &str) {
    let (first, all) = (text(spec, "clusterIP"), list(spec, "clusterIPs"));
    if let Some(listed) = all.first().and_then(Value::as_str)
        && listed != first
    {
        out.push(FieldError::invalid(
            &path.child("clusterIPs"),
            spec["clusterIPs"].clone(),
            "first value must match `clusterIP`",
        ));
    }
    if all.len() > 2 {
        out.push(FieldError::invalid(
            &path.child("clusterIPs"),
            spec["clusterIPs"].clone(),
            "may only hold up to 2 values",
        ));
    }
    if needs_ip(kind) {
        for (i, ip) in all.iter().filter_map(Value::as_str).enumerate().filter(|(_, ip)| *ip != "None") {
            format::ip(out, &path.child("clusterIPs").index(i), ip);
        }
    }
    for (i, family) in list(spec, "ipFamilies").iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("ipFamilies").index(i);
        if !["IPv4", "IPv6"].contains(&family) {
            out.push(FieldError::not_supported(&path, family, &["IPv4", "IPv6"]));
        }
    }
    if has(spec, "ipFamilyPolicy") {
        let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
        let policy = text(spec, "ipFamilyPolicy");
        format::one_of(out, &path.child("ipFamilyPolicy"), policy, &policies);
        if policy == "RequireDualStack" {
            let detail = "this cluster is not configured for dual-stack services";
            out.push(FieldError::invalid(&path.child("ipFamilyPolicy"), policy, detail));
        }
    }
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        let (path, text) = (path.child("externalIPs").index(i), ip.as_str().unwrap_or(""));
        if let Some(ip) = format::ip(out, &path, text) {
            let forbidden = match ip {
                _ if ip.is_unspecified() => Some("may not be unspecified"),
                _ if ip.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
                std::net::IpAddr::V4(v4) if v4.is_link_local() => {
                    Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
                }
                _ => None,
            };
            out.extend(forbidden.map(|detail| FieldError::invalid(&path, text, detail)));
        }
    }
    // The name in upstream's texts.
    let ranges = path.child("LoadBalancerSourceRanges");
    if !list(spec, "loadBalancerSourceRanges").is_empty() && text(spec, "type") != "LoadBalancer" {
        out.push(FieldError::forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'"));
    }
    for (i, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let text = range.as_str().unwrap_or("");
        if text.trim().parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            out.push(FieldError::invalid(&ranges.index(i), text, detail));
        }
    }
}

/// The address stays while the type has one.
pub(super) fn service_update(service: &Value, old: &Value) -> Vec<FieldError> {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
    let (spec, before) = (&service["spec"], &old["spec"]);
    if needs_ip(text(spec, "type")) && needs_ip(text(before, "type")) && !text(before, "clusterIP").is_empty() {
        // `clusterIP` is the first of these.
        if list(spec, "clusterIPs").first() != list(before, "clusterIPs").first() {
            let path = path.child("clusterIPs").index(0);
            out.push(FieldError::invalid(&path, spec["clusterIPs"].clone(), "may not change once set"));
        }
    }
    if text(spec, "type") == "LoadBalancer" && text(before, "type") == "LoadBalancer" {
        immutable(
            &mut out,
            &path.child("loadBalancerClass"),
            spec.get("loadBalancerClass"),
            before.get("loadBalancerClass"),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn services() {
        let check = |change: Value, expect: &str| {
            let mut spec = json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]});
            for (key, value) in change.as_object().unwrap() {
                spec[key] = value.clone();
            }
            let text = service(&json!({"spec": spec})).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert_eq!(text, expect);
        };
        check(json!({}), "");
        check(json!({"ports": []}), "spec.ports: Required value");
        check(json!({"ports": [], "clusterIP": "None"}), "");
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
    fn the_address_stays() {
        let spec = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}});
        let texts: Vec<String> =
            service_update(&spec("10.0.0.2"), &spec("10.0.0.1")).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]);
    }
}
