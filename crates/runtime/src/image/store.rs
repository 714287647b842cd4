//! The image store on disk: `blobs/sha256/<hex>`, `snapshots/<name>/fs` (one unpacked layer each), and `images.json`,
//! the list that says what of it is in use. Several processes may use one store: each change of the list is made under a
//! lock on `lock`, and whoever adds to the store holds `ingest` shared, so that what is not listed yet is not collected.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kybern_linux::files;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::manifest::ImageConfig;
use super::reference::{Reference, is_digest};
use crate::disk;

/// One image, as listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// The digest of its config.
    pub id: String,
    /// The digest of its manifest; empty for a built-in image.
    pub manifest: String,
    /// Full tagged references.
    pub tags: BTreeSet<String>,
    /// `name@digest` references.
    pub digests: BTreeSet<String>,
    /// The size of its blobs, in bytes.
    pub size: u64,
    /// The names of its snapshots, topmost first.
    pub(crate) snapshots: Vec<String>,
    /// The digests of its blobs: manifest, config, layers.
    pub(crate) blobs: Vec<String>,
    pub(crate) config: ImageConfig,
    /// Never removed: the built-in images.
    pub pinned: bool,
}

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Io(io::Error),
    #[error(
        "the disk that holds the images is full ({0}): free some space, or remove images that nobody needs with \"kybern image remove\""
    )]
    Full(io::Error),
    #[error("image {0:?} is built in and cannot be removed")]
    Pinned(String),
    #[error("image {0:?} not found")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(error),
            _ => StoreError::Io(error),
        }
    }
}

/// Images by id.
type Index = BTreeMap<String, StoredImage>;

/// Which version of the list's file is in memory.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Stamp(u64, i64, i64);

struct Cached {
    stamp: Stamp,
    index: Arc<Index>,
}

pub(crate) struct ImageStore {
    dir: PathBuf,
    /// Holds `<container>/layers`, the snapshots that containers stand on.
    containers_dir: PathBuf,
    builtin: Vec<StoredImage>,
    cached: Mutex<Cached>,
}

