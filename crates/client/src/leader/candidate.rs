//! The LeaseCandidate by which somebody stands for election (`k8s.io/client-go/tools/leaderelection`, `NewCandidate`).

use std::time::Duration;

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
        let wait = match say(client, config, version).await {
            Ok(()) => RENEWAL,
            Err(error) => {
                info!(lease = config.name, "cannot stand for election: {error}");
                config.retry_period
            }
        };
        // Asked for after the last answer, or taken off the list.
        let asked = store.wait_until(|store| store.is_synced() && store.get(&key).is_none_or(|seen| is_asked(&seen)));
        let asked = async {
            // What was just said comes back first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            asked.await;
        };
        let _ = tokio::time::timeout(wait, asked).await;
    }
}

fn is_asked(candidate: &LeaseCandidate) -> bool {
    let spec = candidate.spec.as_ref();
    spec.is_some_and(|spec| spec.ping_time.is_some() && spec.ping_time > spec.renew_time)
}

async fn say(client: &Client, config: &LeaseConfig, version: &str) -> Result<(), ClientError> {
    let now = Some(MicroTime(client.clock().now()));
    match client.get::<LeaseCandidate>(&config.namespace, &config.identity).await {
        Ok(mut present) => {
            present.spec.get_or_insert_default().renew_time = now;
            client.update(&present).await.map(drop)
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
            client.create(&new).await.map(drop)
        }
        Err(error) => Err(error),
    }
}
