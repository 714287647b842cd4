//! The image store for commands, beside a running daemon or without one: the store's own locks keep them apart.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use kybern_cri::CriError;

use super::store::{ImageStore, StoreError, StoredImage};
use crate::Config;
use crate::pull::Puller;

/// What `kybern image …` works on. All calls but [`ImageArchives::pull`] block.
pub struct ImageArchives {
    images: Arc<ImageStore>,
    puller: Arc<Puller>,
}

impl ImageArchives {
    /// Opens the store of a node.
    pub fn open(config: &Config) -> io::Result<ImageArchives> {
        let mut store = ImageStore::open(config.images_dir(), config.containers_dir())?;
        store.install_builtin(config)?;
        let images = Arc::new(store);
        Ok(ImageArchives { puller: Puller::new(images.clone(), config), images })
    }

    /// Fetches an image from its registry; answers its id.
    pub async fn pull(&self, name: &str) -> Result<String, CriError> {
        self.puller.pull(name, None).await
    }

    /// Every image, the built-in ones first.
    pub fn list(&self) -> Result<Vec<StoredImage>, StoreError> {
        self.images.list()
    }

    /// Imports every image of an archive of `docker save`, or in OCI's layout, plain or compressed.
    pub fn import(&self, archive: &Path) -> Result<Vec<StoredImage>, StoreError> {
        self.images.import(archive)
    }

    /// Writes images as an OCI archive that Docker can load too.
    pub fn export(&self, names: &[String], out: &mut dyn Write) -> Result<(), StoreError> {
        self.images.export(names, out)
    }

    /// Removes an image, or only the tag when it has others. Fails when there is none.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        if self.images.find(name)?.is_none() {
            return Err(StoreError::NotFound(name.to_owned()));
        }
        self.images.remove(name)
    }
}
