//! By what service-account tokens are signed and verified: files of keys, which are read again when they change, or a signer
//! behind a socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use kybern_auth::pki::Pki;
use kybern_auth::token::{ExternalSigner, Issuer, PublicKey, SigningKey, read_public_keys};
use kybern_registry::TokenLimits;

use super::control_plane::ApiServerOptions;
use super::watched_files::WatchedFiles;

pub(super) struct Tokens {
    pub(super) issuer: Arc<Issuer>,
    pub(super) limits: TokenLimits,
    pub(super) signer: Option<Arc<ExternalSigner>>,
}

/// Behind which the signer is.
const GATE: &str = "ExternalServiceAccountTokenSigner";

impl Tokens {
    pub(super) async fn new(options: &ApiServerOptions, pki: &Pki) -> Result<Self> {
        let issuers = if options.issuers.is_empty() {
            vec![format!("https://kubernetes.default.svc.{}", options.cluster_domain)]
        } else {
            options.issuers.clone()
        };
        match &options.signing_endpoint {
            Some(endpoint) => Self::of_signer(options, issuers, endpoint).await,
            None => Self::of_files(options, issuers, pki),
        }
    }

    fn of_files(options: &ApiServerOptions, issuers: Vec<String>, pki: &Pki) -> Result<Self> {
        let paths = KeyFiles { signing: options.signing_key.clone(), verifying: options.verifying_keys.clone() };
        let files = WatchedFiles::read(paths.all())?;
        let own = pki.service_account_key_pem.clone();
        let (signer, keys) = paths.keys(files.contents(), &own)?;
        let issuer = Issuer::of_files(issuers, options.audiences.clone(), &options.jwks_uri, signer, keys);
        let issuer = Arc::new(issuer);
        tokio::spawn(paths.follow(files, own, Arc::clone(&issuer)));
        Ok(Self { issuer, limits: options.token_limits, signer: None })
    }

    async fn of_signer(options: &ApiServerOptions, issuers: Vec<String>, endpoint: &Path) -> Result<Self> {
        if options.signing_key.is_some() || !options.verifying_keys.is_empty() {
            bail!(
                "can't set `--service-account-signing-key-file` and/or `--service-account-key-file` with \
                 `--service-account-signing-endpoint` (They are mutually exclusive)"
            );
        }
        if !options.gates.enabled(GATE) {
            bail!("setting `--service-account-signing-endpoint` requires enabling {GATE} feature gate");
        }
        let issuer = issuers.first().map_or("", String::as_str);
        let signer = ExternalSigner::start(socket(endpoint)?, issuer, &options.jwks_uri).await;
        let signer =
            signer.map_err(|cause| anyhow!("{cause} (--service-account-signing-endpoint {})", endpoint.display()))?;
        let (longest, mut limits) = (signer.max_token_seconds(), options.token_limits);
        if let Some(asked) = limits.max_seconds.filter(|asked| *asked > longest) {
            bail!(
                "service-account-max-token-expiration cannot be set longer than the token expiration supported by \
                 service-account-signing-endpoint: {asked}s > {longest}s"
            );
        }
        limits.max_seconds.get_or_insert(longest);
        let issuer = Issuer::of_signer(issuers, options.audiences.clone(), Arc::clone(&signer));
        Ok(Self { issuer: Arc::new(issuer), limits, signer: Some(signer) })
    }
}

/// A path, or the name of an abstract socket behind `@`.
fn socket(endpoint: &Path) -> Result<PathBuf> {
    let Some(name) = endpoint.to_str().and_then(|text| text.strip_prefix('@')) else { return Ok(endpoint.to_owned()) };
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if !name.split('.').all(part) {
        bail!(
            "invalid value {:?} passed for `--service-account-signing-endpoint`, when prefixed with @ must be a valid \
             abstract socket name",
            endpoint.display().to_string()
        );
    }
    Ok(PathBuf::from(format!("\0{name}")))
}

struct KeyFiles {
    /// `None`: the cluster's own.
    signing: Option<PathBuf>,
    verifying: Vec<PathBuf>,
}

