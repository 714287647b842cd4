//! NetworkPolicy.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apiserver::strategy::Strategy;

use crate::tree::{default, has, int, list, list_mut, text};
use crate::validation::{Errors, format, ip, meta};

const SIDES: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn default(&self, policy: &mut Value) {
        let spec = &mut policy["spec"];
        if !spec.is_object() {
            *spec = Value::Object(Default::default());
        }
        for (direction, _) in SIDES {
            for rule in list_mut(spec, direction) {
                for port in list_mut(rule, "ports").iter_mut().filter(|p| p.is_object()) {
                    default(port, "protocol", "TCP");
                }
            }
        }
        if list(spec, "policyTypes").is_empty() {
            let mut kinds = vec![Value::from("Ingress")];
            if !list(spec, "egress").is_empty() {
                kinds.push("Egress".into());
            }
            spec["policyTypes"] = kinds.into();
        }
    }

    fn validate_create(&self, policy: &Value) -> Vec<FieldError> {
        spec(&policy["spec"], &[])
    }

    fn validate_update(&self, policy: &Value, old: &Value) -> Vec<FieldError> {
        // Upstream checks as if it were new, and then what may stay.
        let mut out = spec(&policy["spec"], &[]);
        out.extend(spec(&policy["spec"], &blocks(&old["spec"])));
        out
    }

    fn warnings(&self, policy: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (direction, side) in SIDES {
            for (i, rule) in list(&policy["spec"], direction).iter().enumerate() {
                for (j, peer) in list(rule, side).iter().enumerate().filter(|(_, peer)| has(peer, "ipBlock")) {
                    let path = FieldPath::new("spec").child(direction).index(i).child(side).index(j).child("ipBlock");
                    let block = &peer["ipBlock"];
                    out.extend(ip::warn_cidr(&path.child("cidr"), text(block, "cidr")));
                    for (k, except) in list(block, "except").iter().enumerate() {
                        out.extend(ip::warn_cidr(&path.child("except").index(k), except.as_str().unwrap_or("")));
                    }
                }
            }
        }
        out
    }
}

/// All ranges of a policy.
fn blocks(spec: &Value) -> Vec<&str> {
    let peers = SIDES
        .into_iter()
        .flat_map(|(direction, side)| list(spec, direction).iter().flat_map(move |rule| list(rule, side)));
    let mut out = Vec::new();
    for block in peers.map(|peer| &peer["ipBlock"]) {
        out.push(text(block, "cidr"));
        out.extend(list(block, "except").iter().filter_map(Value::as_str));
    }
    out
}

fn spec(spec: &Value, kept: &[&str]) -> Errors {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
    meta::selector(&mut out, &path.child("podSelector"), &spec["podSelector"]);
    for (direction, side) in SIDES {
        for (i, rule) in list(spec, direction).iter().enumerate() {
            let path = path.child(direction).index(i);
            for (j, item) in list(rule, "ports").iter().enumerate() {
                port(&mut out, &path.child("ports").index(j), item);
            }
            for (j, item) in list(rule, side).iter().enumerate() {
                peer(&mut out, &path.child(side).index(j), item, kept);
            }
        }
    }
    let (kinds, path) = (list(spec, "policyTypes"), path.child("policyTypes"));
    if kinds.len() > 2 {
        out.push(FieldError::invalid(&path, kinds.to_vec(), "may not specify more than two policyTypes"));
        return out;
    }
    for (i, kind) in kinds.iter().enumerate() {
        format::one_of(&mut out, &path.index(i), kind.as_str().unwrap_or(""), &["Ingress", "Egress"]);
    }
    out
}

fn port(out: &mut Errors, path: &FieldPath, port: &Value) {
    if has(port, "protocol") {
        format::one_of(out, &path.child("protocol"), text(port, "protocol"), &["TCP", "UDP", "SCTP"]);
    }
    let (end, end_path) = (int(port, "endPort"), path.child("endPort"));
    match &port["port"] {
        Value::Null => {
            if let Some(end) = end {
                out.push(FieldError::invalid(&end_path, end, "may not be specified when `port` is not specified"));
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                out.push(FieldError::invalid(&end_path, end, "may not be specified when `port` is non-numeric"));
            }
            format::invalid(out, &path.child("port"), name, format::port_name(name));
        }
        number => {
            let first = number.as_i64().unwrap_or(0);
            format::port_number(out, &path.child("port"), first);
            if let Some(end) = end {
                if end < first {
                    out.push(FieldError::invalid(&end_path, first, "must be greater than or equal to `port`"));
                }
                format::port_number(out, &end_path, end);
            }
        }
    }
}

fn peer(out: &mut Errors, path: &FieldPath, peer: &Value, kept: &[&str]) {
    let mut selects = false;
    for selector in ["podSelector", "namespaceSelector"].into_iter().filter(|s| has(peer, s)) {
        selects = true;
        meta::selector(out, &path.child(selector), &peer[selector]);
    }
    if has(peer, "ipBlock") {
        ip_block(out, &path.child("ipBlock"), &peer["ipBlock"], kept);
        if selects {
            out.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
        }
    } else if !selects {
        out.push(FieldError::required(path, "must specify a peer"));
    }
}

fn ip_block(out: &mut Errors, path: &FieldPath, block: &Value, kept: &[&str]) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        out.push(FieldError::required(&path.child("cidr"), ""));
        return;
    }
    let mut check = |path: &FieldPath, text: &str| {
        if kept.contains(&text) { ip::parse_cidr(text).map(|(_, net)| net) } else { ip::legacy_cidr(out, path, text) }
    };
    let Some(range) = check(&path.child("cidr"), cidr) else { return };
    let mut outside = Vec::new();
    for (i, except) in list(block, "except").iter().enumerate() {
        let (path, text) = (path.child("except").index(i), except.as_str().unwrap_or(""));
        let Some(part) = check(&path, text) else { continue };
        if !range.contains(&part.addr()) || range.prefix_len() >= part.prefix_len() {
            outside.push(FieldError::invalid(&path, text, "must be a strict subset of `cidr`"));
        }
    }
    out.extend(outside);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn peers_and_ports() {
        let texts = |rule: Value| {
            let mut policy = json!({"spec": {"podSelector": {}, "ingress": [rule]}});
            NetworkPolicy.default(&mut policy);
            NetworkPolicy.validate_create(&policy).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(texts(json!({"from": [{"podSelector": {}}], "ports": [{"port": 80, "endPort": 90}]})), "");
        assert_eq!(texts(json!({"from": [{}]})), "spec.ingress[0].from[0]: Required value: must specify a peer");
        assert_eq!(
            texts(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]})),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"
        );
        assert_eq!(
            texts(json!({"ports": [{"port": "http", "endPort": 90}]})),
            "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric"
        );
    }

    #[test]
    fn directions_follow_the_rules() {
        let mut policy = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 1}]}]}});
        NetworkPolicy.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }
}
