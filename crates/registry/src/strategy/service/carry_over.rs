//! What an update carries over from the Service that it replaces, and what goes with a type (`patchAllocatedValues`,
//! `normalizeClusterIPs`, `dropTypeDependentFields`).

use kybern_apimachinery::{Value, json};

use super::{allocates_node_ports, is_external_name, needs_health_check};
use crate::tree::{drop_field, int, keep, list, list_mut, text};

fn node_ports(spec: &Value) -> Vec<i64> {
    list(spec, "ports").iter().filter_map(|p| int(p, "nodePort")).filter(|p| *p != 0).collect()
}

/// What the cluster chose and the client did not repeat.
pub(super) fn allocated(spec: &mut Value, old: &Value) {
    if !is_external_name(spec) && !is_external_name(old) {
        if text(spec, "clusterIP").is_empty() {
            keep(spec, old, "clusterIP");
        }
        if list(spec, "clusterIPs").is_empty() {
            keep(spec, old, "clusterIPs");
        }
    }
    if allocates_node_ports(spec) && allocates_node_ports(old) {
        let (now, before) = (node_ports(spec), node_ports(old));
        let used: Vec<i64> = before.into_iter().filter(|p| now.contains(p)).collect();
        for port in list_mut(spec, "ports").iter_mut().filter(|p| int(p, "nodePort").unwrap_or(0) == 0) {
            // The last of one name.
            let same = list(old, "ports").iter().rev().find(|o| text(o, "name") == text(port, "name"));
            let number = same.and_then(|o| int(o, "nodePort")).filter(|number| *number != 0 && !used.contains(number));
            if let Some(number) = number {
                port["nodePort"] = number.into();
            }
        }
    }
    let unset = int(spec, "healthCheckNodePort").unwrap_or(0) == 0;
    if unset && needs_health_check(spec) && needs_health_check(old) {
        keep(spec, old, "healthCheckNodePort");
    }
}

/// Brings `clusterIP` and `clusterIPs` into step: the first of the list is the address. A client that changes or clears
/// `clusterIP` alone means both.
pub(super) fn normalize(spec: &mut Value, old: Option<&Value>) {
    let single = text(spec, "clusterIP").to_owned();
    let Some(old) = old else {
        if !single.is_empty() && list(spec, "clusterIPs").is_empty() {
            spec["clusterIPs"] = json!([single]);
        }
        return;
    };
    let before = text(old, "clusterIP");
    if single == before {
        if list(spec, "clusterIPs").is_empty() && !list(old, "clusterIPs").is_empty() {
            keep(spec, old, "clusterIPs");
        }
    } else if list(spec, "clusterIPs") == list(old, "clusterIPs") {
        if single.is_empty() {
            drop_field(spec, "clusterIPs");
        } else {
            spec["clusterIPs"] = json!([single]);
        }
    }
}

/// What only the old type has goes, unless the client changed it as well.
pub(super) fn drop_of_type(spec: &mut Value, old: &Value) {
    let same = |spec: &Value, field: &str| spec.get(field) == old.get(field);
    if !is_external_name(old) && is_external_name(spec) {
        if same(spec, "clusterIP") && list(spec, "clusterIPs") == list(old, "clusterIPs") {
            drop_field(spec, "clusterIP");
            drop_field(spec, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if same(spec, field) {
                drop_field(spec, field);
            }
        }
    }
    let has_ports = |spec: &Value| matches!(text(spec, "type"), "NodePort" | "LoadBalancer");
    if has_ports(old) && !has_ports(spec) {
        let before = node_ports(old);
        if node_ports(spec).iter().all(|port| before.contains(port)) {
            list_mut(spec, "ports").iter_mut().for_each(|port| drop_field(port, "nodePort"));
        }
    }
    if needs_health_check(old) && !needs_health_check(spec) && same(spec, "healthCheckNodePort") {
        drop_field(spec, "healthCheckNodePort");
    }
    if text(old, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(spec, field) {
                drop_field(spec, field);
            }
        }
    }
    let external = super::externally_accessible;
    if external(old) && !external(spec) && same(spec, "externalTrafficPolicy") {
        drop_field(spec, "externalTrafficPolicy");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_the_cluster_chose() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Cluster",
            "ports": [{"name": "a", "protocol": "TCP", "port": 80, "nodePort": 30080}]});
        let mut same = json!({"type": "NodePort", "ports": [{"name": "a", "port": 81}, {"name": "b", "port": 80}]});
        allocated(&mut same, &old);
        assert_eq!(same["clusterIP"], "10.96.0.9");
        assert_eq!(same["ports"][0]["nodePort"], 30080, "ports are told apart by their names");
        assert!(same["ports"][1].get("nodePort").is_none());
        let mut plain = old.clone();
        plain["type"] = "ClusterIP".into();
        drop_of_type(&mut plain, &old);
        assert!(plain["ports"][0].get("nodePort").is_none() && plain.get("externalTrafficPolicy").is_none());
        assert_eq!(plain["clusterIP"], "10.96.0.9");
        let mut name = old.clone();
        name["type"] = "ExternalName".into();
        drop_of_type(&mut name, &old);
        assert!(name.get("clusterIP").is_none() && name.get("clusterIPs").is_none());
    }

    #[test]
    fn one_address_stands_for_both_fields() {
        let old = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        let mut changed = json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1"]});
        normalize(&mut changed, Some(&old));
        assert_eq!(changed["clusterIPs"], json!(["10.0.0.2"]));
        let mut cleared = json!({"clusterIP": "", "clusterIPs": ["10.0.0.1"]});
        normalize(&mut cleared, Some(&old));
        assert_eq!(cleared.get("clusterIPs"), None);
        let mut new = json!({"clusterIP": "None"});
        normalize(&mut new, None);
        assert_eq!(new["clusterIPs"], json!(["None"]));
    }
}
