//! Everything under a prefix, in pieces: one after the other, or by as many threads as there are processors.

use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{KeyValue, StorageError};

/// Pieces that wait to be taken.
const WAITING: usize = 16;
/// Items that are looked at in passing; more are handed to other threads.
const IN_PASSING: usize = 4096;

/// Some hundred items at most.
pub type Piece = Vec<KeyValue>;

/// Takes a piece, and answers whether there is to be more; by several threads at once.
pub(crate) type Take<'a> = dyn Fn(Piece) -> bool + Sync + 'a;

/// The pieces of a [`Storage::scan`](crate::Storage::scan); it ends after the last or after an error.
pub struct Scan(Source);

type Pieces = mpsc::Receiver<Result<Piece, StorageError>>;
type Read = Box<dyn FnOnce(&Take) -> Result<(), StorageError> + Send>;

enum Source {
    Pieces(Pieces),
    /// Not begun yet; reads by threads of its own.
    Threads(Option<Read>),
}

impl Scan {
    pub(crate) fn of_pieces(pieces: Pieces) -> Self {
        Self(Source::Pieces(pieces))
    }

    /// A scan that blocks, and calls from all of its threads.
    pub(crate) fn of_threads(read: impl FnOnce(&Take) -> Result<(), StorageError> + Send + 'static) -> Self {
        Self(Source::Threads(Some(Box::new(read))))
    }

    /// The next piece, in any order.
    pub async fn recv(&mut self) -> Option<Result<Piece, StorageError>> {
        if let Source::Threads(read) = &mut self.0 {
            let read = read.take()?;
            let (sender, pieces) = mpsc::channel(WAITING);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = read(&|piece| sender.blocking_send(Ok(piece)).is_ok()) {
                    let _ = sender.blocking_send(Err(error));
                }
            });
            self.0 = Source::Pieces(pieces);
        }
        let Source::Pieces(pieces) = &mut self.0 else { return None };
        pieces.recv().await
    }

    /// Shows all pieces, where they are many on several threads at once: where the store reads by threads, on those, so that
    /// what one has just read does not move to another processor.
    pub async fn for_each(self, look: impl Fn(Piece) + Send + Sync + 'static) -> Result<(), StorageError> {
        let mut pieces = match self.0 {
            Source::Pieces(pieces) => pieces,
            Source::Threads(read) => {
                let Some(read) = read else { return Ok(()) };
                let look = move |piece| {
                    look(piece);
                    true
                };
                return tokio::task::spawn_blocking(move || read(&look)).await.map_err(|_| StorageError::Closed)?;
            }
        };
        let (mut seen, look, mut aside) = (0, Arc::new(look), JoinSet::new());
        let threads = available_parallelism().map_or(1, usize::from);
        while let Some(piece) = pieces.recv().await {
            let piece = piece?;
            seen += piece.len();
            if seen <= IN_PASSING {
                look(piece);
                continue;
            }
            while aside.len() >= threads
                && let Some(looked) = aside.join_next().await
            {
                looked.map_err(|_| StorageError::Closed)?;
            }
            let look = look.clone();
            aside.spawn_blocking(move || look(piece));
        }
        while let Some(looked) = aside.join_next().await {
            looked.map_err(|_| StorageError::Closed)?;
        }
        Ok(())
    }
}
