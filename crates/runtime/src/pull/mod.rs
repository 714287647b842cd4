//! Pulling: a reference to blobs in the store, and from there to an image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use kybern_cri::{AuthConfig, CriError};
use parking_lot::Mutex;

use crate::engine::blocking;
use crate::image::{Descriptor, Document, ImageStore, Reference, StoreError, choose, digest_text, parse, sha256};
use crate::registry::{Credential, Registries, RegistryError, Session};
use crate::{Config, disk};

/// How many layers of one image are fetched at a time.
const LAYERS_AT_ONCE: usize = 3;

/// How often a blob's download is begun anew or resumed before the pull fails.
const ATTEMPTS_MAX: u32 = 5;

/// How long a registry may send nothing in the middle of a blob.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Invalid(String),
}

/// Fetches images into a store.
pub(crate) struct Puller {
    images: Arc<ImageStore>,
    registries_file: PathBuf,
    /// Whose turn it is to pull a reference.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Puller {
    pub(crate) fn new(images: Arc<ImageStore>, config: &Config) -> Arc<Puller> {
        Arc::new(Puller { images, registries_file: config.registries_file.clone(), turns: Mutex::default() })
    }

    /// Pulls an image; concurrent pulls of the same one wait for the first, whose blobs they then find.
    pub(crate) async fn pull(self: &Arc<Self>, name: &str, auth: Vec<AuthConfig>) -> Result<String, CriError> {
        let reference = Reference::parse(name).map_err(|error| CriError::InvalidArgument(error.to_string()))?;
        if let Some(image) = self.images.find(name)?.filter(|image| image.pinned) {
            return Ok(image.id);
        }
        let turn = self.turns.lock().entry(reference.to_string()).or_default().clone();
        let result = {
            let _turn = turn.lock().await;
            self.pull_reference(&reference, &auth).await
        };
        drop(turn);
        self.turns.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        result.map_err(|error| {
            let text = format!("failed to pull and unpack image {:?}: {error}", reference.to_string());
            match error {
                PullError::Registry(RegistryError::Status { status: http::StatusCode::NOT_FOUND, .. }) => {
                    CriError::NotFound(text)
                }
                _ => CriError::Internal(text),
            }
        })
    }

    async fn pull_reference(self: &Arc<Self>, reference: &Reference, auth: &[AuthConfig]) -> Result<String, PullError> {
        let _ingest = self.images.ingest()?;
        let (session, top) = self.resolve(reference, auth).await?;
        let session = Arc::new(session);
        let (digest, manifest) = self.manifest(&session, &top).await?;
        let config = manifest.config.clone().unwrap_or_default();
        let layers = std::iter::once(&config).chain(&manifest.layers).cloned();
        let fetches: Vec<_> = layers.map(|blob| self.fetch(session.clone(), blob)).collect();
        futures_util::stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE).try_collect::<Vec<()>>().await?;
        let mut digests = vec![reference.at_digest(&top)];
        if digest != top {
            digests.push(reference.at_digest(&digest));
        }
        let tags = reference.tagged().filter(|_| reference.digest.is_none()).into_iter().collect();
        let images = self.images.clone();
        let installed = blocking(move || images.install(&top, tags, digests)).await;
        Ok(installed.map_err(|error| PullError::Invalid(error.to_string()))??.id)
    }

    /// Finds an endpoint and credential that give the reference's manifest. Answers its digest, with the manifest stored.
    async fn resolve(&self, reference: &Reference, auth: &[AuthConfig]) -> Result<(Session, String), PullError> {
        // Read at each pull, so that a changed file needs no restart.
        let registries = Registries::load(&self.registries_file)?;
        let endpoints = registries.endpoints(&reference.registry, &reference.repository).map_err(PullError::Invalid)?;
        let asked = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest");
        let mut failures = Vec::new();
        for endpoint in endpoints {
            // A pod's secrets are for the registry it names, not for the mirrors in between.
            let of_pod = auth.iter().filter(|_| endpoint.mirror_of.is_none()).filter_map(Credential::from_cri);
            let credentials = of_pod.chain(registries.credential(&endpoint.host)).map(Some).chain([None]);
            let mut failure = None;
            for credential in credentials {
                let session = Session::new(endpoint.clone(), credential);
                match session.manifest(asked).await {
                    Ok(bytes) => {
                        let digest = self.images.put_blob(&bytes)?;
                        if reference.digest.as_ref().is_none_or(|wanted| *wanted == digest) {
                            return Ok((session, digest));
                        }
                        let host = &endpoint.host;
                        failure = Some(PullError::Invalid(format!("{host} sent a manifest with the digest {digest}")));
                        break;
                    }
                    Err(error) if error.is_denied() => failure = Some(error.into()),
                    Err(error) => {
                        failure = Some(error.into());
                        break;
                    }
                }
            }
            failures.extend(failure);
        }
        Err(unresolved(reference, failures))
    }

    /// The manifest for this machine: `top` itself, or what it lists.
    async fn manifest(&self, session: &Session, top: &str) -> Result<(String, Document), PullError> {
        let mut digest = top.to_owned();
        for _ in 0..3 {
            let document: Document = parse(&digest, &self.images.read_document(&digest)?)?;
            if document.config.is_some() {
                return Ok((digest, document));
            }
            let chosen = choose(&document)?.digest.clone();
            if !self.images.blob_path(&chosen).exists() {
                let bytes = session.manifest(&chosen).await?;
                if sha256(&bytes) != chosen {
                    return Err(PullError::Invalid(format!("the registry sent another manifest than {chosen}")));
                }
                self.images.put_blob(&bytes)?;
            }
            digest = chosen;
        }
        Err(PullError::Invalid(format!("{top} has too many levels of indexes")))
    }

    /// Gets a blob into the store unless it is there.
    async fn fetch(self: &Arc<Self>, session: Arc<Session>, blob: Descriptor) -> Result<(), PullError> {
        let target = self.images.blob_path(&blob.digest);
        if !crate::image::is_digest(&blob.digest) {
            return Err(PullError::Invalid(format!("unsupported digest {:?}", blob.digest)));
        }
        if target.exists() {
            return Ok(());
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("blob-{}-{:x}", &blob.digest[7..], NEXT.fetch_add(1, Ordering::Relaxed));
        let mut download = Download::new(self.images.ingest_dir().join(name), blob)?;
        let result = download.run(&session).await;
        let path = download.path.clone();
        if let Err(error) = result {
            disk::remove_all(&path)?;
            return Err(error);
        }
        // Written and renamed: the store's list, written last, makes it durable.
        Ok(fs::rename(path, target)?)
    }
}

