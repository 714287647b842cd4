//! Which pods may use an image that is there without asking its registry (`pkg/kubelet/images/pullmanager`). An image that
//! the kubelet has pulled with a pull secret is for pods that have that secret; one that it pulled without any, or that
//! was brought to the node in another way, is for all.
//!
//! The records are upstream's files: `pulling/sha256-<of the image's name>` while a pull is under way, and
//! `pulled/sha256-<of the image's id>` for good. They are read once; what cannot be read lets nobody in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kybern_cri::Image;
use kybern_linux::files;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::credentials::{full_name, repository};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// How many secrets one image's record takes in.
const SECRETS_MAX: usize = 100;

/// A secret that a credential is from, with a hash of the credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretSource {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub credential_hash: String,
}

impl SecretSource {
    fn is_same_object(&self, other: &SecretSource) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }

    /// A credential that opened the door once does so under any name, and a secret that did does after a change.
    fn vouches_for(&self, other: &SecretSource) -> bool {
        self.is_same_object(other) || !self.credential_hash.is_empty() && self.credential_hash == other.credential_hash
    }
}

/// What has given access to an image under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Access {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretSource>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

impl Access {
    fn admits(&self, secrets: &[&SecretSource]) -> bool {
        self.node_pods_accessible
            || self.kubernetes_secrets.iter().any(|known| secrets.iter().any(|secret| known.vouches_for(secret)))
    }

