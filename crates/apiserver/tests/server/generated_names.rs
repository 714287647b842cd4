//! A generated name that another has taken in the same moment is followed by another try.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kybern_apimachinery::json;
use kybern_storage::memory::Memory;
use kybern_storage::{BoxFuture, Guard, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch};

use crate::fixture::*;

/// A store in which somebody else is quicker, so often.
struct Quicker {
    store: Memory,
    times: AtomicU32,
}

impl Storage for Quicker {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        self.store.revision()
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        self.store.range(request)
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        self.store.scan(prefix, at)
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        let taken = txn.guards.iter().find(|guard| matches!(guard, Guard::Absent(key) if key.contains("/configmaps/")));
        let quicker = |times: u32| times.checked_sub(1);
        if let Some(guard) = taken
            && self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, quicker).is_ok()
        {
            let conflict = StorageError::Conflict { key: guard.key().clone(), current: Some(1) };
            return Box::pin(std::future::ready(Err(conflict)));
        }
        self.store.txn(txn)
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        self.store.watch(prefix, from)
    }

    fn request_progress(&self) {
        self.store.request_progress();
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        self.store.oldest()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        self.store.compact(revision)
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        self.store.size()
    }
}

#[tokio::test]
async fn it_is_tried_eight_times() {
    let store = Arc::new(Quicker { store: Memory::default(), times: 0.into() });
    let mut options = kybern_apiserver::Options::new(store.clone());
    options.resources = rows();
    options.authorizers = vec![Arc::new(Rules)];
    let client = Client { server: kybern_apiserver::Server::start(options).await.unwrap(), user: "admin" };
    for (times, expect) in [(0, 201), (1, 201), (7, 201), (8, 409)] {
        store.times.store(times, Ordering::Relaxed);
        let answer = client.post(CONFIG_MAPS, json!({"metadata": {"generateName": "x-"}})).await;
        assert_eq!(answer.code, expect, "{times} were quicker");
        assert_eq!(store.times.load(Ordering::Relaxed), 0);
    }
    // A name of the client's own is his to change.
    store.times.store(1, Ordering::Relaxed);
    assert_eq!(client.post(CONFIG_MAPS, json!({"metadata": {"name": "x"}})).await.code, 409);
}
