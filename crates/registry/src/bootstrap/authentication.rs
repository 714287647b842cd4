//! `extension-apiserver-authentication`: by what aggregated API servers recognize this server's clients and itself.

use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::connect::Objects;
use kybern_auth::pki::combine_bundles;

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
    ensure(objects, "", "configmaps", config, combine).await
}

/// With what other servers wrote: each adds its own, and certificates go when they end. Writing twice changes nothing.
fn combine(live: &mut Value, wanted: &Value) -> bool {
    let before = live["data"].clone();
    let wanted = wanted["data"].as_object().into_iter().flatten();
    for (key, wanted) in wanted {
        let (there, wanted) = (live["data"][key].as_str().unwrap_or_default(), wanted.as_str().unwrap_or_default());
        let both = if key.ends_with("-ca-file") {
            combine_bundles(there, wanted, jiff::Timestamp::now())
        } else {
            let names = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap_or_default();
            let mut all = names(there);
            for name in names(wanted) {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
            json!(all).to_string()
        };
        live["data"][key] = both.into();
    }
    live["data"] != before
}

#[cfg(test)]
mod tests {
    use kybern_auth::pki::CertificateAuthority;

    use super::*;

    #[test]
    fn two_servers_agree_whoever_writes_last() {
        let authority = |name: &str| {
            CertificateAuthority::create(name, jiff::Timestamp::now()).unwrap().certificate_pem().to_owned()
        };
        let wanted =
            |ca: &str, names: &str| json!({"data": {"client-ca-file": ca, "requestheader-allowed-names": names}});
        let (one, other) = (wanted(&authority("a"), "[\"x\"]"), wanted(&authority("b"), "[\"y\",\"x\"]"));
        let mut live = one.clone();
        assert!(!combine(&mut live, &one), "nothing is new");
        assert!(combine(&mut live, &other));
        assert!(!combine(&mut live, &one) && !combine(&mut live, &other), "they do not take turns");
        assert_eq!(live["data"]["requestheader-allowed-names"], "[\"x\",\"y\"]");
        let bundle = live["data"]["client-ca-file"].as_str().unwrap();
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
        // What somebody breaks is mended.
        let mut broken = json!({"data": {"client-ca-file": "nonsense", "requestheader-allowed-names": "{"}});
        assert!(combine(&mut broken, &one));
        assert_eq!(broken, one);
        assert!(combine(&mut json!({"metadata": {}}), &one));
    }
}
