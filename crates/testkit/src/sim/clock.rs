//! The simulated wall clock: it goes as tokio's paused clock goes.

use jiff::Timestamp;
use kybern_apimachinery::time::Clock;
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z, when every simulation starts.
const EPOCH_SECOND: i64 = 1_767_225_600;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    start: Instant,
}

impl SimClock {
    /// Must be called within the simulation's runtime.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let start = Timestamp::constant(EPOCH_SECOND, 0);
        start.saturating_add(self.start.elapsed()).expect("an unsigned duration is no calendar span")
    }
}
