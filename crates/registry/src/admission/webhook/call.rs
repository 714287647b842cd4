//! Asking one webhook about one request.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kybern_apimachinery::{ApiError, Value};
use kybern_apiserver::admission::{AdmissionRequest, Equivalent};
use kybern_component_base::uuid;
use kybern_webhook::failed_calling;

use super::Shared;
use super::hook::Hook;
use super::review::{self, Verdict};
use crate::admission::authorization::Answers;
use crate::admission::matching::Candidate;
use crate::admission::policy::{
    Authorization, Conditions, ConditionsOf, Inputs, RequestVariable, Variables, evaluate_conditions,
};

/// Why a request does not go on, or the webhook's patch is not applied.
#[derive(Debug)]
pub(super) enum Failure {
    /// The webhook could not be asked, or its answer is none. The code is for the metrics.
    Calling { text: String, code: u16 },
    /// It said no.
    Rejected(ApiError),
    /// It is this server's to say no.
    Internal(ApiError),
}

impl Failure {
    pub(super) fn calling(hook: &Hook, cause: impl std::fmt::Display, code: u16) -> Self {
        Self::Calling { text: failed_calling(&hook.name, cause), code }
    }

    /// The answer to the client, where failures are not ignored.
    pub(super) fn into_error(self) -> ApiError {
        match self {
            Self::Calling { text, .. } => ApiError::internal(text),
            Self::Rejected(error) | Self::Internal(error) => error,
        }
    }
}

/// An object and the old one as a webhook sees them; null where there is none.
pub(super) struct Shown {
    pub(super) seen: Equivalent,
    pub(super) object: Value,
    pub(super) old: Value,
}

impl Shown {
    pub(super) async fn new(
        request: &AdmissionRequest<'_>,
        seen: Equivalent,
        object: Option<&Value>,
    ) -> Result<Self, ApiError> {
        let show = async |object: Option<&Value>| match object {
            Some(object) => request.shown(object, &seen.kind).await,
            None => Ok(Value::Null),
        };
        let (object, old) = (show(object).await?, show(request.old).await?);
        Ok(Self { seen, object, old })
    }
}

impl Shared {
    /// As what a webhook is to see the request; `None` where it is not to be asked.
    pub(super) async fn chosen(
        &self,
        hook: &Hook,
        kind: &'static str,
        candidate: &Candidate<'_>,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Shown>, ApiError> {
        let Some(seen) = candidate.matches(&hook.criteria, object)? else { return Ok(None) };
        let shown = Shown::new(request, seen.clone(), object).await?;
        if hook.conditions.is_empty() {
            return Ok(Some(shown));
        }
        let answers = Arc::new(Answers::new(self.authorizer.clone(), request.user.clone()));
        let (value, authorization) = (OnceLock::new(), Authorization::of(request, &answers));
        let inputs = Inputs {
            object: &shown.object,
            old_object: &shown.old,
            params: &Value::Null,
            request: RequestVariable { request, seen: &shown.seen, value: &value },
            namespace: &Value::Null,
            authorizer: Some(&authorization),
        };
        let none = Variables::default();
        let matched = loop {
            let matched = evaluate_conditions(&hook.conditions, inputs, &none);
            if !answers.find_out().await {
                break matched;
            }
        };
        let of = ConditionsOf { name: &hook.name, kind: "webhook", r#type: kind, operation: request.operation };
        self.policy_metrics.matched(of, &matched);
        match matched.conditions {
            Conditions::Match => Ok(Some(shown)),
            Conditions::NoMatch => Ok(None),
            Conditions::Failed(_) if hook.ignore_failure => Ok(None),
            Conditions::Failed(error) => {
                let resource = request.resource.gvr.group_resource();
                Err(ApiError::forbidden(&resource, request.name, &error))
            }
        }
    }

    /// What the webhook says; a refusal is a failure.
    pub(super) async fn call(
        &self,
        hook: &Hook,
        request: &AdmissionRequest<'_>,
        shown: &Shown,
        mutating: bool,
    ) -> Result<Verdict, Failure> {
        if request.dry_run && !hook.dry_run {
            let text = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Internal(ApiError::bad_request(text)));
        }
        let version = review::version(&hook.review_versions)
            .map_err(|error| Failure::calling(hook, format!("could not create admission objects: {error}"), 400))?;
        let client = hook
            .client(&self.clients)
            .map_err(|error| Failure::calling(hook, format!("could not get REST client: {error}"), 500))?;
        let uid = uuid::v4();
        let body = review::request(version, &uid, request, &shown.seen, &shown.object, &shown.old);
        let answer = client.post(Bytes::from(body.to_string()), Some(hook.timeout)).await;
        let answer = answer.map_err(|error| {
            let code = error.code().unwrap_or(503);
            Failure::calling(hook, format!("failed to call webhook: {error}"), code)
        })?;
        let verdict = review::response(version, &uid, mutating, &answer);
        let verdict = verdict.map_err(|error| Failure::calling(hook, review::invalid(error), 503))?;
        for (key, value) in &verdict.annotations {
            request.audit.annotate(&format!("{}/{key}", hook.name), value);
        }
        for warning in &verdict.warnings {
            request.warnings.add(warning.clone());
        }
        if verdict.allowed { Ok(verdict) } else { Err(Failure::Rejected(review::denial(&hook.name, &verdict.result))) }
    }
}