/// What to say when no endpoint has the reference: each one's reason, mirrors first, for any may be the one that was
/// meant to have it.
fn unresolved(reference: &Reference, mut failures: Vec<PullError>) -> PullError {
    if let [PullError::Registry(RegistryError::Status { .. })] = failures.as_slice() {
        return failures.remove(0);
    }
    let reasons: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let reasons = if reasons.is_empty() { "no registry endpoint".to_owned() } else { reasons.join("; ") };
    PullError::Invalid(format!("failed to resolve reference {:?}: {reasons}", reference.to_string()))
}

/// One blob on its way to disk.
struct Download {
    path: PathBuf,
    file: File,
    blob: Descriptor,
    hash: ring::digest::Context,
    written: u64,
}

impl Download {
    fn new(path: PathBuf, blob: Descriptor) -> io::Result<Download> {
        let file = create(&path)?;
        Ok(Download { path, file, blob, hash: ring::digest::Context::new(&ring::digest::SHA256), written: 0 })
    }

    /// Downloads; a broken connection is taken up where it broke.
    async fn run(&mut self, session: &Session) -> Result<(), PullError> {
        let mut attempt = 1;
        loop {
            match self.once(session).await {
                Ok(()) => break,
                Err(PullError::Registry(RegistryError::Io(_)) | PullError::Io(_)) if attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
        let found = digest_text(self.hash.clone().finish().as_ref());
        if found != self.blob.digest {
            return Err(PullError::Invalid(format!(
                "the registry sent a blob with the digest {found} for {}",
                self.blob.digest
            )));
        }
        Ok(())
    }

    async fn once(&mut self, session: &Session) -> Result<(), PullError> {
        let (begins, mut body) = session.blob(&self.blob.digest, self.written).await?;
        if begins != self.written {
            self.file = create(&self.path)?;
            self.hash = ring::digest::Context::new(&ring::digest::SHA256);
            self.written = 0;
        }
        loop {
            let frame = tokio::time::timeout(STALL_TIMEOUT, body.frame())
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{} stopped coming", self.blob.digest)))?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            self.written += data.len() as u64;
            if self.blob.size > 0 && self.written > self.blob.size {
                return Err(PullError::Invalid(format!(
                    "{} is larger than the {} bytes its manifest says",
                    self.blob.digest, self.blob.size
                )));
            }
            self.hash.update(&data);
            self.file.write_all(&data)?;
        }
        if self.blob.size > 0 && self.written < self.blob.size {
            let short = format!("{} ended after {} of {} bytes", self.blob.digest, self.written, self.blob.size);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short).into());
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| disk::named(error, path))
}
