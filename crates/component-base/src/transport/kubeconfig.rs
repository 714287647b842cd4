//! How to reach and convince an API server: kubeconfig files and the files in a pod.

use std::path::{Path, PathBuf};

use base64::Engine;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use super::ConfigError;

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Everything a TLS client needs to know. Build it by hand, from a kubeconfig, or from a pod's files.
#[derive(Debug, Default)]
pub struct RestConfig {
    /// `https://host:port` (or `http://…`, without TLS), with an optional path prefix.
    pub server: String,
    /// The name that the server's certificate must bear; the host of `server` where `None`.
    pub server_name: Option<String>,
    pub ca: CertificateAuthorities,
    pub identity: Option<Identity>,
    /// Certificate and key, where they are in files: they may be renewed.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    pub credential: Option<Credential>,
    /// The namespace of the kubeconfig's context or of the pod.
    pub default_namespace: Option<String>,
}

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub enum CertificateAuthorities {
    /// The operating system's roots.
    #[default]
    System,
    These(Vec<CertificateDer<'static>>),
    /// `insecure-skip-tls-verify`.
    Anyone,
}

/// A client certificate with its key.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// What goes into the `Authorization` header.
#[derive(Clone)]
pub enum Credential {
    Token(String),
    /// Read again as the file changes: bound tokens expire.
    TokenFile(PathBuf),
    Basic {
        username: String,
        password: String,
    },
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(..)"),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Self::Basic { username, .. } => f.debug_struct("Basic").field("username", username).finish_non_exhaustive(),
        }
    }
}

impl Identity {
    /// Reads a certificate chain and a private key from PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, ConfigError> {
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| config(format!("the client key is no PEM private key: {e}")))?;
        Ok(Self { chain: certificates(chain, "client certificate")?, key })
    }
}

impl CertificateAuthorities {
    /// Reads one or more certificates from PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ConfigError> {
        Ok(Self::These(certificates(pem, "certificate authority")?))
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|e| config(format!("the {what} is no PEM: {e}")))?;
    if chain.is_empty() { Err(config(format!("the {what} holds no PEM certificate"))) } else { Ok(chain) }
}

fn config(text: impl Into<String>) -> ConfigError {
    ConfigError(text.into())
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|e| config(format!("cannot read {}: {e}", path.display())))
}

/// A file's bytes, or those that stand in its place.
fn source(data: &Option<String>, file: &Option<PathBuf>, directory: &Path) -> Result<Option<Vec<u8>>, ConfigError> {
    match (data, file) {
        (Some(data), _) if !data.is_empty() => {
            let engine = base64::engine::general_purpose::STANDARD;
            Ok(Some(engine.decode(data.trim()).map_err(|e| config(format!("malformed base64 data: {e}")))?))
        }
        (_, Some(file)) if !file.as_os_str().is_empty() => Ok(Some(read(&directory.join(file))?)),
        _ => Ok(None),
    }
}

impl RestConfig {
    /// The way to the same server, without credentials.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        let (server, server_name) = (self.server.clone(), self.server_name.clone());
        Self { server, server_name, ca: self.ca.clone(), ..Self::default() }
    }

    /// Reads the current context of a kubeconfig file.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let text = String::from_utf8(read(path)?).map_err(|_| config(format!("{} is not UTF-8", path.display())))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        Self::parse_kubeconfig(&text, directory).map_err(|e| config(format!("{}: {e}", path.display())))
    }

    /// Reads the current context of a kubeconfig; relative paths in it start at `directory`.
    pub fn parse_kubeconfig(text: &str, directory: &Path) -> Result<Self, ConfigError> {
        let file: KubeConfig = serde_saphyr::from_str(text).map_err(|e| config(format!("not a kubeconfig: {e}")))?;
        let context = find(&file.contexts, &file.current_context, "context")?.context.clone();
        let cluster = &find(&file.clusters, &context.cluster, "cluster")?.cluster;
        let ca = match source(&cluster.certificate_authority_data, &cluster.certificate_authority, directory)? {
            _ if cluster.insecure_skip_tls_verify => CertificateAuthorities::Anyone,
            Some(pem) => CertificateAuthorities::from_pem(&pem)?,
            None => CertificateAuthorities::System,
        };
        let user = match context.user.as_str() {
            "" => User::default(),
            name => find(&file.users, name, "user")?.user.clone(),
        };
        let as_user = user.credentials(&context.user, directory)?;
        let (server, server_name) = (cluster.server.clone(), cluster.tls_server_name.clone());
        Ok(Self { server, server_name, ca, default_namespace: context.namespace, ..as_user })
    }

    /// Reads what the kubelet gives every pod.
    pub fn in_cluster() -> Result<Self, ConfigError> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| {
                config(format!(
                    "unable to load in-cluster configuration: {name} is not set; outside a pod, pass a kubeconfig"
                ))
            })
        };
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let directory = Path::new(SERVICE_ACCOUNT);
        let namespace = read(&directory.join("namespace")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(Self {
            server: format!("https://{host}:{port}"),
            ca: CertificateAuthorities::from_pem(&read(&directory.join("ca.crt"))?)?,
            credential: Some(Credential::TokenFile(directory.join("token"))),
            default_namespace: namespace,
            ..Self::default()
        })
    }
}

