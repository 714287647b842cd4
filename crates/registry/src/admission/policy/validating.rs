//! The plugin `ValidatingAdmissionPolicy`.

use std::sync::{Arc, OnceLock};

use kybern_apimachinery::{ApiError, Reason, Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Equivalent, Operation, Step};
use kybern_apiserver::connect::Objects;

use super::Shared;
use super::compiled::{FailurePolicy, ValidatingPolicy};
use super::conditions;
use super::decision::{Decisions, Denial, decide};
use super::expression::{Authorization, Inputs};
use super::metrics::ConditionsOf;
use super::request::RequestVariable;
use super::selection::{Fault, Selected, is_excluded, namespace_object, select};
use super::views::{Binding, Policies, Policy};
use crate::admission::authorization::Answers;
use crate::admission::matching::Candidate;
use crate::tree::list;

/// Longer values of audit annotations are cut.
const MAX_ANNOTATION: usize = 10 * 1024;
const NULL: Value = Value::Null;

pub(crate) struct ValidatingAdmissionPolicy {
    policies: Arc<Policies<ValidatingPolicy>>,
    shared: Shared,
}

impl ValidatingAdmissionPolicy {
    pub(crate) fn new(policies: Arc<Policies<ValidatingPolicy>>, shared: Shared) -> Self {
        Self { policies, shared }
    }
}

impl AdmissionPlugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, step: Step, _: Operation) -> bool {
        step == Step::Validate
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let hooks = self.policies.hooks();
        if hooks.is_empty() || is_excluded(request) {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            let objects = self.shared.objects.get()?;
            let mut review = Review::new(&self.shared, request, object, &*objects);
            let candidate = Candidate::new(request, &self.shared.namespaces);
            for hook in hooks.iter() {
                match select(hook, &candidate, request, object, review.objects).await {
                    Ok(None) => {}
                    Ok(Some(selected)) => review.ask(selected).await?,
                    Err(fault) => review.misconfigured(&hook.policy, &fault),
                }
            }
            review.verdict()
        })
    }
}

/// The judging of one request.
struct Review<'a> {
    shared: &'a Shared,
    request: &'a AdmissionRequest<'a>,
    object: Option<&'a Value>,
    objects: &'a dyn Objects,
    answers: Arc<Answers>,
    /// What `authorizer` is.
    authorization: Authorization,
    /// As what policies have seen the request so far.
    shown: Vec<Shown>,
    namespace: Option<Value>,
    /// Messages, with their reasons.
    denied: Vec<(String, String)>,
}

/// The objects in a version that was asked for.
struct Shown {
    seen: Equivalent,
    object: Value,
    old: Value,
    /// `request`.
    request: OnceLock<Value>,
}

impl<'a> Review<'a> {
    fn new(
        shared: &'a Shared,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
        objects: &'a dyn Objects,
    ) -> Self {
        let answers = Arc::new(Answers::new(shared.authorizer.clone(), request.user.clone()));
        let authorization = Authorization::of(request, &answers);
        let (shown, denied) = (Vec::new(), Vec::new());
        Self { shared, request, object, objects, answers, authorization, shown, namespace: None, denied }
    }

    fn misconfigured(&mut self, policy: &Policy<ValidatingPolicy>, fault: &Fault<'_>) {
        if policy.failure == FailurePolicy::Fail {
            self.deny(policy, fault.binding, &fault.message, "");
        }
    }

    fn deny(&mut self, policy: &Policy<ValidatingPolicy>, binding: Option<&Binding>, cause: &str, reason: &str) {
        let policy = policy.name();
        let by = binding.map_or(String::new(), |binding| format!(" with binding '{}'", binding.name()));
        let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {cause}");
        self.denied.push((message, reason.to_owned()));
    }

