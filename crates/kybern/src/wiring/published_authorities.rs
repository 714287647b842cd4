//! Keeps the ConfigMap `extension-apiserver-authentication` true, by which aggregated API servers and other components
//! recognize this server's clients and itself.

use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::Value;
use kybern_apiserver::Server;
use kybern_apiserver::connect::Observer;
use kybern_auth::authn::RequestHeaderNames;
use kybern_registry::bootstrap::{self, AuthenticationConfig};
use tokio::sync::{Notify, watch};

use super::trust::Authorities;

const CONFIG_MAP: (&str, &str) = ("kube-system", "extension-apiserver-authentication");
/// How long after a failure it is written again.
const RETRY: Duration = Duration::from_secs(10);

/// Sees that somebody changes or deletes the ConfigMap.
#[derive(Default)]
pub(super) struct ConfigMapChanges(Notify);

impl Observer for ConfigMapChanges {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "configmaps")]
    }

    /// Next to nothing: every ConfigMap would be parsed for it.
    fn reads(&self, _group: &str, _resource: &str) -> &'static [&'static [&'static str]] {
        &[&["kind"]]
    }

    fn changed(&self, _: &str, _: &str, namespace: &str, name: &str, _: Option<&Value>) {
        if (namespace, name) == CONFIG_MAP {
            self.0.notify_one();
        }
    }
}

/// Writes what others are to know.
pub(super) async fn publish(
    server: &Server,
    headers: &RequestHeaderNames,
    authorities: &Authorities,
) -> Result<(), kybern_apimachinery::ApiError> {
    let config = AuthenticationConfig {
        client_ca: &authorities.clients,
        front_proxy_ca: &authorities.front_proxies,
        allowed_names: &headers.allowed,
        username_headers: &headers.username,
        uid_headers: &headers.uid,
        group_headers: &headers.group,
        extra_headers_prefix: &headers.extra_prefix,
    };
    bootstrap::authentication_config(server, &config).await
}

/// Writes it whenever the authorities or the ConfigMap change.
pub(super) async fn keep_published(
    server: Arc<Server>,
    headers: RequestHeaderNames,
    mut authorities: watch::Receiver<Authorities>,
    changes: Arc<ConfigMapChanges>,
) {
    loop {
        let current = authorities.borrow_and_update().clone();
        if let Err(error) = publish(&server, &headers, &current).await {
            tracing::warn!(%error, "cannot write the ConfigMap {}; it is tried again", CONFIG_MAP.1);
            tokio::time::sleep(RETRY).await;
            continue;
        }
        tokio::select! {
            // Files that are not followed any more change nothing, and the ConfigMap still may.
            Ok(()) = authorities.changed() => {}
            () = changes.0.notified() => {}
        }
    }
}
