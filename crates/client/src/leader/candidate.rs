//! The LeaseCandidate by which somebody stands for election (`k8s.io/client-go/tools/leaderelection`, `NewCandidate`).

use std::time::Duration;

use kybern_api::Object;
use kybern_api::coordination::v1beta1::{LeaseCandidate, LeaseCandidateSpec};
use kybern_api::meta::v1::MicroTime;
use tracing::info;

use super::LeaseConfig;
use crate::{Client, ClientError, Informer, ListOptions};

/// So often a candidate says unasked that it is there.
const RENEWAL: Duration = Duration::from_secs(300);

/// Stands for election while it is polled: for ever. Does nothing where nobody elects.
pub(super) async fn stand(client: &Client, config: &LeaseConfig) {
    let Some(version) = &config.coordinated else { return std::future::pending().await };
    let options = ListOptions::fields(format!("metadata.name={}", config.identity));
    let store = Informer::<LeaseCandidate>::new(client.clone(), options).in_namespace(&config.namespace).spawn();
    let key = format!("{}/{}", config.namespace, config.identity);
    loop {
        match say(client, config, version).await {
            Ok(said) => {
                // Asked after that, or taken off the list. What was said comes back first.
                let asked = store.wait_until(|store| {
                    store.resource_version() >= said && store.get(&key).is_none_or(|seen| is_asked(&seen))
                });
                let _ = tokio::time::timeout(RENEWAL, asked).await;
            }
            Err(error) => {
                info!(lease = config.name, "cannot stand for election: {error}");
                tokio::time::sleep(config.retry_period).await;
            }
        }
    }
}

fn is_asked(candidate: &LeaseCandidate) -> bool {
    let spec = candidate.spec.as_ref();
    spec.is_some_and(|spec| spec.ping_time.is_some() && spec.ping_time > spec.renew_time)
}

/// Answers the version that the candidate has then.
async fn say(client: &Client, config: &LeaseConfig, version: &str) -> Result<u64, ClientError> {
    let said = renew(client, config, version).await?;
    Ok(said.resource_version().parse().unwrap_or(0))
}

async fn renew(client: &Client, config: &LeaseConfig, version: &str) -> Result<LeaseCandidate, ClientError> {
    let now = Some(MicroTime(client.clock().now()));
    match client.get::<LeaseCandidate>(&config.namespace, &config.identity).await {
        Ok(mut present) => {
            present.spec.get_or_insert_default().renew_time = now;
            client.update(&present).await
        }
        Err(error) if error.is_not_found() => {
            let mut new = LeaseCandidate {
                spec: Some(LeaseCandidateSpec {
                    lease_name: config.name.clone(),
                    binary_version: version.to_owned(),
                    emulation_version: Some(version.to_owned()),
                    strategy: "OldestEmulationVersion".to_owned(),
                    renew_time: now,
                    ping_time: None,
                }),
                ..LeaseCandidate::default()
            };
            new.metadata.name = Some(config.identity.clone());
            new.metadata.namespace = Some(config.namespace.clone());
            client.create(&new).await
        }
        Err(error) => Err(error),
    }
}
