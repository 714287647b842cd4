//! Runs the simulator over some seeds: `KYBERN_SIM_SEEDS` says how many, `KYBERN_SIM_SEED` names one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kybern_testkit::sim::faults::Faults;
use kybern_testkit::sim::{self, Failure, Report};

const SEEDS: u64 = 20;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn seeds() {
    let seeds = match number("KYBERN_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("KYBERN_SIM_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let next = AtomicU64::new(seeds.start);
    let results: Vec<(u64, Duration, Result<Report, Failure>)> = std::thread::scope(|scope| {
        let work = || {
            let mut results = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return results;
                }
                let start = Instant::now();
                let result = sim::run(seed);
                results.push((seed, start.elapsed(), result));
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let (mut bindings, mut broken) = (0, Vec::new());
    for (seed, took, result) in results {
        match result {
            Ok(report) => {
                println!("seed {seed} in {took:.2?}: {report:?}");
                bindings += report.bindings;
            }
            Err(failure) => {
                println!("seed {seed} in {took:.2?}: {failure}");
                broken.push(seed);
            }
        }
    }
    assert!(broken.is_empty(), "seeds {broken:?} broke a rule, see above");
    assert!(bindings > 0, "nothing was simulated");
}

/// The simulator finds what it is for.
#[test]
fn a_disk_that_loses_acknowledged_writes_is_caught() {
    let delay = Duration::from_millis(5);
    let faults = Faults { crashes: true, forgets_on_crash: 3, disk_delay: delay, ..Faults::default() };
    let found: Vec<Failure> = (1..4).filter_map(|seed| sim::run_with(seed, Some(faults.clone())).err()).collect();
    assert!(!found.is_empty(), "no seed found it");
    for failure in found {
        assert!(failure.rule.contains("the store has lost an acknowledged write"), "{failure}");
    }
}
