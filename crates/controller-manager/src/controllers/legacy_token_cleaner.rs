//! `legacy-serviceaccount-token-cleaner`: tokens in Secrets that were made for an account and that nobody has used for long are
//! first marked as invalid, and deleted after as long again (`legacy_serviceaccount_token_cleaner.go`).

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kybern_api::Object;
use kybern_api::core::v1::{Pod, Secret};
use kybern_apimachinery::{Value, json};
use kybern_auth::token::{INVALID_SINCE, LAST_USED};
use kybern_client::{DeleteOptions, Patch};

use super::service_account_tokens::{account_of, refers_to};
use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// Since when the API server notes the use of tokens.
pub(crate) const TRACKING: &str = "metadata.name=kube-apiserver-legacy-service-account-token-tracking";
const TRACKING_KEY: &str = "kube-system/kube-apiserver-legacy-service-account-token-tracking";
/// Days are counted, not hours.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 3600);

pub struct LegacyTokenCleaner {
    pub period: Duration,
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

impl Controller for LegacyTokenCleaner {
    fn name(&self) -> &'static str {
        "legacy-serviceaccount-token-cleaner-controller"
    }

    fn account(&self) -> &'static str {
        "legacy-service-account-token-cleaner"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.token_secrets);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(secret) = snapshot.token_secrets.get(key).filter(|secret| !secret.is_deleting()) else {
            return Plan::idle();
        };
        let ops = self.judge(&secret, snapshot, context.now).into_iter().collect();
        let mut plan = Plan::of(ops);
        plan.requeue(LOOK_AGAIN);
        plan
    }
}

impl LegacyTokenCleaner {
    fn judge(&self, secret: &Secret, snapshot: &Snapshot, now: Timestamp) -> Option<Op> {
        let period = SignedDuration::try_from(self.period).ok()?;
        let since = snapshot.token_tracking.get(TRACKING_KEY)?.data.as_ref()?.get("since")?.parse::<Date>().ok()?;
        // The first whole day.
        let tracked = since.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let oldest = now.checked_sub(period).ok()?;
        let created = secret.metadata.creation_timestamp.as_ref()?.0;
        if oldest < tracked || created >= oldest {
            return None;
        }
        let label = |key: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        // Without the label it was not used since that is noted; what is no day tells nothing.
        if let Some(used) = label(LAST_USED)
            && used.parse::<Date>().ok()? >= day(oldest)
        {
            return None;
        }
        // Only what was made for an account goes: others were made by somebody who may want them.
        let account = account_of(secret, snapshot)?;
        if !refers_to(&account, secret.name()) || is_mounted(secret, snapshot) {
            return None;
        }
        match label(INVALID_SINCE).and_then(|since| since.parse::<Date>().ok()) {
            None => {
                let labels = json!({INVALID_SINCE: day(now).to_string()});
                let patch = json!({"metadata": {"uid": secret.uid(), "labels": labels}});
                Some(Op::patch(secret, Patch::Merge(patch)))
            }
            Some(since) if since >= day(oldest) => None,
            Some(_) => {
                let options = DeleteOptions {
                    resource_version: Some(secret.resource_version().to_owned()),
                    ..DeleteOptions::default()
                };
                Some(Op::Delete {
                    gvr: Secret::gvr(),
                    namespace: secret.namespace().to_owned(),
                    name: secret.name().to_owned(),
                    options,
                    announce: None,
                })
            }
        }
    }
}

fn is_mounted(secret: &Secret, snapshot: &Snapshot) -> bool {
    let names = |pod: &Pod| {
        let pod = serde_json::from_slice::<Value>(&pod.to_json()).unwrap_or_default();
        names(&pod["spec"], secret.name())
    };
    snapshot.pods.list_in(secret.namespace()).iter().any(|pod| names(pod))
}

/// Whether something in a pod's spec names a Secret (`VisitPodSecretNames`).
fn names(spec: &Value, secret: &str) -> bool {
    match spec {
        Value::Object(fields) => fields.iter().any(|(key, value)| match key.as_str() {
            "secretName" => value == secret,
            "imagePullSecrets" => value.as_array().into_iter().flatten().any(|one| one["name"] == secret),
            "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" if value["name"] == secret => true,
            _ => names(value, secret),
        }),
        Value::Array(list) => list.iter().any(|one| names(one, secret)),
        _ => false,
    }
}
