//! A watcher's place: first what there was before it came, then what its group is told.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kybern_storage::Revision;

use super::Selection;
use super::change::{Form, WatchEvent};
use super::joined::Piece;
use super::kind::Snapshot;
use super::watchers::{Behind, Member};

/// Changes that are looked at together.
const TOGETHER: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Subscription {
    selection: Arc<Selection>,
    backlog: Backlog,
    member: Member,
    /// The revision that the backlog reaches to.
    pub revision: Revision,
    /// The revision of the kind's changes up to which it has looked at all of them, once the backlog is read.
    seen: Revision,
    /// How often all watches had been ended when it began.
    pub(super) endings: u64,
    /// The number of the first change of the last read and its revision, if none of them was known before.
    read_from: Option<(u64, Revision)>,
}

/// What happened before: everything at a revision, which others may read at the same time, and events after it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    snapshot: Option<(Arc<Snapshot>, usize)>,
    events: VecDeque<WatchEvent>,
}

impl Backlog {
    pub(super) fn of_events(events: VecDeque<WatchEvent>) -> Self {
        Self { snapshot: None, events }
    }

    pub(super) fn of_snapshot(snapshot: Arc<Snapshot>, later: VecDeque<WatchEvent>) -> Self {
        Self { snapshot: Some((snapshot, 0)), events: later }
    }

    fn next(&mut self, selection: &Selection) -> Option<WatchEvent> {
        while let Some((snapshot, at)) = &mut self.snapshot {
            let Some(entry) = snapshot.entries.get(*at) else {
                self.snapshot = None;
                break;
            };
            *at += 1;
            if selection.matches(entry) {
                return Some(WatchEvent::initial(entry.clone()));
            }
        }
        self.events.pop_front()
    }
}

impl Subscription {
    pub(super) fn new(
        selection: Arc<Selection>,
        backlog: Backlog,
        member: Member,
        revision: Revision,
        endings: u64,
    ) -> Self {
        Self { selection, backlog, member, revision, seen: revision, endings, read_from: None }
    }

    pub(super) fn selection(&self) -> &Arc<Selection> {
        &self.selection
    }

    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// The next event of what there was before.
    pub fn before(&mut self) -> Option<WatchEvent> {
        self.backlog.next(&self.selection)
    }

    /// Where it is in the list of what there was, until that ends.
    pub fn place(&self) -> Option<usize> {
        let (snapshot, at) = self.backlog.snapshot.as_ref()?;
        (*at < snapshot.entries.len()).then_some(*at)
    }

    /// What is sent of the next of this list, if somebody has shared it.
    pub fn joined_before(&mut self, form: &Form) -> Option<Bytes> {
        let (snapshot, at) = self.backlog.snapshot.as_mut()?;
        let joined = snapshot.joined.lock();
        let piece = joined.from(*at as u64, form, &self.selection, 0)?;
        *at = piece.of.end as usize;
        Some(piece.bytes.clone())
    }

    /// Shares all that is sent of this list from a place on up to here.
    pub fn share_before(&self, form: &Form, from: usize, bytes: &Bytes) {
        let Some((snapshot, at)) = &self.backlog.snapshot else { return };
        if Arc::strong_count(snapshot) > 1 {
            let (of, first, last) = (from as u64..*at as u64, snapshot.revision, snapshot.revision);
            let (form, selection, bytes) = (form.clone(), self.selection.clone(), bytes.clone());
            snapshot.joined.lock().add(Piece { form, selection, of, first, last, bytes });
        }
    }

    /// The events that have come since; none when there are none yet. To be asked once all that was before is read.
    pub fn read(&mut self) -> Result<Vec<WatchEvent>, Behind> {
        loop {
            let from = self.member.next();
            let changes = self.member.read(TOGETHER)?;
            let Some(first) = changes.first() else { return Ok(Vec::new()) };
            let before = self.seen;
            self.read_from = (first.revision() > before).then(|| (from, first.revision()));
            self.seen = changes.last().map_or(before, |last| last.revision()).max(before);
            // What the state had when the watch began is in the backlog.
            let new = changes.iter().filter(|change| change.revision() > before);
            let events: Vec<_> = new.filter_map(|change| change.seen_by(&self.selection)).collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// What is sent of what [`Subscription::read`] would answer, if somebody has shared it.
    pub fn joined(&mut self, form: &Form) -> Option<Bytes> {
        let (bytes, last) = self.member.joined(form, &self.selection, self.seen)?;
        self.seen = self.seen.max(last);
        Some(bytes)
    }

    /// Shares all that is sent of what was read last.
    pub fn share(&self, form: &Form, bytes: &Bytes) {
        if let Some((from, first)) = self.read_from {
            let (of, last) = (from..self.member.next(), self.seen);
            let (form, selection, bytes) = (form.clone(), self.selection.clone(), bytes.clone());
            self.member.join(Piece { form, selection, of, first, last, bytes });
        }
    }

    /// Waits until there may be more to read. Safe to be given up.
    pub async fn wait(&mut self) -> Result<(), Behind> {
        self.member.wait().await
    }

    /// Whether nothing more comes: the watch was ended, or has to catch up.
    pub fn is_closed(&self) -> bool {
        self.member.is_closed()
    }
}
