//! Who else is asked who somebody is and what he may: webhooks and the file of policies of `kube-apiserver`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use kybern_apiserver::access::Authorizer;
use kybern_auth::authn::{TokenAuthenticator, TokenWebhook, TokenWebhookSettings};
use kybern_auth::authz::abac::Policies;
use kybern_auth::authz::{AccessWebhook, AccessWebhookSettings, AuthorizationMetrics, Mode, parse_modes};
use kybern_webhook::{Backoff, Client};

use crate::serving::seconds;
use crate::version;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AccessFlags {
    /// kubeconfig of a webhook that says whose a token is.
    #[arg(long)]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of TokenReviews that it is sent: v1 or v1beta1.
    #[arg(long, default_value = "v1beta1")]
    authentication_token_webhook_version: String,
    /// How long its answers are kept.
    #[arg(long, default_value = "2m0s", value_parser = seconds)]
    authentication_token_webhook_cache_ttl: Duration,
    /// Of Node, RBAC, Webhook, ABAC, AlwaysAllow, AlwaysDeny, in the order in which they are asked.
    #[arg(long, default_value = "Node,RBAC")]
    authorization_mode: String,
    /// kubeconfig of a webhook that says who may do what, with --authorization-mode=Webhook.
    #[arg(long)]
    authorization_webhook_config_file: Option<PathBuf>,
    /// The version of SubjectAccessReviews that it is sent: v1 or v1beta1.
    #[arg(long, default_value = "v1beta1")]
    authorization_webhook_version: String,
    /// How long its permissions are kept.
    #[arg(long, default_value = "5m0s", value_parser = seconds)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its refusals are kept.
    #[arg(long, default_value = "30s", value_parser = seconds)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
    /// The authorizers, as a file lists them, in place of the modes and of the webhook's flags; read again when it changes.
    #[arg(long, conflicts_with_all = [
        "authorization_mode",
        "authorization_webhook_config_file",
        "authorization_webhook_version",
        "authorization_webhook_cache_authorized_ttl",
        "authorization_webhook_cache_unauthorized_ttl",
    ])]
    authorization_config: Option<PathBuf>,
    /// Policies, one a line, with --authorization-mode=ABAC.
    #[arg(long)]
    authorization_policy_file: Option<PathBuf>,
}

/// Whether a webhook speaks v1; else v1beta1.
fn is_v1(flag: &str, version: &str) -> Result<bool> {
    match version {
        "v1" => Ok(true),
        "v1beta1" => Ok(false),
        other => bail!("--{flag}: unsupported version {other:?}, supported versions are \"v1\", \"v1beta1\""),
    }
}

/// As what webhooks are called by.
pub(crate) fn user_agent() -> String {
    format!("kube-apiserver/{} (linux/{}) kybern", version::KUBERNETES, version::architecture())
}

fn client(flag: &str, file: &Path) -> Result<Client> {
    Client::from_kubeconfig(file, &user_agent()).with_context(|| format!("--{flag} is not usable"))
}

impl AccessFlags {
    /// The modes of authorization. Some need a file, and files need their mode, as upstream has it.
    pub(crate) fn modes(&self) -> Result<Vec<Mode>> {
        let modes = parse_modes(&self.authorization_mode)?;
        self.check(&modes)?;
        Ok(modes)
    }

    fn check(&self, modes: &[Mode]) -> Result<()> {
        if self.authorization_config.is_some() {
            return Ok(());
        }
        for (mode, file, name, flag) in [
            (Mode::Abac, &self.authorization_policy_file, "ABAC", "authorization-policy-file"),
            (Mode::Webhook, &self.authorization_webhook_config_file, "Webhook", "authorization-webhook-config-file"),
        ] {
            match (modes.contains(&mode), file) {
                (true, None) => bail!("authorization-mode {name}'s {flag} not passed"),
                (false, Some(_)) => bail!("cannot specify --{flag} without mode {name}"),
                _ => {}
            }
        }
        Ok(())
    }

    /// The file that lists the authorizers.
    pub(crate) fn configuration(&self) -> Option<&Path> {
        self.authorization_config.as_deref()
    }

    pub(crate) fn token_authenticator(&self) -> Result<Option<Arc<dyn TokenAuthenticator>>> {
        let Some(file) = &self.authentication_token_webhook_config_file else { return Ok(None) };
        let settings = TokenWebhookSettings {
            v1: is_v1("authentication-token-webhook-version", &self.authentication_token_webhook_version)?,
            ttl: self.authentication_token_webhook_cache_ttl,
            backoff: Backoff::default(),
        };
        let client = client("authentication-token-webhook-config-file", file)?;
        Ok(Some(Arc::new(TokenWebhook::new(client, settings))))
    }

    pub(crate) fn authorizer(&self, metrics: Arc<AuthorizationMetrics>) -> Result<Arc<dyn Authorizer>> {
        let flag = "authorization-webhook-config-file";
        let file = self.authorization_webhook_config_file.as_deref();
        let settings = AccessWebhookSettings {
            v1: is_v1("authorization-webhook-version", &self.authorization_webhook_version)?,
            authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
            ..AccessWebhookSettings::default()
        };
        let file = file.with_context(|| format!("authorization-mode Webhook's {flag} not passed"))?;
        Ok(Arc::new(AccessWebhook::new(client(flag, file)?, settings, metrics)))
    }

    pub(crate) fn policies(&self) -> Result<Arc<dyn Authorizer>> {
        let file = self.authorization_policy_file.as_deref();
        let file = file.context("authorization-mode ABAC's authorization-policy-file not passed")?;
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Arc::new(Policies::parse(&text).with_context(|| format!("{} is not usable", file.display()))?))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        access: AccessFlags,
    }

    fn flags(words: &[&str]) -> AccessFlags {
        Line::parse_from([&["kybern"], words].concat()).access
    }

    #[test]
    fn modes_need_their_files_and_files_their_modes() {
        let check = |words: &[&str], modes: &[Mode]| flags(words).check(modes).map_err(|e| e.to_string());
        assert_eq!(flags(&[]).modes().unwrap(), [Mode::Node, Mode::Rbac]);
        for other in ["--authorization-mode=RBAC", "--authorization-webhook-version=v1"] {
            let both = Line::try_parse_from(["kybern", "--authorization-config=f", other]).unwrap_err().to_string();
            assert!(both.contains("cannot be used with"), "{both}");
        }
        assert!(Line::try_parse_from(["kybern", "--authorization-config=f"]).is_ok());
        assert_eq!(check(&[], &[Mode::Node, Mode::Rbac]), Ok(()));
        assert_eq!(check(&["--authorization-policy-file=f"], &[Mode::Abac]), Ok(()));
        let missing = "authorization-mode Webhook's authorization-webhook-config-file not passed".to_owned();
        assert_eq!(check(&[], &[Mode::Webhook]), Err(missing));
        let superfluous = "cannot specify --authorization-policy-file without mode ABAC".to_owned();
        assert_eq!(check(&["--authorization-policy-file=f"], &[Mode::Rbac]), Err(superfluous));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let nonsense = format!("--authorization-policy-file={}", file("policies", "nonsense"));
        assert!(format!("{:#}", flags(&[&nonsense]).policies().err().unwrap()).contains("line 1: nonsense"));
        let config = format!("--authentication-token-webhook-config-file={}", file("config", "{}"));
        assert!(flags(&[&config]).token_authenticator().is_err());
        let version = "--authentication-token-webhook-version=v2";
        let error = flags(&[&config, version]).token_authenticator().err().unwrap().to_string();
        assert!(error.contains("unsupported version \"v2\""), "{error}");
    }
}
