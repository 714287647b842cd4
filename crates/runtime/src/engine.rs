//! The runtime's state: what sandboxes and containers there are, taken over from disk at the start.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use kybern_cri::{ContainerEvent, ContainerEventType, CriError};
use kybern_linux::cgroup::Cgroups;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::container::Container;
use crate::image::{ImageStore, StoreError};
use crate::pull::Puller;
use crate::sandbox::Sandbox;
use crate::take_over::Remains;
use crate::{Config, disk};

/// How many events a receiver may lag behind.
const EVENTS_MAX: usize = 1024;

/// The container runtime. One per state directory.
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) cgroups: Cgroups,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) puller: Arc<Puller>,
    pub(crate) sandboxes: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    pub(crate) containers: RwLock<BTreeMap<String, Arc<Container>>>,
    listeners: Mutex<Vec<mpsc::Sender<ContainerEvent>>>,
    /// Held so that no second runtime works on the same state.
    _lock: std::fs::File,
}

impl Engine {
    /// Opens the runtime: makes its directories, connects to the shims of a previous run and goes on with their pods. Answers
    /// also what that run has left and is to be removed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a directory cannot be made, another runtime uses the state directory, or no cgroup hierarchy is mounted.
    pub(crate) async fn open(config: Config) -> io::Result<(Arc<Engine>, Remains)> {
        disk::make_dirs(&config.state_dir, 0o711)?;
        disk::make_dirs(&config.root_dir, 0o711)?;
        let lock = lock_state(&config.state_dir)?;
        forget_previous_boot(&config)?;
        disk::make_dirs(&config.sandboxes_dir(), 0o711)?;
        disk::make_dirs(&config.netns_dir, 0o755)?;
        disk::make_dirs(&config.containers_dir(), 0o711)?;
        let mut images = ImageStore::open(config.images_dir(), config.containers_dir())?;
        images.install_builtin(&config)?;
        let images = Arc::new(images);
        let runtime = Arc::new(Engine {
            cgroups: Cgroups::detect()?,
            puller: Puller::new(images.clone(), &config),
            images,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            listeners: Mutex::default(),
            _lock: lock,
            config,
        });
        let remains = runtime.take_over().await?;
        Ok((runtime, remains))
    }

    /// A channel of everything that happens from now on.
    pub(crate) fn listen(&self) -> mpsc::Receiver<ContainerEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        self.listeners.lock().push(sender);
        receiver
    }

    /// Tells everyone. Whoever lags too far behind loses the channel and lists again.
    pub(crate) fn announce(&self, kind: ContainerEventType, sandbox: &Sandbox, container: &str) {
        let event = ContainerEvent {
            kind,
            container_id: container.to_owned(),
            pod_sandbox_id: sandbox.id.clone(),
            pod_uid: sandbox.config.metadata.uid.clone(),
        };
        self.listeners.lock().retain(|listener| listener.try_send(event.clone()).is_ok());
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, CriError> {
        let found = self.sandboxes.read().get(id).cloned();
        found.ok_or_else(|| CriError::NotFound(format!("an error occurred when try to find sandbox {id:?}: not found")))
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, CriError> {
        let found = self.containers.read().get(id).cloned();
        found.ok_or_else(|| {
            CriError::NotFound(format!("an error occurred when try to find container {id:?}: not found"))
        })
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.read().values().filter(|c| c.sandbox.id == sandbox).cloned().collect()
    }
}

/// Two runtimes on one state directory would each believe the other's pods their own.
fn lock_state(state_dir: &Path) -> io::Result<std::fs::File> {
    let path = state_dir.join("lock");
    let file = kybern_linux::files::append(&path, 0o600)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{}: another runtime is using this directory", path.display()),
        )),
        Err(error) => Err(disk::named(error.into(), &path)),
    }
}

/// Whether a runtime is using a state directory now.
pub fn is_in_use(state_dir: &Path) -> bool {
    let Ok(file) = std::fs::File::open(state_dir.join("lock")) else { return false };
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::AGAIN)
}

/// Where the state directory outlives a reboot, its pods have not: their processes are gone, and pids belong to others.
fn forget_previous_boot(config: &Config) -> io::Result<()> {
    let path = config.state_dir.join("boot_id");
    let current = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    if std::fs::read_to_string(&path).is_ok_and(|known| known == current) {
        return Ok(());
    }
    disk::remove_all(&config.sandboxes_dir())?;
    disk::remove_all(&config.containers_dir())?;
    disk::replace(&path, current.as_bytes(), false)
}

/// Runs blocking work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CriError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CriError::Internal(format!("worker failed: {error}")))
}

/// An error of the runtime's own doing, with what it was about.
pub(crate) fn internal(what: impl std::fmt::Display, error: impl std::fmt::Display) -> CriError {
    CriError::Internal(format!("{what}: {error}"))
}

impl From<StoreError> for CriError {
    fn from(error: StoreError) -> CriError {
        match error {
            StoreError::NotFound(_) => CriError::NotFound(error.to_string()),
            StoreError::Invalid(_) => CriError::InvalidArgument(error.to_string()),
            StoreError::Pinned(_) => CriError::FailedPrecondition(error.to_string()),
            StoreError::Io(_) | StoreError::Full(_) => CriError::Internal(format!("image store: {error}")),
        }
    }
}

/// A new random id: 64 hexadecimal digits, as every runtime's.
pub(crate) fn new_id() -> Result<String, CriError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 32];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| CriError::Internal("no randomness".into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
