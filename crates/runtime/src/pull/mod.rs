//! Pulling: a reference to blobs in the store, and from there to an image.

mod download;
mod turns;

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use kybern_cri::{AuthConfig, CriError};
use tokio::sync::mpsc;

use crate::Config;
use crate::engine::blocking;
use crate::image::{
    DOCUMENT_MAX, Descriptor, Document, ImageStore, Ingest, Layers, Reference, StoreError, choose, is_digest,
};
use crate::registry::{Credential, Manifest, Registries, RegistryError, Session};
use download::{ATTEMPTS_MAX, download};
use turns::Turns;

/// How many layers of one image are fetched at a time.
const LAYERS_AT_ONCE: usize = 3;

#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Invalid(String),
}

impl From<io::Error> for PullError {
    fn from(error: io::Error) -> PullError {
        PullError::Store(error.into())
    }
}

impl PullError {
    /// Whether another endpoint may do better.
    fn is_of_endpoint(&self) -> bool {
        !matches!(self, PullError::Store(_))
    }

    /// Whether the next attempt can use what this one has fetched.
    fn may_pass(&self) -> bool {
        matches!(self, PullError::Registry(RegistryError::Io(_) | RegistryError::Status { .. }))
    }
}

/// Fetches images into a store.
pub(crate) struct Puller {
    images: Arc<ImageStore>,
    registries_file: PathBuf,
    /// By reference and by blob: who comes second finds what the first has fetched.
    turns: Turns,
}

/// The endpoints that may have an image's blobs, the one that had its manifest first.
type Sessions = Arc<Vec<Session>>;

impl Puller {
    pub(crate) fn new(images: Arc<ImageStore>, config: &Config) -> Arc<Puller> {
        Arc::new(Puller { images, registries_file: config.registries_file.clone(), turns: Turns::default() })
    }

