//! Counts a probe's results against its thresholds (`pkg/kubelet/prober/worker.go`).

use kybern_api::core::v1::Probe;

/// How many results in a row change the verdict.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    pub success: u32,
    pub failure: u32,
}

impl Thresholds {
    pub fn of(probe: &Probe) -> Self {
        let at_least_one =
            |n: Option<i32>, default: u32| n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
        Self { success: at_least_one(probe.success_threshold, 1), failure: at_least_one(probe.failure_threshold, 3) }
    }
}

/// The run of equal results so far.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    thresholds: Thresholds,
    verdict: Option<bool>,
    last: bool,
    run: u32,
}

impl Machine {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, verdict: None, last: false, run: 0 }
    }

    /// Takes one result; answers the verdict if it is new.
    pub fn observe(&mut self, success: bool) -> Option<bool> {
        self.run = if self.run > 0 && self.last == success { self.run.saturating_add(1) } else { 1 };
        self.last = success;
        let needed = if success { self.thresholds.success } else { self.thresholds.failure };
        if self.run < needed || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_their_run_of_results() {
        let check = |success, failure, results: &str, expect: &str| {
            let mut machine = Machine::new(Thresholds { success, failure });
            let got: String = results
                .chars()
                .map(|c| match machine.observe(c == '+') {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                })
                .collect();
            assert_eq!(got, expect, "{results}");
        };
        check(1, 3, "+--+---+", "+.....-+");
        check(2, 1, "++-+-++", ".+-...+");
        check(1, 3, "---", "..-");
    }
}
