//! Images as files: what `docker save`, `podman save` and `ctr image export` write, and what `kybern image export` does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::bounds::{BOUNDS, Budget};
use super::install::DOCUMENT_MAX;
use super::manifest::{Descriptor, Document, OCI_INDEX, OCI_MANIFEST, choose, is_foreign};
use super::reference::{Reference, is_digest};
use super::store::{ImageStore, StoreError, StoredImage};
use super::unpack::decompress;
use crate::disk;

/// How containerd and Docker name an image in an OCI index.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The OCI image spec's own, which is often only a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image in Docker's `manifest.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An archive's files: the name in the archive, and where it lies.
type Files = BTreeMap<String, PathBuf>;

impl ImageStore {
    /// Imports every image of an archive, plain or compressed. Blocks. Answers the images.
    pub(crate) fn import(&self, archive: &Path) -> Result<Vec<StoredImage>, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let file = File::open(archive).map_err(|error| disk::named(error, archive))?;
        let ingest = self.ingest()?;
        let unique = format!("import-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let scratch = self.ingest_dir().join(unique);
        disk::make_dirs(&scratch, 0o700)?;
        let imported = spread(file, &scratch)
            .map_err(|error| unreadable(error, archive))
            .and_then(|files| self.import_files(archive, &files));
        disk::remove_all(&scratch)?;
        drop(ingest);
        if imported.is_err() {
            // What was taken out of a bad archive is of no use.
            self.collect()?;
        }
        imported
    }

    fn import_files(&self, archive: &Path, files: &Files) -> Result<Vec<StoredImage>, StoreError> {
        let docker = files.get("manifest.json").map(|path| json::<Vec<DockerImage>>(path)).transpose()?;
        let index = files.get("index.json").map(|path| json::<Document>(path)).transpose()?;
        // Newer versions of Docker write both: only the index has the digests that the images were pushed with.
        match (index, docker) {
            (Some(index), None) => self.import_oci(&index, files),
            (Some(index), Some(_)) if index.manifests.iter().any(|d| image_name(d).is_some()) => {
                self.import_oci(&index, files)
            }
            (_, Some(list)) => self.import_docker(&list, files),
            (None, None) => Err(StoreError::Invalid(format!(
                "{} holds neither manifest.json nor index.json: not an image archive",
                archive.display()
            ))),
        }
    }

    fn import_docker(&self, list: &[DockerImage], files: &Files) -> Result<Vec<StoredImage>, StoreError> {
        let mut images = Vec::new();
        // A layer that several images share is adopted once.
        let mut adopted: BTreeMap<&Path, Descriptor> = BTreeMap::new();
        for image in list {
            let config = self.put_blob(&small(find(files, &image.config)?)?)?;
            let size = fs::metadata(self.blob_path(&config))?.len();
            let mut layers = Vec::new();
            for layer in &image.layers {
                let path = find(files, layer)?;
                let descriptor = match adopted.get(path) {
                    Some(known) => known.clone(),
                    None => self.adopt_blob(path, None)?,
                };
                adopted.insert(path, descriptor.clone());
                layers.push(Descriptor { media_type: "application/vnd.oci.image.layer.v1.tar".into(), ..descriptor });
            }
            let document = Document {
                schema_version: 2,
                media_type: OCI_MANIFEST.into(),
                config: Some(Descriptor {
                    media_type: "application/vnd.oci.image.config.v1+json".into(),
                    digest: config,
                    size,
                    ..Default::default()
                }),
                layers,
                manifests: Vec::new(),
            };
            let digest = self.put_blob(&serde_json::to_vec(&document).map_err(io::Error::from)?)?;
            images.push(self.install_named(&digest, image.repo_tags.as_deref().unwrap_or_default())?);
        }
        Ok(images)
    }

