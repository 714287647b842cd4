//! `PodSecurity`: pods keep to the level of their namespace; who makes them, or makes a level stricter, is warned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::ObjectsSlot;
use kybern_pod_security::{
    Configuration, Decision, Level, LevelVersion, PREFIX, Policy, Subject, decide, exempt_namespace_warning,
    is_significant_update, warnings_about,
};

use super::namespaces::NamespaceObjects;
use super::pod_security_metrics::PodSecurityMetrics;

/// How long the pods of a namespace are looked at.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct PodSecurity {
    pub(super) namespaces: Arc<NamespaceObjects>,
    pub(super) objects: ObjectsSlot,
    pub(super) configuration: Configuration,
    pub(super) metrics: Arc<PodSecurityMetrics>,
}

/// Where a kind has the template of the pods that it makes.
fn template(group: &str, resource: &str) -> Option<&'static str> {
    Some(match (group, resource) {
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers") | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") => {
            "/spec/template"
        }
        ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    })
}

/// What of a pod concerns no level.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

impl PodSecurity {
    /// A pod or a template.
    fn judge(&self, request: &AdmissionRequest<'_>, object: &Value, path: Option<&str>) -> Result<(), ApiError> {
        let Some(pod) = object.pointer(path.unwrap_or("")).filter(|pod| !pod.is_null()) else { return Ok(()) };
        if path.is_none()
            && let (Operation::Update, Some(old)) = (request.operation, request.old)
            && !is_significant_update(object, old)
        {
            return Ok(());
        }
        let Some(namespace) = self.namespaces.get(request.namespace) else {
            if path.is_none() {
                self.metrics.error(request, true);
                return Err(ApiError::internal(format!("failed to lookup namespace {:?}", request.namespace)));
            }
            return Ok(());
        };
        let subject = Subject {
            user: &request.user.name,
            namespace: request.namespace,
            metadata: &pod["metadata"],
            spec: &pod["spec"],
            is_pod: path.is_none(),
        };
        let decision = decide(&subject, &namespace, &self.configuration);
        self.metrics.decided(request, &decision);
        tell(request, &decision);
        match decision.refusal {
            Some(cause) => Err(request.forbidden(Some(object), &cause)),
            None => Ok(()),
        }
    }

    /// A namespace, the labels of which must be right where they change.
    fn labelled(&self, request: &AdmissionRequest<'_>, namespace: &Value) -> Result<Option<LevelVersion>, ApiError> {
        let defaults = &self.configuration.defaults;
        let (policy, errors) = Policy::of(namespace, defaults);
        let (before, old_errors) = match (request.operation, request.old) {
            (Operation::Update, Some(old)) => Policy::of(old, defaults),
            _ => (policy, Vec::new()),
        };
        let texts = |errors: &[_]| errors.iter().map(ToString::to_string).collect::<Vec<String>>();
        if !errors.is_empty() && (old_errors.is_empty() || texts(&errors) != texts(&old_errors)) {
            return Err(ApiError::invalid(&request.kind.group_kind(), object::name(namespace), &errors));
        }
        let stricter = policy.enforce != before.enforce
            && policy.enforce.level != Level::Privileged
            && (policy.enforce.version != before.enforce.version || policy.enforce.level > before.enforce.level);
        if request.operation == Operation::Update && !stricter {
            return Ok(None);
        }
        if self.configuration.namespaces.iter().any(|exempt| exempt == object::name(namespace)) {
            let warning = exempt_namespace_warning(namespace, &policy, &self.configuration);
            warning.into_iter().for_each(|text| request.warnings.add(text));
            return Ok(None);
        }
        Ok((request.operation == Operation::Update).then_some(policy.enforce))
    }

    async fn check(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let Some(object) = object.filter(|_| writes) else { return Ok(()) };
        let gvr = &request.resource.gvr;
        match (gvr.group.as_str(), gvr.resource.as_str(), request.subresource) {
            ("", "pods", subresource) if IGNORED.contains(&subresource) => Ok(()),
            ("", "pods", _) => self.judge(request, object, None),
            ("", "namespaces", "") => {
                let Some(enforced) = self.labelled(request, object)? else { return Ok(()) };
                let name = object::name(object);
                let late = Instant::now() + PATIENCE;
                let told = match self.objects.get()?.list("", "pods", name).await {
                    Ok(pods) => warnings_about(name, &pods, enforced, &self.configuration, || Instant::now() > late),
                    Err(_) => vec!["failed to list pods while checking new PodSecurity enforce level".to_owned()],
                };
                told.into_iter().for_each(|text| request.warnings.add(text));
                Ok(())
            }
            (group, resource, "") => match template(group, resource) {
                Some(path) => self.judge(request, object, Some(path)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn tell(request: &AdmissionRequest<'_>, decision: &Decision) {
    decision.warnings.iter().for_each(|text| request.warnings.add(text.clone()));
    for (key, value) in &decision.annotations {
        request.audit.annotate(&format!("{PREFIX}{key}"), value);
    }
}

impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(self.check(request, object))
    }
}
