//! The plugin `ValidatingAdmissionPolicy`.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Gvk, Gvr, Reason, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::Authorizer;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest};
use kybern_apiserver::connect::{Objects, ObjectsSlot};

use super::compiled::FailurePolicy;
use super::decision::{Decisions, Denial, decide};
use super::expression::{Authorization, Inputs};
use super::matching::{self, Subject};
use super::params;
use super::request::{namespace_value, request_value};
use super::views::{Hook, NamespaceObjects, ValidatingPolicies};
use crate::admission::authorization::Answers;
use crate::tree::list;

/// Reviews are asked about everything else: to judge them by policies may break the cluster.
const EXCLUDED: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];
/// Longer values of audit annotations are cut.
const MAX_ANNOTATION: usize = 10 * 1024;
const NULL: Value = Value::Null;

pub(crate) struct ValidatingAdmissionPolicy {
    policies: Arc<ValidatingPolicies>,
    namespaces: Arc<NamespaceObjects>,
    objects: ObjectsSlot,
    authorizer: Arc<dyn Authorizer>,
}

impl ValidatingAdmissionPolicy {
    pub(crate) fn new(
        policies: Arc<ValidatingPolicies>,
        namespaces: Arc<NamespaceObjects>,
        objects: ObjectsSlot,
        authorizer: Arc<dyn Authorizer>,
    ) -> Self {
        Self { policies, namespaces, objects, authorizer }
    }
}

impl AdmissionPlugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let hooks = self.policies.hooks();
        let resource = (request.resource.gvr.group.as_str(), request.resource.gvr.resource.as_str());
        if hooks.is_empty() || EXCLUDED.contains(&resource) {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            let objects = self.objects.get()?;
            let mut review = Review::new(self, request, object, &*objects);
            for hook in hooks.iter() {
                review.hook(hook).await?;
            }
            review.verdict()
        })
    }
}

/// The judging of one request.
struct Review<'a> {
    plugin: &'a ValidatingAdmissionPolicy,
    request: &'a AdmissionRequest<'a>,
    object: Option<&'a Value>,
    objects: &'a dyn Objects,
    equivalents: Vec<(Gvr, Gvk)>,
    answers: Arc<Answers>,
    /// The objects in the versions that were asked for.
    shown: Vec<(Gvk, Value, Value)>,
    namespace: Option<Value>,
    /// Messages, with their reasons.
    denied: Vec<(String, String)>,
}

impl<'a> Review<'a> {
    fn new(
        plugin: &'a ValidatingAdmissionPolicy,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
        objects: &'a dyn Objects,
    ) -> Self {
        let equivalents = request.equivalents().into_iter().map(|e| (e.resource, e.kind)).collect();
        let answers = Arc::new(Answers::new(plugin.authorizer.clone(), request.user.clone()));
        let (shown, denied) = (Vec::new(), Vec::new());
        Self { plugin, request, object, objects, equivalents, answers, shown, namespace: None, denied }
    }

    fn matches(&self, resources: &Value) -> Result<Option<(Gvr, Gvk)>, String> {
        let request = self.request;
        let subject = Subject {
            operation: request.operation.as_str(),
            subresource: request.subresource,
            namespace: request.namespace,
            name: request.name,
            object: self.object,
            old: request.old,
            equivalents: &self.equivalents,
        };
        let labels = |name: &str| {
            let namespace = self.plugin.namespaces.get(name)?;
            Some(object::labels(&namespace).map_or_else(|| json!({}), |labels| Value::Object(labels.clone())))
        };
        matching::matches(resources, &subject, &labels)
    }

