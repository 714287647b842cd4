//! What claims on volumes and on devices use, and Services (`pkg/quota/v1/evaluator/core`).

use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::tree::{flag, has, int, list, text};
use kybern_apimachinery::{Value, object};

use crate::amounts::{Amounts, number, one};

const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
const OF_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// As many devices as one claim can be given, upstream's `AllocationResultsMaxSize`.
const MOST_DEVICES: i64 = 32;

pub(crate) fn is_of_claims(name: &str) -> bool {
    let resource = name.split_once(OF_CLASS).map_or(name, |(_, resource)| resource);
    name == "count/persistentvolumeclaims" || matches!(resource, "persistentvolumeclaims" | "requests.storage")
}

pub(crate) fn of_claim(claim: &Value) -> Amounts {
    let class = object::annotation(claim, CLASS_ANNOTATION).unwrap_or_else(|| text(&claim["spec"], "storageClassName"));
    let mut used = Amounts::new();
    let mut both = |resource: &str, amount: Quantity| {
        used.insert(resource.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{OF_CLASS}{resource}"), amount);
        }
    };
    both("persistentvolumeclaims", one());
    if let Some(size) = size(claim) {
        both("requests.storage", size);
    }
    used.insert("count/persistentvolumeclaims".to_owned(), one());
    used
}

/// What a claim asks for, or has been given if that is more; whole bytes.
fn size(claim: &Value) -> Option<Quantity> {
    let asked = Quantity::of(claim.pointer("/spec/resources/requests/storage")?)?.rounded_up();
    let given = claim.pointer("/status/allocatedResources/storage").and_then(Quantity::of);
    Some(given.filter(|given| *given > asked).map_or(asked, Quantity::rounded_up))
}

pub(crate) fn is_of_device_claims(name: &str) -> bool {
    name == "count/resourceclaims.resource.k8s.io" || name.ends_with(OF_DEVICE_CLASS)
}

fn devices(request: &Value) -> (String, Quantity) {
    let count = match text(request, "allocationMode") {
        "ExactCount" => int(request, "count").unwrap_or(0),
        "All" => MOST_DEVICES,
        _ => 0,
    };
    (format!("{}{OF_DEVICE_CLASS}", text(request, "deviceClassName")), number(count))
}

/// Of alternatives the one that takes the most of a class counts.
pub(crate) fn of_device_claim(claim: &Value) -> Amounts {
    let mut used = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), one())]);
    for request in list(&claim["spec"]["devices"], "requests") {
        let mut most = Amounts::new();
        let alternatives = list(request, "firstAvailable");
        if alternatives.is_empty() && has(request, "exactly") {
            most.extend([devices(&request["exactly"])]);
        }
        for (class, count) in alternatives.iter().map(devices).filter(|(_, count)| !count.is_zero()) {
            crate::amounts::raise(&mut most, &Amounts::from([(class, count)]));
        }
        crate::amounts::add(&mut used, &most);
    }
    used
}

pub(crate) const OF_SERVICES: [&str; 4] =
    ["count/services", "services", "services.nodeports", "services.loadbalancers"];

pub(crate) fn of_service(service: &Value) -> Amounts {
    let (spec, kind) = (&service["spec"], text(&service["spec"], "type"));
    let ports = list(spec, "ports");
    // They are not given yet: what is wanted counts.
    let allocates = !has(spec, "allocateLoadBalancerNodePorts") || flag(spec, "allocateLoadBalancerNodePorts");
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => ports.iter().filter(|port| int(port, "nodePort").unwrap_or(0) != 0).count(),
        _ => 0,
    };
    let counts = [1, 1, i64::try_from(node_ports).unwrap_or(i64::MAX), i64::from(kind == "LoadBalancer")];
    OF_SERVICES.iter().map(|name| (*name).to_owned()).zip(counts.map(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::to_json;
    use kybern_apimachinery::json;

    #[test]
    fn claims_of_volumes() {
        let mut claim = json!({"metadata": {}, "spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1.5"}}}});
        let used = json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "2",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "gold.storageclass.storage.k8s.io/requests.storage": "2"});
        assert_eq!(to_json(&of_claim(&claim)), used);
        claim["status"] = json!({"allocatedResources": {"storage": "5"}});
        claim["metadata"] = json!({"annotations": {CLASS_ANNOTATION: "old"}});
        assert_eq!(to_json(&of_claim(&claim))["old.storageclass.storage.k8s.io/requests.storage"], "5");
        assert!(is_of_claims("gold.storageclass.storage.k8s.io/requests.storage"));
        assert!(!is_of_claims("gold.storageclass.storage.k8s.io/requests.cpu"));
        assert!(!is_of_claims("count/persistentvolumes"));
    }

    #[test]
    fn claims_of_devices() {
        let exactly = |count: i64| json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count});
        let all = json!({"deviceClassName": "tpu", "allocationMode": "All"});
        let requests = json!([{"exactly": exactly(2)}, {"firstAvailable": [exactly(3), exactly(1), all]}, {"exactly": {"deviceClassName": "x", "allocationMode": "New"}}]);
        let claim = json!({"spec": {"devices": {"requests": requests}}});
        let used = json!({"count/resourceclaims.resource.k8s.io": "1", "gpu.deviceclass.resource.k8s.io/devices": "5",
            "tpu.deviceclass.resource.k8s.io/devices": "32", "x.deviceclass.resource.k8s.io/devices": "0"});
        assert_eq!(to_json(&of_device_claim(&claim)), used);
    }

    #[test]
    fn services() {
        let check = |spec: Value, node_ports: &str, balancers: &str| {
            let used = to_json(&of_service(&json!({"spec": spec})));
            assert_eq!(
                (&used["services.nodeports"], &used["services.loadbalancers"]),
                (&json!(node_ports), &json!(balancers))
            );
            assert_eq!((&used["services"], &used["count/services"]), (&json!("1"), &json!("1")));
        };
        let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
        check(json!({"type": "ClusterIP", "ports": ports}), "0", "0");
        check(json!({"type": "NodePort", "ports": ports}), "2", "0");
        check(json!({"type": "LoadBalancer", "ports": ports}), "2", "1");
        check(json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}), "1", "1");
    }
}