    async fn ask(&mut self, selected: Selected<'_, ValidatingPolicy>) -> Result<(), ApiError> {
        let policy = selected.policy;
        for fault in &selected.faults {
            self.misconfigured(policy, fault);
        }
        if self.namespace.is_none() {
            self.namespace = Some(namespace_object(self.request, &self.shared.namespaces)?);
        }
        let mut annotations: Vec<(String, Vec<String>)> = Vec::new();
        for (binding, params) in &selected.bindings {
            for param in params {
                let decisions = match self.evaluate(&selected, param).await {
                    Ok(decisions) => decisions,
                    Err(error) => {
                        let error = format!("failed to convert object version: {}", error.message());
                        self.misconfigured(policy, &Fault::new(Some(binding), &error));
                        break;
                    }
                };
                self.act(policy, binding, decisions, &mut annotations);
            }
        }
        for (key, values) in annotations {
            self.request.audit.annotate(&format!("{}/{key}", policy.name()), &values.join(", "));
        }
        Ok(())
    }

    /// The index of what is shown of the request as an equivalent.
    async fn show(&mut self, seen: &Equivalent) -> Result<usize, ApiError> {
        if let Some(index) = self.shown.iter().position(|shown| shown.seen == *seen) {
            return Ok(index);
        }
        let mut shown = [Value::Null, Value::Null];
        for (to, from) in shown.iter_mut().zip([self.object, self.request.old]) {
            if let Some(from) = from {
                *to = self.request.shown(from, &seen.kind).await?;
            }
        }
        let [object, old] = shown;
        self.shown.push(Shown { seen: seen.clone(), object, old, request: OnceLock::new() });
        Ok(self.shown.len() - 1)
    }

    async fn evaluate(
        &mut self,
        selected: &Selected<'_, ValidatingPolicy>,
        param: &Value,
    ) -> Result<Decisions, ApiError> {
        let index = self.show(selected.seen).await?;
        let request = self.request;
        let policy = selected.policy.compiled();
        loop {
            let shown = &self.shown[index];
            let inputs = Inputs {
                object: &shown.object,
                old_object: &shown.old,
                params: param,
                request: RequestVariable { request, seen: &shown.seen, value: &shown.request },
                namespace: self.namespace.as_ref().unwrap_or(&NULL),
                authorizer: Some(&self.authorization),
            };
            let matched = conditions::evaluate(&policy.conditions, inputs, &policy.variables);
            let decisions = decide(policy, &matched.conditions, inputs).await;
            if self.answers.find_out().await {
                continue;
            }
            if !policy.conditions.is_empty() {
                let (name, operation) = (selected.policy.name(), request.operation);
                let of = ConditionsOf { name, kind: "policy", r#type: "validate", operation };
                self.shared.metrics.matched(of, &matched);
            }
            return Ok(decisions);
        }
    }

    fn act(
        &mut self,
        policy: &Policy<ValidatingPolicy>,
        binding: &Binding,
        decisions: Decisions,
        annotations: &mut Vec<(String, Vec<String>)>,
    ) {
        let actions = list(&binding.object["spec"], "validationActions");
        let names = (policy.name(), binding.name());
        let metrics = &self.shared.metrics;
        let count = |denial: &Denial, action| metrics.validated(names, Some(&denial.message), action, denial.took);
        for ignored in &decisions.ignored {
            count(ignored, "allow");
        }
        for (index, denial) in decisions.denials {
            for action in actions.iter().filter_map(Value::as_str) {
                match action {
                    "Deny" => {
                        self.deny(policy, Some(binding), &denial.message, &denial.reason);
                        count(&denial, "deny");
                    }
                    "Audit" => {
                        let key = "validation.policy.admission.k8s.io/validation_failure";
                        self.request.audit.annotate(key, &failure(&denial.message, names, actions, index));
                        count(&denial, "audit");
                    }
                    "Warn" => {
                        let (policy, binding) = names;
                        self.request.warnings.add(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {}",
                            denial.message
                        ));
                        count(&denial, "warn");
                    }
                    _ => {}
                }
            }
        }
        for error in decisions.annotation_errors {
            self.deny(policy, Some(binding), &error.message, "");
            count(&error, "deny");
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
fn failure(message: &str, (policy, binding): (&str, &str), actions: &[Value], index: usize) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let whole = format!(
        r#"[{{"message":{},"policy":{},"binding":{},"expressionIndex":{index},"validationActions":{}}}]"#,
        quoted(message),
        quoted(policy),
        quoted(binding),
        Value::from(actions.to_vec()),
    );
    // As Go writes JSON.
    whole.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
