//! From blobs in the store to a listed image.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::manifest::{ConfigBlob, Descriptor, Document, chain_ids, choose, digest_text, parse, sha256};
use super::reference::is_digest;
use super::store::{ImageStore, StoreError, StoredImage};
use super::unpack::snapshot_name;
use crate::disk;

/// The most a manifest or config may hold, in bytes.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;

/// The most layers that an image may have: as many as an overlay takes.
const LAYERS_MAX: usize = 500;

/// An image's layers, bottom first: what its manifest and its config say of them, checked against each other.
pub(crate) struct Layers {
    blobs: Vec<Descriptor>,
    diff_ids: Vec<String>,
    chain_ids: Vec<String>,
}

impl Layers {
    fn new(document: &Document, config: &ConfigBlob) -> Result<Layers, StoreError> {
        let (blobs, diff_ids) = (document.layers.clone(), config.rootfs.diff_ids.clone());
        if diff_ids.len() != blobs.len() {
            let (layers, ids) = (blobs.len(), diff_ids.len());
            return Err(StoreError::Invalid(format!("image has {layers} layers, but its config names {ids}")));
        }
        if blobs.len() > LAYERS_MAX {
            let layers = blobs.len();
            return Err(StoreError::Invalid(format!("image has {layers} layers, more than {LAYERS_MAX}")));
        }
        if blobs.is_empty() {
            return Err(StoreError::Invalid("image has no layers".into()));
        }
        for digest in blobs.iter().map(|blob| &blob.digest).chain(&diff_ids) {
            if !is_digest(digest) {
                return Err(StoreError::Invalid(format!("unsupported digest {digest:?}")));
            }
        }
        Ok(Layers { chain_ids: chain_ids(&diff_ids), blobs, diff_ids })
    }

    pub(crate) fn blobs(&self) -> &[Descriptor] {
        &self.blobs
    }

    /// The names of the snapshots of the lowest `count` layers, topmost first.
    fn snapshots(&self, count: usize) -> Vec<String> {
        self.chain_ids[..count].iter().rev().map(|chain| snapshot_name(chain)).collect()
    }
}

impl ImageStore {
    /// Reads a manifest, index or config that is in the store.
    pub(crate) fn read_document(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        if fs::metadata(&path).map_err(|error| missing(error, &path))?.len() > DOCUMENT_MAX {
            return Err(StoreError::Invalid(format!("{digest} is too large for a manifest or config")));
        }
        Ok(fs::read(&path)?)
    }

    /// The manifest that `digest` names, or the one for this machine in the index it names: its digest and contents.
    pub(crate) fn resolve_manifest(&self, digest: &str) -> Result<(String, Document), StoreError> {
        let mut digest = digest.to_owned();
        // An index may list an index; more levels make no sense.
        for _ in 0..3 {
            let document = Document::read(&digest, &self.read_document(&digest)?)?;
            if document.config.is_some() {
                return Ok((digest, document));
            }
            digest = choose(&document)?.digest.clone();
            if !is_digest(&digest) {
                return Err(StoreError::Invalid(format!("unsupported digest {digest:?}")));
            }
        }
        Err(StoreError::Invalid(format!("{digest} has too many levels of indexes")))
    }

    /// The layers of an image whose config is in the store, and that config.
    pub(crate) fn layers(&self, document: &Document) -> Result<(Layers, ConfigBlob), StoreError> {
        let config = document.config.clone().unwrap_or_default();
        if !is_digest(&config.digest) {
            return Err(StoreError::Invalid(format!("unsupported digest {:?}", config.digest)));
        }
        let blob: ConfigBlob = parse(&config.digest, &self.read_document(&config.digest)?)?;
        Ok((Layers::new(document, &blob)?, blob))
    }

    /// Unpacks one layer, once its blob is in the store and those below it are unpacked. Blocks.
    pub(crate) fn unpack_layer(&self, layers: &Layers, index: usize) -> Result<(), StoreError> {
        let (blob, below) = (self.blob_path(&layers.blobs[index].digest), layers.snapshots(index));
        self.unpack(&blob, &layers.diff_ids[index], &snapshot_name(&layers.chain_ids[index]), &below)
    }

    /// Unpacks what is not unpacked yet, and lists an image whose blobs are all in the store. Blocks.
    pub(crate) fn install(
        &self,
        manifest: &str,
        tags: Vec<String>,
        digests: Vec<String>,
    ) -> Result<StoredImage, StoreError> {
        let (digest, document) = self.resolve_manifest(manifest)?;
        let (layers, blob) = self.layers(&document)?;
        for index in 0..layers.blobs.len() {
            self.unpack_layer(&layers, index)?;
        }
        let config = document.config.clone().unwrap_or_default();
        // Listed means whole, also after a power cut.
        rustix::fs::syncfs(File::open(self.dir())?).map_err(io::Error::from)?;
        let mut blobs = vec![manifest.to_owned(), digest.clone(), config.digest.clone()];
        blobs.extend(document.layers.iter().map(|l| l.digest.clone()));
        blobs.dedup();
        let image = StoredImage {
            id: config.digest.clone(),
            manifest: manifest.to_owned(),
            tags: tags.into_iter().collect(),
            digests: digests.into_iter().collect(),
            size: config.size + document.layers.iter().map(|l| l.size).sum::<u64>(),
            snapshots: layers.snapshots(layers.blobs.len()),
            blobs,
            config: blob.config,
            pinned: false,
        };
        self.add(image.clone())?;
        Ok(image)
    }

    /// Puts a small blob into the store, which [`ImageStore::install`] makes durable. Answers its digest.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = sha256(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            disk::replace(&path, bytes, false)?;
        }
        Ok(digest)
    }

    /// Moves a finished file into the store as the blob it hashes to, which must be `expected` where that is given.
    pub(crate) fn adopt_blob(&self, file: &Path, expected: Option<&str>) -> Result<Descriptor, StoreError> {
        let mut reader = File::open(file)?;
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            let length = io::Read::read(&mut reader, &mut buffer)?;
            if length == 0 {
                break;
            }
            size += length as u64;
            hash.update(&buffer[..length]);
        }
        let digest = digest_text(hash.finish().as_ref());
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(StoreError::Invalid(format!("a blob has the digest {digest} instead of {expected}")));
        }
        fs::rename(file, self.blob_path(&digest))?;
        Ok(Descriptor { digest, size, ..Default::default() })
    }
}

/// A blob that a manifest names and that cannot be read.
pub(super) fn missing(error: io::Error, path: &Path) -> StoreError {
    if error.kind() == io::ErrorKind::NotFound {
        let name = path.file_name().unwrap_or_default().display();
        return StoreError::Invalid(format!("the blob sha256:{name}, which the image consists of, is missing"));
    }
    disk::named(error, path).into()
}
