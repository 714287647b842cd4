//! `DefaultTolerationSeconds` and `TaintNodesByCondition`: what keeps pods on a node that is lost for a moment, and off one
//! that is not ready yet.

use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};

use crate::tree::{list, text};

/// How long a pod waits for its node, in seconds.
const TOLERATION_SECONDS: i64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub(super) fn is_pod(request: &AdmissionRequest<'_>, operation: Operation) -> bool {
    let gvr = &request.resource.gvr;
    request.operation == operation && request.subresource.is_empty() && gvr.group.is_empty() && gvr.resource == "pods"
}

pub(super) struct DefaultTolerationSeconds;

impl AdmissionPlugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && matches!(operation, Operation::Create | Operation::Update)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        // An update as written by hand lacks them, and could not take them away.
        if let (Some(pod), true) = (object, is_pod(request, Operation::Create) || is_pod(request, Operation::Update)) {
            tolerate(&mut pod["spec"]);
        }
        Box::pin(async { Ok(()) })
    }
}

fn tolerate(spec: &mut Value) {
    let mut tolerations = list(spec, "tolerations").to_vec();
    let tolerated = |key: &str, all: &[Value]| {
        let covers = |t: &Value| {
            (text(t, "key").is_empty() || text(t, "key") == key) && matches!(text(t, "effect"), "" | "NoExecute")
        };
        all.iter().any(covers)
    };
    let missing: Vec<&str> = [NOT_READY, UNREACHABLE].into_iter().filter(|key| !tolerated(key, &tolerations)).collect();
    if missing.is_empty() {
        return;
    }
    tolerations.extend(missing.iter().map(
        |key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}),
    ));
    spec["tolerations"] = tolerations.into();
}

pub(super) struct TaintNodesByCondition;

impl AdmissionPlugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let gvr = &request.resource.gvr;
        let is_node = gvr.group.is_empty() && gvr.resource == "nodes" && request.subresource.is_empty();
        if let (Some(node), true, Operation::Create) = (object, is_node, request.operation) {
            let mut taints = list(&node["spec"], "taints").to_vec();
            if !taints.iter().any(|t| text(t, "key") == NOT_READY && text(t, "effect") == "NoSchedule") {
                taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
                kybern_apimachinery::object::set(node, &["spec", "taints"], taints);
            }
        }
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_wait_for_their_node() {
        let mut spec = json!({});
        tolerate(&mut spec);
        assert_eq!(list(&spec, "tolerations").len(), 2);
        let before = spec.clone();
        tolerate(&mut spec);
        assert_eq!(spec, before);
        let mut all = json!({"tolerations": [{"operator": "Exists"}]});
        tolerate(&mut all);
        assert_eq!(list(&all, "tolerations").len(), 1);
        let mut other = json!({"tolerations": [{"key": NOT_READY, "operator": "Exists", "effect": "NoSchedule"}]});
        tolerate(&mut other);
        assert_eq!(list(&other, "tolerations").len(), 3);
    }
}
