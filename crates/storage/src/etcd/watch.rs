//! Watches, each over a connection of its own, so that neither its events hold up requests nor the other way round.
//!
//! Members before 3.4.31 and 3.5.13 may report progress ahead of events. There the whole key space is watched, of which
//! every revision changes some key, and what is not under the prefix counts as progress.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream;
use kybern_component_base::grpc::Connection;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::calls::meaning;
use super::{Inner, end_of, messages as pb, revision_of};
use crate::hub::{Item, QUEUE_BATCHES, SharedBatch};
use crate::{Event, Revision, StorageError, Watch};

const PATH: &str = "/etcdserverpb.Watch/Watch";
/// Requests for progress that wait to be sent.
const REQUESTS: usize = 4;

/// An open stream of one watch.
struct Stream {
    member: usize,
    responses: Streaming<pb::WatchResponse>,
    requests: mpsc::Sender<pb::WatchRequest>,
}

pub(super) async fn open(inner: &Arc<Inner>, prefix: &str, from: Revision) -> Result<Watch, StorageError> {
    let oldest = inner.oldest.load(Ordering::Relaxed);
    if from < oldest {
        return Err(StorageError::Compacted { requested: from, oldest });
    }
    let own = inner.outer(prefix);
    let bounded = tokio::time::timeout(inner.calls.timeout, async {
        let (member, connection) = inner.calls.endpoints.dial().await?;
        let reports = reports_progress(inner, member, &connection).await?;
        let range =
            if reports { (own.clone(), end_of(&own)) } else { (Bytes::from_static(&[0]), Bytes::from_static(&[0])) };
        let mut stream = create(inner, member, &connection, range, from + 1).await?;
        let created = stream.next(inner).await?;
        check(&created, from)?;
        // A store that was put back to an earlier state would bring nothing for long.
        let current = revision_of(created.header);
        if current < from {
            return Err(StorageError::Future { requested: from, current });
        }
        Ok((stream, reports))
    });
    let (stream, reports) = bounded.await.unwrap_or_else(|_| {
        Err(StorageError::Unavailable("etcd does not answer the request for a watch".to_owned()))
    })?;
    let (sender, live) = mpsc::channel(QUEUE_BATCHES);
    if reports {
        inner.progress.lock().push(stream.requests.downgrade());
    }
    tokio::spawn(pump(inner.clone(), stream, own, from, reports, sender));
    Ok(Watch::new(from, Default::default(), from, live))
}

/// The oldest revision kept: what a watch from the very first is refused with.
pub(super) async fn oldest(inner: &Inner) -> Result<Revision, StorageError> {
    let bounded = tokio::time::timeout(inner.calls.timeout, async {
        let (member, connection) = inner.calls.endpoints.dial().await?;
        let nothing = Bytes::from_static(&[0]);
        let mut stream = create(inner, member, &connection, (nothing, Bytes::new()), 1).await?;
        loop {
            let response = stream.next(inner).await?;
            if response.compact_revision > 0 {
                return Ok(response.compact_revision as u64);
            }
            if response.canceled {
                return Err(StorageError::Unavailable(format!("etcd ended a watch: {}", response.cancel_reason)));
            }
            if response.created && revision_of(response.header) <= 1 {
                return Ok(1);
            }
            if !response.created {
                return Ok(1);
            }
            // Where nothing is compacted a watch is quiet: then the range of the first revision is answered.
            let request = pb::RangeRequest { key: Bytes::from_static(&[0]), revision: 1, ..Default::default() };
            let first: Result<pb::RangeResponse, _> = inner.calls.read("/etcdserverpb.KV/Range", request).await;
            match first {
                Ok(_) => return Ok(1),
                Err(StorageError::Compacted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    });
    bounded
        .await
        .unwrap_or_else(|_| Err(StorageError::Unavailable("etcd does not tell its oldest revision".to_owned())))
}

async fn reports_progress(inner: &Inner, member: usize, connection: &Connection) -> Result<bool, StorageError> {
    let status: Result<pb::StatusResponse, _> =
        connection.unary("/etcdserverpb.Maintenance/Status", pb::StatusRequest {}).await;
    match status {
        Ok(status) => Ok(is_reliable(&status.version)),
        Err(status) => {
            inner.calls.endpoints.distrust(member);
            Err(meaning(&status, inner.calls.endpoints.url(member)))
        }
    }
}

/// Whether a version reports progress only when every event before it was sent.
fn is_reliable(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        version => version > (3, 5, 0),
    }
}

async fn create(
    inner: &Inner,
    member: usize,
    connection: &Connection,
    (key, range_end): (Bytes, Bytes),
    start: Revision,
) -> Result<Stream, StorageError> {
    let (requests, queue) = mpsc::channel(REQUESTS);
    let create = pb::WatchCreateRequest { key, range_end, start_revision: start as i64, fragment: true };
    let _ = requests.try_send(pb::WatchRequest { op: Some(pb::WatchOp::Create(create)) });
    let messages = stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|next| (next, queue)) });
    match connection.streaming(PATH, messages, true).await {
        Ok(responses) => Ok(Stream { member, responses, requests }),
        Err(status) => {
            inner.calls.endpoints.distrust(member);
            Err(meaning(&status, inner.calls.endpoints.url(member)))
        }
    }
}

