//! The simulated disk: the memory store behind a commit that takes time, may fail, may happen without an answer, and may be
//! cut short by a crash. Several servers may have it open, as several share an etcd: each is told of commits after a time of
//! its own, and may be cut off from it. Its history may be forgotten at any time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kybern_storage::memory::Memory;
use kybern_storage::{BoxFuture, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch, Write};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::faults::Faults;
use super::host::Host;
use super::random::Random;

/// The longest that a store without a leader is waited for, as by etcd's own clients.
const PATIENCE: Duration = Duration::from_secs(7);

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
    /// What was before this is forgotten.
    oldest: Revision,
    /// Those who have it open, by number, are told of commits.
    mounts: BTreeMap<usize, Told>,
    mounted: usize,
}

/// Who is told of commits, and what it was told of.
struct Told {
    sender: mpsc::UnboundedSender<Txn>,
    memory: Arc<Memory>,
}

/// A server's way to the store.
struct Way {
    host: Host,
    /// It leads nowhere until then.
    away: Mutex<Option<Instant>>,
}

impl Way {
    fn back(&self) -> Option<Instant> {
        self.away.lock().filter(|until| *until > Instant::now())
    }

    /// Ends once the server runs and reaches the store.
    async fn leads(&self) {
        loop {
            self.host.runs().await;
            match self.back() {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }
}

/// etcd's words.
fn unavailable(why: &str) -> StorageError {
    StorageError::Unavailable(format!("etcdserver: {why}"))
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
        let (log, mounts) = (Vec::new(), BTreeMap::new());
        let state = State { random, faults, log, store: None, oldest: 1, mounts, mounted: 0 };
        Arc::new(Self { state: Mutex::new(state), on_commit })
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Opens the store after a start or a crash: reads back the log, unless another server has it open.
    pub(super) async fn mount(self: &Arc<Self>, host: Host) -> Result<Arc<Mount>, StorageError> {
        let (log, open, oldest) = {
            let state = self.state.lock();
            (state.log.clone(), state.store.clone(), state.oldest)
        };
        // Nothing of this waits: no commit comes between.
        let told = replayed(&log).await?;
        let store = match open {
            Some(store) => store,
            None => {
                let store = replayed(&log).await?;
                store.compact(oldest.min(store.revision().await?)).await?;
                store
            }
        };
        let way = Arc::new(Way { host, away: Mutex::default() });
        let (reached, receiver) = watch::channel(told.revision().await?);
        let (sender, commits) = mpsc::unbounded_channel();
        let number = {
            let mut state = self.state.lock();
            state.store = Some(store.clone());
            state.mounted += 1;
            let number = state.mounted;
            state.mounts.insert(number, Told { sender, memory: told.clone() });
            number
        };
        let teller = tokio::spawn(self.clone().tell(commits, told.clone(), reached, way.clone()));
        let open = Open { store, told, reached: receiver };
        Ok(Arc::new(Mount { disk: self.clone(), number, way, open: Mutex::new(Some(open)), teller }))
    }

    /// Forgets how all became what it is. Who watches and was not told of all of that cannot go on from where it is.
    pub(super) async fn compact(&self) -> Result<(), StorageError> {
        let Some(store) = self.state.lock().store.clone() else { return Ok(()) };
        let oldest = store.revision().await?;
        store.compact(oldest).await?;
        let all_told: Vec<_> = {
            let mut state = self.state.lock();
            state.oldest = oldest;
            state.mounts.values().map(|told| told.memory.clone()).collect()
        };
        for told in all_told {
            let requested = told.revision().await?;
            if requested < oldest {
                told.end_watches(&StorageError::Compacted { requested, oldest });
            }
        }
        Ok(())
    }

    /// What a revision wrote, or that it deleted something; nothing where there is no such revision.
    pub(super) fn written(&self, revision: Revision) -> Option<Vec<Option<Bytes>>> {
        let state = self.state.lock();
        let txn = state.log.get(usize::try_from(revision.checked_sub(2)?).ok()?)?;
        let value = |write: &Write| match write {
            Write::Put(_, value) => Some(value.clone()),
            Write::Delete(_) => None,
        };
        Some(txn.writes.iter().map(value).collect())
    }

    /// Tells one of those who have the store open of each commit, some time after it.
    async fn tell(
        self: Arc<Self>,
        mut commits: mpsc::UnboundedReceiver<Txn>,
        told: Arc<Memory>,
        reached: watch::Sender<Revision>,
        way: Arc<Way>,
    ) {
        while let Some(txn) = commits.recv().await {
            let lag = {
                let mut state = self.state.lock();
                let State { random, faults, .. } = &mut *state;
                random.delay(faults.watch_lag)
            };
            if !lag.is_zero() {
                sleep(lag).await;
            }
            way.leads().await;
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
    way: Arc<Way>,
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

    /// It reaches the store no more for a while, and no answer of it.
    pub(super) fn lose(&self, time: Duration) {
        *self.way.away.lock() = Some(Instant::now() + time);
        if let Ok(open) = self.open() {
            open.told.end_watches(&unavailable("no leader"));
        }
    }

    pub(super) fn find(&self) {
        *self.way.away.lock() = None;
    }

    fn open(&self) -> Result<Open, StorageError> {
        self.open.lock().clone().ok_or(StorageError::Closed)
    }

    /// What is open, once this server runs and reaches the store, which it does not wait for long.
    async fn reach(&self) -> Result<Open, StorageError> {
        self.way.host.runs().await;
        if let Some(until) = self.way.back() {
            let patience = Instant::now() + self.disk.state.lock().random.delay(PATIENCE);
            sleep_until(patience.min(until)).await;
            if patience < until {
                return Err(unavailable("no leader"));
            }
        }
        self.open()
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StorageError> {
        let (before, after, failure, is_answered) = {
            let mut state = self.disk.state.lock();
            let State { random, faults, .. } = &mut *state;
            let (before, after) = (random.delay(faults.disk_delay), random.delay(faults.disk_delay));
            let failure = match (random.chance(faults.failed_commit), random.chance(0.5)) {
                (false, _) => None,
                (true, true) => Some(unavailable("too many requests")),
                (true, false) => Some(StorageError::Io { path: "/simulated".into(), cause: "no such disk".to_owned() }),
            };
            (before, after, failure, !random.chance(faults.unanswered_commit))
        };
        sleep(before).await;
        let store = self.reach().await?.store;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let known = store.revision().await?;
        let revision = store.txn(txn.clone()).await?;
        drop(store);
        if revision > known {
            (self.disk.on_commit)(revision, &txn.writes);
            let mut state = self.disk.state.lock();
            state.mounts.retain(|_, told| told.sender.send(txn.clone()).is_ok());
            state.log.push(txn);
        }
        sleep(after).await;
        self.reach().await?;
        if is_answered { Ok(revision) } else { Err(unavailable("request timed out")) }
    }

    /// From a revision on that the store has reached, though this server was not told of it yet.
    async fn watch_from(&self, prefix: &str, from: Revision) -> Result<Watch, StorageError> {
        let Open { store, told, mut reached } = self.reach().await?;
        if from <= store.revision().await? {
            // A crash ends the wait as well.
            let _ = reached.wait_for(|reached| *reached >= from).await;
            self.reach().await?;
        }
        let oldest = store.oldest().await?;
        if from < oldest {
            return Err(StorageError::Compacted { requested: from, oldest });
        }
        told.watch(prefix, from).await
    }
}

impl Storage for Mount {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async { self.reach().await?.store.revision().await })
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        Box::pin(async { self.reach().await?.store.range(request).await })
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        Box::pin(async move { self.reach().await?.store.scan(prefix, at).await })
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
        Box::pin(async { self.reach().await?.store.oldest().await })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move { self.reach().await?.store.compact(revision).await })
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        Box::pin(async { self.reach().await?.store.size().await })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
