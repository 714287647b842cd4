//! What machines need to join a cluster whose tokens they were told: the ConfigMap `cluster-info` in `kube-public`, which
//! anyone may read and tokens sign, and the rights of bootstrap tokens. Upstream leaves both to kubeadm.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::connect::Objects;
use kybern_auth::pki::Kubeconfig;

use super::reconcile::{add_rules, add_subjects, ensure};
use super::roles;

const INFO: &str = "kubeconfig";

/// Makes what is missing. `server` is the address at which others reach the API, `ca` by what they recognize it, PEM.
pub async fn joining(objects: &dyn Objects, server: &str, ca: &str) -> Result<(), ApiError> {
    let roles = roles::joining().into_iter().map(|entry| {
        let merge = if entry.resource.ends_with("bindings") { add_subjects } else { add_rules };
        ensure(objects, "rbac.authorization.k8s.io", entry.resource, entry.object, merge)
    });
    // At once, so that they share commits.
    stream::iter(roles).buffer_unordered(super::PARALLEL).try_collect::<()>().await?;
    let info = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {INFO: Kubeconfig::of_cluster(server, ca)},
    });
    ensure(objects, "", "configmaps", info, replace_info).await
}

/// The signatures beside it are their controller's.
fn replace_info(live: &mut Value, wanted: &Value) -> bool {
    let differs = live["data"][INFO] != wanted["data"][INFO];
    if differs {
        live["data"][INFO] = wanted["data"][INFO].clone();
    }
    differs
}

/// The ConfigMap that says since when uses of long-lived tokens are noted on their Secrets. `since` is a day, `2026-11-28`.
pub async fn token_tracking(objects: &dyn Objects, since: jiff::civil::Date) -> Result<(), ApiError> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": since.to_string()},
    });
    ensure(objects, "", "configmaps", map, mend_date).await
}

/// The first day stays, if it is one.
fn mend_date(live: &mut Value, wanted: &Value) -> bool {
    let is_day = live["data"]["since"].as_str().is_some_and(|day| day.parse::<jiff::civil::Date>().is_ok());
    if !is_day {
        live["data"]["since"] = wanted["data"]["since"].clone();
    }
    !is_day
}
