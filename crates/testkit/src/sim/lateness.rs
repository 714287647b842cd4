//! When somebody may do what would be wrong if it knew all: rules that rest on that are not checked then.

use std::time::Duration;

use super::model::Model;

/// How long after somebody goes on, or tries again, there is what it had planned before.
const LATE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Default)]
pub(super) struct Unaware {
    /// When somebody last went on with what it had planned before it stood still.
    went_on: Option<Duration>,
    /// Until when a server, or the store, was last away.
    away: Option<Duration>,
}

impl Model {
    /// From now on there comes what somebody planned who stood still since.
    pub(super) fn goes_on(&mut self, now: Duration) {
        self.unaware.went_on = Some(now);
    }

    /// Whether what is done now may have been decided by who leads no more. Nothing fences that off, here as upstream: a pod
    /// too many is made, one too many deleted, and one bound to where there was room.
    pub(super) fn is_late(&self, now: Duration) -> bool {
        self.unaware.went_on.is_some_and(|at| now.saturating_sub(at) <= LATE)
    }

    /// A server or the store is away until then, or at all: who has no answer tries again before it sees what it did.
    pub(super) fn is_away(&mut self, until: Duration) {
        self.unaware.away = self.unaware.away.max(Some(until));
    }

    /// A lost answer to a creation leaves a pod that its maker does not know of until it sees it, and one to a binding a
    /// place that the scheduler takes for free.
    pub(super) fn is_unanswered(&self, now: Duration) -> bool {
        self.faults.loses_answers() || self.unaware.away.is_some_and(|at| now.saturating_sub(at) <= LATE)
    }
}
