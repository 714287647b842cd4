//! How many seats a level wanted over a time.

use std::time::Duration;

/// The mean, the deviation and the highest of a number that changes from time to time.
#[derive(Debug)]
pub(super) struct Demand {
    value: f64,
    since: Duration,
    began: Duration,
    sum: f64,
    squares: f64,
    high: f64,
}

impl Demand {
    pub(super) fn new(now: Duration) -> Self {
        Self { value: 0.0, since: now, began: now, sum: 0.0, squares: 0.0, high: 0.0 }
    }

    pub(super) fn set(&mut self, now: Duration, value: f64) {
        self.note(now);
        self.value = value;
        self.high = self.high.max(value);
    }

    fn note(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.sum += passed * self.value;
        self.squares += passed * self.value * self.value;
        self.since = self.since.max(now);
    }

    /// The highest, and what was wanted as a rule: the mean and one deviation, at most the highest. Begins anew.
    pub(super) fn take(&mut self, now: Duration) -> (f64, f64) {
        self.note(now);
        let time = now.saturating_sub(self.began).as_secs_f64();
        let (high, usual) = if time > 0.0 {
            let mean = self.sum / time;
            let deviation = (self.squares / time - mean * mean).max(0.0).sqrt();
            (self.high, (mean + deviation).min(self.high))
        } else {
            (self.high, self.high)
        };
        *self = Self { high: self.value, ..Self::new(now) }.at(self.value);
        (high, usual)
    }

    fn at(self, value: f64) -> Self {
        Self { value, ..self }
    }
}

/// What a level may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) target: f64,
}

/// Divides seats in proportion to targets, within bounds.
pub(super) fn divide(seats: f64, claims: &[Claim]) -> Vec<f64> {
    let at = |fair: f64| -> Vec<f64> {
        claims.iter().map(|c| (fair * c.target.max(0.001)).clamp(c.least, c.most.max(c.least))).collect()
    };
    let sum = |fair: f64| at(fair).iter().sum::<f64>();
    if claims.is_empty() || sum(0.0) >= seats {
        return at(0.0);
    }
    // The sum grows with the proportion, which ends where every bound is reached.
    let end = claims.iter().map(|c| c.most / c.target.max(0.001)).fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, end);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if sum(middle) < seats { low = middle } else { high = middle }
    }
    at(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_is_its_mean_and_a_deviation() {
        let seconds = Duration::from_secs;
        let mut demand = Demand::new(seconds(0));
        demand.set(seconds(0), 4.0);
        assert_eq!(demand.take(seconds(10)), (4.0, 4.0));
        demand.set(seconds(15), 0.0);
        let (high, usual) = demand.take(seconds(20));
        assert_eq!((high, usual), (4.0, 4.0), "half the time 4, half 0: 2 and 2");
        assert_eq!(demand.take(seconds(30)), (0.0, 0.0));
        demand.set(seconds(30), 100.0);
        demand.set(seconds(31), 0.0);
        let (high, usual) = demand.take(seconds(40));
        assert!(high == 100.0 && (39.0..41.0).contains(&usual), "{usual}");
    }

    #[test]
    fn seats_are_divided_within_bounds() {
        let claim = |least: f64, most: f64, target: f64| Claim { least, most, target };
        let check = |claims: &[Claim], expect: &[f64]| {
            let got = divide(100.0, claims);
            assert!(got.iter().zip(expect).all(|(g, e)| (g - e).abs() < 0.01), "{got:?} {expect:?}");
        };
        check(&[claim(0.0, 100.0, 10.0), claim(0.0, 100.0, 30.0)], &[25.0, 75.0]);
        check(&[claim(40.0, 100.0, 40.0), claim(0.0, 100.0, 400.0)], &[40.0, 60.0]);
        check(&[claim(0.0, 20.0, 30.0), claim(0.0, 100.0, 10.0)], &[20.0, 80.0]);
        // Nobody wants anything: all get alike.
        check(&[claim(0.0, 100.0, 0.0), claim(0.0, 100.0, 0.0)], &[50.0, 50.0]);
        check(&[claim(60.0, 100.0, 60.0), claim(60.0, 100.0, 60.0)], &[60.0, 60.0]);
        check(&[claim(0.0, 10.0, 5.0), claim(0.0, 20.0, 5.0)], &[10.0, 20.0]);
    }
}
