//! The add-ons that make a bare cluster useful: cluster DNS and kube-proxy, as ordinary objects in `kube-system` that users see
//! and operate with kubectl, and a default StorageClass. The names, labels and ConfigMap keys are kubeadm's.

mod coredns;
mod kube_proxy;
mod local_path;
mod metrics;

use std::time::Duration;

use kybern_apimachinery::{Gvr, Reason, Value, json, object};
use kybern_client::{Client, ClientError, Patch};

/// Owns the fields that an add-on's manifest sets.
const FIELD_MANAGER: &str = "kybern-addons";
/// What failed is tried again this much later, doubling up to the maximum.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What the manifests depend on.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The image that holds this very program.
    pub(crate) image: String,
    /// Where kube-proxy finds the API server: an address that is no Service's.
    pub(crate) api_server: String,
    pub(crate) cluster_domain: String,
    pub(crate) cluster_cidr: String,
    pub(crate) dns_ip: String,
}

/// One object of an add-on, and the resource it is created in.
pub(super) struct Manifest {
    gvr: Gvr,
    object: Value,
    /// It belongs to its users once it exists, as a ConfigMap does: it is created, never changed.
    keep_existing: bool,
}

impl Manifest {
    fn new(group: &str, version: &str, resource: &str, object: Value) -> Self {
        Self { gvr: Gvr::new(group, version, resource), object, keep_existing: false }
    }

    fn config_map(name: &str, data: Value) -> Self {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "kube-system"},
            "data": data,
        });
        Self { keep_existing: true, ..Self::new("", "v1", "configmaps", object) }
    }

    fn service_account(name: &str) -> Self {
        let metadata = json!({"name": name, "namespace": "kube-system"});
        Self::new(
            "",
            "v1",
            "serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        )
    }
}

/// Brings every add-on to its manifest, and does not rest before that is done. Idempotent; what users changed in fields that
/// the manifests do not set stays.
pub(crate) async fn keep_applying(client: Client, settings: Settings) {
    // kube-proxy first: cluster DNS reaches the API server through its rules.
    let manifests: Vec<Manifest> = kube_proxy::manifests(&settings)
        .into_iter()
        .chain(coredns::manifests(&settings))
        .chain(local_path::manifests())
        .chain(metrics::manifests())
        .collect();
    until_done(manifests, |manifest| {
        let client = client.clone();
        async move {
            let applied = apply_one(&client, &manifest).await;
            applied.map_err(|error| {
                let (kind, name) = (object::kind(&manifest.object), object::name(&manifest.object));
                let text = format!("cannot apply the add-on object {kind} {name}: {error}");
                (manifest, text)
            })
        }
    })
    .await;
}

/// Applies each, and again those that failed and are handed back, later and later. One that fails holds up none of the others.
async fn until_done<T, F: Future<Output = Result<(), (T, String)>>>(mut left: Vec<T>, apply: impl Fn(T) -> F) {
    let mut wait = RETRY_MIN;
    loop {
        let mut failed = Vec::new();
        for item in left {
            if let Err((item, error)) = apply(item).await {
                tracing::error!("{error}; trying again in {} s", wait.as_secs());
                failed.push(item);
            }
        }
        if failed.is_empty() {
            return;
        }
        left = failed;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn apply_one(client: &Client, manifest: &Manifest) -> Result<(), ClientError> {
    let resource = client.raw(&manifest.gvr);
    let (namespace, name) = (object::namespace(&manifest.object).to_owned(), object::name(&manifest.object).to_owned());
    if manifest.keep_existing {
        return match resource.create(&manifest.object).await {
            Err(ClientError::Api(error)) if error.reason() == Reason::AlreadyExists => Ok(()),
            other => other.map(drop),
        };
    }
    let patch = Patch::Apply { object: manifest.object.clone(), manager: FIELD_MANAGER.to_owned(), force: true };
    resource.patch(&namespace, &name, &patch, None).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_applied_again_and_holds_up_nothing() {
        let log = RefCell::new(Vec::new());
        let started = tokio::time::Instant::now();
        until_done(vec!["a", "bad", "c"], async |item| {
            log.borrow_mut().push(item);
            let tries = log.borrow().iter().filter(|tried| **tried == item).count();
            if item == "bad" && tries < 3 { Err((item, "not yet".to_owned())) } else { Ok(()) }
        })
        .await;
        assert_eq!(*log.borrow(), ["a", "bad", "c", "bad", "bad"]);
        assert_eq!(started.elapsed(), RETRY_MIN * 3);
    }
}
