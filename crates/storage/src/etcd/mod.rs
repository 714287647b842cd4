//! The key space in etcd v3, with upstream's keys, so that both can read and write one store. Several servers may share it.
//!
//! Requests go over one connection to one member ([`endpoints`]) and every watch over one of its own ([`watch`]). What may
//! have been sent is never sent again when it writes: then the caller is told that it is not known.

mod calls;
mod compactor;
mod endpoints;
mod lease;
mod messages;
mod revision;
mod snapshot;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use endpoints::{ConfigError, TlsFiles};
pub use lease::TimeToLive;
pub use snapshot::Snapshot;

use crate::{
    BoxFuture, Guard, KeyValue, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch, Write,
};
use calls::Calls;
use messages as pb;

/// What keys begin with as the rest of the program knows them.
const ROOT: &str = "/registry";
/// Items in one piece of a scan.
const SCAN_PIECE: usize = 1000;
/// Between two attempts to reach an etcd that is not there yet.
const OPEN_RETRY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct Options {
    /// URLs of the members, upstream's `--etcd-servers`.
    pub servers: Vec<String>,
    pub tls: TlsFiles,
    /// What keys begin with in place of `/registry`.
    pub prefix: String,
    /// How often what is older than this is compacted, by one of all servers; `None`: never.
    pub compaction_interval: Option<Duration>,
    /// How long a request may take.
    pub timeout: Duration,
    /// Keys that go by themselves.
    pub expiring: Option<TimeToLive>,
}

impl Options {
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            tls: TlsFiles::default(),
            prefix: ROOT.to_owned(),
            compaction_interval: Some(Duration::from_secs(300)),
            timeout: Duration::from_secs(20),
            expiring: None,
        }
    }
}

/// See the module.
pub struct Etcd {
    inner: Arc<Inner>,
    compactor: Option<tokio::task::AbortHandle>,
}

struct Inner {
    calls: Calls,
    prefix: String,
    /// The oldest revision kept, as far as is known.
    oldest: AtomicU64,
    revision: revision::Coalesced,
    leases: Option<lease::Leases>,
    /// To the open watches that can be asked for progress.
    progress: Mutex<Vec<mpsc::WeakSender<pb::WatchRequest>>>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(compactor) = &self.compactor {
            compactor.abort();
        }
    }
}

impl Etcd {
    /// Takes an etcd that may not be there yet. Must be called within a tokio runtime.
    pub fn new(options: Options) -> Result<Self, ConfigError> {
        let endpoints = endpoints::Endpoints::new(&options.servers, &options.tls)?;
        let inner = Arc::new(Inner {
            calls: Calls::new(endpoints, options.timeout),
            prefix: format!("/{}", options.prefix.trim_matches('/')),
            oldest: 1.into(),
            revision: revision::Coalesced::default(),
            leases: options.expiring.map(lease::Leases::new),
            progress: Mutex::default(),
        });
        let compactor = options
            .compaction_interval
            .filter(|interval| !interval.is_zero())
            .map(|interval| tokio::spawn(compactor::run(Arc::downgrade(&inner), interval)).abort_handle());
        Ok(Self { inner, compactor })
    }

    /// Waits until the etcd answers, for at most `patience`.
    pub async fn wait_until_ready(&self, patience: Duration) -> Result<(), StorageError> {
        let deadline = Instant::now() + patience;
        // A server that refuses our certificate says so after the handshake, and may have closed the connection by then.
        let mut refused = None;
        loop {
            let Err(error) = self.revision().await else { return Ok(()) };
            if Instant::now() + OPEN_RETRY >= deadline {
                return Err(refused.unwrap_or(error));
            }
            tracing::warn!(%error, "etcd is not ready; it is tried again");
            if error.to_string().to_lowercase().contains("certificate") {
                refused = Some(error);
            }
            tokio::time::sleep(OPEN_RETRY).await;
        }
    }
}

