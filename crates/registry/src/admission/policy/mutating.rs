//! The plugin `MutatingAdmissionPolicy`: policies change objects one after the other, each sees what those before it have
//! made; those that want to are asked once more where a later one, or a webhook, has changed something.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use kybern_apimachinery::{ApiError, Reason, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};

use super::Shared;
use super::compiled::{FailurePolicy, MutatingPolicy};
use super::conditions::{self, Conditions};
use super::expression::{Authorization, Inputs};
use super::metrics::ConditionsOf;
use super::mutation::{Failure, mutate};
use super::request::RequestVariable;
use super::selection::{Selected, is_excluded, namespace_object, select};
use super::views::{Binding, Policies, Policy};
use crate::admission::authorization::Answers;
use crate::admission::matching::Candidate;
use crate::admission::memory::Memory;

const NAME: &str = "MutatingAdmissionPolicy";

pub(crate) struct MutatingAdmissionPolicy {
    policies: Arc<Policies<MutatingPolicy>>,
    shared: Shared,
}

impl MutatingAdmissionPolicy {
    pub(crate) fn new(policies: Arc<Policies<MutatingPolicy>>, shared: Shared) -> Self {
        Self { policies, shared }
    }
}

impl AdmissionPlugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && matches!(operation, Operation::Create | Operation::Update | Operation::Connect)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let hooks = self.policies.hooks();
        // What goes has nothing to be changed.
        let (Some(object), false) = (object, hooks.is_empty() || request.operation == Operation::Delete) else {
            return Box::pin(async { Ok(()) });
        };
        if is_excluded(request) {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            let objects = self.shared.objects.get()?;
            let candidate = Candidate::new(request, &self.shared.namespaces);
            let (mut refusals, mut chosen) = (Refusals::default(), Vec::new());
            // All are chosen by the object as it came, whatever others make of it.
            for hook in hooks.iter() {
                match select(hook, &candidate, request, Some(object), &*objects).await {
                    Ok(None) => {}
                    Ok(Some(mut selected)) => {
                        for fault in selected.faults.drain(..) {
                            refusals.add(selected.policy, fault.binding, &fault.message, None);
                        }
                        chosen.push(selected);
                    }
                    Err(fault) => refusals.add(&hook.policy, None, &fault.message, None),
                }
            }
            if chosen.iter().any(|selected| !selected.bindings.is_empty()) {
                self.change(request, object, chosen, &mut refusals).await?;
            }
            refusals.verdict(request, object)
        })
    }
}

/// What policies could not do, where failures are not to be ignored; each with its reason.
#[derive(Default)]
struct Refusals(Vec<(String, Option<Reason>)>);

impl Refusals {
    fn add(&mut self, policy: &Policy<MutatingPolicy>, binding: Option<&Binding>, cause: &str, reason: Option<Reason>) {
        if policy.failure == FailurePolicy::Ignore {
            return;
        }
        let message = match binding {
            Some(binding) => {
                format!("policy '{}' with binding '{}' denied request: {cause}", policy.name(), binding.name())
            }
            None => format!("policy {:?} denied request: {cause}", policy.name()),
        };
        self.0.push((message, reason));
    }

    fn verdict(self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError> {
        let Some((first, reason)) = self.0.first() else { return Ok(()) };
        let forbidden = request.forbidden(Some(object), "");
        let mut details = forbidden.details().cloned().unwrap_or_else(|| json!({}));
        details["causes"] = self.0.iter().map(|(message, _)| json!({"message": message})).collect();
        // The code stays that of what is forbidden, as upstream has it.
        let error = ApiError::new(reason.unwrap_or(Reason::Forbidden), first.clone());
        Err(error.with_code(forbidden.code()).with_details(details))
    }
}

impl MutatingAdmissionPolicy {
    async fn change(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        chosen: Vec<Selected<'_, MutatingPolicy>>,
        refusals: &mut Refusals,
    ) -> Result<(), ApiError> {
        let mut memory = Memory::recall(request, NAME, Some(object));
        let namespace = namespace_object(request, &self.shared.namespaces)?;
        let answers = Arc::new(Answers::new(self.shared.authorizer.clone(), request.user.clone()));
        let mut has_run = false;
        for selected in &chosen {
            let compiled = selected.policy.compiled();
            for (binding, params) in &selected.bindings {
                for param in params {
                    let turn = Turn { plugin: self, request, selected, binding, param, namespace: &namespace };
                    match turn.conditions(object, &answers).await? {
                        Conditions::Match => {}
                        Conditions::NoMatch => continue,
                        Conditions::Failed(error) => {
                            refusals.add(selected.policy, Some(binding), &error, Some(Reason::Invalid));
                            continue;
                        }
                    }
                    let key = turn.key();
                    if !memory.is_wanted(request, &key) {
                        continue;
                    }
                    let before = object.clone();
                    has_run |= turn.mutations(object, &answers, refusals).await?;
                    if before != *object {
                        memory.changed();
                        request.reinvocation.request();
                    }
                    if compiled.reinvoke {
                        memory.has_asked(key);
                    }
                }
            }
        }
        if has_run {
            // As upstream: a second run follows whether or not anything is different.
            memory.changed();
            request.reinvocation.request();
        }
        memory.keep(request, NAME, Some(object));
        Ok(())
    }
}

/// One policy, by one binding, with one parameter.
struct Turn<'a> {
    plugin: &'a MutatingAdmissionPolicy,
    request: &'a AdmissionRequest<'a>,
    selected: &'a Selected<'a, MutatingPolicy>,
    binding: &'a Binding,
    param: &'a Value,
    namespace: &'a Value,
}