    /// Pulls an image; concurrent pulls of the same one wait for the first, whose blobs they then find.
    pub(crate) async fn pull(self: &Arc<Self>, name: &str, auth: Option<AuthConfig>) -> Result<String, CriError> {
        let reference = Reference::parse(name).map_err(|error| CriError::InvalidArgument(error.to_string()))?;
        if let Some(image) = self.images.find(name)?.filter(|image| image.pinned) {
            return Ok(image.id);
        }
        let result = {
            let _turn = self.turns.take(&reference.to_string()).await;
            self.pull_reference(&reference, auth.as_ref()).await
        };
        // Also after a success: an earlier pull of another image may have given up half-way.
        if !result.as_ref().is_err_and(PullError::may_pass) {
            let images = self.images.clone();
            if let Err(error) = blocking(move || images.collect()).await? {
                tracing::warn!(%error, "cannot remove what unfinished pulls left");
            }
        }
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

    /// Does something with the store that may block.
    async fn with_store<T: Send + 'static>(
        &self,
        act: impl FnOnce(&ImageStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, PullError> {
        let images = self.images.clone();
        Ok(blocking(move || act(&images)).await.map_err(|error| PullError::Invalid(error.to_string()))??)
    }

    async fn pull_reference(
        self: &Arc<Self>,
        reference: &Reference,
        auth: Option<&AuthConfig>,
    ) -> Result<String, PullError> {
        let ingest = Arc::new(self.with_store(|images| Ok(images.ingest()?)).await?);
        let (sessions, manifest) = self.resolve(reference, auth).await?;
        let top = manifest.digest.clone();
        let (digest, document) = self.manifest(&sessions[0], manifest).await?;
        let config = document.config.clone().unwrap_or_default();
        if config.size > DOCUMENT_MAX {
            return Err(PullError::Invalid(format!("the image's config is said to have {} bytes", config.size)));
        }
        self.fetch(sessions.clone(), config).await?;
        let (layers, _) = self.with_store(move |images| images.layers(&document)).await?;
        self.fetch_and_unpack(&sessions, layers, &ingest).await?;
        let mut digests = vec![reference.at_digest(&top)];
        if digest != top {
            digests.push(reference.at_digest(&digest));
        }
        let tags = reference.tagged().filter(|_| reference.digest.is_none()).into_iter().collect();
        Ok(self.with_store(move |images| images.install(&top, tags, digests)).await?.id)
    }

    /// Finds an endpoint that gives the reference's manifest.
    async fn resolve(
        &self,
        reference: &Reference,
        auth: Option<&AuthConfig>,
    ) -> Result<(Sessions, Manifest), PullError> {
        // Read at each pull, so that a changed file needs no restart.
        let file = self.registries_file.clone();
        let registries = Arc::new(self.with_store(move |_| Ok(Registries::load(&file)?)).await?);
        let endpoints = registries.endpoints(&reference.registry, &reference.repository).map_err(PullError::Invalid)?;
        let asked = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest");
        let mut sessions: Vec<Session> = endpoints
            .into_iter()
            .map(|endpoint| {
                // A pod's secrets are for the registry it names, not for the mirrors in between.
                let of_pod = auth.filter(|_| endpoint.mirror_of.is_none()).and_then(Credential::from_cri);
                let credential = of_pod.or_else(|| registries.credential(&endpoint.host));
                Session::new(registries.clone(), endpoint, credential)
            })
            .collect();
        let mut failures = Vec::new();
        for index in 0..sessions.len() {
            match sessions[index].manifest(asked).await {
                Ok(manifest) => {
                    // An endpoint that did not know the image is asked for a blob last.
                    sessions.rotate_left(index);
                    return Ok((Arc::new(sessions), manifest));
                }
                Err(error) => failures.push(error.into()),
            }
        }
        Err(unresolved(reference, failures))
    }

    /// The manifest for this machine: `top` itself, or what it lists. It and all on the way to it are put into the store.
    async fn manifest(&self, session: &Session, top: Manifest) -> Result<(String, Document), PullError> {
        let mut manifest = top;
        for _ in 0..3 {
            let Manifest { digest, bytes, document } = manifest;
            self.with_store(move |images| Ok(images.put_blob(&bytes)?)).await?;
            if document.config.is_some() {
                return Ok((digest, document));
            }
            let chosen = &choose(&document)?.digest;
            if !is_digest(chosen) {
                return Err(PullError::Invalid(format!("unsupported digest {chosen:?}")));
            }
            manifest = session.manifest(chosen).await?;
        }
        Err(PullError::Invalid("the image has too many levels of indexes".into()))
    }

    /// Fetches several layers at a time, and unpacks each as soon as those below it are.
    async fn fetch_and_unpack(
        self: &Arc<Self>,
        sessions: &Sessions,
        layers: Layers,
        ingest: &Arc<Ingest>,
    ) -> Result<(), PullError> {
        let layers = Arc::new(layers);
        let count = layers.blobs().len();
        let (fetched, mut arrivals) = mpsc::channel(count);
        let fetches: Vec<_> = layers.blobs().iter().map(|blob| self.fetch(sessions.clone(), blob.clone())).collect();
        // Ends the channel with it, and so the unpacking.
        let fetching = async move {
            let mut fetches = futures_util::stream::iter(fetches).buffered(LAYERS_AT_ONCE);
            while let Some(done) = fetches.next().await {
                done?;
                // Has room for all.
                let _ = fetched.try_send(());
            }
            Ok(())
        };
        let unpacking = async {
            for index in 0..count {
                if arrivals.recv().await.is_none() {
                    break;
                }
                // Unpacking goes on when this future is dropped: until then nothing may be collected.
                let (layers, ingest) = (layers.clone(), ingest.clone());
                self.with_store(move |images| {
                    let _ingest = ingest;
                    images.unpack_layer(&layers, index)
                })
                .await?;
            }
            Ok(())
        };
        match select(pin!(fetching), pin!(unpacking)).await {
            // What is being unpacked holds the store: it must end before the store can be cleared.
            Either::Left((fetched, unpacking)) => fetched.and(unpacking.await),
            Either::Right((Ok(()), fetching)) => fetching.await,
            Either::Right((failed, _)) => failed,
        }
    }

    /// Gets a blob into the store unless it is there.
    async fn fetch(self: &Arc<Self>, sessions: Sessions, blob: Descriptor) -> Result<(), PullError> {
        if !is_digest(&blob.digest) {
            return Err(PullError::Invalid(format!("unsupported digest {:?}", blob.digest)));
        }
        let _turn = self.turns.take(&blob.digest).await;
        let target = self.images.blob_path(&blob.digest);
        if target.exists() {
            return Ok(());
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut failure = None;
        for (index, session) in sessions.iter().enumerate() {
            // Only the first is known to be there at all.
            let attempts = if index == 0 { ATTEMPTS_MAX } else { 1 };
            let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = self.images.ingest_dir().join(format!("blob-{}-{unique}", &blob.digest[7..]));
            match download(session, &blob, path, attempts).await {
                Ok(partial) => return Ok(partial.move_to(&target)?),
                Err(error) if error.is_of_endpoint() => failure = failure.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| PullError::Invalid("no registry endpoint".into())))
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
