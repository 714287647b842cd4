//! `extension-apiserver-authentication`: by what aggregated API servers recognize this server's clients and itself.

use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::connect::Objects;

use super::reconcile::ensure;

/// Writes the ConfigMap, or brings it up to date after a change of authorities. Both arguments are PEM.
pub async fn authentication_config(
    objects: &dyn Objects,
    client_ca: &str,
    front_proxy_ca: &str,
) -> Result<(), ApiError> {
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": client_ca,
            "requestheader-client-ca-file": front_proxy_ca,
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        },
    });
    ensure(objects, "", "configmaps", config, replace_data).await
}

fn replace_data(live: &mut Value, wanted: &Value) -> bool {
    let differs = live["data"] != wanted["data"];
    if differs {
        live["data"] = wanted["data"].clone();
    }
    differs
}
