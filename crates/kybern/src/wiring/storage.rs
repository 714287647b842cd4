//! Opens the store that the API server works on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use kybern_apiserver::resource::Resource;
use kybern_apiserver::{Checks, ProtobufStore};
use kybern_linux::inotify::FileChanges;
use kybern_storage::Storage;
use kybern_storage::encryption::{Encrypted, Health};
use kybern_storage::etcd::{self, Etcd};
use kybern_storage::sqlite::{self, Sqlite};
use tokio::sync::watch;

/// Where objects lie.
#[derive(Clone, Debug)]
pub(crate) struct StorageOptions {
    /// Holds the store of this server's own.
    pub(crate) folder: PathBuf,
    /// An etcd in place of that.
    pub(crate) etcd: Option<etcd::Options>,
    /// How long to wait for the etcd at the start.
    pub(crate) patience: Duration,
    /// How long `/healthz` and `/livez`, and `/readyz`, wait for the store.
    pub(crate) health_timeout: Duration,
    pub(crate) readiness_timeout: Duration,
    /// The file that says what is encrypted and how, and whether it is read anew when it changes.
    pub(crate) encryption: Option<(PathBuf, bool)>,
    pub(crate) snapshots: Option<Schedule>,
    /// Whether objects are written to the etcd as protobuf; else as JSON.
    pub(crate) protobuf: bool,
}

/// Copies of the store of this server's own, made by the clock.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) folder: PathBuf,
    pub(crate) interval: Duration,
    /// How many stay.
    pub(crate) retention: usize,
}

impl StorageOptions {
    /// A store in a folder.
    pub(crate) fn own(folder: &Path) -> Self {
        const CHECK: Duration = Duration::from_secs(2);
        Self {
            folder: folder.to_owned(),
            etcd: None,
            patience: Duration::from_secs(60),
            health_timeout: CHECK,
            readiness_timeout: CHECK,
            encryption: None,
            snapshots: None,
            protobuf: false,
        }
    }

    /// Whether events go by themselves.
    pub(crate) fn expires_events(&self) -> bool {
        self.etcd.as_ref().is_some_and(|etcd| etcd.expiring.is_some())
    }

    pub(crate) async fn open(&self) -> Result<Arc<dyn Storage>> {
        let Some(options) = &self.etcd else {
            let storage = Sqlite::open(&self.folder, sqlite::Options::default())?;
            if let Some(schedule) = &self.snapshots {
                tokio::spawn(make_copies(self.folder.clone(), schedule.clone()));
            }
            return Ok(Arc::new(storage));
        };
        if self.snapshots.is_some() {
            tracing::warn!("--snapshot-interval has no effect: an etcd is copied with kybern backup --etcd-servers");
        }
        let etcd = Etcd::new(options.clone())?;
        etcd.wait_until_ready(self.patience)
            .await
            .with_context(|| format!("the etcd of --etcd-servers={} is not usable", options.servers.join(",")))?;
        Ok(Arc::new(etcd))
    }

    /// The store with its values in the form that they are to have.
    pub(crate) fn formed(&self, storage: Arc<dyn Storage>, rows: &[Resource]) -> Arc<dyn Storage> {
        if self.etcd.is_some() && self.protobuf { Arc::new(ProtobufStore::new(storage, rows)) } else { storage }
    }

    /// The store with its values encrypted, where they are to be, and what becomes of the keys' plugins.
    pub(crate) async fn encrypted(
        &self,
        storage: Arc<dyn Storage>,
        rows: &[Resource],
    ) -> Result<(Arc<dyn Storage>, Option<watch::Receiver<Health>>)> {
        let Some((file, reload)) = &self.encryption else { return Ok((storage, None)) };
        let stored = rows.iter().filter(|row| row.unstored.is_none()).map(|row| &row.stored);
        let kinds = stored.map(|kind| (kind.prefix.clone(), (kind.gvk.group.to_string(), kind.resource.clone())));
        let prefix = self.etcd.as_ref().map_or("/registry", |etcd| &etcd.prefix);
        // Watched before it is read, so that no change is missed.
        let changes = reload.then(|| FileChanges::of(file)).transpose();
        let changes = changes.with_context(|| format!("cannot watch {}", file.display()))?;
        let encrypted = Arc::new(Encrypted::open(storage, file, kinds.collect(), prefix).await?);
        if let Some(changes) = changes {
            tokio::spawn(reload_encryption(changes, Arc::downgrade(&encrypted)));
        }
        let health = encrypted.health();
        Ok((encrypted, Some(health)))
    }
}

/// Reads the configuration of encryption anew when its file changes, for as long as the store is there.
async fn reload_encryption(changes: FileChanges, encrypted: Weak<Encrypted>) {
    while changes.next().await.is_ok() {
        let Some(encrypted) = encrypted.upgrade() else { return };
        match encrypted.reload().await {
            Ok(true) => tracing::info!("--encryption-provider-config changed and was read anew"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the configuration that was read before stays"),
        }
    }
}

/// Makes copies for as long as the server runs.
async fn make_copies(store: PathBuf, schedule: Schedule) {
    loop {
        tokio::time::sleep(schedule.interval).await;
        let (store, Schedule { folder, retention, .. }) = (store.clone(), schedule.clone());
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%SZ").to_string();
        let copied = tokio::task::spawn_blocking(move || sqlite::keep_copies(&store, &folder, &now, retention)).await;
        match copied {
            Ok(Ok((path, summary))) => {
                tracing::info!(path = %path.display(), revision = summary.revision, "the store was copied");
            }
            Ok(Err(error)) => tracing::error!(%error, "the store could not be copied; it is tried again later"),
            Err(error) => tracing::error!(%error, "the store could not be copied; it is tried again later"),
        }
    }
}

/// Passes on to the health checks whether plugins are well.
pub(crate) async fn report_health(checks: Checks, mut health: watch::Receiver<Health>) {
    const NAME: &str = "kms-providers";
    loop {
        match health.borrow_and_update().clone() {
            Some(Err(reason)) => checks.fail(NAME, reason),
            Some(Ok(())) => checks.pass(NAME),
            None => {}
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}