    fn misconfigured(&mut self, hook: &Hook, binding: Option<&Value>, error: &str) {
        if FailurePolicy::of(&hook.policy.object["spec"]) == FailurePolicy::Ignore {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        let denial = Denial { message: format!("failed to configure {what}: {error}"), reason: String::new() };
        self.deny(hook, binding, denial);
    }

    fn deny(&mut self, hook: &Hook, binding: Option<&Value>, denial: Denial) {
        let policy = object::name(&hook.policy.object);
        let by = binding.map_or(String::new(), |binding| format!(" with binding '{}'", object::name(binding)));
        let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {}", denial.message);
        self.denied.push((message, denial.reason));
    }

    async fn hook(&mut self, hook: &Hook) -> Result<(), ApiError> {
        let spec = &hook.policy.object["spec"];
        let (resource, kind) = match self.matches(&spec["matchConstraints"]) {
            Err(error) => {
                self.misconfigured(hook, None, &error);
                return Ok(());
            }
            Ok(None) => return Ok(()),
            Ok(Some(found)) => found,
        };
        let param_kind = params::kind(spec);
        let place = param_kind.as_ref().and_then(|kind| self.objects.place(kind));
        if let (Some(kind), None) = (&param_kind, &place) {
            let error = format!("failed to find resource referenced by paramKind: '{}'", params::shown(kind));
            self.misconfigured(hook, None, &error);
            return Ok(());
        }
        let mut annotations: Vec<(String, Vec<String>)> = Vec::new();
        for binding in &hook.bindings {
            let resources = &binding["spec"]["matchResources"];
            if !resources.is_null() {
                match self.matches(resources) {
                    Err(error) => {
                        self.misconfigured(hook, Some(binding), &error);
                        continue;
                    }
                    Ok(None) => continue,
                    Ok(Some(_)) => {}
                }
            }
            let reference = &binding["spec"]["paramRef"];
            let within = self.request.namespace;
            let params = params::collect(self.objects, param_kind.as_ref(), place.as_ref(), reference, within).await;
            let params = match params {
                Ok(params) => params,
                Err(error) => {
                    self.misconfigured(hook, Some(binding), &error);
                    continue;
                }
            };
            for param in &params {
                let decisions = match self.evaluate(hook, &resource, &kind, param).await {
                    Ok(decisions) => decisions,
                    Err(error) => {
                        let error = format!("failed to convert object version: {}", error.message());
                        self.misconfigured(hook, Some(binding), &error);
                        break;
                    }
                };
                self.act(hook, binding, decisions, &mut annotations);
            }
        }
        for (key, values) in annotations {
            let key = format!("{}/{key}", object::name(&hook.policy.object));
            self.request.audit.annotate(&key, &values.join(", "));
        }
        Ok(())
    }

    /// The index of the objects in the version of a kind.
    async fn show(&mut self, kind: &Gvk) -> Result<usize, ApiError> {
        if let Some(index) = self.shown.iter().position(|(shown, ..)| shown == kind) {
            return Ok(index);
        }
        let mut shown = [Value::Null, Value::Null];
        for (to, from) in shown.iter_mut().zip([self.object, self.request.old]) {
            if let Some(from) = from {
                *to = self.request.shown(from, kind).await?;
            }
        }
        let [object, old] = shown;
        self.shown.push((kind.clone(), object, old));
        Ok(self.shown.len() - 1)
    }

    fn namespace(&mut self) -> &Value {
        let request = self.request;
        let is_namespace = request.kind.group.is_empty() && request.kind.kind == "Namespace";
        self.namespace.get_or_insert_with(|| {
            let name = if is_namespace { "" } else { request.namespace };
            self.plugin.namespaces.get(name).map_or(Value::Null, |namespace| namespace_value(&namespace))
        })
    }

    async fn evaluate(
        &mut self,
        hook: &Hook,
        resource: &Gvr,
        kind: &Gvk,
        param: &Value,
    ) -> Result<Decisions, ApiError> {
        let index = self.show(kind).await?;
        self.namespace();
        let request = self.request;
        let value = request_value(request, request.name, resource, kind);
        let own = &request.resource.gvr;
        let authorization = Authorization {
            authorizer: self.answers.clone(),
            group: own.group.clone(),
            resource: own.resource.clone(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.to_owned(),
        };
        let policy = hook.policy.compiled();
        loop {
            let (_, object, old_object) = &self.shown[index];
            let inputs = Inputs {
                object,
                old_object,
                params: param,
                request: &value,
                namespace: self.namespace.as_ref().unwrap_or(&NULL),
                authorizer: Some(&authorization),
            };
            let decisions = decide(policy, inputs).await;
            if !self.answers.find_out().await {
                return Ok(decisions);
            }
        }
    }

    fn act(
        &mut self,
        hook: &Hook,
        binding: &Value,
        decisions: Decisions,
        annotations: &mut Vec<(String, Vec<String>)>,
    ) {
        let actions = list(&binding["spec"], "validationActions");
        let (policy, bound) = (object::name(&hook.policy.object), object::name(binding));
        for (index, denial) in decisions.denials {
            for action in actions.iter().filter_map(Value::as_str) {
                match action {
                    "Deny" => self.deny(hook, Some(binding), denial.clone()),
                    "Audit" => {
                        let key = "validation.policy.admission.k8s.io/validation_failure";
                        self.request.audit.annotate(key, &failure(&denial.message, policy, binding, index));
                    }
                    "Warn" => self.request.warnings.add(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{bound}': {}",
                        denial.message
                    )),
                    _ => {}
                }
            }
        }
        for error in decisions.annotation_errors {
            self.deny(hook, Some(binding), Denial { message: error, reason: String::new() });
        }
        for (key, mut value) in decisions.annotations {
            if value.len() > MAX_ANNOTATION {
                value.truncate((0..=MAX_ANNOTATION).rev().find(|i| value.is_char_boundary(*i)).unwrap_or(0));
            }
            match annotations.iter_mut().find(|(known, _)| *known == key) {
                None => annotations.push((key, vec![value])),
                Some((_, values)) if values.contains(&value) => {}
                Some((_, values)) => values.push(value),
            }
        }
    }

    fn verdict(self) -> Result<(), ApiError> {
        let Some((message, reason)) = self.denied.into_iter().next() else { return Ok(()) };
        let forbidden = self.request.forbidden(self.object.or(self.request.old), &message);
        let mut details = forbidden.details().cloned().unwrap_or_else(|| json!({}));
        details["causes"] = json!([{"message": message}]);
        let reason = if reason.is_empty() { Reason::Invalid } else { Reason::parse(&reason) };
        Err(ApiError::new(reason, forbidden.message()).with_details(details))
    }
}

/// What is annotated of a failure, with the fields in upstream's order.
fn failure(message: &str, policy: &str, binding: &Value, index: usize) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let whole = format!(
        r#"[{{"message":{},"policy":{},"binding":{},"expressionIndex":{index},"validationActions":{}}}]"#,
        quoted(message),
        quoted(policy),
        quoted(object::name(binding)),
        Value::from(list(&binding["spec"], "validationActions").to_vec()),
    );
    // As Go writes JSON.
    whole.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
