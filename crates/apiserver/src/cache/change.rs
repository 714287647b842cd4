//! One committed change of a kind's objects, and what watchers see of it. What they are sent is made once and shared, for as
//! long as some of them have yet to take it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kybern_storage::Revision;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Entry, Selection};
use crate::resource::Resource;

/// `ADDED`, `MODIFIED` or `DELETED`, as one watcher is to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// One event for one watcher.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    pub kind: EventKind,
    pub entry: Arc<Entry>,
    /// What it comes from, which its bytes are shared through; `None` for what was there before the watch.
    change: Option<Arc<Change>>,
}

impl WatchEvent {
    /// The state before the change, where there was one and it is known.
    pub fn previous(&self) -> Option<Arc<Entry>> {
        self.change.as_ref().and_then(|change| change.previous.clone())
    }

    pub fn shown_as(self, kind: EventKind) -> Self {
        Self { kind, ..self }
    }

    /// As whoever loses sight of the object sees it: its last state, at the revision of the change.
    pub fn gone(self) -> Self {
        let (Some(change), EventKind::Added | EventKind::Modified) = (&self.change, self.kind) else { return self };
        let Some(previous) = &change.previous else { return self };
        Self { kind: EventKind::Deleted, entry: change.left(previous), change: self.change }
    }
}

/// In which form a watcher is sent events: those of equal forms get equal bytes.
#[derive(Clone)]
pub struct Form {
    /// The row that is watched.
    pub row: Arc<Resource>,
    /// Everything else that decides, as a number.
    pub number: u32,
}

impl Form {
    pub(super) fn is(&self, other: &Self) -> bool {
        self.number == other.number && Arc::ptr_eq(&self.row, &other.row)
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.row.gvr, self.number)
    }
}

/// One committed change.
#[derive(Debug)]
pub(super) struct Change {
    /// The new state; for a deletion the last state at the deletion's revision.
    pub(super) entry: Arc<Entry>,
    pub(super) deleted: bool,
    pub(super) previous: Option<Arc<Entry>>,
    pub(super) at: Instant,
    made: Mutex<Made>,
}

/// What was made of a change for its watchers.
#[derive(Debug, Default)]
struct Made {
    /// Watchers that may still ask.
    waiting: usize,
    frames: Vec<(Form, EventKind, Bytes)>,
    /// The previous state at the change's revision, for those from whose selection the object went.
    left: Option<Arc<Entry>>,
}

impl Change {
    pub(super) fn new(entry: Arc<Entry>, deleted: bool, previous: Option<Arc<Entry>>, at: Instant) -> Self {
        Self { entry, deleted, previous, at, made: Mutex::default() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.entry.revision
    }

    /// The bytes that only the window keeps.
    pub(super) fn weight(&self) -> usize {
        self.previous.as_ref().map_or(0, |e| e.bytes.len()) + if self.deleted { self.entry.bytes.len() } else { 0 }
    }

    /// What a watcher of a selection sees of it: leaving the selection is a deletion, entering it an addition.
    pub(super) fn seen_by(self: &Arc<Self>, selection: &Selection) -> Option<WatchEvent> {
        let was = self.previous.as_ref().is_some_and(|e| selection.matches(e));
        let is = !self.deleted && selection.matches(&self.entry);
        let (kind, entry) = match (was, is, &self.previous) {
            (false, true, _) => (EventKind::Added, self.entry.clone()),
            (true, true, _) => (EventKind::Modified, self.entry.clone()),
            (true, false, _) if self.deleted => (EventKind::Deleted, self.entry.clone()),
            (true, false, Some(previous)) => (EventKind::Deleted, self.left(previous)),
            _ => return None,
        };
        Some(WatchEvent { kind, entry, change: Some(self.clone()) })
    }

    fn left(&self, previous: &Entry) -> Arc<Entry> {
        let mut made = self.made.lock();
        made.left.get_or_insert_with(|| Arc::new(previous.at_revision(self.revision()))).clone()
    }

    /// So many more watchers are told of it.
    pub(super) fn is_told(&self, watchers: usize) {
        self.made.lock().waiting += watchers;
    }

    /// Forgets what was made: whoever still asks makes it anew.
    pub(super) fn forget(&self) {
        *self.made.lock() = Made::default();
    }
}

impl WatchEvent {
    /// An event of what was there before the watch began.
    pub(super) fn initial(entry: Arc<Entry>) -> Self {
        Self { kind: EventKind::Added, entry, change: None }
    }

    /// What a watcher is sent, if another one was sent the same already. Otherwise make it, and [`WatchEvent::share`] it.
    pub fn shared(&self, form: &Form) -> Option<Bytes> {
        let mut made = self.change.as_ref()?.made.lock();
        let same = |(f, kind, _): &(Form, EventKind, Bytes)| *kind == self.kind && f.is(form);
        let bytes = made.frames.iter().find(|frame| same(frame)).map(|(_, _, bytes)| bytes.clone())?;
        made.taken();
        Some(bytes)
    }

    pub fn share(&self, form: &Form, bytes: &Bytes) {
        let Some(change) = &self.change else { return };
        let mut made = change.made.lock();
        // Alone, nobody is there to share with.
        if made.waiting > 1 {
            made.frames.push((form.clone(), self.kind, bytes.clone()));
        }
        made.taken();
    }
}

impl Made {
    fn taken(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            (self.frames, self.left) = (Vec::new(), None);
        }
    }
}
