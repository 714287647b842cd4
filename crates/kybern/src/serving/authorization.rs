//! Who may ask a component what: masters everything, everybody for what is always allowed, others by the API server's word.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kybern_apiserver::access::UserInfo;
use kybern_client::Client;
use kybern_client::review::{Access, Lifetimes, Reviewed, Reviews};

use super::seconds;

const MASTERS: &str = "system:masters";

#[derive(Debug, Args)]
pub(crate) struct AuthorizationOptions {
    /// Whom the API server is asked as who may do what. Without it, all that is not always allowed is forbidden.
    #[arg(long)]
    authorization_kubeconfig: Option<PathBuf>,
    /// Paths that everybody may get; one that ends in * stands for all that begin so.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    authorization_always_allow_paths: Vec<String>,
    /// How long a permission is kept.
    #[arg(long, default_value = "10s", value_parser = seconds)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long a refusal is kept.
    #[arg(long, default_value = "10s", value_parser = seconds)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
}

pub(super) struct Authorization {
    always: Vec<String>,
    reviews: Option<Reviews>,
}

impl Authorization {
    pub(super) fn new(options: &AuthorizationOptions) -> Result<Self> {
        let lifetimes = Lifetimes {
            allowed: options.authorization_webhook_cache_authorized_ttl,
            denied: options.authorization_webhook_cache_unauthorized_ttl,
            ..Lifetimes::default()
        };
        let client = options.authorization_kubeconfig.as_ref().map(|path| {
            let client = Client::from_kubeconfig(path);
            client.with_context(|| format!("cannot use --authorization-kubeconfig {}", path.display()))
        });
        let always = options.authorization_always_allow_paths.iter();
        Ok(Self {
            always: always.map(|path| path.trim().trim_start_matches('/').to_owned()).collect(),
            reviews: client.transpose()?.map(|client| Reviews::new(client, lifetimes)),
        })
    }

    /// The reason is why not.
    pub(super) async fn authorize(&self, user: &UserInfo, verb: &str, path: &str) -> Result<(), String> {
        if user.in_group(MASTERS) || self.always.iter().any(|pattern| matches(pattern, path)) {
            return Ok(());
        }
        let Some(reviews) = &self.reviews else { return Err(String::new()) };
        let who = Reviewed {
            name: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        };
        match reviews.access(&who, &Access::Path { verb, path }).await {
            Ok(verdict) if verdict.allowed => Ok(()),
            Ok(verdict) => Err(verdict.reason),
            Err(error) => {
                tracing::warn!("cannot ask who may do what: {error}");
                Err("the API server cannot be asked".to_owned())
            }
        }
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let path = path.trim_start_matches('/');
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_always_allowed() {
        assert!(matches("healthz", "/healthz") && !matches("healthz", "/healthz/etcd"));
        assert!(matches("healthz*", "/healthz/etcd") && !matches("", "/metrics") && matches("*", "/metrics"));
    }
}