fn find<'a, T: Named>(list: &'a [T], name: &str, what: &str) -> Result<&'a T, ConfigError> {
    list.iter().find(|entry| entry.name() == name).ok_or_else(|| config(format!("{what} {name:?} does not exist")))
}

trait Named {
    fn name(&self) -> &str;
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct KubeConfig {
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
    current_context: String,
}

macro_rules! named {
    ($name:ident { $field:ident: $inner:ident }) => {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct $name {
            name: String,
            $field: $inner,
        }

        impl Named for $name {
            fn name(&self) -> &str {
                &self.name
            }
        }
    };
}

named!(NamedCluster { cluster: Cluster });
named!(NamedContext { context: Context });
named!(NamedUser { user: User });

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

impl User {
    /// The way to a server without the server: what there is to show.
    fn credentials(&self, name: &str, directory: &Path) -> Result<RestConfig, ConfigError> {
        if self.exec.is_some() || self.auth_provider.is_some() {
            return Err(config(format!(
                "user {name:?} gets its credentials from a plugin, which is not supported; use a token or a client certificate"
            )));
        }
        let certificate = source(&self.client_certificate_data, &self.client_certificate, directory)?;
        let key = source(&self.client_key_data, &self.client_key, directory)?;
        let identity = match (certificate, key) {
            (Some(chain), Some(key)) => Some(Identity::from_pem(&chain, &key)?),
            (None, None) => None,
            _ => return Err(config(format!("user {name:?} needs both a client certificate and its key"))),
        };
        let identity_files = match (&self.client_certificate_data, &self.client_certificate, &self.client_key) {
            (None, Some(certificate), Some(key)) if self.client_key_data.is_none() => {
                Some((directory.join(certificate), directory.join(key)))
            }
            _ => None,
        };
        let credential = match self.clone() {
            Self { token_file: Some(file), .. } => Some(Credential::TokenFile(directory.join(file))),
            Self { token: Some(token), .. } => Some(Credential::Token(token)),
            Self { username: Some(username), password, .. } => {
                Some(Credential::Basic { username, password: password.unwrap_or_default() })
            }
            _ => None,
        };
        Ok(RestConfig { identity, identity_files, credential, ..RestConfig::default() })
    }
}

/// The users of a kubeconfig file that is not about one server: each is named after those that are to see him.
#[derive(Clone, Default)]
pub struct Users {
    users: Vec<(String, User)>,
    /// The user of the current context.
    current: String,
    directory: PathBuf,
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.users.iter().map(|(name, _)| name)).finish()
    }
}

