//! One contract, checked against every store; and what each promises besides.

mod contract;
mod encryption;
mod etcd;
mod etcd_server;
mod sqlite;

use bytes::Bytes;
use kybern_storage::{Page, RangeRequest, Revision, Storage, StorageError};

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn range(storage: &dyn Storage, prefix: &str, at: Option<Revision>) -> Result<Page, StorageError> {
    storage.range(RangeRequest { prefix, after: "", limit: 1000, at }).await
}

fn texts(page: &Page) -> Vec<String> {
    page.items
        .iter()
        .map(|kv| format!("{}={}@{}", kv.key, String::from_utf8_lossy(&kv.value), kv.mod_revision))
        .collect()
}
