//! Access that a webhook decides on: it is sent SubjectAccessReviews, and its answers are kept for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kybern_apimachinery::selector::Operator;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::access::{Answer, Attributes, Authorizer, Decision};
use kybern_component_base::Kept;
use kybern_webhook::{Backoff, CallError, Client};

use super::{AccessConditions, AuthorizationMetrics, Mode};

/// How many answers are kept.
const KEPT_MAX: usize = 8192;
/// Questions whose attributes are longer are asked each time, as upstream's: they may be meant to fill memory.
const QUESTION_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AccessWebhookSettings {
    /// Whether the webhook speaks `authorization.k8s.io/v1`; else v1beta1.
    pub v1: bool,
    /// How long permissions are kept.
    pub authorized_ttl: Duration,
    /// How long refusals are kept.
    pub unauthorized_ttl: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Whether nobody may what the webhook cannot be asked about; else the next authorizer is asked.
    pub deny_on_error: bool,
    pub backoff: Backoff,
}

impl Default for AccessWebhookSettings {
    /// As the flags have it.
    fn default() -> Self {
        Self {
            v1: false,
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            deny_on_error: false,
            backoff: Backoff::default(),
        }
    }
}

pub struct AccessWebhook(Arc<Inner>);

struct Inner {
    client: Client,
    settings: AccessWebhookSettings,
    kept: Kept<String, Status>,
    conditions: AccessConditions,
    /// What it is called in metrics.
    name: String,
    metrics: Arc<AuthorizationMetrics>,
}

/// What the webhook says.
#[derive(Clone, Debug, PartialEq)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
}

impl AccessWebhook {
    /// The webhook of the flags.
    pub fn new(client: Client, settings: AccessWebhookSettings, metrics: Arc<AuthorizationMetrics>) -> Self {
        Self::named(Mode::Webhook.usual_name(), client, settings, AccessConditions::default(), metrics)
    }

    /// Asked only about what meets the conditions.
    pub fn named(
        name: &str,
        client: Client,
        settings: AccessWebhookSettings,
        conditions: AccessConditions,
        metrics: Arc<AuthorizationMetrics>,
    ) -> Self {
        let kept = Kept::new(KEPT_MAX);
        Self(Arc::new(Inner { client, settings, kept, conditions, name: name.to_owned(), metrics }))
    }

    /// How many answers are kept.
    pub fn kept(&self) -> usize {
        self.0.kept.len()
    }
}

impl Inner {
    fn failed(&self, text: String) -> Decision {
        Decision::Error { text, deny: self.settings.deny_on_error }
    }

    async fn ask(&self, question: String, keep: bool) -> Decision {
        let version = if self.settings.v1 { "v1" } else { "v1beta1" };
        let body = Bytes::from(format!(
            "{{\"kind\":\"SubjectAccessReview\",\"apiVersion\":\"authorization.k8s.io/{version}\",\"metadata\":{{}},\
             \"spec\":{question},\"status\":{{\"allowed\":false}}}}"
        ));
        let timeout = self.settings.timeout;
        let attempt = || async {
            let started = Instant::now();
            let answer = tokio::time::timeout(timeout, self.client.post(body.clone(), None)).await;
            let answer = answer.unwrap_or_else(|_| Err(self.client.deadline_exceeded()));
            self.metrics.called(&self.name, result(&answer), started.elapsed());
            answer
        };
        let answer = match self.settings.backoff.run(attempt).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!("cannot ask the webhook {:?} who may do what: {error}", self.name);
                if !self.settings.deny_on_error {
                    self.metrics.failed_open(&self.name, outcome(&error));
                }
                return self.failed(error.to_string());
            }
        };
        let answer: Value = match serde_json::from_slice(&answer) {
            Ok(answer) => answer,
            Err(error) => return self.failed(format!("the webhook's answer is no SubjectAccessReview: {error}")),
        };
        if answer["kind"] != "SubjectAccessReview" {
            let kind = &answer["kind"];
            return self.failed(format!("the webhook's answer is no SubjectAccessReview, but of kind {kind}"));
        }
        let status = &answer["status"];
        let status = Status {
            allowed: status["allowed"] == true,
            denied: status["denied"] == true,
            reason: status["reason"].as_str().unwrap_or_default().to_owned(),
        };
        if keep {
            let AccessWebhookSettings { authorized_ttl, unauthorized_ttl, .. } = self.settings;
            let ttl = if status.allowed { authorized_ttl } else { unauthorized_ttl };
            self.kept.put(question, status.clone(), ttl);
        }
        status.decision()
    }
}

