//! What a JSON patch has cost so far. Its operations can make much of little: copies double a tree, moves nest it, inserts
//! at the start of a list shift all of it. So each is charged before it is done, and the tree is within its bounds at
//! every moment.

use kybern_apimachinery::{Budget, OverBudget, Value};

use super::PatchError;

/// Upstream's limit of what the copies of one patch may add, in bytes of JSON.
const MAX_COPIED_BYTES: usize = 3 << 20;
/// Values that one patch may look at or shift in memory; some 0.2 s.
const MAX_WORK: usize = 50_000_000;
/// Looking at a value costs as much as shifting this many.
const LOOK: usize = 4;

pub(super) struct Ledger {
    /// Values in the tree, as if nothing were ever taken out of it.
    nodes: usize,
    copied: usize,
    work: usize,
}

impl Ledger {
    pub(super) fn open(object: &Value) -> Result<Self, PatchError> {
        Ok(Self { nodes: Budget::STORED.check(object)?.nodes, copied: 0, work: 0 })
    }

    /// A value from the patch comes to a place.
    pub(super) fn add(&mut self, path: &str, value: &Value) -> Result<(), PatchError> {
        self.grow(path, value).map(drop)
    }

    /// A value of the tree comes to a second place.
    pub(super) fn copy(&mut self, path: &str, value: &Value) -> Result<(), PatchError> {
        self.copied += self.grow(path, value)?;
        if self.copied > MAX_COPIED_BYTES {
            return Err(PatchError::NotApplicable(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPIED_BYTES}",
                self.copied
            )));
        }
        Ok(())
    }

    /// A value of the tree comes to another place.
    pub(super) fn relocate(&mut self, path: &str, value: &Value) -> Result<(), PatchError> {
        let size = below(path)?.check(value)?;
        self.work(size.nodes * LOOK)
    }

    /// The items of a list are shifted for one that comes or goes.
    pub(super) fn shift(&mut self, parent: &Value) -> Result<(), PatchError> {
        self.work(parent.as_array().map_or(1, Vec::len))
    }

    fn grow(&mut self, path: &str, value: &Value) -> Result<usize, PatchError> {
        let size = below(path)?.check(value)?;
        self.work(size.nodes * LOOK)?;
        self.nodes += size.nodes;
        if self.nodes > Budget::STORED.nodes {
            return Err(OverBudget::Nodes(Budget::STORED.nodes).into());
        }
        Ok(size.bytes)
    }

    fn work(&mut self, work: usize) -> Result<(), PatchError> {
        self.work += work;
        if self.work > MAX_WORK {
            let text =
                "Request entity too large: the operations of the JSON patch move too many values; send fewer at once";
            return Err(PatchError::TooLarge(text.to_owned()));
        }
        Ok(())
    }
}

/// What may lie at a place: the deeper it is, the flatter.
fn below(path: &str) -> Result<Budget, PatchError> {
    let above = path.bytes().filter(|byte| *byte == b'/').count();
    // A scalar has no depth of its own, but what holds it has.
    match Budget::REQUEST.depth.checked_sub(above) {
        Some(depth) => Ok(Budget { depth, nodes: Budget::STORED.nodes }),
        None => Err(OverBudget::Depth(Budget::REQUEST.depth).into()),
    }
}