impl Inner {
    /// A key as etcd has it.
    fn outer(&self, key: &str) -> Bytes {
        match key.strip_prefix(ROOT).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            Some(rest) => [&self.prefix, rest].concat().into(),
            None => Bytes::copy_from_slice(key.as_bytes()),
        }
    }

    /// A key as the program knows it. `None` for what is not text.
    fn inner(&self, key: &[u8]) -> Option<Arc<str>> {
        let key = std::str::from_utf8(key).ok()?;
        if self.prefix == ROOT {
            return Some(key.into());
        }
        match key.strip_prefix(&self.prefix).filter(|rest| rest.starts_with('/')) {
            Some(rest) => Some([ROOT, rest].concat().into()),
            None => Some(key.into()),
        }
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        let request = pb::RangeRequest { key: self.outer(ROOT), keys_only: true, limit: 1, ..Default::default() };
        let response: pb::RangeResponse = self.calls.read("/etcdserverpb.KV/Range", request).await?;
        Ok(revision_of(response.header))
    }

    /// What is under a prefix, and after a key.
    async fn range(&self, request: &RangeRequest<'_>) -> Result<Page, StorageError> {
        let mut key = self.outer(request.prefix);
        let range_end = end_of(&key);
        if request.after >= request.prefix {
            key = [&self.outer(request.after)[..], &[0]].concat().into();
        }
        let message = pb::RangeRequest {
            key,
            range_end,
            limit: i64::try_from(request.limit).unwrap_or(0),
            revision: request.at.unwrap_or(0) as i64,
            ..Default::default()
        };
        let requested = request.at.unwrap_or(0);
        let response: pb::RangeResponse = match self.calls.read("/etcdserverpb.KV/Range", message).await {
            // etcd says no more than that.
            Err(StorageError::Compacted { .. }) => return Err(self.compacted(requested).await),
            Err(StorageError::Future { .. }) => {
                let current = self.current_revision().await?;
                return Err(StorageError::Future { requested, current });
            }
            response => response?,
        };
        let revision = request.at.unwrap_or_else(|| revision_of(response.header));
        let items = response.kvs.into_iter().filter_map(|kv| self.key_value(kv)).collect();
        Ok(Page { revision, items, more: response.more })
    }

    fn key_value(&self, kv: pb::KeyValue) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.inner(&kv.key)?,
            value: kv.value,
            create_revision: kv.create_revision as u64,
            mod_revision: kv.mod_revision as u64,
        })
    }

    /// The error of a revision that is gone, which etcd's own does not say all of.
    async fn compacted(&self, requested: Revision) -> StorageError {
        match self.find_oldest().await {
            Ok(oldest) => StorageError::Compacted { requested, oldest },
            Err(error) => error,
        }
    }

    /// Only the refusal of a watch tells the oldest revision.
    async fn find_oldest(&self) -> Result<Revision, StorageError> {
        let oldest = watch::oldest(self).await?;
        Ok(self.oldest.fetch_max(oldest, Ordering::Relaxed).max(oldest))
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, StorageError> {
        txn.check()?;
        let lease = self.lease(&txn).await?;
        match self.commit(&txn, lease).await {
            // The lease has gone before its time. Nothing was written.
            Err(StorageError::Refused(text)) if lease != 0 && text.contains("lease not found") => {
                if let Some(leases) = &self.leases {
                    leases.forget(lease).await;
                }
                let lease = self.lease(&txn).await?;
                self.commit(&txn, lease).await
            }
            result => result,
        }
    }

    /// The lease for what of a transaction is to go by itself; 0 where nothing is.
    async fn lease(&self, txn: &Txn) -> Result<i64, StorageError> {
        let Some(leases) = &self.leases else { return Ok(0) };
        let expires = |write: &Write| matches!(write, Write::Put(key, _) if leases.covers(key));
        if txn.writes.iter().any(expires) { leases.lease(&self.calls).await } else { Ok(0) }
    }

    async fn commit(&self, txn: &Txn, lease: i64) -> Result<Revision, StorageError> {
        let expires = |key: &str| self.leases.as_ref().is_some_and(|leases| leases.covers(key));
        let compare = txn.guards.iter().map(|guard| {
            let revision = match guard {
                Guard::Absent(_) => 0,
                Guard::At(_, revision) => *revision as i64,
            };
            pb::Compare {
                result: 0,
                target: pb::TARGET_MOD,
                key: self.outer(guard.key()),
                value: Some(pb::Target::ModRevision(revision)),
            }
        });
        let success = txn.writes.iter().map(|write| match write {
            Write::Put(key, value) => {
                let lease = if expires(key) { lease } else { 0 };
                pb::Op::Put(pb::PutRequest { key: self.outer(key), value: value.clone(), lease })
            }
            Write::Delete(key) => pb::Op::Delete(pb::DeleteRangeRequest { key: self.outer(key) }),
        });
        // What a failed guard's key is at is wanted, and comes with the refusal.
        let failure = txn.guards.iter().map(|guard| {
            let key = self.outer(guard.key());
            pb::Op::Range(pb::RangeRequest { key, keys_only: true, ..Default::default() })
        });
        let wrap = |op| pb::RequestOp { op: Some(op) };
        let request = pb::TxnRequest {
            compare: compare.collect(),
            success: success.map(wrap).collect(),
            failure: failure.map(wrap).collect(),
        };
        let response: pb::TxnResponse = self.calls.write("/etcdserverpb.KV/Txn", request).await?;
        if response.succeeded {
            return Ok(revision_of(response.header));
        }
        for (guard, response) in txn.guards.iter().zip(response.responses) {
            let found = response.range.and_then(|range| range.kvs.into_iter().next());
            let current = found.map(|kv| kv.mod_revision as u64);
            let wanted = match guard {
                Guard::Absent(_) => None,
                Guard::At(_, revision) => Some(*revision),
            };
            if current != wanted {
                return Err(StorageError::Conflict { key: guard.key().clone(), current });
            }
        }
        Err(StorageError::Unavailable("etcd refused a transaction whose guards hold".to_owned()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StorageError> {
        let request = pb::CompactionRequest { revision: revision as i64, physical: false };
        let done: Result<pb::CompactionResponse, _> = self.calls.write("/etcdserverpb.KV/Compact", request).await;
        match done {
            // Somebody was quicker.
            Err(StorageError::Compacted { .. }) => Err(self.compacted(revision).await),
            Err(error) => Err(error),
            Ok(_) => {
                self.oldest.fetch_max(revision, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Storage for Etcd {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(revision::current(&self.inner))
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        Box::pin(async move { self.inner.range(&request).await })
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        Box::pin(async move {
            let request = RangeRequest { prefix, after: "", limit: SCAN_PIECE, at: Some(at) };
            // The first piece is asked for here, so that a revision that is gone is refused at once.
            let mut page = self.inner.range(&request).await?;
            let (sender, pieces) = mpsc::channel(4);
            let (inner, prefix) = (self.inner.clone(), prefix.to_owned());
            tokio::spawn(async move {
                loop {
                    let more = page.more;
                    let last = page.items.last().map(|kv| kv.key.clone());
                    if sender.send(Ok(page.items)).await.is_err() {
                        return;
                    }
                    let Some(after) = last.filter(|_| more) else { return };
                    let next = RangeRequest { prefix: &prefix, after: &after, limit: SCAN_PIECE, at: Some(at) };
                    page = match inner.range(&next).await {
                        Ok(page) => page,
                        Err(error) => return drop(sender.send(Err(error)).await),
                    };
                }
            });
            Ok(Scan::of_pieces(pieces))
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            // On a task of its own: whoever waits for it may go away in the middle.
            let done = tokio::spawn(async move { inner.txn(txn).await });
            done.await.unwrap_or(Err(StorageError::Closed))
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        Box::pin(watch::open(&self.inner, prefix, from))
    }

    fn request_progress(&self) {
        let ask = || pb::WatchRequest { op: Some(pb::WatchOp::Progress(pb::WatchProgressRequest {})) };
        self.inner.progress.lock().retain(|watch| match watch.upgrade() {
            // Where the queue is full one waits already.
            Some(watch) => watch.try_send(ask()).is_ok() || !watch.is_closed(),
            None => false,
        });
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(self.inner.find_oldest())
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(self.inner.compact(revision))
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        Box::pin(async move {
            let response: pb::StatusResponse =
                self.inner.calls.read("/etcdserverpb.Maintenance/Status", pb::StatusRequest {}).await?;
            Ok(Size { bytes: response.db_size as u64 })
        })
    }
}

fn revision_of(header: Option<pb::Header>) -> Revision {
    header.map_or(0, |header| header.revision as u64)
}

/// The first key after all that begin with a prefix; of an empty one, etcd's word for no end.
fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_after_their_prefix() {
        for (prefix, end) in [(&b"/a"[..], &b"/b"[..]), (b"/a\xff", b"/b"), (b"\xff\xff", b"\0"), (b"", b"\0")] {
            assert_eq!(&end_of(prefix)[..], end);
        }
    }
}
