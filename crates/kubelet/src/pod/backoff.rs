//! The back-off of restarts and pulls, as `client-go/util/flowcontrol.Backoff` keeps it: it doubles at each use and is
//! forgotten when it was not used for twice its maximum.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub const INITIAL: Duration = Duration::from_secs(10);
pub const MAXIMUM: Duration = Duration::from_secs(300);

/// One thing's back-off; unused at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    entry: Option<(Duration, Timestamp)>,
}

impl Backoff {
    /// How long the thing that ended at `ended` must still wait; `None` when it may go on.
    pub fn remaining(&self, ended: Timestamp, now: Timestamp) -> Option<Duration> {
        let (delay, updated) = self.entry?;
        if ended.duration_since(updated) > forget_after() {
            return None;
        }
        let left = signed(delay) - now.duration_since(ended);
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    }

    /// The present delay; zero before the first use.
    pub fn delay(&self) -> Duration {
        self.entry.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// Uses the back-off: the next wait is twice as long.
    pub fn advance(&mut self, ended: Timestamp, now: Timestamp) {
        let delay = match self.entry {
            Some((delay, updated)) if ended.duration_since(updated) <= forget_after() => (delay * 2).min(MAXIMUM),
            _ => INITIAL,
        };
        self.entry = Some((delay, now));
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn forget_after() -> SignedDuration {
    signed(MAXIMUM) * 2
}

/// Go's way of writing a whole-second back-off: `10s`, `2m40s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn doubles_to_five_minutes_and_is_forgotten_after_ten() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.remaining(at(0), at(0)), None);
        let mut now = 0;
        for expect in [10, 20, 40, 80, 160, 300, 300] {
            backoff.advance(at(now), at(now));
            assert_eq!(backoff.delay().as_secs(), expect);
            assert_eq!(backoff.remaining(at(now), at(now + 1)), Some(Duration::from_secs(expect - 1)));
            assert_eq!(backoff.remaining(at(now), at(now + expect as i64)), None);
            now += expect as i64;
        }
        backoff.advance(at(now + 601), at(now + 601));
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (seconds, expect) in [(10, "10s"), (160, "2m40s"), (300, "5m0s"), (3601, "1h0m1s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), expect);
        }
    }
}