impl Turn<'_> {
    /// Tells it from all others.
    fn key(&self) -> String {
        let (policy, binding) = (self.selected.policy.name(), self.binding.name());
        format!("{policy}/{binding}/{}/{}", object::namespace(self.param), object::name(self.param))
    }

    async fn shown(&self, object: &Value) -> Result<Value, ApiError> {
        self.request.shown(object, &self.selected.seen.kind).await
    }

    async fn old(&self) -> Result<Value, ApiError> {
        match self.request.old {
            Some(old) => self.shown(old).await,
            None => Ok(Value::Null),
        }
    }

    async fn conditions(&self, object: &Value, answers: &Arc<Answers>) -> Result<Conditions, ApiError> {
        let policy = self.selected.policy.compiled();
        if policy.conditions.is_empty() {
            return Ok(Conditions::Match);
        }
        let (object, old_object) = (self.shown(object).await?, self.old().await?);
        let value = OnceLock::new();
        let authorization = Authorization::of(self.request, answers);
        let inputs = Inputs {
            object: &object,
            old_object: &old_object,
            params: self.param,
            request: RequestVariable { request: self.request, seen: self.selected.seen, value: &value },
            namespace: self.namespace,
            authorizer: Some(&authorization),
        };
        let matched = loop {
            let matched = conditions::evaluate(&policy.conditions, inputs, &policy.variables);
            if !answers.find_out().await {
                break matched;
            }
        };
        let (name, operation) = (self.selected.policy.name(), self.request.operation);
        // Upstream calls it `validate` here, too.
        let of = ConditionsOf { name, kind: "policy", r#type: "validate", operation };
        self.plugin.shared.metrics.matched(of, &matched);
        Ok(match matched.conditions {
            Conditions::Failed(_) if self.selected.policy.failure == FailurePolicy::Ignore => Conditions::NoMatch,
            conditions => conditions,
        })
    }

    /// Whether one of the mutations was carried out.
    async fn mutations(
        &self,
        object: &mut Value,
        answers: &Arc<Answers>,
        refusals: &mut Refusals,
    ) -> Result<bool, ApiError> {
        let Self { request, selected, binding, .. } = self;
        let policy = selected.policy.compiled();
        let old_object = self.old().await?;
        let value = OnceLock::new();
        let authorization = Authorization::of(request, answers);
        let names = (selected.policy.name(), binding.name());
        let metrics = &self.plugin.shared.metrics;
        let mut has_run = false;
        for mutation in &policy.mutations {
            let started = Instant::now();
            let shown = self.shown(object).await?;
            let inputs = Inputs {
                object: &shown,
                old_object: &old_object,
                params: self.param,
                request: RequestVariable { request, seen: selected.seen, value: &value },
                namespace: self.namespace,
                authorizer: Some(&authorization),
            };
            let made = loop {
                let made = mutate(request, &selected.seen.kind, mutation, &policy.variables, inputs);
                if !answers.find_out().await {
                    break made;
                }
                // Others get their turn.
                tokio::task::yield_now().await;
            };
            let taken = match made {
                Ok(Some(made)) => {
                    let taken = request.taken(made, &selected.seen.kind, &shown).await;
                    taken.map(Some).map_err(|error| Failure::Policy(error.message().to_owned()))
                }
                Ok(None) => Ok(None),
                Err(failure) => Err(failure),
            };
            let took = started.elapsed();
            match taken {
                Ok(changed) => {
                    if let Some(changed) = changed {
                        *object = changed;
                    }
                    has_run = true;
                    metrics.mutated(names, None, took);
                }
                Err(Failure::Policy(text)) => {
                    metrics.mutated(names, Some(&text), took);
                    refusals.add(selected.policy, Some(binding), &text, Some(Reason::Invalid));
                }
                Err(Failure::Status(error)) => {
                    metrics.mutated(names, Some(error.message()), took);
                    return Err(error);
                }
            }
        }
        Ok(has_run)
    }
}