    fn import_oci(&self, index: &Document, files: &Files) -> Result<Vec<StoredImage>, StoreError> {
        for (name, path) in files {
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                self.adopt_blob(path, Some(&format!("sha256:{hex}")))?;
            }
        }
        // An archive of one image for several machines may list them side by side.
        let mut own: Vec<&Descriptor> = index.manifests.iter().filter(|d| !is_foreign(d)).collect();
        if own.is_empty() {
            own.push(choose(index)?);
        }
        let mut images = Vec::new();
        for descriptor in own {
            let names: Vec<String> = image_name(descriptor).into_iter().collect();
            images.push(self.install_named(&descriptor.digest, &names)?);
        }
        Ok(images)
    }

    fn install_named(&self, digest: &str, names: &[String]) -> Result<StoredImage, StoreError> {
        let mut tags = Vec::new();
        let mut digests = Vec::new();
        for name in names {
            let reference = Reference::parse(name).map_err(|error| StoreError::Invalid(error.to_string()))?;
            digests.push(reference.at_digest(digest));
            tags.extend(reference.tagged());
        }
        self.install(digest, tags, digests)
    }

    /// Writes images as an OCI archive that Docker can load too. Blocks.
    pub(crate) fn export(&self, names: &[String], out: &mut dyn Write) -> Result<(), StoreError> {
        let _ingest = self.ingest()?;
        let mut archive = tar::Builder::new(out);
        let mut manifests = Vec::new();
        let mut docker = Vec::new();
        let mut written = std::collections::BTreeSet::new();
        for name in names {
            let image = self.find(name)?.ok_or_else(|| StoreError::NotFound(name.clone()))?;
            if image.manifest.is_empty() {
                return Err(StoreError::Invalid(format!("image {name:?} is built in: it is this program's own file")));
            }
            // Of an index only this machine's manifest is here.
            let (digest, document) = self.resolve_manifest(&image.manifest)?;
            let config = document.config.clone().unwrap_or_default();
            for blob in [&digest, &config.digest].into_iter().chain(document.layers.iter().map(|l| &l.digest)) {
                if written.insert(blob.clone()) {
                    archive.append_file(blob_name(blob), &mut File::open(self.blob_path(blob))?)?;
                }
            }
            let tag = Reference::parse(name).ok().filter(|_| !is_digest(name)).and_then(|r| r.tagged());
            let annotations = tag.iter().map(|t| (IMAGE_NAME.to_owned(), t.clone())).collect();
            let size = fs::metadata(self.blob_path(&digest))?.len();
            manifests.push(Descriptor { media_type: OCI_MANIFEST.into(), digest, size, annotations, platform: None });
            docker.push(DockerImage {
                config: blob_name(&config.digest),
                repo_tags: Some(tag.into_iter().collect()),
                layers: document.layers.iter().map(|l| blob_name(&l.digest)).collect(),
            });
        }
        let index = Document { schema_version: 2, media_type: OCI_INDEX.into(), manifests, ..Default::default() };
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", &serde_json::to_vec(&index).map_err(io::Error::from)?)?;
        append(&mut archive, "manifest.json", &serde_json::to_vec(&docker).map_err(io::Error::from)?)?;
        archive.finish()?;
        Ok(())
    }
}

/// What an entry of an OCI index is called, where that is a whole name.
fn image_name(descriptor: &Descriptor) -> Option<String> {
    let name = [IMAGE_NAME, REF_NAME].iter().find_map(|key| descriptor.annotations.get(*key));
    name.filter(|name| name.contains(['/', ':'])).cloned()
}

/// Reads a file that must be small: a list of images, a manifest or a config.
fn small(path: &Path) -> Result<Vec<u8>, StoreError> {
    if fs::metadata(path)?.len() > DOCUMENT_MAX {
        return Err(StoreError::Invalid("the archive's list of images or a config in it is too large".into()));
    }
    Ok(fs::read(path)?)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let invalid = |error| StoreError::Invalid(format!("the archive's list of images cannot be read: {error}"));
    serde_json::from_slice(&small(path)?).map_err(invalid)
}

/// The tar reader's own words quote what it takes for headers.
fn unreadable(error: io::Error, archive: &Path) -> StoreError {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        Other | InvalidData | InvalidInput | UnexpectedEof => {
            StoreError::Invalid(format!("{} is not a tar archive, or is cut short", archive.display()))
        }
        _ => error.into(),
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

fn append(archive: &mut tar::Builder<&mut dyn Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append_data(&mut header, name, bytes)
}

fn find<'a>(files: &'a Files, name: &str) -> Result<&'a Path, StoreError> {
    let missing = || StoreError::Invalid(format!("the archive's manifest.json names {name:?}, which is not in it"));
    files.get(name).map(PathBuf::as_path).ok_or_else(missing)
}

/// Writes an archive's files into a directory under numbers, so that no name in it is ever used as a path. Answers which
/// file is which; links, with which older versions of Docker share layers, lead to the file they name.
fn spread(file: File, scratch: &Path) -> io::Result<Files> {
    let compressed = file.metadata()?.len();
    let (mut budget, bounded) = Budget::new(decompress(file)?, compressed, BOUNDS);
    let mut archive = tar::Archive::new(bounded);
    let mut files = BTreeMap::new();
    let mut links = Vec::new();
    let mut entries = archive.entries()?;
    for number in 0_u64.. {
        budget.header();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        budget.entry(Path::new(&name))?;
        match entry.header().entry_type() {
            kind if kind.is_file() => {
                let path = scratch.join(number.to_string());
                budget.file(entry.size(), scratch)?;
                io::copy(&mut entry.by_ref(), &mut File::create_new(&path)?)?;
                files.insert(name, path);
            }
            kind if kind.is_symlink() || kind.is_hard_link() => {
                let target = entry.link_name()?.map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
                links.push((name, target.trim_start_matches("../").to_owned()));
            }
            _ => {}
        }
        io::copy(&mut entry, &mut io::sink())?;
    }
    for (name, target) in links {
        if let Some(path) = files.get(&target).cloned() {
            files.insert(name, path);
        }
    }
    Ok(files)
}
