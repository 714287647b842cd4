//! Services (`pkg/registry/core/service`): defaults, what an update carries over, and the claims of addresses and ports.

mod addresses;
mod carry_over;
mod claims;
mod families;
mod validate;
mod warnings;

use std::sync::Arc;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1035_label;
use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use kybern_apiserver::transaction::Transaction;

use super::ingress;
use crate::allocation::{ServiceAllocators, ServiceClaims, free};
use crate::tree::{default, drop_field, has, list, list_mut, text};
use crate::validation::format;

pub(crate) struct ServiceStrategy {
    pub allocators: Arc<ServiceAllocators>,
}

/// The one type whose Services have no address.
fn is_external_name(spec: &Value) -> bool {
    text(spec, "type") == "ExternalName"
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn allocates_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false),
        _ => false,
    }
}

fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn externally_accessible(spec: &Value) -> bool {
    has_node_ports(spec) || (text(spec, "type") == "ClusterIP" && !list(spec, "externalIPs").is_empty())
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
    if externally_accessible(spec) && text(spec, "externalTrafficPolicy").is_empty() {
        spec["externalTrafficPolicy"] = "Cluster".into();
    }
    if matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// `status` of a Service.
pub(super) fn validate_status(service: &Value, old: &Value) -> Vec<FieldError> {
    let balancer = &service["status"]["loadBalancer"];
    if text(&service["spec"], "type") != "LoadBalancer" && !list(balancer, "ingress").is_empty() {
        let path = FieldPath::new("status.loadBalancer.ingress");
        return vec![FieldError::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'")];
    }
    ingress::load_balancer(service, old, |out, path, entry| {
        let (mode, path, addressed) = (text(entry, "ipMode"), path.child("ipMode"), !text(entry, "ip").is_empty());
        match has(entry, "ipMode") {
            false if addressed => out.push(FieldError::required(&path, "must be specified when `ip` is set")),
            true if !addressed => {
                out.push(FieldError::forbidden(&path, "may not be specified when `ip` is not set"));
            }
            true => format::one_of(out, &path, mode, &["Proxy", "VIP"]),
            false => {}
        }
    })
}

impl Strategy for ServiceStrategy {
    fn default(&self, service: &mut Value) {
        if let Some(spec) = service.get_mut("spec").filter(|s| s.is_object()) {
            defaults(spec);
        }
        if text(&service["spec"], "type") == "LoadBalancer"
            && let Some(balancer) = service.pointer_mut("/status/loadBalancer")
        {
            for entry in list_mut(balancer, "ingress").iter_mut().filter(|entry| !text(entry, "ip").is_empty()) {
                default(entry, "ipMode", "VIP");
            }
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, service: &mut Value) {
        service["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, service: &mut Value, old: &Value) {
        carry_over::drop_of_type(&mut service["spec"], &old["spec"]);
        if text(&service["spec"], "type") != "LoadBalancer" {
            service["status"]["loadBalancer"] = json!({});
        }
    }

    fn validate_create(&self, service: &Value) -> Vec<FieldError> {
        validate::service(service, None)
    }

    fn validate_update(&self, service: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = addresses::validate_update(&service["spec"], &old["spec"]);
        out.extend(validate::service_update(service, old));
        out.extend(validate::service(service, Some(old)));
        out
    }

    fn warnings(&self, service: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::service(service)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        dns1035_label(name)
    }

    fn claims(&self) -> bool {
        true
    }

    fn claim<'a>(
        &'a self,
        ctx: &'a StrategyContext<'a>,
        service: &'a mut Value,
        old: Option<&'a Value>,
        transaction: &'a Transaction,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let claims = claims::claim(&self.allocators, service, old, ctx.dry_run)?;
            claims.add_to(service, old, transaction).await
        })
    }

    fn release<'a>(&'a self, service: &'a Value, transaction: &'a Transaction) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(free(&self.allocators, service, ServiceClaims::of(service), Vec::new(), transaction))
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
        check(json!({"externalIPs": ["192.0.2.1"]}), "/externalTrafficPolicy", "Cluster".into());
        check(json!({"type": "Other"}), "/internalTrafficPolicy", Value::Null);
        check(json!({"type": "ExternalName"}), "/internalTrafficPolicy", Value::Null);
    }

    #[test]
    fn a_status_is_of_a_load_balancer() {
        let check = |kind: &str, entry: Value, old: Value| -> Vec<String> {
            let service =
                |entry: Value| json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [entry]}}});
            validate_status(&service(entry), &service(old)).iter().map(ToString::to_string).collect()
        };
        let path = "status.loadBalancer.ingress";
        for (kind, entry, fault) in [
            ("LoadBalancer", json!({"ip": "192.0.2.1", "ipMode": "VIP"}), ""),
            ("LoadBalancer", json!({"hostname": "a.example"}), ""),
            (
                "ClusterIP",
                json!({"hostname": "a.example"}),
                ": Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
            ),
            (
                "LoadBalancer",
                json!({"ip": "192.0.2.1"}),
                "[0].ipMode: Required value: must be specified when `ip` is set",
            ),
            (
                "LoadBalancer",
                json!({"ipMode": "VIP"}),
                "[0].ipMode: Forbidden: may not be specified when `ip` is not set",
            ),
            (
                "LoadBalancer",
                json!({"ip": "192.0.2.1", "ipMode": "x"}),
                "[0].ipMode: Unsupported value: \"x\": supported values: \"Proxy\", \"VIP\"",
            ),
            (
                "LoadBalancer",
                json!({"hostname": "192.0.2.1"}),
                "[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
            ),
        ] {
            let expected: Vec<String> = (!fault.is_empty()).then(|| format!("{path}{fault}")).into_iter().collect();
            assert_eq!(check(kind, entry, json!({})), expected);
        }
        let odd = json!({"ip": "x", "ipMode": "VIP"});
        assert_eq!(
            (check("LoadBalancer", odd.clone(), json!({})).len(), check("LoadBalancer", odd.clone(), odd).len()),
            (1, 0)
        );
    }
}
