//! Plugins that answer at once. Asking another server is [`forward`]'s, which waits.

pub mod cache;
pub mod forward;
pub mod hosts;
pub mod kubernetes;

use crate::message::{Answer, Query};
use crate::name::{Name, find_longest, strip_zone};

/// What a plugin makes of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Answer(Answer),
    /// Not for this plugin.
    Next,
}

/// Answers queries from what it has in memory.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Must not block.
    fn handle(&self, query: &Query) -> Outcome;

    /// Whether it has what it needs; `/ready` waits for it.
    fn is_ready(&self) -> bool {
        true
    }
}

/// `fallthrough [ZONE…]`: which names go on to the next plugin when this one has no such name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fallthrough(Option<Vec<Name>>);

impl Fallthrough {
    pub fn new(zones: Vec<Name>) -> Self {
        Self(Some(if zones.is_empty() { vec![Name::root()] } else { zones }))
    }

    pub fn covers(&self, name: &[u8]) -> bool {
        self.0.iter().flatten().any(|zone| strip_zone(name, zone.as_wire()).is_some())
    }
}

/// The longest of the zones that a name is in.
pub fn find_zone<'a>(zones: &'a [Name], name: &[u8]) -> Option<&'a Name> {
    find_longest(zones.iter().map(|zone| (zone, zone)), name)
}
