//! From blobs in the store to a listed image.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::manifest::{ConfigBlob, Descriptor, Document, chain_ids, choose_platform, digest_text};
use super::store::{ImageStore, StoreError, StoredImage};
use crate::disk;

/// The most a manifest or config may hold, in bytes.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;

impl ImageStore {
    /// Reads a manifest, index or config that is in the store.
    pub(crate) fn read_document(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        if fs::metadata(&path).map_err(|error| disk::named(error, &path))?.len() > DOCUMENT_MAX {
            return Err(StoreError::Invalid(format!("{digest} is too large for a manifest or config")));
        }
        Ok(fs::read(&path)?)
    }

    /// The manifest that `digest` names, or the one for this machine in the index it names: its digest and contents.
    pub(crate) fn resolve_manifest(&self, digest: &str) -> Result<(String, Document), StoreError> {
        let mut digest = digest.to_owned();
        // An index may list an index; more levels make no sense.
        for _ in 0..3 {
            let document: Document = parse(&digest, &self.read_document(&digest)?)?;
            if document.config.is_some() {
                return Ok((digest, document));
            }
            digest = choose(&document)?.digest.clone();
        }
        Err(StoreError::Invalid(format!("{digest} has too many levels of indexes")))
    }

    /// Unpacks and lists an image whose blobs are all in the store. Blocks.
    pub(crate) fn install(
        &self,
        manifest: &str,
        tags: Vec<String>,
        digests: Vec<String>,
    ) -> Result<StoredImage, StoreError> {
        let (digest, document) = self.resolve_manifest(manifest)?;
        let config = document.config.clone().unwrap_or_default();
        let blob: ConfigBlob = parse(&config.digest, &self.read_document(&config.digest)?)?;
        let diff_ids = &blob.rootfs.diff_ids;
        if diff_ids.len() != document.layers.len() {
            let (layers, ids) = (document.layers.len(), diff_ids.len());
            return Err(StoreError::Invalid(format!("image has {layers} layers, but its config names {ids}")));
        }
        if diff_ids.is_empty() {
            return Err(StoreError::Invalid("image has no layers".into()));
        }
        let mut snapshots: Vec<String> = Vec::with_capacity(diff_ids.len());
        for ((layer, diff_id), chain) in document.layers.iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
            let name = self.unpack(&self.blob_path(&layer.digest), diff_id, &chain, &snapshots)?;
            snapshots.insert(0, name);
        }
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
            snapshots,
            blobs,
            config: blob.config,
            pinned: false,
        };
        self.add(image.clone())?;
        Ok(image)
    }

    /// Puts a small blob into the store. Answers its digest.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = super::manifest::sha256(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            disk::replace(&path, bytes, true)?;
        }
        Ok(digest)
    }

    /// Moves a finished file into the store as the blob it hashes to.
    pub(crate) fn adopt_blob(&self, file: &Path) -> io::Result<Descriptor> {
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
        fs::rename(file, self.blob_path(&digest))?;
        Ok(Descriptor { digest, size, ..Default::default() })
    }
}

/// Reads a document; the error names it.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(digest: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Invalid(format!("{digest} is not a manifest or config: {error}")))
}

/// The entry of an index for this machine.
pub(crate) fn choose(index: &Document) -> Result<&Descriptor, StoreError> {
    let none = || {
        StoreError::Invalid(format!(
            "no match for platform in manifest: this machine is linux/{}",
            std::env::consts::ARCH
        ))
    };
    choose_platform(&index.manifests).ok_or_else(none)
}
