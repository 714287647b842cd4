//! What upstream accepts in a Service, and warns of (`pkg/api/service/warnings.go`).

use kybern_apimachinery::field::FieldPath;
use kybern_apimachinery::{Value, object};

use super::is_external_name;
use super::validate::TOPOLOGY_HINTS;
use crate::tree::{list, text};
use crate::validation::ip;

pub(super) fn service(service: &Value) -> Vec<String> {
    let (mut out, spec, path) = (Vec::new(), &service["spec"], FieldPath::new("spec"));
    if object::annotation(service, TOPOLOGY_HINTS).is_some() {
        out.push(format!(
            "annotation {TOPOLOGY_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let mut addresses = |field: &str| {
        for (i, address) in list(spec, field).iter().enumerate() {
            out.extend(ip::warn(&path.child(field).index(i), address.as_str().unwrap_or("")));
        }
    };
    if !matches!(text(spec, "clusterIP"), "" | "None") {
        addresses("clusterIPs");
    }
    addresses("externalIPs");
    let balancer = text(spec, "loadBalancerIP");
    out.extend(ip::warn(&path.child("loadBalancerIP"), balancer));
    let external = !list(spec, "externalIPs").is_empty();
    if text(spec, "type") == "ClusterIP" && text(spec, "clusterIP") == "None" {
        for (given, field) in [
            (!balancer.is_empty(), "loadBalancerIP"),
            (external, "externalIPs"),
            (text(spec, "sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if given {
                out.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    for (i, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let path = path.child("loadBalancerSourceRanges").index(i);
        out.extend(ip::warn_cidr(&path, range.as_str().unwrap_or("")));
    }
    if is_external_name(spec) && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_external_name(spec) && !text(spec, "externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn what_has_no_effect_is_told() {
        let warned = |spec: Value| service(&json!({"spec": spec}));
        let headless = json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.1"]});
        assert_eq!(
            warned(headless),
            [
                "spec.externalIPs is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services"
            ]
        );
        assert_eq!(
            warned(json!({"type": "ClusterIP", "externalName": "a"})),
            ["spec.externalName is ignored when spec.type is not \"ExternalName\""]
        );
        assert!(warned(json!({"type": "LoadBalancer", "loadBalancerIP": "010.0.0.1"}))[0].contains("non-standard IP"));
    }
}
