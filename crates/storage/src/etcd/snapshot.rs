//! A member's own snapshot: its database and, after that, its SHA-256.

use bytes::Bytes;
use futures_util::stream;
use tonic::Streaming;

use super::calls::meaning;
use super::{Etcd, messages as pb};
use crate::StorageError;

const PATH: &str = "/etcdserverpb.Maintenance/Snapshot";
const DIGEST: usize = 32;

/// The pieces of a snapshot. It is whole only if [`Snapshot::next`] ends without an error.
pub struct Snapshot {
    url: String,
    pieces: Streaming<pb::SnapshotResponse>,
    context: ring::digest::Context,
    /// The last bytes so far, which may be the digest.
    tail: Vec<u8>,
    remaining: u64,
}

impl Etcd {
    /// What `etcdutl snapshot restore` takes.
    pub async fn snapshot(&self) -> Result<Snapshot, StorageError> {
        let endpoints = &self.inner.calls.endpoints;
        let (member, connection) = endpoints.dial().await?;
        let url = endpoints.url(member).to_owned();
        let request = stream::iter([pb::SnapshotRequest {}]);
        let pieces = connection.streaming(PATH, request, false).await.map_err(|status| meaning(&status, &url))?;
        let context = ring::digest::Context::new(&ring::digest::SHA256);
        Ok(Snapshot { url, pieces, context, tail: Vec::new(), remaining: u64::MAX })
    }
}

impl Snapshot {
    pub async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        match self.pieces.message().await.map_err(|status| meaning(&status, &self.url))? {
            Some(piece) => {
                self.remaining = piece.remaining_bytes;
                self.tail.extend_from_slice(&piece.blob);
                let proven = self.tail.len().saturating_sub(DIGEST);
                self.context.update(&self.tail[..proven]);
                self.tail.drain(..proven);
                Ok(Some(piece.blob))
            }
            None if self.remaining == 0 && self.context.clone().finish().as_ref() == self.tail => Ok(None),
            None => {
                Err(StorageError::Unavailable(format!("the snapshot of etcd {} is not whole: try again", self.url)))
            }
        }
    }
}
