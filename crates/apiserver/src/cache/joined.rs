//! What one watcher was sent, kept a while for others who are to be sent the same: they need not look at each event.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kybern_storage::Revision;

use super::Selection;
use super::change::Form;

/// All that a watcher of a selection is sent of some events.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) form: Form,
    pub(super) selection: Arc<Selection>,
    /// By the numbers of what the events come from: changes of a group, or places in a snapshot.
    pub(super) of: Range<u64>,
    /// The revisions of the first and the last of them.
    pub(super) first: Revision,
    pub(super) last: Revision,
    pub(super) bytes: Bytes,
}

/// The latest pieces, about so many bytes of them.
#[derive(Debug, Default)]
pub(super) struct Joined<const MOST: usize> {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl<const MOST: usize> Joined<MOST> {
    /// The longest piece that begins at a number, with nothing up to a revision in it.
    pub(super) fn from(&self, number: u64, form: &Form, selection: &Selection, seen: Revision) -> Option<&Piece> {
        let same = |piece: &&Piece| {
            piece.of.start == number && piece.first > seen && piece.form.is(form) && *piece.selection == *selection
        };
        self.pieces.iter().filter(same).max_by_key(|piece| piece.of.end)
    }

    pub(super) fn add(&mut self, piece: Piece) {
        // One that is empty takes some room, too.
        let weight = |piece: &Piece| piece.bytes.len() + 256;
        self.bytes += weight(&piece);
        self.pieces.push_back(piece);
        while self.bytes > MOST
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.bytes -= weight(&oldest);
        }
    }
}
