//! Encryption at rest: a store whose values are encrypted as `--encryption-provider-config` says, as upstream's are, so that
//! either reads what the other wrote.
//!
//! A value that no provider can decrypt comes as it is stored: its prefix tells whoever reads it.

mod ciphers;
mod config;
mod kms;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, watch};

use crate::hub::{QUEUE_BATCHES, SharedBatch};
use crate::{
    BoxFuture, Event, KeyValue, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch, Write,
};
pub use config::ConfigError;
use config::{Provider, Rules};
use kms::Plugin;

/// What every encrypted value begins with.
pub const ENCRYPTED: &[u8] = b"k8s:enc:";

#[derive(Debug, thiserror::Error)]
#[error("--encryption-provider-config is not usable: {path}: {cause}")]
pub struct OpenError {
    path: PathBuf,
    cause: String,
}

/// A kind's group and name by the prefix of its keys, `secrets`.
pub type Kinds = HashMap<String, (String, String)>;

/// See the module.
pub struct Encrypted {
    inner: Arc<Inner>,
    file: PathBuf,
    asking: tokio::task::AbortHandle,
}

struct Inner {
    storage: Arc<dyn Storage>,
    kinds: Kinds,
    /// What keys begin with in the store in place of `/registry`: values are bound to the keys that they lie under there.
    prefix: String,
    config: ArcSwap<Config>,
    /// With what each key's value was encrypted.
    stamps: Mutex<HashMap<Arc<str>, Arc<str>>>,
    /// Whether some value could not be decrypted since the configuration was read.
    failed: AtomicBool,
    /// Tells open watches to end, so that everything is read anew.
    reread: broadcast::Sender<()>,
    health: watch::Sender<Health>,
}

/// Why a plugin is not well; `None` without plugins.
pub type Health = Option<Result<(), String>>;

struct Config {
    text: String,
    rules: Rules,
    plugins: HashMap<String, Arc<Plugin>>,
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Encrypted {
    /// Reads the configuration and asks plugins for their keys; one that is away is asked again. Must be called within a tokio
    /// runtime.
    pub async fn open(storage: Arc<dyn Storage>, file: &Path, kinds: Kinds, prefix: &str) -> Result<Self, OpenError> {
        let config = Config::read(file, None)?;
        config.check().await;
        let health = config.health();
        let inner = Arc::new(Inner {
            storage,
            kinds,
            prefix: format!("/{}", prefix.trim_matches('/')),
            config: ArcSwap::from_pointee(config),
            stamps: Mutex::default(),
            failed: false.into(),
            reread: broadcast::channel(1).0,
            health: watch::channel(health).0,
        });
        let asking = tokio::spawn(poll(inner.clone())).abort_handle();
        Ok(Self { inner, file: file.to_owned(), asking })
    }

    /// Reads the file anew; whether it had changed. After an error, such as of one that is just being replaced, all is as it
    /// was.
    pub async fn reload(&self) -> Result<bool, OpenError> {
        let inner = &self.inner;
        let before = inner.config.load_full();
        let config = Config::read(&self.file, Some(&before))?;
        if config.text == before.text {
            return Ok(false);
        }
        config.check().await;
        inner.health.send_replace(config.health());
        inner.config.store(Arc::new(config));
        inner.read_anew();
        Ok(true)
    }

    /// What the health check `kms-providers` says, whenever plugins were asked.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }
}

impl Config {
    /// Plugins that stay keep what they know.
    fn read(file: &Path, before: Option<&Self>) -> Result<Self, OpenError> {
        let failed = |cause: String| OpenError { path: file.to_owned(), cause };
        let text = std::fs::read_to_string(file).map_err(|e| failed(e.to_string()))?;
        let rules = Rules::parse(&text).map_err(|e| failed(e.to_string()))?;
        let plugins = rules.plugins().into_iter().map(|options| {
            let known = before.and_then(|before| before.plugins.get(&options.name));
            let known = known.filter(|plugin| plugin.options == *options).cloned();
            (options.name.clone(), known.unwrap_or_else(|| Arc::new(Plugin::new(options.clone()))))
        });
        let plugins = plugins.collect();
        Ok(Self { text, rules, plugins })
    }

    fn health(&self) -> Health {
        if self.plugins.is_empty() {
            return None;
        }
        let mut sick: Vec<String> = self.plugins.values().filter_map(|plugin| plugin.sick.lock().clone()).collect();
        sick.sort();
        Some(if sick.is_empty() { Ok(()) } else { Err(sick.join("; ")) })
    }

