//! How long a failed pod waits until it is replaced: where its node refuses it, the next one fails as soon.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// By set, generation and node. In memory, as upstream's.
#[derive(Default)]
pub(super) struct Backoff(Mutex<HashMap<String, Failures>>);

struct Failures {
    pause: Duration,
    last: Timestamp,
}

impl Failures {
    fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.last)).unwrap_or_default()
    }

    /// After so long without a failure all is forgotten.
    fn is_over(&self, now: Timestamp) -> bool {
        self.age(now) > 2 * LONGEST
    }
}

impl Backoff {
    /// How long a failed pod still has to wait. Where it need not, it is replaced, and the next one waits longer.
    pub(super) fn wait(&self, key: String, now: Timestamp) -> Option<Duration> {
        let mut all = self.0.lock();
        let pause = match all.get(&key).filter(|failures| !failures.is_over(now)) {
            None => FIRST,
            Some(failures) => match failures.pause.checked_sub(failures.age(now)) {
                Some(left) if !left.is_zero() => return Some(left),
                _ => (2 * failures.pause).min(LONGEST),
            },
        };
        all.retain(|_, failures| !failures.is_over(now));
        all.insert(key, Failures { pause, last: now });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, at};

    #[test]
    fn pauses_grow_to_a_quarter_of_an_hour_and_are_forgotten() {
        let (backoff, mut now) = (Backoff::default(), NOW);
        let wait = |now| backoff.wait("a".to_owned(), at(now)).map(|left| left.as_secs());
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            assert_eq!(wait(now), None, "{pause}");
            assert_eq!(wait(now), Some(pause));
            now += pause as i64;
        }
        assert_eq!(backoff.wait("b".to_owned(), at(now)), None, "another node");
        now += 1801;
        assert_eq!((wait(now), wait(now)), (None, Some(1)));
        assert_eq!(backoff.0.lock().len(), 1);
    }
}
