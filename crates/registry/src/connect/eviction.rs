//! `pods/eviction`: a deletion that disruption budgets may hold back (`pkg/registry/core/pod/storage/eviction.go`).

use std::sync::Arc;

use http::Response;
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{ApiError, Value, json, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};

use super::exchange::{read_object, success};
use crate::tree::{has, int, list, text};

pub(super) struct Eviction {
    pub(super) clock: Arc<dyn Clock>,
}

impl Connector for Eviction {
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let eviction = read_object(request.request).await?;
            let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
            if object::name(&eviction) != name {
                return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
            }
            let pod = server.get("", "pods", namespace, name).await?;
            let mut options =
                if has(&eviction, "deleteOptions") { eviction["deleteOptions"].clone() } else { json!({}) };
            // Asked for in the query or in the object: either is enough.
            if request.dry_run {
                options["dryRun"] = json!(["All"]);
            }
            let dry_run = !list(&options, "dryRun").is_empty();
            if needs_leave(&pod) {
                let budgets = server.list("policy", "poddisruptionbudgets", namespace).await?;
                let matching: Vec<&Value> = budgets.iter().filter(|b| covers(b, &pod)).collect();
                match matching.as_slice() {
                    [] => {}
                    [budget] if !is_ready(&pod) && unready_may_go(budget) => {}
                    [budget] => {
                        let budget = object::name(budget).to_owned();
                        let now = self.clock.now();
                        let take = |b: &mut Value| take_disruption(b, name, now);
                        if dry_run {
                            take(&mut server.get("policy", "poddisruptionbudgets", namespace, &budget).await?)?;
                        } else {
                            server.update("policy", "poddisruptionbudgets", namespace, &budget, &take).await?;
                        }
                    }
                    _ => {
                        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                        return Err(ApiError::internal(text));
                    }
                }
            }
            server.delete("", "pods", namespace, name, options).await?;
            Ok(success())
        })
    }
}

/// What has ended, has not begun or is going anyway disrupts nothing.
fn needs_leave(pod: &Value) -> bool {
    !object::is_deleting(pod)
        && !matches!(object::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed" | "Pending")
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = budget["spec"].get("selector").and_then(|s| LabelSelector::from_object(s).ok());
    selector.is_some_and(|s| s.matches_map(object::labels(pod)))
}

fn is_ready(pod: &Value) -> bool {
    list(&pod["status"], "conditions").iter().any(|c| text(c, "type") == "Ready" && text(c, "status") == "True")
}

/// A pod that serves nobody may go when its budget says so, or while enough others are healthy.
fn unready_may_go(budget: &Value) -> bool {
    let (spec, status) = (&budget["spec"], &budget["status"]);
    let healthy = int(status, "currentHealthy").unwrap_or(0);
    let desired = int(status, "desiredHealthy").unwrap_or(0);
    text(spec, "unhealthyPodEvictionPolicy") == "AlwaysAllow" || (desired > 0 && healthy >= desired)
}

/// Counts one disruption against a budget, or refuses with 429.
fn take_disruption(budget: &mut Value, pod: &str, now: jiff::Timestamp) -> Result<(), ApiError> {
    let name = object::name(budget).to_owned();
    let status = &budget["status"];
    let allowed = int(status, "disruptionsAllowed").unwrap_or(0);
    if int(status, "observedGeneration").unwrap_or(0) < object::generation(budget) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refusal("Cannot evict pod as it would violate the pod's disruption budget.", &cause, 10));
    }
    if allowed <= 0 {
        let (desired, healthy) =
            (int(status, "desiredHealthy").unwrap_or(0), int(status, "currentHealthy").unwrap_or(0));
        let cause = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(refusal("Cannot evict pod as it would violate the pod's disruption budget.", &cause, 0));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    // The controller sees by this that the pod is on its way out.
    object::map_at_mut(budget, &["status", "disruptedPods"]).insert(pod.to_owned(), to_rfc3339(now).into());
    Ok(())
}

fn refusal(text: &str, cause: &str, seconds: u32) -> ApiError {
    let causes = json!([{"reason": "DisruptionBudget", "message": cause}]);
    let details =
        if seconds > 0 { json!({"causes": causes, "retryAfterSeconds": seconds}) } else { json!({"causes": causes}) };
    ApiError::too_many_requests(text, seconds).with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut budget = json!({"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}, "status": {"disruptionsAllowed": 1}});
        assert!(covers(&budget, &json!({"metadata": {"labels": {"a": "b"}}})));
        take_disruption(&mut budget, "p", now).unwrap();
        assert_eq!(budget["status"]["disruptedPods"]["p"], "1970-01-01T00:00:00Z");
        let error = take_disruption(&mut budget, "q", now).unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (429, "Cannot evict pod as it would violate the pod's disruption budget.")
        );
        assert!(
            !needs_leave(&json!({"status": {"phase": "Pending"}}))
                && needs_leave(&json!({"status": {"phase": "Running"}}))
        );
    }
}
