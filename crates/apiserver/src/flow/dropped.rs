//! After how long whoever is refused is asked to try again: the longer, the more are refused.

use std::collections::VecDeque;

/// Seconds.
const MOST: u32 = 32;

/// The refusals of a level. Times are in seconds.
#[derive(Debug)]
pub(super) struct Dropped {
    /// Of seconds that are over, how many there were.
    history: VecDeque<(u64, u64)>,
    current: (u64, u64),
    retry_after: u32,
    raised: Option<u64>,
}

impl Default for Dropped {
    fn default() -> Self {
        Self { history: VecDeque::new(), current: (0, 0), retry_after: 1, raised: None }
    }
}

impl Dropped {
    /// Counts one, and answers when to try again.
    pub(super) fn one(&mut self, second: u64) -> u32 {
        if second == self.current.0 {
            self.current.1 += 1;
            return self.retry_after;
        }
        let (last, _) = self.current;
        self.history.push_back(self.current);
        let kept = u64::from((2 * self.retry_after).min(MOST));
        while self.history.front().is_some_and(|(then, _)| last - then > kept) {
            self.history.pop_front();
        }
        self.current = (second, 1);
        self.adjust(second);
        self.retry_after
    }

    /// Doubles it where three times as many were refused in so many seconds, and takes one from it where there were fewer than
    /// that many. Not doubled again before it could show.
    fn adjust(&mut self, second: u64) {
        let retry_after = u64::from(self.retry_after);
        let lately = self.history.iter().filter(|(then, _)| second.saturating_sub(*then) <= retry_after);
        let dropped: u64 = lately.map(|(_, count)| count).sum();
        let may_rise = self.raised.is_none_or(|raised| second - raised >= retry_after);
        if may_rise && dropped >= 3 * retry_after {
            self.retry_after = (2 * self.retry_after).min(MOST);
            self.raised = Some(second);
        } else if dropped < retry_after && retry_after > 1 {
            self.retry_after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_under_load_and_goes_back_slowly() {
        let mut dropped = Dropped::default();
        let mut seen = Vec::new();
        for second in 100..200 {
            for _ in 0..20 {
                dropped.one(second);
            }
            if seen.last() != Some(&dropped.retry_after) {
                seen.push(dropped.retry_after);
            }
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32]);
        // One every second is little by then.
        let later: Vec<u32> = (300..340).map(|second| dropped.one(second)).collect();
        assert_eq!(later[..3], [31, 30, 29]);
        assert!(later.windows(2).all(|pair| pair[1] + 1 >= pair[0]), "{later:?}");
        assert!(dropped.history.len() < 100);
    }

    #[test]
    fn one_burst_raises_it_once() {
        let mut dropped = Dropped::default();
        (0..1_000).for_each(|_| assert_eq!(dropped.one(5), 1));
        assert_eq!([6, 7, 8].map(|second| dropped.one(second))[0], 2);
        assert!(dropped.one(60) <= 2);
    }
}
