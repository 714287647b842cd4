//! The simulated disk: the memory store behind a commit that takes time, may fail, and may be cut short by a crash.

use std::sync::Arc;

use kybern_storage::memory::Memory;
use kybern_storage::{BoxFuture, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch, Write};
use parking_lot::Mutex;

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
}

impl Disk {
    pub fn new(random: Random, faults: Faults, on_commit: OnCommit) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { random, faults, log: Vec::new() }), on_commit })
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Opens the store after a start or a crash: reads back the log.
    pub async fn mount(self: &Arc<Self>) -> Result<Arc<Mount>, StorageError> {
        let log = self.state.lock().log.clone();
        let memory = Arc::new(Memory::default());
        for txn in log {
            memory.txn(txn).await?;
        }
        Ok(Arc::new(Mount { disk: self.clone(), memory: Mutex::new(Some(memory)) }))
    }
}

/// The store as one server process has it open.
pub struct Mount {
    disk: Arc<Disk>,
    memory: Mutex<Option<Arc<Memory>>>,
}

impl Mount {
    /// The process dies: what it had under way has happened or not, and it does nothing any more.
    pub fn crash(&self) {
        self.memory.lock().take();
        let mut state = self.disk.state.lock();
        let kept = state.log.len().saturating_sub(state.faults.forgets_on_crash);
        state.log.truncate(kept);
    }

    fn memory(&self) -> Result<Arc<Memory>, StorageError> {
        self.memory.lock().clone().ok_or(StorageError::Closed)
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StorageError> {
        let (before, after, fails) = {
            let mut state = self.disk.state.lock();
            let State { random, faults, .. } = &mut *state;
            (random.delay(faults.disk_delay), random.delay(faults.disk_delay), random.chance(faults.failed_commit))
        };
        tokio::time::sleep(before).await;
        let memory = self.memory()?;
        if fails {
            return Err(StorageError::Io { path: "/simulated".into(), cause: "input/output error".to_owned() });
        }
        let known = memory.revision().await?;
        let revision = memory.txn(txn.clone()).await?;
        drop(memory);
        if revision > known {
            (self.disk.on_commit)(revision, &txn.writes);
            self.disk.state.lock().log.push(txn);
        }
        tokio::time::sleep(after).await;
        self.memory()?;
        Ok(revision)
    }
}

impl Storage for Mount {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async { self.memory()?.revision().await })
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        Box::pin(async { self.memory()?.range(request).await })
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        Box::pin(async move { self.memory()?.scan(prefix, at).await })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(self.commit(txn))
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        Box::pin(async move { self.memory()?.watch(prefix, from).await })
    }

    fn request_progress(&self) {
        if let Ok(memory) = self.memory() {
            memory.request_progress();
        }
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async { self.memory()?.oldest().await })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move { self.memory()?.compact(revision).await })
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        Box::pin(async { self.memory()?.size().await })
    }
}
