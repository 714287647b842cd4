//! `MutatingAdmissionWebhook`: webhooks are asked one after the other, each sees what those before it have made; those that
//! want to are asked once more where a later one has changed something.

use std::time::Instant;

use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_schema::patch;

use super::call::{Failure, Shown};
use super::hook::Hook;
use super::review::Verdict;
use super::{Shared, is_exempt};
use crate::admission::matching::Candidate;
use crate::admission::memory::Memory;

const NAME: &str = "MutatingAdmissionWebhook";
const KIND: &str = "admit";

pub(in super::super) struct MutatingAdmissionWebhook(pub(in super::super) Shared);

impl AdmissionPlugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, step: Step, _: Operation) -> bool {
        step == Step::Admit
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let hooks = self.0.view.mutating.all.load_full();
        if hooks.is_empty() || is_exempt(request) {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            let mut memory = Memory::recall(request, NAME, object.as_deref());
            let again = request.reinvocation.is_again();
            let candidate = Candidate::new(request, &self.0.namespaces);
            let mut object = object;
            for (index, hook) in hooks.iter().enumerate() {
                if !memory.is_wanted(request, &hook.id) {
                    continue;
                }
                let shown = self.0.chosen(hook, KIND, &candidate, request, object.as_deref()).await?;
                let Some(shown) = shown else { continue };
                let place = format!("round_{}_index_{index}", u8::from(again));
                let changed = self.ask(hook, request, &shown, object.as_deref_mut(), &place).await?;
                if changed {
                    memory.changed();
                    request.reinvocation.request();
                }
                if hook.reinvoke {
                    memory.has_asked(hook.id.clone());
                }
            }
            memory.keep(request, NAME, object.as_deref());
            Ok(())
        })
    }
}

impl MutatingAdmissionWebhook {
    /// Whether the webhook has changed the object.
    async fn ask(
        &self,
        hook: &Hook,
        request: &AdmissionRequest<'_>,
        shown: &Shown,
        object: Option<&mut Value>,
        place: &str,
    ) -> Result<bool, ApiError> {
        let started = Instant::now();
        let mut result = self.0.call(hook, request, shown, true).await;
        let mut changed = false;
        if let Ok(verdict) = &result
            && !verdict.patch.is_empty()
        {
            match apply(hook, request, shown, verdict, object).await {
                Ok(did) => changed = did,
                Err(failure) => result = Err(failure),
            }
        }
        self.0.metrics.called(hook, KIND, request.operation, started.elapsed(), result.as_ref().err());
        let told = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
        request.audit.annotate(&format!("mutation.webhook.admission.k8s.io/{place}"), &told.to_string());
        match result {
            Ok(_) => Ok(changed),
            Err(Failure::Calling { text, .. }) if hook.ignore_failure => {
                tracing::warn!("failing open: {text}");
                self.0.metrics.failed_open(&hook.name, KIND);
                request.audit.annotate(&format!("failed-open.mutation.webhook.admission.k8s.io/{place}"), &hook.name);
                Ok(false)
            }
            Err(failure) => Err(failure.into_error()),
        }
    }
}

/// Applies a patch to the object as the webhook saw it. Whether anything changed.
async fn apply(
    hook: &Hook,
    request: &AdmissionRequest<'_>,
    shown: &Shown,
    verdict: &Verdict,
    object: Option<&mut Value>,
) -> Result<bool, Failure> {
    let parsed = serde_json::from_slice::<Value>(&verdict.patch);
    let operations = parsed.map_err(|e| e.to_string()).and_then(|patch| match patch {
        Value::Array(_) => Ok(patch),
        other => Err(format!("it is no list of operations: {other}")),
    });
    let operations = operations.map_err(|error| {
        Failure::calling(hook, format!("received undecodable patch in webhook response: {error}"), 503)
    })?;
    if operations.as_array().is_some_and(Vec::is_empty) {
        return Ok(false);
    }
    let internal = |error: &dyn std::fmt::Display| Failure::Internal(ApiError::internal(error));
    let Some(object) = object else {
        let text = format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        );
        return Err(internal(&text));
    };
    if verdict.patch_type != "JSONPatch" {
        return Err(Failure::calling(hook, format!("unsupported patch type {:?}", verdict.patch_type), 400));
    }
    let patched = patch::json::apply(shown.object.clone(), &operations).map_err(|error| internal(&error))?;
    if patched == shown.object {
        return Ok(false);
    }
    let taken = request.taken(patched, &shown.seen.kind, &shown.object).await.map_err(|error| internal(&error))?;
    if taken == *object {
        return Ok(false);
    }
    *object = taken;
    Ok(true)
}