impl KeyFiles {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.signing.iter().chain(&self.verifying)
    }

    /// Of the files' contents, in the order of [`KeyFiles::all`].
    fn keys(&self, contents: &[String], own: &str) -> Result<(SigningKey, Vec<PublicKey>)> {
        let (signing, verifying) = contents.split_at(usize::from(self.signing.is_some()));
        let signer = match (&self.signing, signing.first()) {
            (Some(path), Some(text)) => SigningKey::from_pem(text)
                .with_context(|| format!("{} is not usable as --service-account-signing-key-file", path.display()))?,
            _ => SigningKey::from_pem(own)?,
        };
        let mut keys = Vec::new();
        for (path, text) in self.verifying.iter().zip(verifying) {
            let found = read_public_keys(text);
            let doing = || format!("{} is not usable as --service-account-key-file", path.display());
            keys.extend(found.with_context(doing)?);
        }
        Ok((signer, keys))
    }

    async fn follow(self, mut files: WatchedFiles, own: String, issuer: Arc<Issuer>) {
        loop {
            let read = files.changed().await.and_then(|contents| self.keys(contents, &own));
            match read {
                Ok((signer, keys)) => {
                    tracing::info!(key = signer.id(), "service-account tokens are signed and verified with other keys");
                    issuer.replace(signer, keys);
                }
                Err(error) => tracing::error!("the keys of service-account tokens stay as they are: {error:#}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn keys_rotate_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let (signing, old, new) = (folder.path().join("sa.key"), folder.path().join("a"), folder.path().join("b"));
        let [first, second] = [0, 1].map(|_| rcgen::KeyPair::generate().unwrap());
        let write = |path: &Path, text: String| std::fs::write(path, text).unwrap();
        write(&signing, first.serialize_pem());
        write(&old, first.public_key_pem());
        write(&new, second.public_key_pem());
        let paths = KeyFiles { signing: Some(signing.clone()), verifying: vec![old.clone(), new.clone()] };
        let files = WatchedFiles::read(paths.all()).unwrap();
        let (signer, keys) = paths.keys(files.contents(), "").unwrap();
        let issuer = Arc::new(Issuer::new(vec!["https://me".into()], vec![], signer, keys));
        tokio::spawn(paths.follow(files, String::new(), Arc::clone(&issuer)));
        let now = jiff::Timestamp::now();
        let spec = kybern_auth::token::TokenSpec {
            namespace: "ns",
            service_account: "sa",
            service_account_uid: "u",
            bound: None,
            node: None,
            audiences: Vec::new(),
            seconds: 3600,
            warn_after: None,
        };
        let signs = async || {
            let token = issuer.issue(&spec, "id", now).await.unwrap();
            let header = token.split('.').next().unwrap().to_owned();
            (token, header)
        };
        let eventually = async |what: &str, holds: &dyn Fn() -> bool| {
            for _ in 0..100 {
                if holds() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("{what}");
        };
        let (token, header) = signs().await;
        // What is no key changes nothing.
        write(&signing, "half".to_owned());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(signs().await.1, header);
        write(&signing, second.serialize_pem());
        let published = || String::from_utf8(issuer.discovery().0.jwks).unwrap();
        let second_id = read_public_keys(&second.public_key_pem()).unwrap()[0].id();
        eventually("the new key is first", &|| published().find(&second_id).is_some_and(|at| at < 200)).await;
        let (newer, other) = signs().await;
        assert_ne!(other, header);
        for good in [&token, &newer] {
            assert!(issuer.verify(good, &[], now).is_ok(), "both keys are listed");
        }
        write(&old, second.public_key_pem());
        eventually("a key that no file holds is good no more", &|| issuer.verify(&token, &[], now).is_err()).await;
        assert!(issuer.verify(&newer, &[], now).is_ok());
    }

    #[test]
    fn abstract_sockets_have_names() {
        assert_eq!(socket(Path::new("/run/a.sock")).unwrap(), Path::new("/run/a.sock"));
        assert_eq!(socket(Path::new("@kms.sock")).unwrap(), Path::new("\0kms.sock"));
        assert!(socket(Path::new("@")).is_err() && socket(Path::new("@a b")).is_err());
    }
}
