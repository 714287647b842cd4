//! How long a deleted pod goes on taking requests before it is told to stop.
//!
//! The kubelet and kube-proxy hear of a deletion at the same time. A container that closes its port at once would refuse
//! the requests that kube-proxy still sends it, so a pod behind a Service is stopped a moment after its endpoint is gone.

use std::sync::Arc;
use std::time::Duration;

use kybern_api::core::v1::{Pod, Service};

use super::spec;

/// Ample for the endpoint's way through the EndpointSlice into the kernel.
const DRAIN: Duration = Duration::from_secs(1);

/// The time to hold back the stop signal; nothing for a pod that no Service sends requests to.
pub fn drain_time(pod: &Pod, services: &[Arc<Service>]) -> Duration {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    if ready && services.iter().any(|service| selects(service, pod)) {
        DRAIN.min(spec::grace_period(pod) / 2)
    } else {
        Duration::ZERO
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
    let labels = pod.metadata.labels.as_ref();
    service.metadata.namespace == pod.metadata.namespace
        && selector.is_some_and(|s| s.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_api::Object;
    use serde_json::json;

    #[test]
    fn only_a_ready_pod_behind_a_service_drains() {
        let check = |namespace: &str, selector: serde_json::Value, ready: &str, grace: i64, expect_millis: u128| {
            let service = json!({"metadata": {"name": "s", "namespace": namespace}, "spec": {"selector": selector}});
            let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": "a", "tier": "b"}},
                "spec": {"containers": [], "terminationGracePeriodSeconds": grace},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            let service = Service::from_json(service.to_string().as_bytes()).unwrap();
            let pod = Pod::from_json(pod.to_string().as_bytes()).unwrap();
            assert_eq!(drain_time(&pod, &[Arc::new(service)]).as_millis(), expect_millis);
        };
        check("n", json!({"app": "a"}), "True", 30, 1000);
        check("n", json!({"app": "a"}), "True", 1, 500);
        check("n", json!({"app": "a"}), "False", 30, 0);
        check("n", json!({"app": "a", "tier": "c"}), "True", 30, 0);
        check("other", json!({"app": "a"}), "True", 30, 0);
        check("n", json!({}), "True", 30, 0);
        check("n", json!(null), "True", 30, 0);
    }
}
