//! Who Kybern is to a registry: credentials, and the challenge that asks for them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_cri::AuthConfig;

/// A user's name and password, or a token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

/// Never prints a secret.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

impl Credential {
    /// From the fields that Docker's config and CRI share; `auth` is the base64 of `username:password`.
    pub(crate) fn new(username: &str, password: &str, auth: &str, identity_token: &str) -> Option<Credential> {
        if !identity_token.is_empty() {
            return Some(Credential::Identity(identity_token.to_owned()));
        }
        if !username.is_empty() {
            return Some(Credential::Password { username: username.to_owned(), password: password.to_owned() });
        }
        let decoded =
            STANDARD.decode(auth.trim_end_matches('\0')).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
        let (username, password) = decoded.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        (!username.is_empty()).then(|| Credential::Password { username: username.to_owned(), password })
    }

    pub(crate) fn from_cri(auth: &AuthConfig) -> Option<Credential> {
        if !auth.registry_token.is_empty() {
            return Some(Credential::Bearer(auth.registry_token.clone()));
        }
        Credential::new(&auth.username, &auth.password, &auth.auth, &auth.identity_token)
    }

    /// The header's value, where the credential can be used as it is.
    pub(super) fn header(&self) -> Option<String> {
        match self {
            Credential::Password { username, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            Credential::Bearer(token) => Some(format!("Bearer {token}")),
            Credential::Identity(_) => None,
        }
    }
}

/// A `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

impl Challenge {
    /// Parses one header value (RFC 9110, section 11.6.1), as far as registries use it.
    pub(super) fn parse(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (String::new(), String::new(), String::new());
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = value,
                "service" => service = value,
                "scope" => scope = value,
                _ => {}
            }
        }
        (!realm.is_empty()).then_some(Challenge::Bearer { realm, service, scope })
    }
}

/// `name="value", name=value`: a quoted value may hold commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        out.push((name.trim().to_owned(), value.to_owned()));
        rest = next.trim_start_matches([' ', ',']);
    }
    out
}

/// Percent-encodes a query parameter's value.
pub(super) fn query(value: &str) -> String {
    value
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                (b as char).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: &str, scope: &str| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() })
        };
        for (text, expect) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"",
                bearer("https://auth.docker.io/token", "registry.docker.io", "repository:a/b:pull,push"),
            ),
            ("bearer realm=https://a/t, service=s", bearer("https://a/t", "s", "")),
            ("Bearer service=\"s\"", None),
            ("Negotiate", None),
        ] {
            assert_eq!(Challenge::parse(text), expect, "{text}");
        }
    }

    #[test]
    fn credentials() {
        let password = |u: &str, p: &str| Some(Credential::Password { username: u.into(), password: p.into() });
        assert_eq!(Credential::new("u", "p", "", ""), password("u", "p"));
        assert_eq!(Credential::new("", "", "dTpwOng=", ""), password("u", "p:x"));
        assert_eq!(Credential::new("", "", "", ""), None);
        assert_eq!(Credential::new("u", "p", "", "t"), Some(Credential::Identity("t".into())));
        assert_eq!(password("u", "p").unwrap().header().as_deref(), Some("Basic dTpw"));
        assert_eq!(format!("{:?}", password("u", "secret")), "Some(Credential)");
    }
}
