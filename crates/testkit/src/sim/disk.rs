//! The simulated disk: the memory store behind a commit that takes time, may fail, and may be cut short by a crash. Several
//! servers may have it open, as several share an etcd: each is told of commits after a time of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_storage::memory::Memory;
use kybern_storage::{
    BoxFuture, Event, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch, Write,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::faults::Faults;
use super::random::Random;

/// Told of every commit, in order: the new revision and what was written.
pub type OnCommit = Arc<dyn Fn(Revision, &[Write]) + Send + Sync>;

/// What outlives crashes: every transaction that was committed.
pub struct Disk {
    state: Mutex<State>,
    on_commit: OnCommit,
}

struct State {
    random: Random,
    faults: Faults,
    log: Vec<Txn>,
    /// The store, while somebody has it open.
    store: Option<Arc<Memory>>,
    /// Those who have it open, by number, are told of commits.
    mounts: BTreeMap<usize, mpsc::UnboundedSender<Txn>>,
    mounted: usize,
}

/// A store that has done what a log says.
async fn replayed(log: &[Txn]) -> Result<Arc<Memory>, StorageError> {
    let memory = Arc::new(Memory::default());
    for txn in log {
        memory.txn(txn.clone()).await?;
    }
    Ok(memory)
}

impl Disk {
    pub fn new(random: Random, faults: Faults, on_commit: OnCommit) -> Arc<Self> {
        let state = State { random, faults, log: Vec::new(), store: None, mounts: BTreeMap::new(), mounted: 0 };
        Arc::new(Self { state: Mutex::new(state), on_commit })
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Opens the store after a start or a crash: reads back the log, unless another server has it open.
    pub async fn mount(self: &Arc<Self>) -> Result<Arc<Mount>, StorageError> {
        let (log, open) = {
            let state = self.state.lock();
            (state.log.clone(), state.store.clone())
        };
        // Nothing of this waits: no commit comes between.
        let told = replayed(&log).await?;
        let store = match open {
            Some(store) => store,
            None => replayed(&log).await?,
        };
        let (reached, receiver) = watch::channel(told.revision().await?);
        let (sender, commits) = mpsc::unbounded_channel();
        let number = {
            let mut state = self.state.lock();
            state.store = Some(store.clone());
            state.mounted += 1;
            let number = state.mounted;
            state.mounts.insert(number, sender);
            number
        };
        let teller = tokio::spawn(self.clone().tell(commits, told.clone(), reached));
        let open = Open { store, told, reached: receiver };
        Ok(Arc::new(Mount { disk: self.clone(), number, open: Mutex::new(Some(open)), teller }))
    }

    /// Tells one of those who have the store open of each commit, some time after it.
    async fn tell(
        self: Arc<Self>,
        mut commits: mpsc::UnboundedReceiver<Txn>,
        told: Arc<Memory>,
        reached: watch::Sender<Revision>,
    ) {
        while let Some(txn) = commits.recv().await {
            let lag = {
                let mut state = self.state.lock();
                let State { random, faults, .. } = &mut *state;
                random.delay(faults.watch_lag)
            };
            if !lag.is_zero() {
                tokio::time::sleep(lag).await;
            }
            let mut next = Some(txn);
            while let Some(txn) = next.take().or_else(|| commits.try_recv().ok()) {
                // It was committed: the store has had the same before it.
                let revision = told.txn(txn).await.expect("what was committed can be told");
                reached.send_replace(revision);
            }
        }
    }
}

/// The store as one server process has it open.
pub struct Mount {
    disk: Arc<Disk>,
    number: usize,
    open: Mutex<Option<Open>>,
    teller: JoinHandle<()>,
}

#[derive(Clone)]
struct Open {
    /// What all share.
    store: Arc<Memory>,
    /// What this server was told of, which it watches.
    told: Arc<Memory>,
    reached: watch::Receiver<Revision>,
}

impl Mount {
    /// The process dies: what it had under way has happened or not, and it does nothing any more. What nobody has open is
    /// read anew from the log.
    pub fn crash(&self) {
        self.teller.abort();
        self.open.lock().take();
        let mut state = self.disk.state.lock();
        if state.mounts.remove(&self.number).is_some() && state.mounts.is_empty() {
            state.store = None;
            let kept = state.log.len().saturating_sub(state.faults.forgets_on_crash);
            state.log.truncate(kept);
        }
    }

    fn open(&self) -> Result<Open, StorageError> {
        self.open.lock().clone().ok_or(StorageError::Closed)
    }

    fn store(&self) -> Result<Arc<Memory>, StorageError> {
        Ok(self.open()?.store)
    }

    /// Everything that was ever committed.
    pub(super) async fn history(&self) -> Result<Vec<Event>, StorageError> {
        let store = self.store()?;
        if store.revision().await? == 1 { Ok(Vec::new()) } else { Ok(store.watch("/", 1).await?.next().await?.events) }
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StorageError> {
        let (before, after, fails) = {
            let mut state = self.disk.state.lock();
            let State { random, faults, .. } = &mut *state;
            (random.delay(faults.disk_delay), random.delay(faults.disk_delay), random.chance(faults.failed_commit))
        };
        tokio::time::sleep(before).await;
        let store = self.store()?;
        if fails {
            return Err(StorageError::Io { path: "/simulated".into(), cause: "input/output error".to_owned() });
        }
        let known = store.revision().await?;
        let revision = store.txn(txn.clone()).await?;
        drop(store);
        if revision > known {
            (self.disk.on_commit)(revision, &txn.writes);
            let mut state = self.disk.state.lock();
            state.mounts.retain(|_, mount| mount.send(txn.clone()).is_ok());
            state.log.push(txn);
        }
        tokio::time::sleep(after).await;
        self.open()?;
        Ok(revision)
    }

    /// From a revision on that the store has reached, though this server was not told of it yet.
    async fn watch_from(&self, prefix: &str, from: Revision) -> Result<Watch, StorageError> {
        let Open { store, told, mut reached } = self.open()?;
        if from <= store.revision().await? {
            // A crash ends the wait as well.
            let _ = reached.wait_for(|reached| *reached >= from).await;
            self.open()?;
        }
        told.watch(prefix, from).await
    }
}

impl Storage for Mount {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async { self.store()?.revision().await })
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        Box::pin(async { self.store()?.range(request).await })
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        Box::pin(async move { self.store()?.scan(prefix, at).await })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(self.commit(txn))
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        Box::pin(self.watch_from(prefix, from))
    }

    fn request_progress(&self) {
        if let Ok(open) = self.open() {
            open.told.request_progress();
        }
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async { self.store()?.oldest().await })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move { self.store()?.compact(revision).await })
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        Box::pin(async { self.store()?.size().await })
    }
}
