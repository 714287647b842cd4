//! `registries.yaml`, in k3s's form: mirrors with rewrites, and credentials and TLS settings per host.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ClientConfig;
use serde::Deserialize;

use super::auth::Credential;
use super::tls;

/// The key that stands for every host without an entry of its own.
const ANY: &str = "*";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Registries {
    /// By registry host.
    mirrors: BTreeMap<String, Mirror>,
    /// By the host and port of an endpoint.
    configs: BTreeMap<String, HostConfig>,
    /// What was made of the TLS sections: reading certificates takes longer than a request.
    #[serde(skip)]
    built: Mutex<Vec<(TlsSection, Arc<ClientConfig>)>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
    /// Regular expressions of repositories, and what to ask the mirror for instead.
    rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostConfig {
    auth: AuthSection,
    tls: TlsSection,
}

/// Never printed: it holds secrets.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AuthSection {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

impl std::fmt::Debug for AuthSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthSection")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsSection {
    pub(crate) ca_file: PathBuf,
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    pub(crate) insecure_skip_verify: bool,
}

/// One way to reach a repository, in the order to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Scheme, host and path up to and with `/v2`, without a slash at the end.
    pub(crate) base: String,
    /// Host and port.
    pub(crate) host: String,
    pub(crate) repository: String,
    /// The registry that a mirror stands in for.
    pub(crate) mirror_of: Option<String>,
}

/// Whether the file can be used; one that does not exist can. For those who want to know before the first pull.
pub fn check_registries(path: &Path) -> io::Result<()> {
    Registries::load(path).map(drop)
}

impl Registries {
    /// Reads the file; one that does not exist says nothing.
    pub(crate) fn load(path: &Path) -> io::Result<Registries> {
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Registries::default()),
            Err(error) => Err(crate::disk::named(error, path)),
            Ok(text) => Registries::parse(&text)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))),
        }
    }

    fn parse(text: &str) -> Result<Registries, String> {
        if text.trim().is_empty() {
            return Ok(Registries::default());
        }
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// The ways to a repository: the mirrors in their order, then the registry itself.
    pub(crate) fn endpoints(&self, registry: &str, repository: &str) -> Result<Vec<Endpoint>, String> {
        let own = match registry {
            "docker.io" => "https://registry-1.docker.io".to_owned(),
            host if is_local(host) && !self.configs.get(host).is_some_and(|c| c.tls != TlsSection::default()) => {
                format!("http://{host}")
            }
            host => format!("https://{host}"),
        };
        let mut endpoints = Vec::new();
        if let Some(mirror) = self.mirrors.get(registry).or_else(|| self.mirrors.get(ANY)) {
            let repository = mirror.rewrite(repository)?;
            for url in &mirror.endpoint {
                let mirror_of = Some(registry.to_owned()).filter(|_| url.trim_end_matches('/') != own);
                endpoints.push(endpoint(url, &repository, mirror_of)?);
            }
        }
        let last = endpoint(&own, repository, None)?;
        if !endpoints.contains(&last) {
            endpoints.push(last);
        }
        Ok(endpoints)
    }

    /// The entry of a host. Docker's registry goes by several names.
    fn host(&self, host: &str) -> Option<&HostConfig> {
        let names: &[&str] =
            if host == "registry-1.docker.io" { &[host, "docker.io", "index.docker.io"] } else { &[host] };
        names.iter().find_map(|name| self.configs.get(*name)).or_else(|| self.configs.get(ANY))
    }

    /// The credential for a host, if the file has one.
    pub(crate) fn credential(&self, host: &str) -> Option<Credential> {
        let auth = &self.host(host)?.auth;
        Credential::new(&auth.username, &auth.password, &auth.auth, &auth.identity_token)
    }

    /// How to speak TLS with a host.
    pub(super) fn tls(&self, host: &str) -> io::Result<Arc<ClientConfig>> {
        let section = self.host(host).map(|config| config.tls.clone()).unwrap_or_default();
        if section == TlsSection::default() {
            return tls::default_config();
        }
        let mut built = self.built.lock();
        if let Some((_, known)) = built.iter().find(|(of, _)| *of == section) {
            return Ok(known.clone());
        }
        let config = Arc::new(tls::build_config(&section)?);
        built.push((section, config.clone()));
        Ok(config)
    }
}

fn endpoint(url: &str, repository: &str, mirror_of: Option<String>) -> Result<Endpoint, String> {
    let url = url.trim_end_matches('/');
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("{}://{url}", if is_local(url.split('/').next().unwrap_or(url)) { "http" } else { "https" })
    };
    let uri: http::Uri = url.parse().map_err(|error| format!("registry endpoint {url:?}: {error}"))?;
    let host = uri.authority().ok_or_else(|| format!("registry endpoint {url:?} has no host"))?.to_string();
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("registry endpoint {url:?} must begin with https:// or http://"));
    }
    let base = if uri.path() == "/" { format!("{url}/v2") } else { url };
    Ok(Endpoint { base, host, repository: repository.to_owned(), mirror_of })
}

