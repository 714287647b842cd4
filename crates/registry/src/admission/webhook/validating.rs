//! `ValidatingAdmissionWebhook`: all webhooks that a request is for are asked at once.

use std::time::Instant;

use futures_util::future::join_all;
use kybern_apimachinery::{ApiError, Value};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};

use super::call::Failure;
use super::{Shared, is_exempt};
use crate::admission::matching::Candidate;

const KIND: &str = "validating";

pub(in super::super) struct ValidatingAdmissionWebhook(pub(in super::super) Shared);

impl AdmissionPlugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, step: Step, _: Operation) -> bool {
        step == Step::Validate
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let hooks = self.0.view.validating.all.load_full();
        if hooks.is_empty() || is_exempt(request) {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            let candidate = Candidate::new(request, &self.0.namespaces);
            let mut chosen = Vec::new();
            for hook in hooks.iter() {
                if let Some(shown) = self.0.chosen(hook, KIND, &candidate, request, object).await? {
                    chosen.push((hook, shown));
                }
            }
            let calls = chosen.iter().enumerate().map(|(index, (hook, shown))| async move {
                let started = Instant::now();
                let result = self.0.call(hook, request, shown, false).await;
                self.0.metrics.called(hook, KIND, request.operation, started.elapsed(), result.as_ref().err());
                match result {
                    Err(Failure::Calling { text, .. }) if hook.ignore_failure => {
                        tracing::warn!("failing open: {text}");
                        self.0.metrics.failed_open(&hook.name, KIND);
                        let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                        request.audit.annotate(&key, &hook.name);
                        Ok(())
                    }
                    Err(failure) => Err(failure.into_error()),
                    Ok(_) => Ok(()),
                }
            });
            join_all(calls).await.into_iter().collect()
        })
    }
}
