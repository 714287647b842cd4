//! Hands committed events to the watchers of their keys, each through a bounded queue.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{Batch, Event, Revision, StorageError};

/// Batches that a watcher may be behind before it is dropped.
pub(crate) const QUEUE_BATCHES: usize = 256;

/// What a watcher's queue carries.
pub(crate) type Item = Result<SharedBatch, StorageError>;

/// A batch that several watchers are handed.
#[derive(Clone)]
pub(crate) struct SharedBatch {
    pub(crate) events: Arc<[Event]>,
    pub(crate) revision: Revision,
}

/// Watchers by the prefix that they watch: an event costs one look-up for each length that prefixes have, however many
/// watchers there are.
#[derive(Default)]
pub(crate) struct Hub(Mutex<State>);

#[derive(Default)]
struct State {
    watchers: HashMap<Box<str>, Vec<mpsc::Sender<Item>>>,
    /// How many prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    /// Everything up to this was handed on.
    revision: Revision,
}

impl Hub {
    /// Registers a watcher. The caller then reads the backlog, so that no event falls between the two.
    pub(crate) fn register(&self, prefix: &str) -> mpsc::Receiver<Item> {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let mut state = self.0.lock();
        let State { watchers, lengths, .. } = &mut *state;
        let list = watchers.entry(prefix.into()).or_insert_with(|| {
            *lengths.entry(prefix.len()).or_default() += 1;
            Vec::new()
        });
        list.retain(|watcher| !watcher.is_closed());
        list.push(sender);
        receiver
    }

    /// Hands on what was committed up to a revision. A watcher whose queue is full is dropped: it resumes from the history.
    pub(crate) fn publish(&self, revision: Revision, events: Vec<Event>) {
        let mut state = self.0.lock();
        state.revision = state.revision.max(revision);
        if events.is_empty() || state.watchers.is_empty() {
            return;
        }
        let all: Arc<[Event]> = events.into();
        let lengths: Vec<usize> = state.lengths.keys().copied().collect();
        for length in lengths {
            let mut concerned: Vec<(&str, Vec<usize>)> = Vec::new();
            for (index, event) in all.iter().enumerate() {
                let Some(prefix) = event.key.get(..length) else { continue };
                match concerned.iter_mut().find(|(known, _)| *known == prefix) {
                    Some((_, indices)) => indices.push(index),
                    None if state.watchers.contains_key(prefix) => concerned.push((prefix, vec![index])),
                    None => {}
                }
            }
            for (prefix, indices) in concerned {
                let events = if indices.len() == all.len() {
                    all.clone()
                } else {
                    indices.into_iter().map(|index| all[index].clone()).collect()
                };
                state.tell(prefix, SharedBatch { events, revision });
            }
        }
    }

    /// Ends every watch with an error.
    pub(crate) fn end(&self, error: &StorageError) {
        let mut state = self.0.lock();
        state.lengths.clear();
        for watcher in std::mem::take(&mut state.watchers).into_values().flatten() {
            let _ = watcher.try_send(Err(error.clone()));
        }
    }

    /// Tells every watcher how far it is.
    pub(crate) fn report_progress(&self) {
        let mut state = self.0.lock();
        let batch = SharedBatch { events: Arc::new([]), revision: state.revision };
        let prefixes: Vec<Box<str>> = state.watchers.keys().cloned().collect();
        for prefix in prefixes {
            state.tell(&prefix, batch.clone());
        }
    }
}

impl State {
    fn tell(&mut self, prefix: &str, batch: SharedBatch) {
        let Some(list) = self.watchers.get_mut(prefix) else { return };
        list.retain(|watcher| watcher.try_send(Ok(batch.clone())).is_ok());
        if !list.is_empty() {
            return;
        }
        self.watchers.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }
}

/// A stream of events in revision order.
pub struct Watch {
    backlog: Option<Batch>,
    live: mpsc::Receiver<Item>,
    last: Revision,
}

impl Watch {
    /// `backlog` holds every event after `from` up to the revision `reached`, `live` everything after that (and perhaps
    /// earlier).
    pub(crate) fn new(from: Revision, backlog: VecDeque<Event>, reached: Revision, live: mpsc::Receiver<Item>) -> Self {
        let backlog = Batch { events: backlog.into(), revision: reached };
        Self { backlog: (!backlog.events.is_empty()).then_some(backlog), live, last: from }
    }

    /// What comes next. The watch is over after an error; watch again from [`Watch::reached`] unless what comes then is
    /// compacted.
    pub async fn next(&mut self) -> Result<Batch, StorageError> {
        if let Some(batch) = self.backlog.take() {
            self.last = self.last.max(batch.revision);
            return Ok(batch);
        }
        loop {
            let Some(item) = self.live.recv().await else { return Err(StorageError::Lagged { last: self.last }) };
            let SharedBatch { events, revision } = item?;
            let fresh: Vec<Event> = events.iter().filter(|e| e.revision > self.last).cloned().collect();
            if fresh.is_empty() && !events.is_empty() {
                // All of it was in the backlog.
                continue;
            }
            self.last = self.last.max(revision);
            return Ok(Batch { events: fresh, revision: self.last });
        }
    }

    /// The revision up to which everything was answered.
    pub fn reached(&self) -> Revision {
        self.last
    }
}