impl Mirror {
    fn rewrite(&self, repository: &str) -> Result<String, String> {
        for (pattern, replacement) in &self.rewrite {
            let expression =
                regex_lite::Regex::new(pattern).map_err(|error| format!("rewrite {pattern:?}: {error}"))?;
            if expression.is_match(repository) {
                // A braced group's name ends where it is meant to: `$1x` would be a group `1x`.
                let braced = regex_lite::Regex::new(r"\$(\d+)").map_err(|error| error.to_string())?;
                let replacement = braced.replace_all(replacement, "$${$1}");
                return Ok(expression.replace_all(repository, replacement.as_ref()).into_owned());
            }
        }
        Ok(repository.to_owned())
    }
}

/// Registries of this machine itself speak plain HTTP, as Docker has it.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example:5000", "http://plain.example/cache/v2"]
    rewrite:
      "^library/(.*)": "hub/$1"
  "*":
    endpoint: [fallback.example]
configs:
  "mirror.example:5000":
    auth: {username: u, password: p}
    tls: {ca_file: /ca.pem, insecure_skip_verify: true}
"#;

    fn check(file: &str, registry: &str, repository: &str, expect: &[(&str, &str)]) {
        let endpoints = Registries::parse(file).unwrap().endpoints(registry, repository).unwrap();
        let got: Vec<(&str, &str)> = endpoints.iter().map(|e| (e.base.as_str(), e.repository.as_str())).collect();
        assert_eq!(got, expect, "{registry}/{repository}");
    }

    #[test]
    fn a_misspelt_key_is_named() {
        for text in ["mirrorz: {}", "mirrors: {docker.io: {endpoints: []}}", "configs: {h: {tls: {ca: x}}}"] {
            let error = Registries::parse(text).unwrap_err();
            assert!(error.contains("unknown field"), "{text}: {error}");
        }
    }

    #[test]
    fn endpoints_in_order() {
        check("", "docker.io", "a/b", &[("https://registry-1.docker.io/v2", "a/b")]);
        check("", "localhost:5000", "a", &[("http://localhost:5000/v2", "a")]);
        check("", "127.0.0.1:5000", "a", &[("http://127.0.0.1:5000/v2", "a")]);
        check("", "[::1]:5000", "a", &[("http://[::1]:5000/v2", "a")]);
        check(
            FILE,
            "docker.io",
            "library/nginx",
            &[
                ("https://mirror.example:5000/v2", "hub/nginx"),
                ("http://plain.example/cache/v2", "hub/nginx"),
                ("https://registry-1.docker.io/v2", "library/nginx"),
            ],
        );
        check(FILE, "quay.io", "a/b", &[("https://fallback.example/v2", "a/b"), ("https://quay.io/v2", "a/b")]);
        check(
            "mirrors: {r.io: {endpoint: [\"localhost:5000\", \"m.io/v2/\", \"http://m.io/cache\"]}}",
            "r.io",
            "a",
            &[
                ("http://localhost:5000/v2", "a"),
                ("https://m.io/v2", "a"),
                ("http://m.io/cache", "a"),
                ("https://r.io/v2", "a"),
            ],
        );
        let parsed = Registries::parse("mirrors: {r.io: {endpoint: [\"ftp://m.io\"]}}").unwrap();
        assert!(parsed.endpoints("r.io", "a").unwrap_err().contains("ftp://m.io"));
        check(
            "configs:\n  localhost:5000:\n    tls: {insecure_skip_verify: true}\n",
            "localhost:5000",
            "a",
            &[("https://localhost:5000/v2", "a")],
        );
    }

    #[test]
    fn settings_of_a_host() {
        let registries = Registries::parse(FILE).unwrap();
        let endpoints = registries.endpoints("docker.io", "a/b").unwrap();
        let tls = |host: &str| registries.host(host).map(|config| config.tls.clone());
        assert!(
            tls("mirror.example:5000").is_some_and(|t| t.insecure_skip_verify && t.ca_file == Path::new("/ca.pem"))
        );
        assert_eq!(tls("mirror.example"), None, "a port is part of the name");
        let error = registries.tls("mirror.example:5000").unwrap_err().to_string();
        assert!(error.contains("/ca.pem"), "{error}");
        assert_eq!(endpoints[0].mirror_of.as_deref(), Some("docker.io"));
        assert!(registries.credential("mirror.example:5000").is_some());
        assert!(registries.credential("docker.io").is_none());
        assert!(!format!("{registries:?}").contains("password"), "no secret is printed");
        let any = "configs: {'*': {tls: {insecure_skip_verify: true}}, docker.io: {auth: {username: u, password: p}}}";
        let registries = Registries::parse(any).unwrap();
        assert!(registries.host("a.example").is_some_and(|config| config.tls.insecure_skip_verify));
        assert!(registries.host("registry-1.docker.io").is_some_and(|config| !config.tls.insecure_skip_verify));
        assert!(registries.credential("registry-1.docker.io").is_some());
    }
}