/// What metrics call the end of a call.
fn result(answer: &Result<Bytes, CallError>) -> &'static str {
    answer.as_ref().err().map_or("success", outcome)
}

fn outcome(error: &CallError) -> &'static str {
    const GATEWAY_TIMEOUT: u16 = 504;
    if error.is_deadline() || error.code() == Some(GATEWAY_TIMEOUT) { "timeout" } else { "error" }
}

impl Status {
    fn decision(self) -> Decision {
        match (self.denied, self.allowed) {
            (true, true) => {
                let text = "webhook subject access review returned both allow and deny response".to_owned();
                Decision::Error { text, deny: true }
            }
            (true, false) => Decision::Deny(self.reason),
            (false, true) => Decision::Allow(Some(self.reason.into()).filter(|reason: &Arc<str>| !reason.is_empty())),
            (false, false) => Decision::NoOpinion(self.reason),
        }
    }
}

impl Authorizer for AccessWebhook {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        if !self.0.conditions.is_empty() {
            let started = Instant::now();
            let met = self.0.conditions.match_all(&spec(attributes, true));
            self.0.metrics.conditions_met(&self.0.name, &met, started.elapsed());
            match met {
                Ok(true) => {}
                Ok(false) => return Decision::NoOpinion(String::new()).into(),
                Err(error) => return self.0.failed(error).into(),
            }
        }
        let question = spec(attributes, self.0.settings.v1).to_string();
        if let Some(status) = self.0.kept.get(&question) {
            return status.decision().into();
        }
        let a = attributes;
        let parts = [&a.namespace, &a.verb, &a.group, &a.version, &a.resource, &a.subresource, &a.name, &a.path];
        let keep = parts.iter().map(|part| part.len()).sum::<usize>() < QUESTION_MAX;
        Answer::Later(Box::pin(self.0.ask(question, keep)))
    }
}

/// The `spec` of a SubjectAccessReview. v1beta1 calls the user's groups `group`.
pub(crate) fn spec(attributes: &Attributes, v1: bool) -> Value {
    let Attributes { user, .. } = attributes;
    let mut spec = json!({});
    let mut put = |field: &str, value: Value| {
        let empty = match &value {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !empty {
            spec[field] = value;
        }
    };
    put("user", user.name.as_str().into());
    put("uid", user.uid.as_str().into());
    put(if v1 { "groups" } else { "group" }, json!(user.groups));
    put("extra", json!(user.extra));
    if attributes.resource_request {
        spec["resourceAttributes"] = resource_attributes(attributes);
    } else {
        spec["nonResourceAttributes"] = fields(&[("path", &attributes.path), ("verb", &attributes.verb)]);
    }
    spec
}

fn resource_attributes(attributes: &Attributes) -> Value {
    let mut value = fields(&[
        ("namespace", &attributes.namespace),
        ("verb", &attributes.verb),
        ("group", &attributes.group),
        ("version", &attributes.version),
        ("resource", &attributes.resource),
        ("subresource", &attributes.subresource),
        ("name", &attributes.name),
    ]);
    let by_fields = attributes.field_selector.terms.iter().map(
        |(key, value, equal)| json!({"key": key, "operator": if *equal { "In" } else { "NotIn" }, "values": [value]}),
    );
    let by_labels = attributes.label_selector.requirements.iter().filter_map(|requirement| {
        let operator = match requirement.operator {
            Operator::Equals | Operator::In => "In",
            Operator::NotEquals | Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            // Left out, which asks for more than is wanted: the answer can only be stricter.
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let mut value = json!({"key": requirement.key, "operator": operator});
        if !requirement.values.is_empty() {
            value["values"] = json!(requirement.values);
        }
        Some(value)
    });
    for (field, requirements) in
        [("fieldSelector", by_fields.collect::<Vec<_>>()), ("labelSelector", by_labels.collect::<Vec<_>>())]
    {
        if !requirements.is_empty() {
            value[field] = json!({"requirements": requirements});
        }
    }
    value
}

fn fields(pairs: &[(&str, &String)]) -> Value {
    let set = pairs.iter().filter(|(_, value)| !value.is_empty());
    Value::Object(set.map(|(field, value)| ((*field).to_owned(), value.as_str().into())).collect())
}
