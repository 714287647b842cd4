//! Whose tokens are believed: the issuers of the flags, or those of a file, which is read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures_util::future::join_all;
use kybern_apimachinery::time::Clock;
use kybern_auth::authn::Anonymous;
use kybern_auth::authn::oidc::{
    AnonymousConfiguration, AuthenticationConfiguration, JwtIssuer, OidcAuthenticator, OidcAuthenticators, OidcMetrics,
    SIGNING_ALGORITHMS, configuration_of, parse_configuration,
};
use kybern_auth::reload::ReloadMetrics;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::watched_files::WatchedFiles;
use crate::commands::api_access::user_agent;
use crate::commands::authentication::{AuthenticationFlags, Issuers};

/// How long issuers that a file names anew may be away before that is told of.
const PATIENCE: Duration = Duration::from_secs(60);

/// What flags or a file say of tokens and of those who show none.
pub(super) struct Authentication {
    /// `None` where there are no issuers and never will be.
    pub(super) issuers: Option<Arc<OidcAuthenticators>>,
    pub(super) anonymous: Option<Anonymous>,
    pub(super) metrics: Metrics,
}

#[derive(Clone)]
pub(super) struct Metrics {
    tokens: Arc<OidcMetrics>,
    file: Option<Arc<ReloadMetrics>>,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        self.tokens.register(registry);
        if let Some(file) = &self.file {
            file.register(registry, "authentication_config_controller");
        }
    }
}

/// Makes authenticators of issuers.
#[derive(Clone)]
struct Maker {
    algorithms: Vec<String>,
    clock: Arc<dyn Clock>,
    metrics: Arc<OidcMetrics>,
}

impl Maker {
    fn all(&self, issuers: Vec<JwtIssuer>) -> Vec<Arc<OidcAuthenticator>> {
        let make = |issuer| {
            let (clock, metrics) = (Arc::clone(&self.clock), Arc::clone(&self.metrics));
            Arc::new(OidcAuthenticator::start(issuer, self.algorithms.clone(), &user_agent(), clock, metrics))
        };
        issuers.into_iter().map(make).collect()
    }
}

impl Authentication {
    /// `own`: the issuers of service accounts' tokens, which are judged by others.
    pub(super) fn new(
        flags: &AuthenticationFlags,
        own: &[String],
        clock: Arc<dyn Clock>,
        server_id: &str,
    ) -> Result<Self> {
        let metrics = Arc::new(OidcMetrics::default());
        let mut shown = Metrics { tokens: Arc::clone(&metrics), file: None };
        let known = || SIGNING_ALGORITHMS.iter().map(|one| (*one).to_owned()).collect();
        let mut maker = Maker { algorithms: known(), clock, metrics };
        match flags.issuers()? {
            Issuers::Nowhere => {
                Ok(Self { issuers: None, anonymous: anonymous(flags.anonymous(), None)?, metrics: shown })
            }
            Issuers::Flags(file, algorithms) => {
                let configuration = configuration_of(&file, own);
                let configuration = configuration.map_err(|e| anyhow!("invalid authentication configuration: {e}"))?;
                maker.algorithms = algorithms;
                let issuers = Some(Arc::new(OidcAuthenticators::new(maker.all(configuration.issuers))));
                Ok(Self { issuers, anonymous: anonymous(flags.anonymous(), None)?, metrics: shown })
            }
            Issuers::File(path) => {
                let file = WatchedFiles::read([&path])?;
                let text = file.contents()[0].clone();
                let configuration = parse(&path, &text, own)?;
                let anonymous_config = configuration.anonymous;
                let anonymous = anonymous(flags.anonymous(), anonymous_config.clone())?;
                let issuers = Arc::new(OidcAuthenticators::new(maker.all(configuration.issuers)));
                let reloads = Arc::new(ReloadMetrics::new(server_id));
                reloads.applied(&text);
                shown.file = Some(Arc::clone(&reloads));
                let follower = Follower {
                    path,
                    own: own.to_vec(),
                    anonymous: anonymous_config,
                    maker,
                    issuers: Arc::clone(&issuers),
                    metrics: reloads,
                };
                tokio::spawn(follower.follow(file));
                Ok(Self { issuers: Some(issuers), anonymous, metrics: shown })
            }
        }
    }
}

fn parse(path: &Path, text: &str, own: &[String]) -> Result<AuthenticationConfiguration> {
    let failed = |error| {
        anyhow!("failed to load authentication configuration from file {:?}: {error}", path.display().to_string())
    };
    parse_configuration(text, own).map_err(failed)
}

/// What becomes of requests without credentials.
fn anonymous(flag: Option<bool>, file: Option<AnonymousConfiguration>) -> Result<Option<Anonymous>> {
    match (flag, file) {
        (Some(_), Some(_)) => bail!(
            "anonymous: Forbidden: --anonymous-auth flag cannot be set when anonymous field is configured in \
             authentication configuration file"
        ),
        (_, Some(file)) => Ok(file.enabled.then(|| Anonymous::on(file.paths))),
        (flag, None) => Ok(flag.unwrap_or(true).then(Anonymous::default)),
    }
}

/// Lets other issuers count when the file says so.
struct Follower {
    path: PathBuf,
    own: Vec<String>,
    /// As the file had it at the start: what it says of this may not change.
    anonymous: Option<AnonymousConfiguration>,
    maker: Maker,
    issuers: Arc<OidcAuthenticators>,
    metrics: Arc<ReloadMetrics>,
}

