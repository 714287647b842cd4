//! The watchers of one kind. One that pins a name or a field (`spec.nodeName=n1`) is found by that value, so that an event
//! costs nothing for the thousand watchers that it does not concern.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::selection::{Pinned, Selection};
use super::{Entry, WatchEvent};

/// Events that wait for one watcher at most, before it has to catch up from the window.
pub(super) const QUEUE: usize = 128;

#[derive(Default)]
pub(super) struct Watchers {
    unpinned: Vec<Watcher>,
    pinned: HashMap<Pinned, HashMap<Box<str>, Vec<Watcher>>>,
}

struct Watcher {
    selection: Arc<Selection>,
    queue: mpsc::Sender<WatchEvent>,
}

impl Watchers {
    /// Adds a watcher and answers its queue, and tidies away those that are gone.
    pub(super) fn add(&mut self, selection: Arc<Selection>) -> mpsc::Receiver<WatchEvent> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let pin = selection.pin().map(|(pinned, value)| (pinned, Box::from(value)));
        let watcher = Watcher { selection, queue };
        let list = match pin {
            None => &mut self.unpinned,
            Some((pinned, value)) => self.pinned.entry(pinned).or_default().entry(value).or_default(),
        };
        list.retain(|w| !w.queue.is_closed());
        list.push(watcher);
        receiver
    }

    /// How many there are.
    pub(super) fn count(&mut self) -> usize {
        let open = |list: &mut Vec<Watcher>| {
            list.retain(|w| !w.queue.is_closed());
            list.len()
        };
        let mut count = open(&mut self.unpinned);
        for lists in self.pinned.values_mut() {
            lists.retain(|_, list| {
                count += open(list);
                !list.is_empty()
            });
        }
        self.pinned.retain(|_, lists| !lists.is_empty());
        count
    }

    /// Tells a change, from one state to another, to whom it concerns. `seen` says what a selection sees of it. Who has no
    /// room in its queue is dropped: it finds the queue closed, and catches up from the window.
    pub(super) fn tell(
        &mut self,
        before: Option<&Entry>,
        after: &Entry,
        seen: impl Fn(&Selection) -> Option<WatchEvent>,
    ) {
        let told =
            |watcher: &Watcher| seen(&watcher.selection).is_none_or(|event| watcher.queue.try_send(event).is_ok());
        self.unpinned.retain(told);
        for (pinned, lists) in &mut self.pinned {
            let is = pinned.value(after);
            let was = before.map(|entry| pinned.value(entry)).filter(|was| *was != is);
            for value in [Some(is), was].into_iter().flatten() {
                if let Some(list) = lists.get_mut(value) {
                    list.retain(told);
                    if list.is_empty() {
                        lists.remove(value);
                    }
                }
            }
        }
    }
}
