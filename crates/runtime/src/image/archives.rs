//! The image store for commands, beside a running daemon or without one: the store's own locks keep them apart.

use std::io::{self, Write};
use std::path::Path;

use super::store::{ImageStore, StoreError, StoredImage};
use crate::Config;

/// What `kybern image …` works on. Its calls block.
pub struct ImageArchives(ImageStore);

impl ImageArchives {
    /// Opens the store of a node.
    pub fn open(config: &Config) -> io::Result<ImageArchives> {
        let mut store = ImageStore::open(config.images_dir(), config.containers_dir())?;
        store.install_builtin(config)?;
        Ok(ImageArchives(store))
    }

    /// Every image, the built-in ones first.
    pub fn list(&self) -> Result<Vec<StoredImage>, StoreError> {
        self.0.list()
    }

    /// Imports every image of an archive of `docker save`, or in OCI's layout, plain or compressed.
    pub fn import(&self, archive: &Path) -> Result<Vec<StoredImage>, StoreError> {
        self.0.import(archive)
    }

    /// Writes images as an OCI archive that Docker can load too.
    pub fn export(&self, names: &[String], out: &mut dyn Write) -> Result<(), StoreError> {
        self.0.export(names, out)
    }

    /// Removes an image, or only the tag when it has others. Succeeds when there is none.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.0.remove(name)
    }
}