/// Issuers that count once they all are there.
struct Pending {
    list: Vec<Arc<OidcAuthenticator>>,
    text: String,
    /// When it is told of that they are not.
    deadline: Option<Instant>,
}

impl Follower {
    async fn follow(self, mut file: WatchedFiles) {
        let mut pending: Option<Pending> = None;
        loop {
            let changed = match &mut pending {
                None => file.changed().await,
                Some(waiting) => tokio::select! {
                    changed = file.changed() => changed,
                    () = all_ready(&waiting.list) => {
                        let Pending { list, text, .. } = pending.take().expect("it is pending");
                        self.apply(list, &text);
                        continue;
                    }
                    () = until(waiting.deadline) => {
                        waiting.deadline = None;
                        let errors: Vec<String> = waiting.list.iter().filter_map(|one| one.health().err()).collect();
                        self.failed(&anyhow!("{}", errors.join(", ")));
                        continue;
                    }
                },
            };
            pending = match changed.and_then(|contents| self.read(&contents[0])) {
                Ok(next) => Some(next),
                Err(error) => {
                    self.failed(&error);
                    None
                }
            };
        }
    }

    fn read(&self, text: &str) -> Result<Pending> {
        let configuration = parse(&self.path, text, &self.own)?;
        if configuration.anonymous != self.anonymous {
            bail!("anonymous: Forbidden: changed from initial configuration file");
        }
        let list = self.maker.all(configuration.issuers);
        Ok(Pending { list, text: text.to_owned(), deadline: Some(Instant::now() + PATIENCE) })
    }

    fn apply(&self, list: Vec<Arc<OidcAuthenticator>>, text: &str) {
        self.issuers.replace(list);
        self.metrics.applied(text);
        self.metrics.reloaded(true, jiff::Timestamp::now());
        tracing::info!("issuers of tokens are those of {} from now on", self.path.display());
    }

    fn failed(&self, error: &anyhow::Error) {
        self.metrics.reloaded(false, jiff::Timestamp::now());
        tracing::error!("issuers of tokens stay as they are: {error:#}");
    }
}

async fn all_ready(list: &[Arc<OidcAuthenticator>]) {
    join_all(list.iter().map(|one| one.ready())).await;
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kybern_apimachinery::time::SystemClock;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: AuthenticationFlags,
    }

    fn flags(words: &[String]) -> AuthenticationFlags {
        Line::parse_from([&["kybern".to_owned()], words].concat()).flags
    }

    fn file(rest: &str) -> String {
        format!("{{apiVersion: apiserver.config.k8s.io/v1, kind: AuthenticationConfiguration{rest}}}")
    }

    fn start(words: &[String]) -> Result<Authentication> {
        Authentication::new(&flags(words), &["https://own".to_owned()], Arc::new(SystemClock), "apiserver-x")
    }

    #[tokio::test]
    async fn a_file_that_changes_is_read_again_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authentication.yaml");
        let flag = [format!("--authentication-config={}", path.display())];
        assert!(start(&flag).is_err(), "there is no file");
        std::fs::write(&path, file(", anonymous: {enabled: true, conditions: [{path: /livez}]}")).unwrap();
        let authentication = start(&flag).unwrap();
        assert!(authentication.anonymous.is_some());
        let both = [flag[0].clone(), "--anonymous-auth=false".to_owned()];
        let error = start(&both).err().unwrap().to_string();
        assert!(error.contains("--anonymous-auth flag cannot be set when anonymous field is configured"), "{error}");
        let mut registry = Registry::default();
        authentication.metrics.register(&mut registry);
        let reloads = async |status: &str, count: usize| {
            let line = format!("authentication_config_controller_automatic_reloads_total{{status=\"{status}\"");
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
        let anonymous = ", anonymous: {enabled: true, conditions: [{path: /livez}]}";
        let own = ", jwt: [{issuer: {url: 'https://own', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]";
        let bad = [
            "nonsense".to_owned(),
            file(", anonymous: {enabled: true}"),
            file(", anonymous: {enabled: false}"),
            file(""),
            file(&format!("{anonymous}{own}")),
        ];
        for (number, text) in bad.iter().enumerate() {
            std::fs::write(&path, text).unwrap();
            reloads("failure", number + 1).await;
        }
        // An issuer that is away does not count yet, and another file takes its place.
        let away = own.replace("https://own", "https://127.0.0.1:1");
        std::fs::write(&path, file(&format!("{anonymous}{away}"))).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::fs::write(&path, file(&format!("{anonymous}, jwt: []"))).unwrap();
        reloads("success", 1).await;
    }

    #[tokio::test]
    async fn flags_say_what_a_file_would() {
        let issuer = |url: &str| [format!("--oidc-issuer-url={url}"), "--oidc-client-id=me".to_owned()];
        assert!(start(&issuer("https://127.0.0.1:1")).unwrap().issuers.is_some());
        let plain = start(&issuer("http://127.0.0.1:1")).err().unwrap().to_string();
        assert!(plain.contains("URL scheme must be https"), "{plain}");
        let own = start(&issuer("https://own")).err().unwrap().to_string();
        assert!(own.contains("URL must not overlap with disallowed issuers: [https://own]"), "{own}");
        let none = start(&["--anonymous-auth=false".to_owned()]).unwrap();
        assert!(none.issuers.is_none() && none.anonymous.is_none());
    }
}