    /// Takes in who has just pulled; `None` is the node itself.
    fn grant(&mut self, secret: Option<&SecretSource>) {
        let Some(secret) = secret else {
            *self = Access { node_pods_accessible: true, ..Access::default() };
            return;
        };
        self.kubernetes_secrets.retain(|known| !known.is_same_object(secret));
        if !self.node_pods_accessible && self.kubernetes_secrets.len() < SECRETS_MAX {
            self.kubernetes_secrets.push(secret.clone());
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PulledRecord {
    kind: String,
    api_version: String,
    last_updated_time: Timestamp,
    /// The image's id.
    image_ref: String,
    /// By the image's name without tag and digest.
    #[serde(default)]
    credential_mapping: BTreeMap<String, Access>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PullIntent {
    kind: String,
    api_version: String,
    image: String,
}

#[derive(Default)]
struct State {
    /// By file name; `None` where the file cannot be read.
    pulled: BTreeMap<String, Option<PulledRecord>>,
    /// The intents on disk by file name, with the number of pulls under way.
    pulling: BTreeMap<String, usize>,
}

/// The records of a node.
pub struct PulledImages {
    dir: PathBuf,
    state: Mutex<State>,
}

/// A pull under way. One that neither succeeds nor fails, because its pod is gone, leaves its intent: what it may have
/// brought all the same stays closed until someone has pulled it.
pub struct Pulling<'a> {
    images: &'a PulledImages,
    image: String,
}

impl PulledImages {
    /// Reads what earlier kubelets have recorded.
    pub fn open(dir: &Path) -> PulledImages {
        let mut state = State::default();
        for (file, record) in read_all(&dir.join("pulled")) {
            state.pulled.insert(file, record);
        }
        for (file, _) in read_all::<PullIntent>(&dir.join("pulling")) {
            state.pulling.insert(file, 0);
        }
        PulledImages { dir: dir.to_owned(), state: Mutex::new(state) }
    }

    /// Whether a pod with these secrets may use an image that is there, by its name and its id.
    pub fn may_use(&self, image: &str, id: &str, secrets: &[&SecretSource]) -> bool {
        let state = self.state.lock();
        match state.pulled.get(&file_name(id)) {
            Some(record) => {
                let access = record.as_ref().and_then(|record| record.credential_mapping.get(&repository(image)));
                access.is_some_and(|access| access.admits(secrets))
            }
            None => !state.pulling.contains_key(&file_name(&full_name(image))),
        }
    }

    /// Notes that a pull begins, before the image can be there.
    pub fn begin(&self, image: &str) -> io::Result<Pulling<'_>> {
        let image = full_name(image);
        let file = file_name(&image);
        let mut state = self.state.lock();
        if !state.pulling.contains_key(&file) {
            let kind = "ImagePullIntent".to_owned();
            let intent = PullIntent { kind, api_version: API_VERSION.to_owned(), image: image.clone() };
            write(&self.dir.join("pulling"), &file, &intent)?;
        }
        *state.pulling.entry(file).or_default() += 1;
        Ok(Pulling { images: self, image })
    }

    fn grant(&self, image: &str, id: &str, secret: Option<&SecretSource>) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = file_name(id);
        let known = state.pulled.get(&file).cloned().flatten();
        let mut record = known.clone().unwrap_or_else(|| PulledRecord {
            kind: "ImagePulledRecord".to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: Timestamp::UNIX_EPOCH,
            image_ref: id.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        record.credential_mapping.entry(repository(image)).or_default().grant(secret);
        if known.as_ref() == Some(&record) {
            return Ok(());
        }
        record.last_updated_time = Timestamp::now();
        write(&self.dir.join("pulled"), &file, &record)?;
        state.pulled.insert(file, Some(record));
        Ok(())
    }

    /// Removes the records of images that are gone, but for those written since the list was asked for.
    pub fn forget_absent(&self, images: &[Image], asked: Timestamp) {
        let present: Vec<String> = images.iter().map(|image| file_name(&image.id)).collect();
        self.state.lock().pulled.retain(|file, record| {
            let is_new = record.as_ref().is_some_and(|record| record.last_updated_time >= asked);
            is_new || present.contains(file) || !remove(&self.dir.join("pulled").join(file))
        });
    }
}

impl Pulling<'_> {
    /// The image is there, got with this secret's credential or, without one, with the node's own or none.
    pub fn succeeded(self, id: &str, secret: Option<&SecretSource>) {
        match self.images.grant(&self.image, id, secret) {
            Ok(()) => self.end(),
            // The intent stays, and the image closed.
            Err(error) => tracing::warn!(%error, image = self.image, "cannot record who may use an image"),
        }
    }

    pub fn failed(self) {
        self.end();
    }

    /// The last pull of an image takes the intent with it.
    fn end(&self) {
        let mut state = self.images.state.lock();
        let file = file_name(&self.image);
        if state.pulling.get(&file).is_some_and(|pulls| *pulls <= 1)
            && remove(&self.images.dir.join("pulling").join(&file))
        {
            state.pulling.remove(&file);
        }
    }
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        if let Some(pulls) = self.images.state.lock().pulling.get_mut(&file_name(&self.image)) {
            *pulls = pulls.saturating_sub(1);
        }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file_name(of: &str) -> String {
    format!("sha256-{}", sha256(of.as_bytes()))
}

/// Every record in a directory by its file's name.
fn read_all<T: DeserializeOwned>(dir: &Path) -> Vec<(String, Option<T>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let records = files.filter(|file| file.starts_with("sha256-") && !file.ends_with(".tmp"));
    let read = |file: &str| Ok::<T, io::Error>(serde_json::from_slice(&fs::read(dir.join(file))?)?);
    records
        .map(|file| {
            let record = read(&file);
            if let Err(error) = &record {
                tracing::warn!(%error, file, "cannot read who may use an image");
            }
            (file, record.ok())
        })
        .collect()
}

/// Writes a record beside its place and moves it there.
fn write(dir: &Path, file: &str, record: &impl Serialize) -> io::Result<()> {
    files::make_dirs(dir, 0o700)?;
    let (path, beside) = (dir.join(file), dir.join(format!("{file}.tmp")));
    let written = files::write(&beside, serde_json::to_vec(record)?, 0o600).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Whether a file is gone.
fn remove(path: &Path) -> bool {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, file = %path.display(), "cannot remove a record about an image");
            false
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, hash: &str) -> SecretSource {
        let text = |text: &str| text.to_owned();
        SecretSource { uid: text("u"), namespace: text("ns"), name: text(name), credential_hash: text(hash) }
    }

    #[test]
    fn who_may_use_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let images = PulledImages::open(dir.path());
        let (a, b) = (secret("a", "1"), secret("b", "2"));
        assert!(images.may_use("r.io/app:1", "id", &[]), "nobody pulled it: it was brought");

        images.begin("r.io/app:1").unwrap().succeeded("id", Some(&a));
        assert!(images.may_use("r.io/app:1", "id", &[&b, &a]));
        assert!(!images.may_use("r.io/app:1", "id", &[&b]) && !images.may_use("r.io/app:1", "id", &[]));
        assert!(images.may_use("r.io/app:2", "id", &[&secret("copy", "1")]), "the same password in another secret");
        assert!(images.may_use("r.io/app:1", "id", &[&secret("a", "changed")]), "the same secret with a new password");
        assert!(!images.may_use("r.io/other:1", "id", &[&a]), "under another name anyone might have pushed it");

        let again = PulledImages::open(dir.path());
        assert!(again.may_use("r.io/app:1", "id", &[&a]) && !again.may_use("r.io/app:1", "id", &[&b]));
        again.begin("r.io/app:1").unwrap().succeeded("id", Some(&b));
        assert!(again.may_use("r.io/app", "id", &[&b]) && again.may_use("r.io/app", "id", &[&a]));
        again.begin("r.io/app:1").unwrap().succeeded("id", None);
        assert!(again.may_use("r.io/app:1", "id", &[]), "the registry gives it to anyone");
        assert_eq!(fs::read_dir(dir.path().join("pulling")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_known_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let images = PulledImages::open(dir.path());
        let (first, second) = (images.begin("nginx").unwrap(), images.begin("docker.io/library/nginx:latest").unwrap());
        assert!(!images.may_use("nginx", "id", &[]));
        first.failed();
        assert!(!images.may_use("nginx", "id", &[]), "another pull goes on");
        second.failed();
        assert!(images.may_use("nginx", "id", &[]));
        drop(images.begin("nginx").unwrap());
        assert!(!PulledImages::open(dir.path()).may_use("nginx", "id", &[]), "broken off, perhaps after it was there");
        images.begin("nginx").unwrap().succeeded("id", None);
        assert!(PulledImages::open(dir.path()).may_use("nginx", "id", &[]));
        fs::write(dir.path().join("pulled").join(file_name("id")), "{").unwrap();
        assert!(!PulledImages::open(dir.path()).may_use("nginx", "id", &[]));
    }

    #[test]
    fn records_are_upstreams_and_go_with_their_images() {
        let dir = tempfile::tempdir().unwrap();
        let record = br#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1",
            "lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"testimageref","credentialMapping":{
            "docker.io/testing/test":{"kubernetesSecrets":[{"uid":"u","namespace":"ns","name":"a","credentialHash":"1"}]}}}"#;
        fs::create_dir_all(dir.path().join("pulled")).unwrap();
        // The name is that of upstream's own test data.
        let file = "sha256-b3c0cc4278800b03a308ceb2611161430df571ca733122f0a40ac8b9792a9064";
        fs::write(dir.path().join("pulled").join(file), record).unwrap();
        let images = PulledImages::open(dir.path());
        assert!(images.may_use("testing/test:x", "testimageref", &[&secret("a", "1")]));
        assert!(!images.may_use("testing/test:x", "testimageref", &[]));
        let asked = Timestamp::now();
        images.begin("new").unwrap().succeeded("newer", Some(&secret("a", "1")));
        images.forget_absent(&[Image { id: "testimageref".into(), ..Default::default() }], asked);
        assert!(dir.path().join("pulled").join(file).exists() && !images.may_use("new", "newer", &[]));
        images.forget_absent(&[], asked);
        assert!(!dir.path().join("pulled").join(file).exists() && !images.may_use("new", "newer", &[]));
        assert!(images.may_use("testing/test:x", "testimageref", &[]), "whatever comes under this id was brought");
    }
}