/// Held while something is added to the store.
pub(crate) struct Ingest(#[expect(dead_code, reason = "holding it open holds the lock")] File);

impl ImageStore {
    /// Opens the store, making it where missing, and removes what an interrupted pull left.
    pub(crate) fn open(dir: PathBuf, containers_dir: PathBuf) -> io::Result<ImageStore> {
        for sub in ["blobs/sha256", "snapshots", "ingest.d"] {
            // Container users must be able to pass through to their layers.
            disk::make_dirs(&dir.join(sub), 0o711)?;
        }
        let cached = Mutex::new(Cached { stamp: Stamp::default(), index: Arc::default() });
        let store = ImageStore { dir, containers_dir, builtin: Vec::new(), cached };
        store.collect()?;
        Ok(store)
    }

    pub(crate) fn set_builtin(&mut self, images: Vec<StoredImage>) {
        self.builtin = images;
    }

    pub(crate) fn snapshots_dir(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Where unfinished downloads and layers lie.
    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.dir.join("ingest.d")
    }

    /// Keeps the store from being collected while something is added.
    pub(crate) fn ingest(&self) -> io::Result<Ingest> {
        self.lock("ingest", FlockOperation::LockShared).map(Ingest)
    }

    fn lock(&self, name: &str, operation: FlockOperation) -> io::Result<File> {
        let file = files::append(&self.dir.join(name), 0o600)?;
        rustix::fs::flock(&file, operation)?;
        Ok(file)
    }

    fn list_path(&self) -> PathBuf {
        self.dir.join("images.json")
    }

    /// The list, read anew when another process has changed it.
    fn index(&self) -> io::Result<Arc<Index>> {
        let stamp = match fs::metadata(self.list_path()) {
            Ok(m) => Stamp(m.ino(), m.mtime(), m.mtime_nsec()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stamp::default(),
            Err(error) => return Err(error),
        };
        let mut cached = self.cached.lock();
        if cached.stamp != stamp {
            cached.index = Arc::new(disk::read_json(&self.list_path())?);
            cached.stamp = stamp;
        }
        Ok(cached.index.clone())
    }

    /// Changes the list under its lock.
    fn change<T>(&self, act: impl FnOnce(&mut Index) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _lock = self.lock("lock", FlockOperation::LockExclusive)?;
        let mut index = (*self.index()?).clone();
        let result = act(&mut index)?;
        disk::replace(&self.list_path(), &serde_json::to_vec(&index).map_err(io::Error::from)?, true)?;
        Ok(result)
    }

    /// Every image, the built-in ones first.
    pub(crate) fn list(&self) -> Result<Vec<StoredImage>, StoreError> {
        Ok(self.builtin.iter().chain(self.index()?.values()).cloned().collect())
    }

    /// Finds an image by id, tag or digest.
    pub(crate) fn find(&self, name: &str) -> Result<Option<StoredImage>, StoreError> {
        let index = self.index()?;
        let mut all = self.builtin.iter().chain(index.values());
        if is_digest(name) {
            return Ok(all.find(|image| image.id == name).cloned());
        }
        let Ok(reference) = Reference::parse(name) else { return Ok(None) };
        Ok(match (&reference.digest, reference.tagged()) {
            (Some(digest), _) => all.find(|image| image.digests.contains(&reference.at_digest(digest))).cloned(),
            (None, tagged) => all.find(|image| tagged.as_ref().is_some_and(|t| image.tags.contains(t))).cloned(),
        })
    }

    /// Lists an image whose blobs and snapshots are all in place. A tag that named another image moves to this one.
    pub(crate) fn add(&self, image: StoredImage) -> Result<(), StoreError> {
        self.change(|index| {
            for other in index.values_mut() {
                other.tags.retain(|tag| !image.tags.contains(tag));
            }
            match index.get_mut(&image.id) {
                Some(known) => {
                    known.tags.extend(image.tags);
                    known.digests.extend(image.digests);
                    known.manifest = image.manifest;
                    known.blobs = image.blobs;
                }
                None => drop(index.insert(image.id.clone(), image)),
            }
            Ok(())
        })
    }

    /// Removes an image, or only the tag or digest when it has other names. Succeeds when there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let Some(found) = self.find(name)? else { return Ok(()) };
        if found.pinned {
            return Err(StoreError::Pinned(name.to_owned()));
        }
        self.change(|index| {
            let Some(image) = index.get_mut(&found.id) else { return Ok(()) };
            let by_name = Reference::parse(name).ok().filter(|_| !is_digest(name));
            match &by_name {
                Some(Reference { digest: Some(digest), .. }) => {
                    let digest = by_name.as_ref().map(|reference| reference.at_digest(digest));
                    image.digests.retain(|known| Some(known) != digest.as_ref());
                }
                Some(reference) => image.tags.retain(|known| Some(known) != reference.tagged().as_ref()),
                None => image.tags.clear(),
            }
            // A digest alone keeps an image only for who pulled it by digest, and who removes the last tag is not that one.
            let by_digest = by_name.is_some_and(|reference| reference.digest.is_some());
            if image.tags.is_empty() && (!by_digest || image.digests.is_empty()) {
                index.remove(&found.id);
            }
            Ok(())
        })?;
        Ok(self.collect()?)
    }

    /// Removes blobs and snapshots that no image and no container uses. Does nothing while something is being added.
    pub(crate) fn collect(&self) -> io::Result<()> {
        let _ingest = match self.lock("ingest", FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        let _lock = self.lock("lock", FlockOperation::LockExclusive)?;
        let index = self.index()?;
        let images = || self.builtin.iter().chain(index.values());
        let blobs: BTreeSet<&str> =
            images().flat_map(|i| &i.blobs).map(|digest| digest.trim_start_matches("sha256:")).collect();
        let mut snapshots: BTreeSet<String> = images().flat_map(|i| i.snapshots.iter().cloned()).collect();
        for container in names(&self.containers_dir)? {
            let layers: Vec<String> =
                disk::read_json(&self.containers_dir.join(container).join(LAYERS)).unwrap_or_default();
            snapshots.extend(layers);
        }
        for name in names(&self.dir.join("blobs/sha256"))? {
            if !blobs.contains(name.as_str()) {
                disk::remove_all(&self.dir.join("blobs/sha256").join(name))?;
            }
        }
        for name in names(&self.snapshots_dir())? {
            // Built-in snapshots are looked after where they are made.
            if !snapshots.contains(&name) && !name.starts_with(super::builtin::PREFIX) {
                disk::remove_all(&self.snapshots_dir().join(name))?;
            }
        }
        for name in names(&self.ingest_dir())? {
            disk::remove_all(&self.ingest_dir().join(name))?;
        }
        Ok(())
    }

    /// The bytes and files of the store.
    pub(crate) fn usage(&self) -> io::Result<(u64, u64)> {
        let index = self.index()?;
        let bytes = index.values().map(|image| image.size).sum();
        let files = index.values().map(|image| (image.blobs.len() + image.snapshots.len()) as u64).sum();
        Ok((bytes, files))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The file in a container's directory that lists its snapshots.
pub(crate) const LAYERS: &str = "layers";

/// The directory of a snapshot's files, relative to the snapshots' directory.
pub(crate) fn snapshot_files(name: &str) -> String {
    format!("{name}/fs")
}

/// The names in a directory; none when it does not exist.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(disk::named(error, dir)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> ImageStore {
        ImageStore::open(dir.join("images"), dir.join("containers")).unwrap()
    }

    fn image(id: &str, tag: &str, snapshot: &str) -> StoredImage {
        let reference = Reference::parse(tag).unwrap();
        StoredImage {
            id: super::super::manifest::sha256(id.as_bytes()),
            tags: [reference.tagged().unwrap()].into(),
            snapshots: vec![snapshot.into()],
            blobs: vec![super::super::manifest::sha256(b"blob")],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_used_is_kept_and_the_rest_collected() {
        let dir = crate::testing::Dir::new("store");
        let store = open(dir.path());
        for snapshot in ["one", "two", "three", "stale"] {
            fs::create_dir_all(store.snapshots_dir().join(snapshot)).unwrap();
        }
        fs::write(store.blob_path(&super::super::manifest::sha256(b"blob")), "x").unwrap();
        fs::write(store.blob_path(&super::super::manifest::sha256(b"stale")), "x").unwrap();
        store.add(image("a", "app:1", "one")).unwrap();
        store.add(image("b", "app:2", "two")).unwrap();
        // A container stands on an image that is gone.
        let container = dir.path().join("containers/c1");
        fs::create_dir_all(&container).unwrap();
        fs::write(container.join(LAYERS), r#"["three"]"#).unwrap();
        let held = store.ingest().unwrap();
        store.collect().unwrap();
        assert_eq!(names(&store.snapshots_dir()).unwrap().len(), 4, "a pull is under way");
        drop(held);
        drop(store);
        let store = open(dir.path());
        let mut left = names(&store.snapshots_dir()).unwrap();
        left.sort();
        assert_eq!(left, ["one", "three", "two"]);
        assert_eq!(names(&dir.path().join("images/blobs/sha256")).unwrap().len(), 1);
        store.remove("app:1").unwrap();
        assert!(store.find("app:1").unwrap().is_none());
        assert!(!store.snapshots_dir().join("one").exists());
        store.remove("app:1").unwrap();
    }

    #[test]
    fn tags_move_and_processes_see_each_others_changes() {
        let dir = crate::testing::Dir::new("tags");
        let (one, other) = (open(dir.path()), open(dir.path()));
        one.add(image("a", "app:1", "s")).unwrap();
        assert!(other.find("docker.io/library/app:1").unwrap().is_some());
        other.add(image("b", "app:1", "s")).unwrap();
        let found = one.find("app:1").unwrap().unwrap();
        assert_eq!(found.id, super::super::manifest::sha256(b"b"));
        assert_eq!(one.list().unwrap().len(), 2);
        assert_eq!(one.find(&found.id).unwrap().unwrap(), found);
    }
}