impl Users {
    /// Reads a kubeconfig file.
    pub fn of_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let text = String::from_utf8(read(path)?).map_err(|_| config(format!("{} is not UTF-8", path.display())))?;
        let file: KubeConfig =
            serde_saphyr::from_str(&text).map_err(|e| config(format!("{}: not a kubeconfig: {e}", path.display())))?;
        let current = find(&file.contexts, &file.current_context, "context").map(|named| named.context.user.clone());
        Ok(Self {
            users: file.users.into_iter().map(|named| (named.name, named.user)).collect(),
            current: current.unwrap_or_default(),
            directory: path.parent().unwrap_or(Path::new(".")).to_owned(),
        })
    }

    /// The credentials for a server: of the user of its name and port, of one of `*.` and an end of that, both without the
    /// port where it is 443, of `*`, of the current context's; none where there is no such user.
    pub fn for_server(&self, host: &str, port: u16) -> Result<RestConfig, ConfigError> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut targets = vec![format!("{host}:{port}")];
        targets.extend((port == 443).then_some(host));
        let by_target = targets.iter().flat_map(|target| {
            let ends = target.match_indices('.').map(|(dot, _)| format!("*{}", &target[dot..]));
            std::iter::once(target.clone()).chain(ends)
        });
        let mut names = by_target.chain(["*".to_owned(), self.current.clone()]);
        match names.find_map(|name| self.users.iter().find(|(known, _)| *known == name)) {
            Some((name, user)) => user.credentials(name, &self.directory),
            None => Ok(RestConfig::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: here
clusters:
- name: one
  cluster: {server: 'https://127.0.0.1:6443', insecure-skip-tls-verify: true, tls-server-name: kubernetes}
contexts:
- name: here
  context: {cluster: one, user: me, namespace: work}
- name: nowhere
  context: {cluster: two}
users:
- name: me
  user: {tokenFile: token}
- name: plugin
  user: {exec: {command: aws}}
";

    #[test]
    fn a_server_sees_the_user_that_is_named_after_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let users = ["hook.ns.svc", "*.ns.svc:8443", "*.svc", "127.0.0.1:8443", "*.example.com"];
        let users: String =
            users.iter().map(|name| format!("- name: '{name}'\n  user: {{token: '{name}'}}\n")).collect();
        let mut text = format!("current-context: c\ncontexts:\n- name: c\n  context: {{user: me}}\nusers:\n{users}");
        std::fs::write(file.path(), &text).unwrap();
        let seen = |host: &str, port| {
            let users = Users::of_kubeconfig(file.path()).unwrap();
            match users.for_server(host, port).unwrap().credential {
                Some(Credential::Token(token)) => token,
                other => format!("{other:?}"),
            }
        };
        for (host, port, expect) in [
            ("hook.ns.svc", 443, "hook.ns.svc"),
            ("hook.ns.svc", 8443, "*.ns.svc:8443"),
            ("other.ns.svc", 443, "*.svc"),
            ("other.ns.svc", 9443, "None"),
            ("127.0.0.1", 8443, "127.0.0.1:8443"),
            ("127.0.0.1", 443, "None"),
            ("example.com", 443, "None"),
            ("a.b.example.com", 443, "*.example.com"),
        ] {
            assert_eq!(seen(host, port), expect, "{host}:{port}");
        }
        text.push_str("- name: me\n  user: {token: mine}\n");
        std::fs::write(file.path(), &text).unwrap();
        assert_eq!((seen("127.0.0.1", 443).as_str(), seen("hook.ns.svc", 443).as_str()), ("mine", "hook.ns.svc"));
        text.push_str("- name: '*'\n  user: {token: all}\n");
        std::fs::write(file.path(), &text).unwrap();
        assert_eq!(seen("127.0.0.1", 443), "all");
    }

    fn parse(text: &str) -> Result<RestConfig, String> {
        RestConfig::parse_kubeconfig(text, Path::new("/etc/k")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_current_context_counts() {
        let config = parse(FILE).unwrap();
        assert_eq!(config.server, "https://127.0.0.1:6443");
        assert_eq!(config.server_name.as_deref(), Some("kubernetes"));
        assert_eq!(config.default_namespace.as_deref(), Some("work"));
        assert!(matches!(config.ca, CertificateAuthorities::Anyone));
        assert!(matches!(config.credential, Some(Credential::TokenFile(p)) if p == Path::new("/etc/k/token")));
    }

    #[test]
    fn errors_name_the_cause() {
        for (from, to, expect) in [
            ("current-context: here", "current-context: gone", "context \"gone\" does not exist"),
            ("current-context: here", "current-context: nowhere", "cluster \"two\" does not exist"),
            ("user: me,", "user: plugin,", "not supported"),
            ("tokenFile: token", "client-key-data: AAAA", "both a client certificate and its key"),
            ("tokenFile: token", "client-key-data: '?'", "malformed base64"),
        ] {
            let error = parse(&FILE.replace(from, to)).unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn credentials_are_not_printed() {
        let text = format!(
            "{:?}",
            [Credential::Token("s3cret".into()), Credential::Basic { username: "u".into(), password: "s3cret".into() }]
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
}
