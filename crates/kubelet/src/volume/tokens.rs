//! Service-account tokens for projected volumes: bound to the pod, renewed at 80 % of their life
//! (`pkg/kubelet/token`).

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Pod, ServiceAccountTokenProjection};
use kybern_apimachinery::{Gvr, json};
use kybern_client::Client;

use super::payload::{Tokens, token_projections};
use crate::pod::spec;

const DEFAULT_SECONDS: i64 = 3600;
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

type Key = (String, i64);

struct Issued {
    token: String,
    renew_at: Timestamp,
    expires: Timestamp,
}

/// The tokens of one pod. Never printed.
#[derive(Default)]
pub struct PodTokens(BTreeMap<Key, Issued>);

fn key(projection: &ServiceAccountTokenProjection) -> Key {
    let seconds = projection.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    (projection.audience.clone().unwrap_or_default(), seconds)
}

impl Tokens for PodTokens {
    fn token(&self, projection: &ServiceAccountTokenProjection) -> Option<String> {
        self.0.get(&key(projection)).map(|issued| issued.token.clone())
    }
}

impl PodTokens {
    /// When the first of them is to be renewed.
    pub fn renew_at(&self) -> Option<Timestamp> {
        self.0.values().map(|issued| issued.renew_at).min()
    }

    /// Gets what is missing and renews what is old. A token that still lives survives a failure to renew it.
    pub async fn refresh(&mut self, client: &Client, pod: &Pod, now: Timestamp) -> Result<(), String> {
        for projection in token_projections(pod) {
            let key = key(projection);
            if self.0.get(&key).is_some_and(|issued| issued.renew_at > now) {
                continue;
            }
            match request(client, pod, &key, now).await {
                Ok(issued) => {
                    self.0.insert(key, issued);
                }
                Err(cause) => match self.0.get_mut(&key) {
                    Some(old) if old.expires > now => {
                        old.renew_at = now + SignedDuration::from_secs(10);
                        tracing::warn!(pod = %spec::full_name(pod), %cause, "cannot renew a service-account token");
                    }
                    _ => return Err(format!("failed to fetch token: {cause}")),
                },
            }
        }
        Ok(())
    }
}

async fn request(client: &Client, pod: &Pod, (audience, seconds): &Key, now: Timestamp) -> Result<Issued, String> {
    let account = spec::spec(pod).service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let audiences: Vec<&str> = if audience.is_empty() { vec![] } else { vec![audience] };
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences, "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": spec::name(pod), "uid": spec::uid(pod)},
        },
    });
    let accounts = client.raw(&Gvr::new("", "v1", "serviceaccounts"));
    let answer =
        accounts.create_subresource(spec::namespace(pod), account, "token", &body).await.map_err(|e| e.to_string())?;
    let text = |name: &str| answer["status"][name].as_str().map(str::to_owned);
    let token = text("token").ok_or("the API server answered without a token")?;
    let expires = text("expirationTimestamp").and_then(|t| kybern_apimachinery::time::parse_rfc3339(&t));
    let expires = expires.unwrap_or(now + SignedDuration::from_secs(*seconds));
    let life = expires.duration_since(now);
    let renew_at = now + (life * 4 / 5).min(MAX_AGE);
    Ok(Issued { token, renew_at, expires })
}
