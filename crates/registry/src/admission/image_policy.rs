//! `ImagePolicyWebhook`: a server of the administrator's says which images pods may run. Off by default.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kybern_apimachinery::{ApiError, Map, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_component_base::Kept;
use kybern_webhook::{Backoff, Client};

use crate::tree::{int, list, map, text};

const REVIEW: &str = "imagepolicy.k8s.io/v1alpha1";
const AUDIT: &str = "imagepolicywebhook.image-policy.k8s.io";
/// How many answers are kept.
const KEPT_MAX: usize = 1024;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the plugin was told.
pub(super) struct ImagePolicy {
    client: Client,
    /// How long answers are kept: permissions, and refusals.
    lifetimes: [Duration; 2],
    backoff: Backoff,
    default_allow: bool,
}

impl std::fmt::Debug for ImagePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImagePolicy").field("url", &self.client.url()).finish_non_exhaustive()
    }
}

impl ImagePolicy {
    /// Of a configuration, `imagePolicy` in it.
    pub(super) fn parse(configuration: &Value) -> Result<Self, String> {
        let own = &configuration["imagePolicy"];
        let within = |field: &str, unit: Duration, most: Duration, default: Duration| match int(own, field).unwrap_or(0)
        {
            -1 => Ok(Duration::ZERO),
            0 => Ok(default),
            given => {
                let time = u32::try_from(given).ok().and_then(|given| unit.checked_mul(given));
                time.filter(|time| (unit..=most).contains(time)).ok_or_else(|| {
                    format!(
                        "imagePolicy.{field}: valid value is between {unit:?} and {most:?}, got {given} times {unit:?}"
                    )
                })
            }
        };
        let (second, half_hour) = (Duration::from_secs(1), Duration::from_secs(1800));
        let initial =
            within("retryBackoff", Duration::from_millis(1), Duration::from_secs(300), Duration::from_millis(500))?;
        let lifetimes = [
            within("allowTTL", second, half_hour, Duration::from_secs(300))?,
            within("denyTTL", second, half_hour, Duration::from_secs(30))?,
        ];
        let client = Client::from_kubeconfig(Path::new(text(own, "kubeConfigFile")), "kube-apiserver");
        let client = client.map_err(|error| format!("imagePolicy.kubeConfigFile: {error}"))?;
        let backoff = Backoff { initial, ..Backoff::default() };
        Ok(Self { client, lifetimes, backoff, default_allow: own["defaultAllow"] == true })
    }
}

pub(super) struct ImagePolicyWebhook {
    policy: Arc<ImagePolicy>,
    /// `status` by what was asked.
    kept: Kept<String, Arc<Value>>,
}

impl ImagePolicyWebhook {
    pub(super) fn new(policy: Arc<ImagePolicy>) -> Self {
        Self { policy, kept: Kept::new(KEPT_MAX) }
    }

    async fn ask(&self, spec: &Value) -> Result<Arc<Value>, String> {
        let question = spec.to_string();
        if let Some(status) = self.kept.get(&question) {
            return Ok(status);
        }
        let review = json!({"kind": "ImageReview", "apiVersion": REVIEW, "metadata": {"creationTimestamp": null}, "spec": spec, "status": {"allowed": false}});
        let (client, body) = (&self.policy.client, Bytes::from(review.to_string()));
        let answer = self.policy.backoff.run(|| client.post(body.clone(), None));
        let answer = tokio::time::timeout(TIMEOUT, answer).await;
        let answer = answer.map_err(|_| client.deadline_exceeded().to_string())?.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|error| format!("it is no JSON: {error}"))?;
        let (version, kind) = (text(&answer, "apiVersion"), text(&answer, "kind"));
        if (version, kind) != (REVIEW, "ImageReview") {
            return Err(format!("no kind {kind:?} is registered for version {version:?}"));
        }
        let status = Arc::new(answer["status"].take());
        self.kept.put(question, status.clone(), self.policy.lifetimes[usize::from(status["allowed"] != true)]);
        Ok(status)
    }

    /// Why the pod may not be.
    async fn judge(&self, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), String> {
        let fields: &[&str] = match request.subresource {
            "" => &["containers", "initContainers"],
            _ => &["ephemeralContainers"],
        };
        let containers = fields.iter().flat_map(|field| list(&pod["spec"], field));
        let images = containers.map(|container| json!({"image": text(container, "image")})).collect::<Vec<_>>();
        let annotations = map(&pod["metadata"], "annotations").filter(|(key, _)| key.contains(".image-policy.k8s.io/"));
        let annotations: Map<String, Value> = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut spec = json!({"containers": images, "namespace": request.namespace});
        if !annotations.is_empty() {
            spec["annotations"] = annotations.into();
        }
        let status = match self.ask(&spec).await {
            Ok(status) => status,
            Err(error) if self.policy.default_allow => {
                tracing::warn!(
                    "{} is let through: the image policy webhook could not be asked: {error}",
                    object::name(pod)
                );
                request.audit.annotate(&format!("{AUDIT}/failed-open"), "true");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (key, value) in map(&status, "auditAnnotations") {
            request.audit.annotate(&format!("{AUDIT}/{key}"), value.as_str().unwrap_or(""));
        }
        match (status["allowed"] == true, text(&status, "reason")) {
            (true, _) => Ok(()),
            (false, "") => Err("one or more images rejected by webhook backend".to_owned()),
            (false, reason) => Err(format!("image policy webhook backend denied one or more images: {reason}")),
        }
    }
}

impl AdmissionPlugin for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let gvr = &request.resource.gvr;
        let is_pod = gvr.group.is_empty() && gvr.resource == "pods";
        let looked_at = is_pod && matches!(request.subresource, "" | "ephemeralcontainers");
        Box::pin(async move {
            let Some(pod) = object.filter(|_| looked_at) else { return Ok(()) };
            self.judge(request, pod).await.map_err(|cause| request.forbidden(object, &cause))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_told() {
        let wrong = |own: Value, expect: &str| {
            let error = ImagePolicy::parse(&json!({"imagePolicy": own})).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        wrong(json!({"allowTTL": 1801}), "imagePolicy.allowTTL: valid value is between 1s and 1800s");
        wrong(json!({"denyTTL": -2}), "imagePolicy.denyTTL: valid value");
        wrong(json!({"retryBackoff": 300_001}), "imagePolicy.retryBackoff: valid value");
        wrong(json!({"kubeConfigFile": "/nonexistent"}), "imagePolicy.kubeConfigFile: cannot read /nonexistent");
    }
}
