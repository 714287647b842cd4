//! Services (`pkg/registry/core/service`): defaults, what an update carries over, and the claims of addresses and ports.

mod claims;
mod validate;

use std::sync::Arc;

use kybern_apimachinery::field::FieldError;
use kybern_apimachinery::validation::dns1035_label;
use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::strategy::{Reservation, Strategy, StrategyContext};

use crate::allocation::{ServiceAllocators, ServiceClaims};
use crate::tree::{default, drop_field, has, int, keep, list, list_mut, text};

pub(crate) struct ServiceStrategy {
    pub allocators: Arc<ServiceAllocators>,
}

/// Whether Services of a type have an address of their own, and ports on every node.
fn needs_ip(kind: &str) -> bool {
    matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false),
        _ => false,
    }
}

fn defaults(spec: &mut Value) {
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "ClientIP" if spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").is_none_or(Value::is_null) => {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
        }
        "None" => drop_field(spec, "sessionAffinityConfig"),
        _ => {}
    }
    for port in list_mut(spec, "ports") {
        default(port, "protocol", "TCP");
        let unset = match &port["targetPort"] {
            Value::Null => true,
            Value::Number(number) => number.as_i64() == Some(0),
            other => other.as_str() == Some(""),
        };
        if unset {
            port["targetPort"] = port["port"].clone();
        }
    }
    match text(spec, "type").to_owned().as_str() {
        "ExternalName" => drop_field(spec, "internalTrafficPolicy"),
        kind => {
            if kind != "ClusterIP" {
                default(spec, "externalTrafficPolicy", "Cluster");
            }
            if kind == "LoadBalancer" {
                default(spec, "allocateLoadBalancerNodePorts", true);
            }
            default(spec, "internalTrafficPolicy", "Cluster");
        }
    }
}

/// Carries over what the cluster chose and the client did not repeat.
fn carry_over(spec: &mut Value, old: &Value) {
    let (kind, old_kind) = (text(spec, "type").to_owned(), text(old, "type").to_owned());
    if needs_ip(&kind) && needs_ip(&old_kind) {
        if text(spec, "clusterIP").is_empty() {
            keep(spec, old, "clusterIP");
        }
        if list(spec, "clusterIPs").is_empty() && text(spec, "clusterIP") == text(old, "clusterIP") {
            keep(spec, old, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !has(spec, field) {
                keep(spec, old, field);
            }
        }
    }
    if needs_node_ports(spec) && needs_node_ports(old) {
        let mut taken: Vec<i64> =
            list(spec, "ports").iter().filter_map(|p| int(p, "nodePort")).filter(|p| *p != 0).collect();
        for port in list_mut(spec, "ports").iter_mut().filter(|p| int(p, "nodePort").unwrap_or(0) == 0) {
            let same =
                |o: &&Value| text(o, "protocol") == text(port, "protocol") && int(o, "port") == int(port, "port");
            if let Some(number) =
                list(old, "ports").iter().find(same).and_then(|o| int(o, "nodePort")).filter(|n| !taken.contains(n))
            {
                port["nodePort"] = number.into();
                taken.push(number);
            }
        }
    }
    // What only another type has goes when the type changes, unless the client changed it itself.
    if needs_ip(&old_kind) && !needs_ip(&kind) && text(spec, "clusterIP") == text(old, "clusterIP") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            drop_field(spec, field);
        }
    }
    if needs_node_ports(old) && !needs_node_ports(spec) {
        let before: Vec<Option<i64>> = list(old, "ports").iter().map(|p| int(p, "nodePort")).collect();
        for port in list_mut(spec, "ports") {
            if before.contains(&int(port, "nodePort")) {
                drop_field(port, "nodePort");
            }
        }
    }
    let external = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if external(&old_kind) && !external(&kind) && spec.get("externalTrafficPolicy") == old.get("externalTrafficPolicy")
    {
        drop_field(spec, "externalTrafficPolicy");
    }
    if old_kind == "LoadBalancer" && kind != "LoadBalancer" {
        for field in ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.get(field) == old.get(field) {
                drop_field(spec, field);
            }
        }
    }
}

impl Strategy for ServiceStrategy {
    fn default(&self, service: &mut Value) {
        if let Some(spec) = service.get_mut("spec").filter(|s| s.is_object()) {
            defaults(spec);
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, service: &mut Value) {
        service["status"] = json!({"loadBalancer": {}});
        claims::normalize_ips(&mut service["spec"]);
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, service: &mut Value, old: &Value) {
        claims::follow_ip(&mut service["spec"], &old["spec"]);
        carry_over(&mut service["spec"], &old["spec"]);
        claims::normalize_ips(&mut service["spec"]);
        if text(&service["spec"], "type") != "LoadBalancer" {
            service["status"]["loadBalancer"] = json!({});
        }
    }

    fn validate(&self, service: &Value) -> Vec<FieldError> {
        validate::service(service)
    }

    fn validate_update(&self, service: &Value, old: &Value) -> Vec<FieldError> {
        validate::service_update(service, old)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        dns1035_label(name)
    }

    fn reserve<'a>(
        &'a self,
        service: &'a mut Value,
        old: Option<&'a Value>,
        dry_run: bool,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, ApiError>> {
        let claimed = claims::claim(&self.allocators, service, old, dry_run);
        Box::pin(async move { claimed.map(|c| Some(Box::new(c) as Box<dyn Reservation>)) })
    }

    fn after_delete(&self, service: &Value) {
        self.allocators.release(&ServiceClaims::of(service));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_depend_on_the_type() {
        let check = |spec: Value, pointer: &str, expect: Value| {
            let mut spec = spec;
            defaults(&mut spec);
            assert_eq!(spec.pointer(pointer).cloned().unwrap_or(Value::Null), expect, "{spec}");
        };
        check(json!({"ports": [{"port": 80}]}), "/ports/0/targetPort", 80.into());
        check(json!({"ports": [{"port": 80, "targetPort": "http"}]}), "/ports/0/targetPort", "http".into());
        check(json!({"sessionAffinity": "ClientIP"}), "/sessionAffinityConfig/clientIP/timeoutSeconds", 10800.into());
        check(json!({"type": "NodePort"}), "/externalTrafficPolicy", "Cluster".into());
        check(json!({"type": "ClusterIP"}), "/externalTrafficPolicy", Value::Null);
        check(json!({"type": "ExternalName"}), "/internalTrafficPolicy", Value::Null);
    }

    #[test]
    fn an_update_keeps_what_the_cluster_chose() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Cluster",
            "ports": [{"protocol": "TCP", "port": 80, "nodePort": 30080}]});
        let mut same =
            json!({"type": "NodePort", "ports": [{"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 81}]});
        carry_over(&mut same, &old);
        assert_eq!(same["clusterIP"], "10.96.0.9");
        assert_eq!(same["ports"][0]["nodePort"], 30080);
        assert!(same["ports"][1].get("nodePort").is_none());
        let mut plain = old.clone();
        plain["type"] = "ClusterIP".into();
        carry_over(&mut plain, &old);
        assert!(plain["ports"][0].get("nodePort").is_none() && plain.get("externalTrafficPolicy").is_none());
        assert_eq!(plain["clusterIP"], "10.96.0.9");
        let mut name = old.clone();
        name["type"] = "ExternalName".into();
        carry_over(&mut name, &old);
        assert!(name.get("clusterIP").is_none() && name.get("clusterIPs").is_none());
    }
}
