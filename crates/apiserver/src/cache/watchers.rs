//! Who watches a kind, in groups: those that pin a name or a field (`spec.nodeName=n1`) to one value are a group of that
//! value, so that a change costs nothing for the thousand watchers that it does not concern; all others are one group.
//!
//! A group holds its latest changes once for all its members. Each reads on from where it is, at its own pace; one that falls
//! behind what the group holds catches up from the kind's window.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::change::Change;
use super::selection::{Pinned, Selection};

/// Changes that a group holds at most.
pub(super) const HELD: usize = 2048;
/// Bytes of the objects of changes that a group holds at most, which bounds what is made of them.
const HELD_BYTES: usize = 512 << 10;
/// Groups of one field that are held before empty ones are looked for.
const SWEEP: usize = 64;

#[derive(Default)]
pub(super) struct Watchers {
    unpinned: Option<Seat>,
    pinned: HashMap<Pinned, Groups>,
}

#[derive(Default)]
struct Groups {
    by_value: HashMap<Box<str>, Seat>,
    /// The number of groups at which empty ones are looked for.
    sweep_at: usize,
}

/// A group, and the end of it that tells members of changes. Who is told of no more finds this end gone.
struct Seat {
    group: Arc<Group>,
    told: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Group {
    members: AtomicUsize,
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    changes: VecDeque<Arc<Change>>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
}

/// A watcher's place in its group.
#[derive(Debug)]
pub(super) struct Member {
    group: Arc<Group>,
    told: watch::Receiver<u64>,
    /// The number of the next change to read.
    next: u64,
}

/// A member that has missed changes, or whose group is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind;

impl Default for Seat {
    fn default() -> Self {
        Self { group: Arc::default(), told: watch::channel(0).0 }
    }
}

impl Seat {
    fn join(&self) -> Member {
        self.group.members.fetch_add(1, Ordering::Relaxed);
        let told = self.told.subscribe();
        Member { next: self.group.held.read().end(), group: self.group.clone(), told }
    }

    fn members(&self) -> usize {
        self.group.members.load(Ordering::Relaxed)
    }

    /// Takes in changes, those of one revision together. Whether anybody is there to be told.
    fn tell<'a>(&self, changes: impl IntoIterator<Item = &'a Arc<Change>>) -> bool {
        let members = self.members();
        if members == 0 {
            return false;
        }
        let end = {
            let mut held = self.group.held.write();
            for change in changes {
                change.is_told(members);
                held.push(change.clone());
            }
            held.end()
        };
        self.told.send_replace(end);
        true
    }
}

impl Held {
    fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    fn push(&mut self, change: Arc<Change>) {
        self.bytes += change.entry.bytes.len();
        self.changes.push_back(change);
        while self.changes.len() > HELD || (self.bytes > HELD_BYTES && self.changes.len() > 1) {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.entry.bytes.len();
            self.first += 1;
            oldest.forget();
        }
    }
}

impl Watchers {
    pub(super) fn join(&mut self, selection: &Selection) -> Member {
        let Some((pinned, value)) = selection.pin() else { return self.unpinned.get_or_insert_default().join() };
        let groups = self.pinned.entry(pinned).or_default();
        if groups.by_value.len() >= groups.sweep_at.max(SWEEP) {
            groups.by_value.retain(|_, seat| seat.members() > 0);
            groups.sweep_at = groups.by_value.len() * 2;
        }
        groups.by_value.entry(value.into()).or_default().join()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        let pinned = self.pinned.values().flat_map(|groups| groups.by_value.values());
        self.unpinned.iter().chain(pinned).map(Seat::members).sum()
    }

    /// Tells changes to whom they concern. Who has no place for them is told to catch up.
    pub(super) fn tell(&mut self, changes: &[Arc<Change>]) {
        if changes.is_empty() {
            return;
        }
        if let Some(seat) = &self.unpinned {
            seat.tell(changes);
        }
        for (pinned, groups) in &mut self.pinned {
            let mut concerned: HashMap<&str, Vec<&Arc<Change>>> = HashMap::new();
            for change in changes {
                let is = pinned.value(&change.entry);
                let was = change.previous.as_deref().map(|entry| pinned.value(entry)).filter(|was| *was != is);
                for value in [Some(is), was].into_iter().flatten() {
                    if groups.by_value.contains_key(value) {
                        concerned.entry(value).or_default().push(change);
                    }
                }
            }
            for (value, changes) in concerned {
                if !groups.by_value.get(value).is_some_and(|seat| seat.tell(changes)) {
                    groups.by_value.remove(value);
                }
            }
        }
    }
}

impl Member {
    /// The next changes, about so many, all of a revision or none; none when there are none yet.
    pub(super) fn read(&mut self, limit: usize) -> Result<Vec<Arc<Change>>, Behind> {
        let held = self.group.held.read();
        let from = self.next.checked_sub(held.first).ok_or(Behind)? as usize;
        let mut changes: Vec<Arc<Change>> = Vec::new();
        for change in held.changes.range(from..) {
            if changes.len() >= limit && changes.last().is_some_and(|last| last.revision() != change.revision()) {
                break;
            }
            changes.push(change.clone());
        }
        self.next += changes.len() as u64;
        Ok(changes)
    }

    /// Waits for a change.
    pub(super) async fn wait(&mut self) -> Result<(), Behind> {
        // What was there before is read already, or found to be there.
        self.told.changed().await.map_err(|_| Behind)
    }

    /// How many there are in its group.
    pub(super) fn crowd(&self) -> usize {
        self.group.members.load(Ordering::Relaxed)
    }

    /// Whether its group is told of no more changes.
    pub(super) fn is_closed(&self) -> bool {
        self.told.has_changed().is_err()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.members.fetch_sub(1, Ordering::Relaxed);
    }
}
