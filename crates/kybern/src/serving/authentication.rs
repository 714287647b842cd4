//! Who asks a component: a front proxy's word, a client certificate, a token that the API server knows, or nobody. What
//! authorities and front proxies there are, files say, or the cluster's ConfigMap `extension-apiserver-authentication`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use clap::Args;
use http::header::AUTHORIZATION;
use kybern_api::core::v1::ConfigMap;
use kybern_apiserver::access::{Authenticator, Credentials, UserInfo};
use kybern_auth::authn::{Anonymous, ClientAuthorities, ClientCertificate, RequestHeader, RequestHeaderNames};
use kybern_client::review::{Lifetimes, Reviews};
use kybern_client::{Client, Informer, ListOptions, Store};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::authorities::CurrentAuthorities;
use super::seconds;

const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";

#[derive(Debug, Args)]
pub(crate) struct AuthenticationOptions {
    /// Whom the API server is asked as who a token's bearer is. Without it, tokens are nobody's.
    #[arg(long)]
    authentication_kubeconfig: Option<PathBuf>,
    /// How long the answer about a token is kept.
    #[arg(long, default_value = "10s", value_parser = seconds)]
    authentication_token_webhook_cache_ttl: Duration,
    /// Leaves the ConfigMap extension-apiserver-authentication alone.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false)]
    authentication_skip_lookup: bool,
    /// Works before that ConfigMap could be read.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = false)]
    authentication_tolerate_lookup_failure: bool,
    /// PEM file of authorities whose client certificates are believed [default: the cluster's].
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// PEM file of authorities whose client certificates are front proxies [default: the cluster's].
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies' certificates; empty: all that the authorities certify.
    #[arg(long, value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Headers in which a front proxy names the user.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    requestheader_username_headers: Vec<String>,
    /// Headers in which a front proxy names the user's uid.
    #[arg(long, value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers in which a front proxy names the user's groups.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    requestheader_group_headers: Vec<String>,
    /// What the headers in which a front proxy says more begin with.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    requestheader_extra_headers_prefix: Vec<String>,
}

/// Authorities and front proxies of the moment.
#[derive(Default)]
struct Trust {
    certificates: Option<ClientCertificate>,
    front_proxies: Option<RequestHeader>,
}

pub(super) struct Authentication {
    trust: ArcSwap<Trust>,
    pub(super) authorities: Arc<CurrentAuthorities>,
    reviews: Option<Reviews>,
}

impl Authentication {
    /// Follows the ConfigMap where it is to be; answers when it has been read, unless that is not to be waited for.
    pub(super) async fn new(
        options: &AuthenticationOptions,
        authorities: Arc<CurrentAuthorities>,
        tolerate: bool,
    ) -> Result<Arc<Self>> {
        let client = options.authentication_kubeconfig.as_ref().map(|path| {
            let client = Client::from_kubeconfig(path);
            client.with_context(|| format!("cannot use --authentication-kubeconfig {}", path.display()))
        });
        let client = client.transpose()?;
        let lifetimes = Lifetimes { token: options.authentication_token_webhook_cache_ttl, ..Lifetimes::default() };
        let reviews = client.as_ref().map(|client| Reviews::new(client.clone(), lifetimes));
        let fixed = Fixed::read(options)?;
        let own = Arc::new(Self { trust: ArcSwap::default(), authorities, reviews });
        own.trust(&fixed.clone())?;
        match client.filter(|_| !options.authentication_skip_lookup && !fixed.is_complete()) {
            None => {}
            Some(client) => {
                let select = ListOptions::fields(format!("metadata.name={CONFIG_MAP}"));
                let store: Store<ConfigMap> = Informer::new(client, select).in_namespace(NAMESPACE).spawn();
                let following = Arc::clone(&own);
                let seen = store.clone();
                tokio::spawn(async move { following.follow(fixed, store).await });
                if !tolerate && !options.authentication_tolerate_lookup_failure {
                    tracing::info!("waiting for the ConfigMap {NAMESPACE}/{CONFIG_MAP}");
                    seen.synced().await;
                }
            }
        }
        Ok(own)
    }

    async fn follow(&self, fixed: Fixed, store: Store<ConfigMap>) {
        let mut changes = store.subscribe();
        loop {
            let map = store.get(&format!("{NAMESPACE}/{CONFIG_MAP}"));
            let data = map.and_then(|map| map.data.clone()).unwrap_or_default();
            let text = |key: &str| data.get(key).map(String::as_str);
            let trusted = fixed.clone().with(text).and_then(|trusted| self.trust(&trusted));
            if let Err(error) = trusted {
                tracing::warn!(
                    "the ConfigMap {NAMESPACE}/{CONFIG_MAP} is not usable: {error:#}; what was before holds"
                );
            }
            changes.changed().await;
        }
    }

