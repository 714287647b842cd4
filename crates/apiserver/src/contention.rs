//! Who loses a race for an object waits for its turn before it tries again: among many who try at once, each try that loses is
//! work for nothing, and somebody may lose them all.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// Objects whose keys share one wait for each other.
const STRIPES: usize = 256;
/// Tries of a write that names no revision, when the object changes meanwhile. Each that fails is a success of another's, which
/// did not wait or is another server's; upstream tries until the request's time is over.
const TRIES: u32 = 256;
/// A turn is waited for no longer: whoever has it may wait for a webhook that writes the same object.
const PATIENCE: Duration = Duration::from_secs(2);

/// The turns of all objects.
pub(crate) struct Turns {
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }
}

impl Turns {
    pub(crate) fn tries(&self) -> Tries<'_> {
        Tries { turns: self, left: TRIES, turn: None }
    }
}

/// The tries of one write.
pub(crate) struct Tries<'t> {
    turns: &'t Turns,
    left: u32,
    turn: Option<MutexGuard<'t, ()>>,
}

impl Tries<'_> {
    /// After a lost race for an object: comes back when it is worth to try again, and tells whether it is at all.
    pub(crate) async fn lost(&mut self, key: &str) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        if self.turn.is_none() {
            let stripe = self.turns.hasher.hash_one(key) as usize % STRIPES;
            // Those who wait are served in the order in which they came.
            self.turn = tokio::time::timeout(PATIENCE, self.turns.stripes[stripe].lock()).await.ok();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_writers_of_one_object_lose_little() {
        let (turns, revision, lost) = (Arc::new(Turns::default()), Arc::new(AtomicU64::new(0)), AtomicUsize::new(0));
        let lost = Arc::new(lost);
        let writers = (0..200).map(|_| {
            let (turns, revision, lost) = (turns.clone(), revision.clone(), lost.clone());
            tokio::spawn(async move {
                let mut tries = turns.tries();
                loop {
                    let read = revision.load(Ordering::SeqCst);
                    // Others read the same meanwhile.
                    tokio::task::yield_now().await;
                    if revision.compare_exchange(read, read + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                        return true;
                    }
                    lost.fetch_add(1, Ordering::SeqCst);
                    if !tries.lost("object").await {
                        return false;
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            assert!(writer.await.unwrap(), "a writer gave up");
        }
        assert_eq!(revision.load(Ordering::SeqCst), 200);
        // Without turns it is some ten thousand.
        assert!(lost.load(Ordering::SeqCst) < 600, "{lost:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_end_stops_nobody() {
        let turns = Turns::default();
        let (mut first, mut second) = (turns.tries(), turns.tries());
        assert!(first.lost("object").await && first.turn.is_some());
        assert!(second.lost("object").await && second.turn.is_none());
        drop(first);
        assert!(second.lost("object").await && second.turn.is_some());
        let mut outcomes = Vec::new();
        for _ in 0..=TRIES {
            outcomes.push(second.lost("object").await);
        }
        assert!(outcomes[0] && !outcomes[TRIES as usize]);
    }
}
