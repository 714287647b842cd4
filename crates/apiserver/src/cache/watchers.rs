//! Who watches a kind, in groups: those that pin a name or a field (`spec.nodeName=n1`) to one value are a group of that
//! value, so that a change costs nothing for the thousand watchers that it does not concern; all others are one group.
//!
//! A group holds its latest changes once for all its members. Each reads on from where it is, at its own pace; one that falls
//! behind what the group holds catches up from the kind's window.
//!
//! Members of a large group are told in turns: all at once, they would keep everything else that the server does, such as the
//! next write, waiting until the last of them has sent what it was told of.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kybern_storage::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::change::{Change, Form};
use super::joined::{Joined, Piece};
use super::selection::{Pinned, Selection};

/// Changes that a group holds at most.
pub(super) const HELD: usize = 2048;
/// Bytes of the objects of changes that a group holds at most, which bounds what is made of them.
const HELD_BYTES: usize = 512 << 10;
/// Members that are told in one turn.
const TURN: usize = 64;
/// What happens so soon after a large group began to be told goes along with what follows: to send costs far more than an event.
const GATHER: Duration = Duration::from_millis(4);
/// Those of one turn are mostly as far as each other.
const JOINED_BYTES: usize = 256 << 10;
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

/// A group, and the ends of it that tell members of changes. Who is told of no more finds these ends gone.
#[derive(Default)]
struct Seat {
    group: Arc<Group>,
    turns: Arc<Turns>,
    /// Where there is more than one turn.
    teller: Option<Teller>,
}

/// Each tells some of the members.
type Turns = Mutex<Vec<watch::Sender<()>>>;

/// A task that tells one turn after the other.
struct Teller {
    changed: Arc<Notify>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Group {
    members: AtomicUsize,
    held: RwLock<Held>,
    /// Of a large group.
    joined: Mutex<Joined<JOINED_BYTES>>,
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
    told: watch::Receiver<()>,
    /// The number of the next change to read.
    next: u64,
}

/// A member that has missed changes, or whose group is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind;

impl Drop for Teller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Teller {
    /// None outside of a runtime.
    fn start(turns: &Arc<Turns>) -> Option<Self> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let changed = Arc::new(Notify::new());
        let task = runtime.spawn(tell_in_turns(Arc::downgrade(turns), changed.clone())).abort_handle();
        Some(Self { changed, task })
    }
}

async fn tell_in_turns(turns: Weak<Turns>, changed: Arc<Notify>) {
    loop {
        changed.notified().await;
        let began = Instant::now();
        for turn in 0.. {
            {
                let Some(turns) = turns.upgrade() else { return };
                let turns = turns.lock();
                let Some(told) = turns.get(turn) else { break };
                told.send_replace(());
            }
            // Until they have sent, and whatever else has come meanwhile.
            tokio::task::yield_now().await;
        }
        tokio::time::sleep_until(began + GATHER).await;
    }
}

impl Seat {
    fn join(&mut self) -> Member {
        self.group.members.fetch_add(1, Ordering::Relaxed);
        let mut turns = self.turns.lock();
        let place = turns.iter().position(|told| told.receiver_count() < TURN).unwrap_or_else(|| {
            turns.push(watch::channel(()).0);
            turns.len() - 1
        });
        let told = turns[place].subscribe();
        if turns.len() > 1 && self.teller.is_none() {
            self.teller = Teller::start(&self.turns);
        }
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
        {
            let mut held = self.group.held.write();
            for change in changes {
                change.is_told(members);
                held.push(change.clone());
            }
        }
        match &self.teller {
            Some(teller) => teller.changed.notify_one(),
            None => self.turns.lock().iter().for_each(|told| told.send_replace(())),
        }
        true
    }
}

impl Group {
    fn is_large(&self) -> bool {
        self.members.load(Ordering::Relaxed) > TURN
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

    /// The number of the next change to read.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// What is sent of what there is to read next, if it is known. Nothing up to `seen` may be among it.
    pub(super) fn joined(&mut self, form: &Form, selection: &Selection, seen: Revision) -> Option<(Bytes, Revision)> {
        if !self.group.is_large() {
            return None;
        }
        let joined = self.group.joined.lock();
        let known = joined.from(self.next, form, selection, seen)?;
        self.next = known.of.end;
        Some((known.bytes.clone(), known.last))
    }

    /// Lets others have what was sent.
    pub(super) fn join(&self, piece: Piece) {
        if self.group.is_large() {
            self.group.joined.lock().add(piece);
        }
    }

    /// Waits for a change.
    pub(super) async fn wait(&mut self) -> Result<(), Behind> {
        // What was there before is read already, or found to be there.
        self.told.changed().await.map_err(|_| Behind)
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
