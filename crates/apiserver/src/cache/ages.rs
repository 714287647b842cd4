//! When revisions came, so that what is too old to be listed is known: the store compacts by age, and a list of an old revision
//! must not depend on whether its kind happens to have changed since.

use std::collections::VecDeque;
use std::time::Duration;

use kybern_storage::Revision;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Revisions that something has followed for longer than this cannot be listed: upstream's default of `--etcd-compaction-interval`.
const AGE: Duration = Duration::from_secs(300);
/// The times are known as exactly as this.
const STEP: Duration = Duration::from_secs(10);

/// Revisions and when they were the latest, oldest first; the first is the latest that is older than [`AGE`], if one is.
#[derive(Default)]
pub(super) struct Ages(Mutex<VecDeque<(Instant, Revision)>>);

impl Ages {
    /// Takes note of the latest revision.
    pub(super) fn note(&self, revision: Revision, now: Instant) {
        let mut marks = self.0.lock();
        if marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= STEP) {
            marks.push_back((now, revision));
            trim(&mut marks, now);
        }
    }

    /// The oldest revision that can be listed.
    pub(super) fn oldest(&self, now: Instant) -> Revision {
        let mut marks = self.0.lock();
        trim(&mut marks, now);
        marks.front().filter(|(at, _)| now.duration_since(*at) >= AGE).map_or(0, |(_, revision)| *revision)
    }
}

fn trim(marks: &mut VecDeque<(Instant, Revision)>, now: Instant) {
    while marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= AGE) {
        marks.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_followed_long_ago_is_too_old() {
        let (ages, start) = (Ages::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..400 {
            ages.note(100 + second, at(second));
        }
        assert_eq!(ages.oldest(at(400)), 200);
        assert!(ages.0.lock().len() <= 32);
        // Nothing came since: the latest stays.
        assert_eq!(ages.oldest(at(10_000)), 490);
        ages.note(500, at(10_001));
        assert_eq!(ages.oldest(at(10_002)), 490);
        assert_eq!(ages.oldest(at(10_301)), 500);
        assert_eq!(Ages::default().oldest(start), 0);
    }
}
