//! The add-ons that make a bare cluster useful: cluster DNS and kube-proxy, as ordinary objects in `kube-system` that
//! users see and operate with kubectl. The names, labels and ConfigMap keys are kubeadm's.

mod coredns;
mod kube_proxy;

use anyhow::{Context, Result};
use kybern_apimachinery::{Gvr, Reason, Value, json, object};
use kybern_client::{Client, ClientError, Patch};

/// Owns the fields that an add-on's manifest sets.
const FIELD_MANAGER: &str = "kybern-addons";

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
    /// A ConfigMap belongs to its users once it exists: it is created, never changed.
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

/// Brings every add-on to its manifest. Idempotent; what users changed in fields that the manifests do not set stays.
pub(crate) async fn apply(client: &Client, settings: &Settings) -> Result<()> {
    for manifest in coredns::manifests(settings).into_iter().chain(kube_proxy::manifests(settings)) {
        let (kind, name) = (object::kind(&manifest.object).to_owned(), object::name(&manifest.object).to_owned());
        apply_one(client, manifest).await.with_context(|| format!("cannot apply the add-on object {kind} {name}"))?;
    }
    Ok(())
}

async fn apply_one(client: &Client, manifest: Manifest) -> Result<(), ClientError> {
    let resource = client.raw(&manifest.gvr);
    let (namespace, name) = (object::namespace(&manifest.object).to_owned(), object::name(&manifest.object).to_owned());
    if manifest.keep_existing {
        return match resource.create(&manifest.object).await {
            Err(ClientError::Api(error)) if error.reason() == Reason::AlreadyExists => Ok(()),
            other => other.map(drop),
        };
    }
    let patch = Patch::Apply { object: manifest.object, manager: FIELD_MANAGER.to_owned(), force: true };
    resource.patch(&namespace, &name, &patch, None).await.map(drop)
}
