//! Exponential back-off with jitter, and where its randomness comes from.

use std::time::Duration;

/// A source of fractions in `0.0..1.0`. The simulator brings its own.
pub trait Random: Send + Sync + 'static {
    fn fraction(&self) -> f64;
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fraction(&self) -> f64 {
        let bits = getrandom::u32().unwrap_or(u32::MAX / 2);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Delays that double from `base` to `max`. Pure: the caller brings the randomness and does the waiting.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: 0 }
    }

    /// The delay after one more failure, stretched by up to its half in proportion to `fraction` (0 to 1).
    pub fn next(&mut self, fraction: f64) -> Duration {
        let delay =
            self.base.saturating_mul(1_u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(1.0 + fraction.clamp(0.0, 1.0) / 2.0)
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let delays: Vec<u128> = (0..6).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_millis(), 150);
        let mut long = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        assert!((0..200).all(|_| long.next(0.0) <= Duration::from_secs(30)));
    }

    #[test]
    fn fractions_are_fractions() {
        assert!((0..100).all(|_| (0.0..1.0).contains(&SystemRandom.fraction())));
    }
}
