//! `pods/eviction`: a deletion that disruption budgets may hold back (`pkg/registry/core/pod/storage/eviction.go`).

use std::sync::Arc;

use http::Response;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{ApiError, GroupKind, GroupResource, Reason, Value, json, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};

use super::exchange::{read_object, success};
use crate::custom::{Condition, set_condition};
use crate::tree::{has, int, list, text};

pub(super) struct Eviction {
    pub(super) clock: Arc<dyn Clock>,
}

/// How often a pod that changes while it is looked at is looked at anew (upstream's `EvictionsRetry`).
const TRIES: u32 = 20;
/// Upstream's `MaxDisruptedPodSize`: so many evictions await that the controller sees them.
const DISRUPTED_MAX: usize = 2000;

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
            let mut options =
                if has(&eviction, "deleteOptions") { eviction["deleteOptions"].clone() } else { json!({}) };
            check_options(&options, name)?;
            // Asked for in the query or in the object: either is enough.
            if request.dry_run {
                options["dryRun"] = json!(["All"]);
            }
            let asked = Asked { server, now: self.clock.now(), namespace, name, options: &options };
            let pod = match asked.let_go().await? {
                None => return Ok(success()),
                Some(pod) => pod,
            };
            let budgets = server.list("policy", "poddisruptionbudgets", namespace).await?;
            let matching: Vec<&Value> = budgets.iter().filter(|b| covers(b, &pod)).collect();
            match matching.as_slice() {
                [] => asked.delete(None).await?,
                // Whether it may go without leave depends on the pod as it was.
                [budget] if !is_ready(&pod) && unready_may_go(budget) => {
                    let changed = |error: ApiError| match error.reason() {
                        Reason::Conflict if asked.revision().is_none() => still_processed(object::name(budget)),
                        _ => error,
                    };
                    asked.delete(Some(object::resource_version(&pod))).await.map_err(changed)?;
                }
                [budget] => {
                    asked.take_from(object::name(budget)).await?;
                    asked.delete(None).await?;
                }
                _ => {
                    let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                    return Err(ApiError::new(Reason::InternalError, text));
                }
            }
            Ok(success())
        })
    }
}

/// One eviction.
struct Asked<'a> {
    server: &'a dyn Objects,
    now: jiff::Timestamp,
    namespace: &'a str,
    name: &'a str,
    options: &'a Value,
}

