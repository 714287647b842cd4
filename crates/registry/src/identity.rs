//! The Lease by which an API server tells that it is there: one for each machine, in `kube-system`, renewed while it runs.
//! Those of servers that are gone for long are removed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use kybern_apimachinery::{ApiError, Reason, Value, json, object, time};
use kybern_apiserver::Server;
use kybern_apiserver::connect::Objects;
use kybern_component_base::uuid;

use crate::tree::{int, text};

const GROUP: &str = "coordination.k8s.io";
const RESOURCE: &str = "leases";
const NAMESPACE: &str = "kube-system";
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";
const DURATION: Duration = Duration::from_secs(3600);
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// Keeps the Lease of a server, which has its name, for as long as the server is there.
pub fn keep(server: &Arc<Server>, lease: String, host: String) {
    tokio::spawn(run(Arc::downgrade(server), lease, host));
}

async fn run(server: Weak<Server>, lease: String, host: String) {
    let holder = format!("{lease}_{}", uuid::v4());
    let (mut renewals, a_duration) = (0u64, DURATION.as_secs() / RENEW_AFTER.as_secs());
    loop {
        let Some(running) = server.upgrade() else { return };
        if let Err(error) = renew(&running, &lease, &holder, &host).await {
            tracing::warn!(%error, lease, "this server's lease is not renewed");
        }
        if renewals.is_multiple_of(a_duration)
            && let Err(error) = remove_expired(&running).await
        {
            tracing::warn!(%error, "the leases of servers that are gone are not removed");
        }
        renewals += 1;
        drop(running);
        tokio::time::sleep(RENEW_AFTER).await;
    }
}

async fn renew(server: &Server, lease: &str, holder: &str, host: &str) -> Result<(), ApiError> {
    let now = time::to_rfc3339_micro(server.now());
    let change = |object: &mut Value| {
        object::set(object, &["metadata", "labels", IDENTITY], COMPONENT);
        object::set(object, &["metadata", "labels", "kubernetes.io/hostname"], host);
        object::set(object, &["spec", "holderIdentity"], holder);
        object::set(object, &["spec", "leaseDurationSeconds"], DURATION.as_secs());
        object::set(object, &["spec", "renewTime"], now.as_str());
        Ok(())
    };
    match server.update(GROUP, RESOURCE, NAMESPACE, lease, &change).await {
        Err(error) if error.reason() == Reason::NotFound => {}
        done => return done.map(drop),
    }
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Lease", "metadata": {"name": lease, "namespace": NAMESPACE},
    });
    change(&mut object)?;
    server.create(GROUP, RESOURCE, object).await.map(|_| ())
}

async fn remove_expired(server: &Server) -> Result<(), ApiError> {
    let now = server.now();
    for lease in server.list(GROUP, RESOURCE, NAMESPACE).await? {
        if object::label(&lease, IDENTITY) != Some(COMPONENT) || !has_expired(&lease, now) {
            continue;
        }
        let options = json!({
            "kind": "DeleteOptions", "apiVersion": "v1",
            "preconditions": {"uid": object::uid(&lease), "resourceVersion": object::resource_version(&lease)},
        });
        match server.delete(GROUP, RESOURCE, NAMESPACE, object::name(&lease), options).await {
            // It was renewed, or somebody was faster.
            Err(error) if !matches!(error.reason(), Reason::NotFound | Reason::Conflict) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// One that says nothing of its time is of nobody.
fn has_expired(lease: &Value, now: jiff::Timestamp) -> bool {
    let renewed = text(&lease["spec"], "renewTime").parse::<jiff::Timestamp>();
    match (renewed, int(&lease["spec"], "leaseDurationSeconds")) {
        (Ok(renewed), Some(seconds)) => renewed.as_second().saturating_add(seconds) < now.as_second(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_as_long_as_it_says() {
        let now: jiff::Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let lease = |renewed: &str| json!({"spec": {"renewTime": renewed, "leaseDurationSeconds": 3600}});
        assert!(!has_expired(&lease("2026-11-28T11:00:00.000000Z"), now));
        assert!(has_expired(&lease("2026-11-28T10:59:59.000000Z"), now));
        assert!(has_expired(&json!({"spec": {}}), now));
    }
}