    /// Asks every plugin.
    async fn check(&self) -> bool {
        let checks = self.plugins.values().map(|plugin| async move {
            let checked = plugin.check().await;
            checked.inspect_err(|error| tracing::error!(error, "a KMS plugin is not usable")).is_ok()
        });
        futures_util::future::join_all(checks).await.into_iter().all(|well| well)
    }
}

/// Asks plugins whether they are well, for as long as the store is there.
async fn poll(inner: Arc<Inner>) {
    let mut well = inner.config.load().plugins.values().all(|plugin| plugin.sick.lock().is_none());
    loop {
        tokio::time::sleep(if well { kms::POLL.0 } else { kms::POLL.1 }).await;
        let config = inner.config.load_full();
        let before = well;
        well = config.check().await;
        inner.health.send_replace(config.health());
        if well && !before {
            inner.read_anew();
        }
    }
}

impl Inner {
    /// Where something could not be decrypted, it may be now.
    fn read_anew(&self) {
        if self.failed.swap(false, Ordering::Relaxed) {
            let _ = self.reread.send(());
        }
    }

    /// The group and resource that a key's object is of.
    fn resource<'a>(&'a self, key: &'a str) -> Option<(&'a str, &'a str)> {
        let own = key.strip_prefix("/registry/")?;
        let (first, rest) = own.split_once('/')?;
        let both = rest.find('/').map(|end| &own[..first.len() + 1 + end]);
        let known = both.and_then(|both| self.kinds.get(both)).or_else(|| self.kinds.get(first));
        match known {
            Some((group, resource)) => Some((group, resource)),
            // A custom resource lies below its group.
            None if first.contains('.') => Some((first, rest.split('/').next().unwrap_or(rest))),
            None => None,
        }
    }

    /// What a value is bound to.
    fn about(&self, key: &str) -> Vec<u8> {
        match key.strip_prefix("/registry") {
            Some(rest) => [self.prefix.as_bytes(), rest.as_bytes()].concat(),
            None => key.as_bytes().to_vec(),
        }
    }

    fn encrypt(&self, key: &str, value: &Bytes) -> Result<Bytes, StorageError> {
        let config = self.config.load();
        let Some(providers) = self.resource(key).and_then(|(group, resource)| config.rules.of(group, resource)) else {
            return Ok(value.clone());
        };
        let failed = |cause: String| StorageError::Refused(format!("the value of {key} cannot be encrypted: {cause}"));
        match &providers[0] {
            Provider::Identity => Ok(value.clone()),
            Provider::Keyed(prefix, cipher) => {
                let sealed = cipher.encrypt(value, &self.about(key)).map_err(failed)?;
                Ok([prefix.as_bytes(), &sealed].concat().into())
            }
            Provider::Kms(options) => {
                let plugin =
                    config.plugins.get(&options.name).ok_or_else(|| failed("its plugin is gone".to_owned()))?;
                let sealed = plugin.encrypt(value, &self.about(key)).map_err(failed)?;
                Ok([kms_prefix(&options.name).as_bytes(), &sealed].concat().into())
            }
        }
    }

    /// What a value was encrypted with is noted; one that cannot be decrypted stays as it is.
    async fn decrypt(&self, key: &Arc<str>, value: Bytes) -> Bytes {
        let config = self.config.load_full();
        let Some(providers) = self.resource(key).and_then(|(group, resource)| config.rules.of(group, resource)) else {
            return value;
        };
        match self.open(&config, providers, key, &value).await {
            Ok((opened, stamp)) => {
                self.stamps.lock().insert(key.clone(), stamp);
                opened.map_or(value, Bytes::from)
            }
            Err(cause) => {
                self.failed.store(true, Ordering::Relaxed);
                self.stamps.lock().remove(key);
                tracing::error!(%key, cause, "a stored value cannot be decrypted");
                // Plain text where every provider encrypts is not what it should be, either.
                if value.starts_with(ENCRYPTED) { value } else { [ENCRYPTED, b"none:"].concat().into() }
            }
        }
    }