impl Asked<'_> {
    /// The resourceVersion that the client wants the pod to have.
    fn revision(&self) -> Option<&str> {
        Some(text(&self.options["preconditions"], "resourceVersion")).filter(|version| !version.is_empty())
    }

    fn dry_run(&self) -> bool {
        !list(self.options, "dryRun").is_empty()
    }

    /// Deletes a pod that disrupts nothing. Any other is answered.
    async fn let_go(&self) -> Result<Option<Value>, ApiError> {
        let mut tries = 1;
        loop {
            let pod = self.server.get("", "pods", self.namespace, self.name).await?;
            if needs_leave(&pod) {
                return Ok(Some(pod));
            }
            // One that has not begun could begin, and then disrupt.
            let version = text(&pod["status"], "phase") == "Pending" && !object::is_deleting(&pod);
            match self.delete(version.then(|| object::resource_version(&pod))).await {
                Ok(()) => return Ok(None),
                Err(e) if e.reason() == Reason::Conflict && self.revision().is_none() && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn take_from(&self, budget: &str) -> Result<(), ApiError> {
        let (group, resource) = ("policy", "poddisruptionbudgets");
        let take = |budget: &mut Value| take_disruption(budget, self.name, self.now);
        if self.dry_run() {
            return take(&mut self.server.get(group, resource, self.namespace, budget).await?);
        }
        self.server.update(group, resource, self.namespace, budget, &take).await.map(drop)
    }

    /// Says in the pod's status why it goes, and deletes it; where `version` is given and the client asks for none, only while
    /// the pod has it.
    async fn delete(&self, version: Option<&str>) -> Result<(), ApiError> {
        let (wanted, mut options) = (self.revision().or(version), self.options.clone());
        let uid = text(&self.options["preconditions"], "uid");
        if !self.dry_run() {
            let mark = |pod: &mut Value| {
                check_preconditions(pod, uid, wanted)?;
                let message = "Eviction API: evicting";
                set_condition(
                    pod,
                    &Condition::new("DisruptionTarget", "True", "EvictionByEvictionAPI", message),
                    self.now,
                );
                Ok(())
            };
            let revision = self.server.update("", "pods", self.namespace, self.name, &mark).await?;
            if wanted.is_some() {
                object::set(&mut options, &["preconditions", "resourceVersion"], revision.to_string());
            }
        } else if let Some(version) = wanted {
            object::set(&mut options, &["preconditions", "resourceVersion"], version);
        }
        self.server.delete("", "pods", self.namespace, self.name, options).await.map(drop)
    }
}

fn check_options(options: &Value, name: &str) -> Result<(), ApiError> {
    let field = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if options[field] != true {
        return Ok(());
    }
    let path = FieldPath::new("deleteOptions").child(field);
    let error = FieldError::invalid(&path, true, "can not be set for pod eviction, try after removing the option");
    Err(ApiError::invalid(&GroupKind::new("policy", "Eviction"), name, &[error]))
}

fn check_preconditions(pod: &Value, uid: &str, version: Option<&str>) -> Result<(), ApiError> {
    let conflict = |what: &str, asked: &str, there: &str, cause: &str| {
        let cause = format!(
            "the {what} in the precondition ({asked}) does not match the {what} in record ({there}). The object might have been {cause}"
        );
        Err(ApiError::conflict(&GroupResource::new("", "Pod"), object::name(pod), &cause))
    };
    if !uid.is_empty() && uid != object::uid(pod) {
        return conflict("UID", uid, object::uid(pod), "deleted and then recreated");
    }
    match version {
        Some(version) if version != object::resource_version(pod) => {
            conflict("ResourceVersion", version, object::resource_version(pod), "modified")
        }
        _ => Ok(()),
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
    let (name, status) = (object::name(budget).to_owned(), &budget["status"]);
    let allowed = int(status, "disruptionsAllowed").unwrap_or(0);
    if int(status, "observedGeneration").unwrap_or(0) < object::generation(budget) {
        return Err(still_processed(&name));
    }
    let forbidden =
        |cause| Err(ApiError::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), &name, cause));
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(refusal(&why_none(&name, status), 0));
    }
    if allowed == 1 {
        // Upstream's `UpdateDisruptionAllowedCondition`.
        set_condition(budget, &Condition::new("DisruptionAllowed", "False", "InsufficientPods", ""), now);
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    // The controller sees by this that the pod is on its way out.
    object::map_at_mut(budget, &["status", "disruptedPods"]).insert(pod.to_owned(), to_rfc3339(now).into());
    Ok(())
}

fn why_none(name: &str, status: &Value) -> String {
    let count = |field| int(status, field).unwrap_or(0);
    let (desired, healthy) = (count("desiredHealthy"), count("currentHealthy"));
    let condition = list(status, "conditions").iter().find(|c| text(c, "type") == "DisruptionAllowed");
    let said = condition.filter(|c| text(c, "status") == "False" && !text(c, "message").is_empty());
    let currently = format!("The disruption budget {name} does not allow evicting pods currently");
    match said.map(|c| (text(c, "reason"), text(c, "message"))) {
        Some(("SyncFailed", message)) => format!("{currently} because it failed sync: {message}"),
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some((reason, message)) => format!("{currently} ({reason}): {message}"),
        None => currently,
    }
}

fn still_processed(budget: &str) -> ApiError {
    refusal(&format!("The disruption budget {budget} is still being processed by the server."), 10)
}

fn refusal(cause: &str, seconds: u32) -> ApiError {
    let causes = json!([{"reason": "DisruptionBudget", "message": cause}]);
    let details =
        if seconds > 0 { json!({"causes": causes, "retryAfterSeconds": seconds}) } else { json!({"causes": causes}) };
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
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
        assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
        let error = take_disruption(&mut budget, "q", now).unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (429, "Cannot evict pod as it would violate the pod's disruption budget.")
        );
        let why = |status: Value| why_none("b", &status);
        let said =
            |reason: &str| json!([{"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": "m"}]);
        let enough = |conditions: Value| json!({"currentHealthy": 3, "desiredHealthy": 2, "conditions": conditions});
        assert_eq!(why(json!({})), "The disruption budget b needs 0 healthy pods and has 0 currently");
        assert_eq!(why(enough(json!([]))), "The disruption budget b does not allow evicting pods currently");
        assert!(why(enough(said("SyncFailed"))).ends_with("currently because it failed sync: m"));
        assert!(why(enough(said("Other"))).ends_with("currently (Other): m"));
        assert!(
            !needs_leave(&json!({"status": {"phase": "Pending"}}))
                && needs_leave(&json!({"status": {"phase": "Running"}}))
        );
    }
}
