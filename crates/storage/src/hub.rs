//! Hands committed events to watchers, each through a bounded queue.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{Event, Revision};

/// Commits that a watcher may be behind before it is dropped.
const QUEUE_BATCHES: usize = 256;

/// Watchers of the whole key space.
#[derive(Default)]
pub(crate) struct Hub {
    watchers: Mutex<Vec<mpsc::Sender<Arc<[Event]>>>>,
}

impl Hub {
    /// Registers a watcher. The caller then reads the backlog, so that no event falls between the two.
    pub(crate) fn register(&self) -> mpsc::Receiver<Arc<[Event]>> {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        self.watchers.lock().push(sender);
        receiver
    }

    /// Hands on one commit's events. A watcher whose queue is full is dropped: it resumes from the history.
    pub(crate) fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let events: Arc<[Event]> = events.into();
        self.watchers.lock().retain(|watcher| watcher.try_send(events.clone()).is_ok());
    }
}

/// The watcher fell too far behind, or the store was closed; watch again from the last revision seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watcher was dropped after revision {last}")]
pub struct Lagged {
    pub last: Revision,
}

/// A stream of events in revision order.
pub struct Watch {
    backlog: VecDeque<Event>,
    live: mpsc::Receiver<Arc<[Event]>>,
    last: Revision,
}

impl Watch {
    /// `backlog` holds every event after `from` up to some revision, `live` everything after that (and perhaps earlier).
    pub(crate) fn new(from: Revision, backlog: VecDeque<Event>, live: mpsc::Receiver<Arc<[Event]>>) -> Self {
        Self { backlog, live, last: from }
    }

    /// The next events; at least one.
    pub async fn next(&mut self) -> Result<Vec<Event>, Lagged> {
        if !self.backlog.is_empty() {
            let events: Vec<Event> = std::mem::take(&mut self.backlog).into();
            self.last = events.last().map_or(self.last, |e| e.revision);
            return Ok(events);
        }
        loop {
            let Some(batch) = self.live.recv().await else { return Err(Lagged { last: self.last }) };
            let fresh: Vec<Event> = batch.iter().filter(|e| e.revision > self.last).cloned().collect();
            if let Some(event) = fresh.last() {
                self.last = event.revision;
                return Ok(fresh);
            }
        }
    }
}