    fn trust(&self, of: &Fixed) -> Result<()> {
        let unusable = |what: &'static str| move |error: String| anyhow!("{what} is not usable: {error}");
        let roots = |pem: &Option<String>, what| -> Result<Vec<CertificateDer<'static>>> {
            let Some(pem) = pem else { return Ok(Vec::new()) };
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            match found {
                Ok(found) if !found.is_empty() => Ok(found),
                Ok(_) => Err(unusable(what)("it holds no certificate".to_owned())),
                Err(error) => Err(unusable(what)(error.to_string())),
            }
        };
        let (clients, proxies) =
            (roots(&of.client_ca, "client-ca-file")?, roots(&of.proxy_ca, "requestheader-client-ca-file")?);
        let authorities = |roots: &[CertificateDer<'static>], what| -> Result<Option<ClientAuthorities>> {
            let made = (!roots.is_empty()).then(|| ClientAuthorities::new(roots).map_err(unusable(what)));
            made.transpose()
        };
        let trust = Trust {
            certificates: authorities(&clients, "client-ca-file")?.map(ClientCertificate::new),
            front_proxies: authorities(&proxies, "requestheader-client-ca-file")?
                .map(|authorities| RequestHeader::new(authorities, of.names.clone())),
        };
        self.authorities.set(&[clients, proxies].concat()).map_err(unusable("the client authorities"))?;
        self.trust.store(Arc::new(trust));
        Ok(())
    }

    /// `None`: the credential is bad.
    pub(super) async fn authenticate(&self, credentials: &Credentials<'_>) -> Option<UserInfo> {
        let trust = self.trust.load_full();
        let certified: [Option<&dyn Authenticator>; 2] = [
            trust.front_proxies.as_ref().map(|a| a as &dyn Authenticator),
            trust.certificates.as_ref().map(|a| a as &dyn Authenticator),
        ];
        let mut bad = false;
        for authenticator in certified.into_iter().flatten() {
            match authenticator.authenticate(credentials).await {
                Ok(Some(user)) => return Some(user),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(error, "unable to authenticate the request");
                    bad = true;
                }
            }
        }
        let header = credentials.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = header.and_then(|value| value.split_once(' '));
        let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        if let (Some(token), Some(reviews)) = (token, &self.reviews) {
            match reviews.token(token).await {
                Ok(Some(user)) => {
                    let (name, uid, groups, extra) = (user.name, user.uid, user.groups, user.extra);
                    return Some(UserInfo { name, uid, groups, extra });
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("cannot ask whose a token is: {error}"),
            }
        }
        if bad || token.is_some() {
            // A bad credential is not the same as none.
            return None;
        }
        Anonymous::default().authenticate(credentials).await.ok().flatten()
    }
}

/// What is trusted: of flags and files, completed by the ConfigMap.
#[derive(Clone)]
struct Fixed {
    client_ca: Option<String>,
    proxy_ca: Option<String>,
    names: RequestHeaderNames,
}

impl Fixed {
    fn read(options: &AuthenticationOptions) -> Result<Self> {
        let read = |path: &Option<PathBuf>| {
            let text = path
                .as_ref()
                .filter(|path| !path.as_os_str().is_empty())
                .map(|path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())));
            text.transpose()
        };
        let names = |list: &[String]| list.iter().filter(|name| !name.is_empty()).cloned().collect();
        Ok(Self {
            client_ca: read(&options.client_ca_file)?,
            proxy_ca: read(&options.requestheader_client_ca_file)?,
            names: RequestHeaderNames {
                allowed: names(&options.requestheader_allowed_names),
                username: names(&options.requestheader_username_headers),
                uid: names(&options.requestheader_uid_headers),
                group: names(&options.requestheader_group_headers),
                extra_prefix: names(&options.requestheader_extra_headers_prefix),
            },
        })
    }

    fn is_complete(&self) -> bool {
        self.client_ca.is_some() && self.proxy_ca.is_some()
    }

    fn with<'a>(mut self, text: impl Fn(&str) -> Option<&'a str>) -> Result<Self> {
        self.client_ca = self.client_ca.or_else(|| text("client-ca-file").map(str::to_owned));
        let from_cluster = self.proxy_ca.is_none().then(|| text("requestheader-client-ca-file")).flatten();
        if let Some(ca) = from_cluster {
            let list = |key: &str| -> Result<Vec<String>> {
                let parsed = text(key).map(serde_json::from_str).transpose();
                Ok(parsed.with_context(|| format!("{key} is no JSON array"))?.unwrap_or_default())
            };
            self.proxy_ca = Some(ca.to_owned());
            self.names = RequestHeaderNames {
                allowed: list("requestheader-allowed-names")?,
                username: list("requestheader-username-headers")?,
                uid: list("requestheader-uid-headers")?,
                group: list("requestheader-group-headers")?,
                extra_prefix: list("requestheader-extra-headers-prefix")?,
            };
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_completes_what_files_say() {
        let nothing = Fixed { client_ca: None, proxy_ca: None, names: RequestHeaderNames::default() };
        let map = |key: &str| match key {
            "client-ca-file" => Some("clients"),
            "requestheader-client-ca-file" => Some("proxies"),
            "requestheader-allowed-names" => Some(r#"["front"]"#),
            "requestheader-username-headers" => Some(r#"["X-User"]"#),
            _ => None,
        };
        let both = nothing.clone().with(map).unwrap();
        assert_eq!((both.client_ca.as_deref(), both.proxy_ca.as_deref()), (Some("clients"), Some("proxies")));
        assert_eq!((both.names.allowed, both.names.username), (vec!["front".to_owned()], vec!["X-User".to_owned()]));
        assert!(both.names.group.is_empty());
        let said = Fixed { client_ca: Some("mine".to_owned()), proxy_ca: Some("mine".to_owned()), ..nothing.clone() };
        let said = said.with(map).unwrap();
        assert_eq!((said.client_ca.as_deref(), said.proxy_ca.as_deref()), (Some("mine"), Some("mine")));
        let broken = |key: &str| match key {
            "requestheader-allowed-names" => Some("front"),
            other => map(other),
        };
        assert!(nothing.with(broken).is_err());
    }
}
