//! Compaction by one of the servers that share an etcd, upstream's too: whoever first raises the version of one key in an
//! interval compacts what was current an interval ago.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::{Inner, messages as pb, revision_of};
use crate::{Revision, StorageError};

/// Upstream's; it lies beside the prefix, not below it.
const KEY: &[u8] = b"compact_rev_key";

/// What is known since the last round.
#[derive(Clone, Copy, Default)]
struct Known {
    version: i64,
    revision: Revision,
}

pub(super) async fn run(inner: Weak<Inner>, interval: Duration) {
    let mut known = Known::default();
    loop {
        tokio::time::sleep(interval).await;
        let Some(inner) = inner.upgrade() else { return };
        match round(&inner, known).await {
            Ok(now) => known = now,
            Err(error) => {
                tracing::warn!(%error, "etcd is not compacted; it is tried again after --etcd-compaction-interval")
            }
        }
    }
}

async fn round(inner: &Inner, known: Known) -> Result<Known, StorageError> {
    let put = pb::PutRequest { key: Bytes::from_static(KEY), value: known.revision.to_string().into(), lease: 0 };
    let get = pb::RangeRequest { key: Bytes::from_static(KEY), ..Default::default() };
    let request = pb::TxnRequest {
        compare: vec![pb::Compare {
            result: 0,
            target: pb::TARGET_VERSION,
            key: Bytes::from_static(KEY),
            value: Some(pb::Target::Version(known.version)),
        }],
        success: vec![pb::RequestOp { op: Some(pb::Op::Put(put)) }],
        failure: vec![pb::RequestOp { op: Some(pb::Op::Range(get)) }],
    };
    let response: pb::TxnResponse = inner.calls.write("/etcdserverpb.KV/Txn", request).await?;
    let revision = revision_of(response.header);
    if !response.succeeded {
        // Another server's turn: what it compacted is in the value.
        let kv = response.responses.into_iter().next().and_then(|r| r.range).and_then(|r| r.kvs.into_iter().next());
        let Some(kv) = kv else { return Ok(Known { version: 0, revision }) };
        if let Some(oldest) = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok()) {
            inner.oldest.fetch_max(oldest, Ordering::Relaxed);
        }
        return Ok(Known { version: kv.version, revision });
    }
    let now = Known { version: known.version + 1, revision };
    if known.revision > 0 {
        match inner.compact(known.revision).await {
            Ok(()) => tracing::debug!(revision = known.revision, "etcd is compacted"),
            Err(StorageError::Compacted { .. }) => {}
            Err(error) => tracing::warn!(%error, "etcd is not compacted"),
        }
    }
    Ok(now)
}
