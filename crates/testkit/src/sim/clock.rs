//! The simulated wall clocks: each goes as tokio's paused clock goes, and may be wrong.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_apimachinery::time::Clock;
use tokio::time::Instant;

use super::random::Random;

/// 2026-01-01T00:00:00Z, when every simulation starts.
const EPOCH_SECOND: i64 = 1_767_225_600;
/// How many of the clocks that are wrong are set once, and within what time.
const SET: f64 = 0.3;
const SET_WITHIN: Duration = Duration::from_secs(200);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    start: Instant,
    /// How much it is ahead.
    offset: SignedDuration,
    /// When it is set, and how much it is ahead from then on.
    set: Option<(Duration, SignedDuration)>,
}

impl SimClock {
    /// One that is right. Must be called within the simulation's runtime.
    pub fn start() -> Self {
        Self { start: Instant::now(), offset: SignedDuration::ZERO, set: None }
    }

    /// Another, which is ahead of this one or behind it by up to `skew`, and perhaps is set.
    #[must_use]
    pub(super) fn skewed(self, random: &mut Random, skew: Duration, is_set: bool) -> Self {
        let ahead = |random: &mut Random| {
            let amount = SignedDuration::from_millis(random.below(skew.as_millis() as u64 + 1) as i64);
            if random.chance(0.5) { amount } else { -amount }
        };
        let offset = ahead(random);
        let set = random.chance(if is_set { SET } else { 0.0 }).then(|| (random.delay(SET_WITHIN), ahead(random)));
        Self { offset, set, ..self }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.start.elapsed();
        let offset = self.set.filter(|(at, _)| elapsed >= *at).map_or(self.offset, |(_, offset)| offset);
        let right = Timestamp::constant(EPOCH_SECOND, 0).saturating_add(elapsed);
        right.and_then(|now| now.saturating_add(offset)).expect("a duration is no calendar span")
    }
}
