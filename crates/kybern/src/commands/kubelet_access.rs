//! Who gets to the kubelet's API, and how: the flags and the file's fields about TLS, authentication and authorization.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use kybern_apimachinery::time::parse_duration;
use kybern_client::Client;
use kybern_component_base::TlsPolicy;
use kybern_kubelet::server::auth::{self, Authorizer, Delegated};

use super::kubelet_config::KubeletFile;
use crate::serving::seconds;

#[derive(Debug, Args)]
pub(crate) struct AccessOptions {
    /// PEM file of the authorities whose client certificates are believed; without it nobody's are.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Asks the API server about those who show no credential, too [default: false].
    #[arg(long)]
    anonymous_auth: Option<bool>,
    /// Asks the API server whose a token is [default: true].
    #[arg(long)]
    authentication_token_webhook: Option<bool>,
    /// How long the answer about a token is kept [default: 2m].
    #[arg(long, value_parser = seconds)]
    authentication_token_webhook_cache_ttl: Option<Duration>,
    /// Webhook: the API server says who may do what. Nothing else is there [default: Webhook].
    #[arg(long)]
    authorization_mode: Option<String>,
    /// How long a permission is kept [default: 5m].
    #[arg(long, value_parser = seconds)]
    authorization_webhook_cache_authorized_ttl: Option<Duration>,
    /// How long a refusal is kept [default: 30s].
    #[arg(long, value_parser = seconds)]
    authorization_webhook_cache_unauthorized_ttl: Option<Duration>,
    /// The oldest version of TLS that clients may speak: VersionTLS12 or VersionTLS13 [default: VersionTLS12].
    #[arg(long)]
    tls_min_version: Option<String>,
    /// The ciphers of TLS 1.2 that clients may speak, by Go's names [default: all with ECDHE and AEAD].
    #[arg(long, value_delimiter = ',')]
    tls_cipher_suites: Vec<String>,
}

impl AccessOptions {
    pub(crate) fn tls(&self, file: &KubeletFile) -> Result<TlsPolicy> {
        let version = self.tls_min_version.as_deref().or(file.tls_min_version.as_deref());
        let ciphers = if self.tls_cipher_suites.is_empty() { &file.tls_cipher_suites } else { &self.tls_cipher_suites };
        Ok(TlsPolicy::new(version.unwrap_or_default(), ciphers)?)
    }

    pub(crate) fn client_ca(&self, file: &KubeletFile) -> Option<PathBuf> {
        let said = self.client_ca_file.as_ref().or(file.authentication.x509.client_ca_file.as_ref());
        said.filter(|path| !path.as_os_str().is_empty()).cloned()
    }

    pub(crate) fn anonymous(&self, file: &KubeletFile) -> bool {
        self.anonymous_auth.or(file.authentication.anonymous.enabled).unwrap_or(false)
    }

    pub(crate) fn authorizer(&self, file: &KubeletFile, node: &str, client: &Client) -> Result<Arc<dyn Authorizer>> {
        let mode = self.authorization_mode.as_deref().or(file.authorization.mode.as_deref()).unwrap_or("Webhook");
        match mode {
            "Webhook" => {}
            "AlwaysAllow" => bail!(
                "--authorization-mode=AlwaysAllow cannot be honoured: whoever reaches the kubelet could run anything on \
                 the node; use Webhook"
            ),
            other => bail!("unknown authorization mode {other}"),
        }
        let tokens = self.authentication_token_webhook.or(file.authentication.webhook.enabled).unwrap_or(true);
        let usual = Delegated::lifetimes();
        let time = |flag: Option<Duration>, field: &Option<String>, usual: Duration| -> Result<Duration> {
            let said = match (flag, field) {
                (Some(flag), _) => Some(flag),
                (None, Some(text)) => Some(parse_duration(text).with_context(|| format!("{text:?} is no duration"))?),
                (None, None) => None,
            };
            // A file's zero is the default.
            Ok(said.filter(|time| !time.is_zero()).unwrap_or(usual))
        };
        let (webhook, kept) = (&file.authentication.webhook, &file.authorization.webhook);
        let lifetimes = kybern_client::review::Lifetimes {
            token: time(self.authentication_token_webhook_cache_ttl, &webhook.cache_ttl, usual.token)?,
            allowed: time(self.authorization_webhook_cache_authorized_ttl, &kept.cache_authorized_ttl, usual.allowed)?,
            denied: time(
                self.authorization_webhook_cache_unauthorized_ttl,
                &kept.cache_unauthorized_ttl,
                usual.denied,
            )?,
        };
        Ok(Arc::new(auth::Delegated::new(client.clone(), node, tokens, lifetimes)))
    }
}