    async fn open(
        &self,
        config: &Config,
        providers: &[Provider],
        key: &str,
        value: &[u8],
    ) -> Result<(Option<Vec<u8>>, Arc<str>), String> {
        let mut causes: Vec<String> = Vec::new();
        for provider in providers {
            match provider {
                Provider::Identity if !value.starts_with(ENCRYPTED) => return Ok((None, "".into())),
                Provider::Identity => {}
                Provider::Keyed(prefix, cipher) => {
                    let Some(sealed) = value.strip_prefix(prefix.as_bytes()) else { continue };
                    match cipher.decrypt(sealed, &self.about(key)) {
                        Ok(opened) => return Ok((Some(opened), prefix.as_str().into())),
                        Err(cause) => causes.push(cause),
                    }
                }
                Provider::Kms(options) => {
                    let prefix = kms_prefix(&options.name);
                    let Some(sealed) = value.strip_prefix(prefix.as_bytes()) else { continue };
                    let Some(plugin) = config.plugins.get(&options.name) else { continue };
                    match plugin.decrypt(sealed, &self.about(key)).await {
                        Ok((opened, key_id)) => return Ok((Some(opened), format!("{prefix}{key_id}").into())),
                        Err(cause) => causes.push(cause),
                    }
                }
            }
        }
        causes.dedup();
        Err(if causes.is_empty() { "no matching prefix found".to_owned() } else { causes.join(", ") })
    }

    /// What is written now is noted with.
    fn stamp(&self, key: &str) -> Option<String> {
        let config = self.config.load();
        let (group, resource) = self.resource(key)?;
        match config.rules.of(group, resource)?.first()? {
            Provider::Identity => Some(String::new()),
            Provider::Keyed(prefix, _) => Some(prefix.clone()),
            Provider::Kms(options) => {
                let key_id = config.plugins.get(&options.name)?.key_id()?;
                Some(format!("{}{key_id}", kms_prefix(&options.name)))
            }
        }
    }

    async fn decrypt_all(&self, items: Vec<KeyValue>) -> Vec<KeyValue> {
        let mut opened = Vec::with_capacity(items.len());
        for item in items {
            opened.push(KeyValue { value: self.decrypt(&item.key, item.value).await, ..item });
        }
        opened
    }

    async fn decrypt_events(&self, events: Vec<Event>) -> Vec<Event> {
        let mut opened = Vec::with_capacity(events.len());
        for event in events {
            let value = match event.value {
                Some(value) => Some(self.decrypt(&event.key, value).await),
                None => {
                    self.stamps.lock().remove(&event.key);
                    None
                }
            };
            opened.push(Event { value, ..event });
        }
        opened
    }
}

fn kms_prefix(name: &str) -> String {
    format!("k8s:enc:kms:v2:{name}:")
}

impl Storage for Encrypted {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        self.inner.storage.revision()
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        Box::pin(async move {
            let page = self.inner.storage.range(request).await?;
            Ok(Page { items: self.inner.decrypt_all(page.items).await, ..page })
        })
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        Box::pin(async move {
            let mut pieces = self.inner.storage.scan(prefix, at).await?;
            let (sender, opened) = mpsc::channel(4);
            let inner = self.inner.clone();
            tokio::spawn(async move {
                while let Some(piece) = pieces.recv().await {
                    let piece = match piece {
                        Ok(items) => Ok(inner.decrypt_all(items).await),
                        Err(error) => Err(error),
                    };
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Scan::of_pieces(opened))
        })
    }

    fn txn(&self, mut txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        for write in &mut txn.writes {
            if let Write::Put(key, value) = write {
                match self.inner.encrypt(key, value) {
                    Ok(sealed) => *value = sealed,
                    Err(error) => return Box::pin(std::future::ready(Err(error))),
                }
            }
        }
        self.inner.storage.txn(txn)
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        Box::pin(async move {
            let mut reread = self.inner.reread.subscribe();
            let mut sealed = self.inner.storage.watch(prefix, from).await?;
            let (sender, live) = mpsc::channel(QUEUE_BATCHES);
            let inner = self.inner.clone();
            tokio::spawn(async move {
                loop {
                    let batch = tokio::select! {
                        batch = sealed.next() => batch,
                        () = sender.closed() => return,
                        _ = reread.recv() => {
                            let reached = sealed.reached();
                            Err(StorageError::Compacted { requested: reached, oldest: reached })
                        }
                    };
                    let item = match batch {
                        Ok(batch) => {
                            let events = inner.decrypt_events(batch.events).await.into();
                            Ok(SharedBatch { events, revision: batch.revision })
                        }
                        Err(error) => Err(error),
                    };
                    let ends = item.is_err();
                    if sender.send(item).await.is_err() || ends {
                        return;
                    }
                }
            });
            Ok(Watch::new(from, Default::default(), from, live))
        })
    }

    fn request_progress(&self) {
        self.inner.storage.request_progress();
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        self.inner.storage.oldest()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        self.inner.storage.compact(revision)
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        self.inner.storage.size()
    }

    fn wants_rewrite(&self, key: &str) -> bool {
        let Some(wanted) = self.inner.stamp(key) else { return false };
        self.inner.stamps.lock().get(key).is_some_and(|stamp| **stamp != *wanted)
    }
}
