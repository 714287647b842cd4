//! Who is asked who may do what: the authorizers of `--authorization-mode`, or those of a file, which is read again when it
//! changes.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use kybern_apiserver::access::Authorizer;
use kybern_apiserver::connect::Observer;
use kybern_auth::authz::node::NodeAuthorizer;
use kybern_auth::authz::rbac::Rbac;
use kybern_auth::authz::{
    AccessWebhook, AlwaysAllow, AlwaysDeny, AuthorizationMetrics, ConfiguredAuthorizer, ConfiguredWebhook, Connection,
    Masters, Mode, Replaceable, parse_configuration,
};
use kybern_auth::reload::ReloadMetrics;
use kybern_webhook::{Client, Settings};
use prometheus_client::registry::Registry;

use super::control_plane::ApiServerOptions;
use super::watched_files::WatchedFiles;
use crate::commands::api_access::{self, AccessFlags};

/// The authorizers, and what has to see the stored objects for them.
pub(super) struct Authorization {
    pub(super) list: Vec<Arc<dyn Authorizer>>,
    pub(super) rbac: Option<Arc<Rbac>>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) metrics: Metrics,
}

/// What is told of authorizers, and of the file that lists them.
#[derive(Clone)]
pub(super) struct Metrics {
    authorizers: Arc<AuthorizationMetrics>,
    file: Option<Arc<ReloadMetrics>>,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        self.authorizers.register(registry);
        if let Some(file) = &self.file {
            file.register(registry, "authorization_config_controller");
        }
    }
}

/// Makes the authorizers that are named.
#[derive(Clone)]
struct Makers {
    access: AccessFlags,
    metrics: Arc<AuthorizationMetrics>,
    /// Those that know the stored objects, or a file, are made at the start or never.
    node: Option<Arc<NodeAuthorizer>>,
    rbac: Option<Arc<Rbac>>,
    policies: Option<Arc<dyn Authorizer>>,
}

impl Authorization {
    /// In the order in which they are asked. Members of `system:masters` pass before all others, as upstream has it.
    pub(super) fn new(options: &ApiServerOptions, server_id: &str) -> Result<Self> {
        let Some(path) = options.access.configuration() else {
            let makers = Makers::of(options, &options.authorization)?;
            let mut list: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
            for mode in &options.authorization {
                list.push(makers.by_mode(*mode)?);
            }
            return Ok(makers.with(list, None));
        };
        let file = WatchedFiles::read([path])?;
        let text = file.contents()[0].clone();
        let listed = parse(path, &text)?;
        let modes: Vec<Mode> = listed.iter().map(|one| one.mode).collect();
        let makers = Makers::of(options, &modes)?;
        let authorizers = Arc::new(Replaceable::new(makers.all(listed)?));
        let metrics = Arc::new(ReloadMetrics::new(server_id));
        metrics.applied(&text);
        tokio::spawn(follow(file, path.to_owned(), makers.clone(), Arc::clone(&authorizers), Arc::clone(&metrics)));
        Ok(makers.with(vec![authorizers], Some(metrics)))
    }
}

impl Makers {
    fn of(options: &ApiServerOptions, modes: &[Mode]) -> Result<Self> {
        let has = |mode| modes.contains(&mode);
        Ok(Self {
            access: options.access.clone(),
            metrics: Arc::default(),
            node: has(Mode::Node).then(Arc::default),
            rbac: has(Mode::Rbac).then(Arc::default),
            policies: has(Mode::Abac).then(|| options.access.policies()).transpose()?,
        })
    }

    fn with(self, list: Vec<Arc<dyn Authorizer>>, file: Option<Arc<ReloadMetrics>>) -> Authorization {
        let node = self.node.map(|node| node as Arc<dyn Observer>);
        let rbac = self.rbac.clone().map(|rbac| rbac as Arc<dyn Observer>);
        Authorization {
            list,
            rbac: self.rbac,
            observers: node.into_iter().chain(rbac).collect(),
            metrics: Metrics { authorizers: self.metrics, file },
        }
    }

    fn by_mode(&self, mode: Mode) -> Result<Arc<dyn Authorizer>> {
        let known = |authorizer: Option<Arc<dyn Authorizer>>| {
            authorizer.with_context(|| {
                let mode = mode.as_str();
                format!("authorizer type {mode} is not allowed if it was not enabled at initial server startup")
            })
        };
        let authorizer: Arc<dyn Authorizer> = match mode {
            Mode::Node => known(self.node.clone().map(|node| node as _))?,
            Mode::Rbac => known(self.rbac.clone().map(|rbac| rbac as _))?,
            Mode::Abac => known(self.policies.clone())?,
            Mode::Webhook => self.access.authorizer(Arc::clone(&self.metrics))?,
            Mode::AlwaysAllow => Arc::new(AlwaysAllow),
            Mode::AlwaysDeny => Arc::new(AlwaysDeny),
        };
        Ok(self.metrics.counted(mode, mode.usual_name(), authorizer))
    }

