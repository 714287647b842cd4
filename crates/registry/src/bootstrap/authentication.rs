//! `extension-apiserver-authentication`: by what aggregated API servers recognize this server's clients and itself.

use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::connect::Objects;

use super::reconcile::ensure;

/// What the ConfigMap says; authorities are PEM.
#[derive(Clone, Copy, Debug)]
pub struct AuthenticationConfig<'a> {
    pub client_ca: &'a str,
    pub front_proxy_ca: &'a str,
    pub allowed_names: &'a [String],
    pub username_headers: &'a [String],
    pub uid_headers: &'a [String],
    pub group_headers: &'a [String],
    pub extra_headers_prefix: &'a [String],
}

/// Writes the ConfigMap, or brings it up to date after a change of authorities.
pub async fn authentication_config(objects: &dyn Objects, config: &AuthenticationConfig<'_>) -> Result<(), ApiError> {
    let list = |names: &[String]| json!(names).to_string();
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": config.client_ca,
            "requestheader-client-ca-file": config.front_proxy_ca,
            "requestheader-allowed-names": list(config.allowed_names),
            "requestheader-username-headers": list(config.username_headers),
            "requestheader-uid-headers": list(config.uid_headers),
            "requestheader-group-headers": list(config.group_headers),
            "requestheader-extra-headers-prefix": list(config.extra_headers_prefix),
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
