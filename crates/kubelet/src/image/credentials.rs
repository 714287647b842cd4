//! Pull secrets: which of their entries are meant for an image (`pkg/credentialprovider`).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_api::core::v1::Secret;
use kybern_cri::AuthConfig;
use serde_json::Value;

use super::pulled::{SecretSource, sha256};

/// A credential, and the secret that it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullCredential {
    pub auth: AuthConfig,
    pub secret: SecretSource,
}

/// What the secrets hold for an image's registry, the more precise first.
pub fn pull_credentials(secrets: &[Arc<Secret>], image: &str) -> Vec<PullCredential> {
    let place = place(image);
    let mut found = Vec::new();
    for secret in secrets {
        let auths = auths(secret);
        let entries = auths.as_object().into_iter().flatten().filter(|(server, _)| matches(server, &place));
        found.extend(entries.map(|(server, auth)| {
            let auth = auth_config(server, auth);
            PullCredential { secret: source(secret, &auth), auth }
        }));
    }
    found.sort_by(|a, b| b.auth.server_address.cmp(&a.auth.server_address));
    found
}

/// The entries of a secret of one of the two types, by server.
fn auths(secret: &Secret) -> Value {
    let data = secret.data.as_ref();
    let entry = |key: &str| data.and_then(|d| d.get(key)).and_then(|b| serde_json::from_slice::<Value>(&b.0).ok());
    let found = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => entry(".dockerconfigjson").map(|mut config| config["auths"].take()),
        Some("kubernetes.io/dockercfg") => entry(".dockercfg"),
        _ => None,
    };
    found.unwrap_or_default()
}

fn auth_config(server: &str, auth: &Value) -> AuthConfig {
    let text = |name: &str| auth[name].as_str().unwrap_or("").to_owned();
    let decoded =
        STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let (user, password) = decoded.split_once(':').unwrap_or(("", ""));
    let or = |given: String, fallback: &str| if given.is_empty() { fallback.to_owned() } else { given };
    AuthConfig {
        username: or(text("username"), user),
        password: or(text("password"), password),
        auth: text("auth"),
        server_address: server.to_owned(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    }
}

fn source(secret: &Secret, auth: &AuthConfig) -> SecretSource {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let parts = [&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token];
    SecretSource {
        uid: text(&secret.metadata.uid),
        namespace: text(&secret.metadata.namespace),
        name: text(&secret.metadata.name),
        credential_hash: sha256(serde_json::json!(parts).to_string().as_bytes()),
    }
}

/// An image's name with its registry, and with what it is asked for by: `docker.io/library/nginx:latest`.
pub(super) fn full_name(image: &str) -> String {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let place = place(name);
    match (digest, tag_at(&place)) {
        (Some(digest), tag) => format!("{}@{digest}", &place[..tag.unwrap_or(place.len())]),
        (None, Some(_)) => place,
        (None, None) => format!("{place}:latest"),
    }
}

/// An image's registry and repository, without tag and digest.
pub(super) fn repository(image: &str) -> String {
    let place = place(image);
    let end = tag_at(&place).unwrap_or(place.len());
    place[..end].to_owned()
}

/// Where the tag begins: at a colon after the last slash, for one before it belongs to a port.
fn tag_at(name: &str) -> Option<usize> {
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    name[path..].find(':').map(|colon| path + colon)
}

/// An image without its digest, with its registry: `docker.io/library/nginx:1.14`.
fn place(image: &str) -> String {
    let name = image.split('@').next().unwrap_or("");
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Whether a key of a docker configuration (`host`, `*.host:port/path`, a URL) covers an image's place.
fn matches(server: &str, place: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    let (image_host, image_path) = place.split_once('/').unwrap_or((place, ""));
    let hosts_match = host.split('.').count() == image_host.split('.').count()
        && host.split('.').zip(image_host.split('.')).all(|(pattern, part)| pattern == "*" || pattern == part);
    hosts_match && image_path.starts_with(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kybern_api::ByteString;

    use super::*;

    #[test]
    fn pull_secrets() {
        let json = format!(
            r#"{{"auths":{{"reg.example:5000":{{"auth":"{}"}},"https://index.docker.io/v1/":{{"username":"d"}},
            "*.lab/team":{{"username":"t","password":"p"}}}}}}"#,
            STANDARD.encode("u:p:w")
        );
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.into_bytes()))]);
        let secret = |kind: &str| {
            let kind = Some(format!("kubernetes.io/{kind}"));
            Arc::new(Secret { type_: kind, data: Some(data.clone()), ..Default::default() })
        };
        let given = |kind: &str, image: &str| {
            let found = pull_credentials(&[secret(kind)], image);
            found.into_iter().map(|c| (c.auth.username, c.auth.password)).collect::<Vec<_>>()
        };
        let check = |image: &str, expect: &[(&str, &str)]| {
            let expect: Vec<_> = expect.iter().map(|(u, p)| (u.to_string(), p.to_string())).collect();
            assert_eq!(given("dockerconfigjson", image), expect, "{image}");
            assert!(given("tls", image).is_empty());
        };
        check("reg.example:5000/a/b:1", &[("u", "p:w")]);
        check("nginx", &[("d", "")]);
        check("x.lab/team/a", &[("t", "p")]);
        check("x.lab/other", &[]);
        check("reg.example/a", &[]);
        // The older form has no level above the registries.
        let json =
            br#"{"reg.example":{"username":"a","password":"b","email":"c"},"reg.example/team":{"username":"t"}}"#;
        let data = BTreeMap::from([(".dockercfg".to_owned(), ByteString(json.to_vec()))]);
        let old = Secret { type_: Some("kubernetes.io/dockercfg".to_owned()), data: Some(data), ..Default::default() };
        let found = pull_credentials(&[Arc::new(old)], "reg.example/team/app@sha256:00");
        let users: Vec<&str> = found.iter().map(|c| c.auth.username.as_str()).collect();
        assert_eq!(users, ["t", "a"], "the more precise entry first");
        assert_ne!(found[0].secret.credential_hash, found[1].secret.credential_hash);
        assert!(!format!("{found:?}").contains("password"), "no secret is printed");
    }

    #[test]
    fn full_names() {
        for (image, expect) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("r.io/a/b:1", "r.io/a/b:1"),
            ("a/b:1@sha256:00", "docker.io/a/b@sha256:00"),
        ] {
            assert_eq!(full_name(image), expect, "{image}");
        }
    }
}
