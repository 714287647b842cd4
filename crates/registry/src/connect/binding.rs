//! `pods/binding` and `bindings`: the scheduler's verdict.

use std::sync::Arc;

use http::Response;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{ApiError, GroupKind, GroupResource, Value, json, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};

use super::exchange::{read_object, success};
use crate::tree::{drop_field, list, list_mut, map, text};

pub(super) struct Binding {
    pub(super) clock: Arc<dyn Clock>,
}

impl Connector for Binding {
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let binding = read_object(request.request).await?;
            // The subresource names the pod in its path, the resource in its body.
            let name = if request.name.is_empty() { object::name(&binding) } else { request.name.as_str() };
            validate(&binding, name)?;
            let now = self.clock.now();
            if request.dry_run {
                assign(&mut server.get("", "pods", &request.namespace, name).await?, &binding, now)?;
            } else {
                server.update("", "pods", &request.namespace, name, &|pod| assign(pod, &binding, now)).await?;
            }
            Ok(success())
        })
    }
}

fn validate(binding: &Value, name: &str) -> Result<(), ApiError> {
    let (mut errors, target, path) = (Vec::new(), &binding["target"], FieldPath::new("target"));
    if !matches!(text(target, "kind"), "" | "Node") {
        errors.push(FieldError::not_supported(&path.child("kind"), text(target, "kind"), &["Node", "<empty>"]));
    }
    if text(target, "name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(&GroupKind::new("", "Binding"), name, &errors)) }
}

/// Puts a pod on a node, once.
fn assign(pod: &mut Value, binding: &Value, now: jiff::Timestamp) -> Result<(), ApiError> {
    let name = object::name(pod).to_owned();
    let conflict = |cause: String| Err(ApiError::conflict(&GroupResource::new("", "pods/binding"), &name, &cause));
    let uid = object::uid(binding);
    if !uid.is_empty() && uid != object::uid(pod) {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(pod)
        ));
    }
    if object::is_deleting(pod) {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = object::str_at(pod, &["spec", "nodeName"]);
    if !node.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if !list(&pod["spec"], "schedulingGates").is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    object::set(pod, &["spec", "nodeName"], text(&binding["target"], "name"));
    for field in ["annotations", "labels"] {
        for (key, value) in map(&binding["metadata"], field) {
            object::map_at_mut(pod, &["metadata", field]).insert(key.clone(), value.clone());
        }
    }
    let scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": to_rfc3339(now)});
    let status = &mut pod["status"];
    drop_field(status, "nominatedNodeName");
    match list_mut(status, "conditions").iter_mut().find(|c| text(c, "type") == "PodScheduled") {
        Some(condition) => *condition = scheduled,
        None => {
            let mut conditions = list(status, "conditions").to_vec();
            conditions.push(scheduled);
            status["conditions"] = conditions.into();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_assigned_once() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}});
        let binding = json!({"metadata": {"annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}});
        assign(&mut pod, &binding, now).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        assert_eq!(object::annotation(&pod, "a"), Some("b"));
        let error = assign(&mut pod, &binding, now).unwrap_err();
        assert_eq!(error.code(), 409);
        assert!(error.message().ends_with("pod p is already assigned to node \"n\""), "{error}");
        assert!(validate(&json!({"target": {"kind": "Pod"}}), "p").is_err());
    }
}
