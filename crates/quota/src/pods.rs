//! What pods use (`pkg/quota/v1/evaluator/core/pods.go`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kybern_apimachinery::tree::{list, text};
use kybern_apimachinery::validation::{is_extended_resource, is_native_resource};
use kybern_apimachinery::{Value, object, time};

use crate::amounts::{Amounts, add, amounts, one};
use crate::resources::{is_set_for_pod, pod_limits, pod_requests};

const COUNT: &str = "count/pods";

const NAMES: [&str; 11] = [
    COUNT,
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// What every container must ask for where a quota bounds it. Nothing new joins it.
const REQUIRED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

pub(crate) fn is_counted(name: &str) -> bool {
    NAMES.contains(&name)
        || name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-")
        || (!is_native_resource(name) && name.starts_with("requests."))
}

/// What requests and limits are to a quota, the pod itself included.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), one())]);
    for (name, amount) in requests {
        let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if standard || name.starts_with("hugepages-") {
            used.insert(name.clone(), *amount);
        }
        if standard || name.starts_with("hugepages-") || is_extended_resource(name) {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        used.extend(limits.get(name).map(|amount| (format!("limits.{name}"), *amount)));
    }
    used
}

/// A pod that has ended uses nothing but its place in the store; one that ought to be gone, neither.
fn is_running(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(&pod["status"], "phase"), "Failed" | "Succeeded") {
        return false;
    }
    let grace = object::at(pod, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let deletion = time::parse_rfc3339(object::str_at(pod, &["metadata", "deletionTimestamp"]));
    match (deletion, grace) {
        (Some(at), Some(grace)) => now <= at.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX),
        _ => true,
    }
}

pub(crate) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([(COUNT.to_owned(), one())]);
    if is_running(pod, now) {
        add(&mut used, &compute(&pod_requests(pod, true), &pod_limits(pod, true)));
    }
    used
}

/// What is missing of what a quota that bounds `required` wants every container to say.
pub(crate) fn constraints(required: &[&str], pod: &Value) -> Result<(), String> {
    if is_set_for_pod(pod) {
        return Ok(());
    }
    let required: Vec<&str> = required.iter().copied().filter(|name| REQUIRED.contains(name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|field| list(&pod["spec"], field)) {
        let resources = &container["resources"];
        let said = compute(&amounts(resources, "requests"), &amounts(resources, "limits"));
        for name in required.iter().filter(|name| !said.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(container, "name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let texts = missing
        .iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(",")));
    Err(format!("must specify {}", texts.collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::to_json;
    use kybern_apimachinery::json;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn names() {
        for name in ["pods", "count/pods", "hugepages-2Mi", "requests.hugepages-2Mi", "requests.nvidia.com/gpu"] {
            assert!(is_counted(name), "{name}");
        }
        for name in ["services", "nvidia.com/gpu", "limits.nvidia.com/gpu", "requests.storage", "count/pods.x"] {
            assert!(!is_counted(name), "{name}");
        }
    }

    #[test]
    fn what_a_pod_uses() {
        let resources = json!({"requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi"},
            "limits": {"cpu": "2", "nvidia.com/gpu": "2"}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": resources}]}});
        let used = json!({"count/pods": "1", "pods": "1", "cpu": "1", "memory": "1Gi", "requests.cpu": "1", "requests.memory": "1Gi",
            "limits.cpu": "2", "requests.nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi"});
        assert_eq!(to_json(&usage(&pod, now())), used);
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(to_json(&usage(&pod, now())), json!({"count/pods": "1"}));
        pod["status"] = json!({"phase": "Running"});
        pod["metadata"] = json!({"deletionTimestamp": "2025-12-31T23:59:40Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(to_json(&usage(&pod, now())), used, "it has time until 00:00:10");
        pod["metadata"]["deletionTimestamp"] = "2025-12-31T23:59:29Z".into();
        assert_eq!(to_json(&usage(&pod, now())), json!({"count/pods": "1"}));
    }

    #[test]
    fn containers_must_say_what_is_bounded() {
        let cpu = json!({"requests": {"cpu": "1"}});
        let mut pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}, {"name": "c", "resources": cpu}],
            "initContainers": [{"name": "i"}]}});
        let text = constraints(&["pods", "requests.cpu", "limits.memory", "requests.ephemeral-storage"], &pod);
        assert_eq!(text, Err("must specify limits.memory for: a,b,c,i; requests.cpu for: a,b,i".to_owned()));
        assert_eq!(constraints(&["pods"], &pod), Ok(()));
        pod["spec"]["resources"] = json!({"limits": {"cpu": "1"}});
        assert_eq!(constraints(&["requests.cpu"], &pod), Ok(()));
    }
}
