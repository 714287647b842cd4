//! Image references as Docker reads them (distribution/reference): `[host[:port]/]path[:tag][@digest]`.

use std::fmt;

/// A reference in full: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and port, `docker.io`.
    pub registry: String,
    /// `library/nginx`.
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

/// The reference does not follow the grammar.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("couldn't parse image name {0:?}: invalid reference format: {1}")]
pub struct ReferenceError(String, String);

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        let fail = |why: &str| Err(ReferenceError(text.to_owned(), why.to_owned()));
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|d| !is_digest(d)) {
            return fail("the digest must be sha256: and 64 hexadecimal digits");
        }
        // A colon after the last slash begins the tag; one before it belongs to the host's port.
        let (name, tag) = match name.rfind(':') {
            Some(at) if !name[at..].contains('/') => (&name[..at], Some(&name[at + 1..])),
            _ => (name, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return fail("the tag must be up to 128 letters, digits, '_', '.' or '-'");
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path))
                if host.contains(['.', ':']) || host == "localhost" || host.chars().any(char::is_uppercase) =>
            {
                (host, path)
            }
            _ => ("docker.io", name),
        };
        if !is_host(registry) {
            return fail("the registry must be a host name with an optional port");
        }
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository =
            if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if path.chars().any(char::is_uppercase) {
            return fail(&format!("repository name ({repository}) must be lowercase"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_path_component) {
            return fail(
                "the repository must be lower-case words of letters and digits, joined by '.', '_', '__' or '-'",
            );
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest: digest.map(str::to_owned) })
    }

    /// `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tagged form without a digest, where there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// The form `name@digest` for a digest of this repository.
    pub fn at_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a text is a digest this store can verify.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) => {
                return v6.parse::<std::net::Ipv6Addr>().is_ok()
                    && (port.is_empty() || is_port(port.strip_prefix(':')));
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && (port.is_none() || is_port(port))
}

fn is_port(text: Option<&str>) -> bool {
    text.is_some_and(|t| t.parse::<u16>().is_ok())
}

fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    bytes
        .split(alphanumeric)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_forms() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expect) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("docker.io/nginx", "docker.io/library/nginx:latest".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/b", "localhost/b:latest".to_owned()),
            ("localhost:5000/b:x", "localhost:5000/b:x".to_owned()),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest".to_owned()),
            ("[::1]:5000/b", "[::1]:5000/b:latest".to_owned()),
            ("r.io/a__b/c-d.e_f", "r.io/a__b/c-d.e_f:latest".to_owned()),
            (&format!("nginx@{digest}"), format!("docker.io/library/nginx@{digest}")),
            (&format!("r.io/n:v1@{digest}"), format!("r.io/n:v1@{digest}")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "Nginx",
            "a//b",
            "a:",
            "nginx:-x",
            "nginx@sha256:12",
            "a/_b",
            "a b",
            "r.io/a/",
            "-r.io/a",
            "r.io:x/a",
            "../../etc:x",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        let error = Reference::parse("Nginx:1").unwrap_err().to_string();
        let expect = "couldn't parse image name \"Nginx:1\": invalid reference format: repository name (library/Nginx) must be lowercase";
        assert_eq!(error, expect);
    }
}