    /// Those of a file.
    fn all(&self, listed: Vec<ConfiguredAuthorizer>) -> Result<Vec<Arc<dyn Authorizer>>> {
        let mut list: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
        for ConfiguredAuthorizer { mode, name, webhook } in listed {
            list.push(match webhook {
                None => self.by_mode(mode)?,
                Some(webhook) => self.metrics.counted(mode, &name, self.webhook(&name, webhook)?),
            });
        }
        Ok(list)
    }

    fn webhook(&self, name: &str, webhook: ConfiguredWebhook) -> Result<Arc<dyn Authorizer>> {
        let agent = api_access::user_agent();
        let client = match &webhook.connection {
            Connection::KubeConfigFile(file) => Client::from_kubeconfig(file, &agent),
            Connection::InCluster => {
                kybern_client::RestConfig::in_cluster().and_then(|config| Client::new(&config, Settings::new(agent)))
            }
        };
        let client = client.with_context(|| format!("authorizer {name:?} is not usable"))?;
        let ConfiguredWebhook { settings, conditions, .. } = webhook;
        Ok(Arc::new(AccessWebhook::named(name, client, settings, conditions, Arc::clone(&self.metrics))))
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<ConfiguredAuthorizer>> {
    parse_configuration(text).map_err(|error| anyhow!("{} is not usable: {error}", path.display()))
}

/// Lets others judge when the file says so. What it says when it cannot be used leaves all as it is.
async fn follow(
    mut file: WatchedFiles,
    path: std::path::PathBuf,
    makers: Makers,
    authorizers: Arc<Replaceable>,
    metrics: Arc<ReloadMetrics>,
) {
    loop {
        let changed = file.changed().await.map(|contents| contents[0].clone());
        let made = changed.and_then(|text| Ok((makers.all(parse(&path, &text)?)?, text)));
        metrics.reloaded(made.is_ok(), jiff::Timestamp::now());
        match made {
            Ok((list, text)) => {
                authorizers.replace(list);
                metrics.applied(&text);
                tracing::info!("authorizers are those of {} from now on", path.display());
            }
            Err(error) => tracing::error!("authorizers stay as they are: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kybern_apiserver::access::Attributes;

    use super::*;

    fn file(kinds: &[&str]) -> String {
        let all: Vec<String> =
            kinds.iter().map(|kind| format!("{{type: {kind}, name: {}}}", kind.to_lowercase())).collect();
        format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration, authorizers: [{}]}}",
            all.join(", ")
        )
    }

    #[tokio::test]
    async fn a_file_that_changes_is_read_again_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authorization.yaml");
        std::fs::write(&path, file(&["AlwaysDeny"])).unwrap();
        let makers = Makers {
            access: AccessFlags::default(),
            metrics: Arc::default(),
            node: None,
            rbac: Some(Arc::default()),
            policies: None,
        };
        let watched = WatchedFiles::read([&path]).unwrap();
        let list = makers.all(parse(&path, &watched.contents()[0]).unwrap()).unwrap();
        let authorizers = Arc::new(Replaceable::new(list));
        let metrics = Arc::new(ReloadMetrics::new("apiserver-x"));
        let shown = Metrics { authorizers: makers.metrics.clone(), file: Some(metrics.clone()) };
        let mut registry = Registry::default();
        shown.register(&mut registry);
        tokio::spawn(follow(watched, path.clone(), makers, authorizers.clone(), metrics));
        let allows = async |expect: bool| {
            let authorizer: Arc<dyn Authorizer> = authorizers.clone();
            for _ in 0..100 {
                if authorizer.allows(&Attributes::default()).await == expect {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            false
        };
        let reloads = async |status: &str, count: usize| {
            let line = format!("automatic_reloads_total{{status=\"{status}\"");
            for _ in 0..100 {
                let mut text = String::new();
                prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
                if text.lines().any(|l| l.contains(&line) && l.ends_with(&format!(" {count}"))) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("no {count} reloads with {status}");
        };
        assert!(allows(false).await);
        std::fs::write(&path, file(&["AlwaysAllow"])).unwrap();
        assert!(allows(true).await, "the file has changed");
        reloads("success", 1).await;
        for (number, bad) in ["nonsense", &file(&["Node"]), &file(&["AlwaysDeny", "AlwaysDeny"])].iter().enumerate() {
            std::fs::write(&path, bad).unwrap();
            reloads("failure", number + 1).await;
            assert!(allows(true).await, "nothing has changed");
        }
        // As editors and mounted ConfigMaps replace a file.
        let other = directory.path().join("other");
        std::fs::write(&other, file(&["RBAC", "AlwaysDeny"])).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(allows(false).await, "it was replaced");
    }
}
