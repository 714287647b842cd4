//! A watcher's place: first what there was before it came, then what its group is told.

use std::collections::VecDeque;
use std::sync::Arc;

use kybern_storage::Revision;

use super::Selection;
use super::change::WatchEvent;
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
        Self { selection, backlog, member, revision, seen: revision, endings }
    }

    pub(super) fn selection(&self) -> &Arc<Selection> {
        &self.selection
    }

    pub(super) fn seen(&self) -> Revision {
        self.seen
    }

    /// The next event of what there was before.
    pub fn before(&mut self) -> Option<WatchEvent> {
        self.backlog.next(&self.selection)
    }

    /// The events that have come since; none when there are none yet. To be asked once all that was before is read.
    pub fn read(&mut self) -> Result<Vec<WatchEvent>, Behind> {
        loop {
            let changes = self.member.read(TOGETHER)?;
            if changes.is_empty() {
                return Ok(Vec::new());
            }
            let before = self.seen;
            self.seen = changes.last().map_or(before, |last| last.revision()).max(before);
            // What the state had when the watch began is in the backlog.
            let new = changes.iter().filter(|change| change.revision() > before);
            let events: Vec<_> = new.filter_map(|change| change.seen_by(&self.selection)).collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Waits until there may be more to read. Safe to be given up.
    pub async fn wait(&mut self) -> Result<(), Behind> {
        self.member.wait().await
    }

    /// How many are told of the same changes.
    pub fn crowd(&self) -> usize {
        self.member.crowd()
    }

    /// Whether nothing more comes: the watch was ended, or has to catch up.
    pub fn is_closed(&self) -> bool {
        self.member.is_closed()
    }
}
