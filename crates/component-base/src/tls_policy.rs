//! `--tls-min-version` and `--tls-cipher-suites`: what a server accepts of what clients offer. Nothing older than TLS 1.2 and
//! nothing but ciphers that authenticate and keep forward secrecy exists here, so both can only narrow.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier};

/// Go's names of TLS 1.2 ciphers, and those of them that there are here under another name.
const ALIASES: &[(&str, &str)] = &[
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Ciphers that Go has and that are not here: without forward secrecy, with CBC, RC4 or 3DES.
const ABSENT: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

static SINCE_12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static SINCE_13: [&SupportedProtocolVersion; 1] = [&TLS13];

/// What a server speaks.
#[derive(Clone, Debug)]
pub struct TlsPolicy {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
    /// Whether HTTP/2 is spoken beside HTTP/1.1.
    pub http2: bool,
}

impl Default for TlsPolicy {
    fn default() -> Self {
        Self { provider: Arc::new(rustls::crypto::ring::default_provider()), versions: &SINCE_12, http2: true }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsPolicyError {
    Version(String),
    Cipher(String),
    /// Of the ciphers named, none is here, and TLS 1.3 is not asked for.
    NoCipher,
}

impl std::fmt::Display for TlsPolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(name) => write!(f, "unknown tls version {name:?}"),
            Self::Cipher(name) => write!(f, "Cipher suite {name} not supported or doesn't exist"),
            Self::NoCipher => f.write_str(
                "none of the cipher suites exists here: name one with ECDHE and GCM or CHACHA20, or ask for VersionTLS13",
            ),
        }
    }
}

impl std::error::Error for TlsPolicyError {}

impl TlsPolicy {
    /// Of Go's names; empty ones are the defaults. As in Go, the ciphers of TLS 1.3 are not chosen.
    pub fn new(min_version: &str, ciphers: &[String]) -> Result<Self, TlsPolicyError> {
        let mut policy = Self::default();
        policy.versions = match min_version {
            "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => policy.versions,
            "VersionTLS13" => &SINCE_13,
            other => return Err(TlsPolicyError::Version(other.to_owned())),
        };
        let mut chosen = Vec::new();
        for name in ciphers.iter().filter(|name| !name.is_empty()) {
            let own = ALIASES.iter().find(|(alias, _)| alias == name).map_or(name.as_str(), |(_, own)| own);
            let suites = rustls::crypto::ring::ALL_CIPHER_SUITES.iter();
            let go_name =
                |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1);
            match suites.clone().find(|suite| go_name(suite) == own) {
                Some(suite) => chosen.push(*suite),
                None if ABSENT.contains(&own) => {}
                None => return Err(TlsPolicyError::Cipher(name.clone())),
            }
        }
        if ciphers.iter().any(|name| !name.is_empty()) {
            chosen.retain(|suite| suite.version().version != TLS13.version);
            if chosen.is_empty() && policy.versions.len() > 1 {
                return Err(TlsPolicyError::NoCipher);
            }
            let mut provider = rustls::crypto::ring::default_provider();
            provider.cipher_suites.retain(|suite| suite.version().version == TLS13.version);
            provider.cipher_suites.extend(chosen);
            policy.provider = Arc::new(provider);
        }
        Ok(policy)
    }

    pub fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    /// The protocols that are offered, best first.
    pub fn alpn(&self) -> Vec<Vec<u8>> {
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        if self.http2 { vec![h2, h1] } else { vec![h1] }
    }

    /// The beginning of a server's configuration.
    pub fn server(&self) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, rustls::Error> {
        ServerConfig::builder_with_provider(self.provider()).with_protocol_versions(self.versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(min_version: &str, ciphers: &[&str]) -> Result<(usize, Vec<String>), String> {
        let ciphers: Vec<String> = ciphers.iter().map(|c| (*c).to_owned()).collect();
        let policy = TlsPolicy::new(min_version, &ciphers).map_err(|e| e.to_string())?;
        policy.server().map_err(|e| e.to_string())?;
        let suites = policy.provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite()));
        Ok((policy.versions.len(), suites.filter(|name| !name.starts_with("TLS13_")).collect()))
    }

    #[test]
    fn both_only_narrow() {
        let all = names("", &[]).unwrap();
        assert_eq!((all.0, all.1.len()), (2, 6));
        assert_eq!(names("VersionTLS10", &[]).unwrap(), all);
        assert_eq!(names("VersionTLS13", &[]).unwrap().0, 1);
        let one = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        let chacha = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305";
        let some = names("", &[one, "TLS_RSA_WITH_AES_128_CBC_SHA", chacha, "TLS_AES_128_GCM_SHA256"]).unwrap();
        assert_eq!(some.1, [one, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
        assert!(names("VersionTLS13", &["TLS_RSA_WITH_AES_128_CBC_SHA"]).is_ok());
    }

    #[test]
    fn what_cannot_be() {
        assert_eq!(names("TLS1.2", &[]), Err("unknown tls version \"TLS1.2\"".to_owned()));
        let nonsense = "Cipher suite TLS_NONSENSE not supported or doesn't exist".to_owned();
        assert_eq!(names("", &["TLS_NONSENSE"]), Err(nonsense));
        assert!(names("", &["TLS_RSA_WITH_AES_128_CBC_SHA"]).unwrap_err().contains("VersionTLS13"));
    }
}