impl Stream {
    async fn next(&mut self, inner: &Inner) -> Result<pb::WatchResponse, StorageError> {
        let url = inner.calls.endpoints.url(self.member);
        let error = match self.responses.message().await {
            Ok(Some(response)) => return Ok(response),
            Ok(None) => StorageError::Unavailable(format!("etcd {url} ended a watch")),
            Err(status) => meaning(&status, url),
        };
        inner.calls.endpoints.distrust(self.member);
        Err(error)
    }
}

fn check(response: &pb::WatchResponse, from: Revision) -> Result<(), StorageError> {
    if response.compact_revision > 0 {
        return Err(StorageError::Compacted { requested: from, oldest: response.compact_revision as u64 });
    }
    if response.canceled {
        return Err(StorageError::Unavailable(format!("etcd ended a watch: {}", response.cancel_reason)));
    }
    Ok(())
}

/// Hands on what comes until either side ends.
async fn pump(
    inner: Arc<Inner>,
    mut stream: Stream,
    own: Bytes,
    from: Revision,
    reports: bool,
    sender: mpsc::Sender<Item>,
) {
    let mut events: Vec<Event> = Vec::new();
    let mut last = from;
    loop {
        let response = tokio::select! {
            response = stream.next(&inner) => response,
            () = sender.closed() => return,
        };
        let response = match response.and_then(|response| check(&response, last).map(|()| response)) {
            Ok(response) => response,
            Err(error) => {
                if let StorageError::Compacted { oldest, .. } = error {
                    inner.oldest.fetch_max(oldest, Ordering::Relaxed);
                }
                return drop(sender.send(Err(error)).await);
            }
        };
        let progress = if response.events.is_empty() {
            if reports && !response.created { revision_of(response.header) } else { last }
        } else {
            response.events.iter().filter_map(|e| e.kv.as_ref()).map(|kv| kv.mod_revision as u64).max().unwrap_or(last)
        };
        events.extend(response.events.into_iter().filter_map(|event| change(&inner, &own, event)));
        if response.fragment || progress <= last {
            continue;
        }
        last = progress;
        let batch = SharedBatch { events: std::mem::take(&mut events).into(), revision: last };
        // Waiting here holds back etcd, not the program: the window of the connection fills.
        if sender.send(Ok(batch)).await.is_err() {
            return;
        }
    }
}

/// An event under the prefix.
fn change(inner: &Inner, own: &[u8], event: pb::Event) -> Option<Event> {
    let kv = event.kv.filter(|kv| kv.key.starts_with(own))?;
    let value = (event.kind == 0).then_some(kv.value);
    Some(Event { revision: kv.mod_revision as u64, key: inner.inner(&kv.key)?, value })
}

#[cfg(test)]
mod tests {
    use super::is_reliable;

    #[test]
    fn progress_is_believed_of_versions_that_tell_it_last() {
        for version in ["3.4.31", "3.5.13", "3.6.0", "3.6.0-rc.1", "4.0.0"] {
            assert!(is_reliable(version), "{version}");
        }
        for version in ["3.4.30", "3.4.23", "3.5.12", "3.5.0", "3.3.99", "", "x"] {
            assert!(!is_reliable(version), "{version}");
        }
    }
}
