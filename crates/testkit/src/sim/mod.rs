//! The simulator: the real storage, API server, controllers and scheduler with fake nodes on one thread, with a simulated
//! clock, disk, network and randomness, all of which follow from one seed.
//!
//! [`scenario`] acts as users do while [`faults`] disturb [`disk`] and [`network`] and processes crash; [`model`] checks
//! every commit; at the end the faults stop and the cluster has to become [`settled`].

mod addresses;
mod budgets;
pub mod clock;
pub mod disk;
mod evictor;
pub mod faults;
mod host;
mod lateness;
mod load;
mod manifests;
pub mod model;
pub mod network;
pub mod node;
mod placement;
mod processes;
pub mod random;
pub mod scenario;
mod servers;
pub mod settled;
mod volumes;
mod workloads;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use faults::Faults;
use random::Random;
pub use world::STEPS;

/// What one simulation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub commits: u64,
    pub bindings: usize,
    pub crashes: usize,
    /// In simulated time.
    pub lasted: Duration,
    /// Equal where every commit came at the same time with the same bytes.
    pub digest: u64,
}

/// A rule that was broken, and what had been done until then.
#[derive(Debug, thiserror::Error)]
#[error("{rule}\n{}\nreproduce with KYBERN_SIM_SEED={seed} cargo xtask sim", history.join("\n"))]
pub struct Failure {
    pub seed: u64,
    pub rule: String,
    pub history: Vec<String>,
}

/// What a simulation leaves out of what its seed draws: kinds of faults, and steps of the user by number.
#[derive(Clone, Debug, Default)]
pub struct Without {
    pub kinds: Vec<String>,
    pub steps: BTreeSet<usize>,
}

impl Without {
    /// Reads names of kinds and numbers of steps, separated by commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut without = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse() {
                Ok(step) => {
                    without.steps.insert(step);
                }
                Err(_) if Faults::default().leave_out(part) => without.kinds.push(part.to_owned()),
                Err(_) => {
                    let kinds = Faults::KINDS.join(", ");
                    return Err(format!("{part:?} is neither the number of a step nor one of {kinds}"));
                }
            }
        }
        Ok(without)
    }
}

/// As [`Without::parse`] reads it.
impl std::fmt::Display for Without {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps = self.steps.iter().map(usize::to_string);
        f.write_str(&self.kinds.iter().cloned().chain(steps).collect::<Vec<_>>().join(","))
    }
}

/// The nodes of most seeds, and of one of so many.
const FEW: usize = 4;
const THOUSANDS: usize = 2000;
const LARGE_EVERY: u64 = 300;

/// Runs one seed on a thread of its own. The same seed makes the same simulation as the first one of a process: a process
/// counts a few things, such as tokio's runtimes, for all its threads.
pub fn run(seed: u64, without: Without) -> Result<Report, Failure> {
    on_own_thread(seed, move || {
        let mut random = Random::new(seed);
        let mut faults = Faults::drawn(&mut random);
        for kind in &without.kinds {
            faults.leave_out(kind);
        }
        let nodes = if seed.is_multiple_of(LARGE_EVERY) { THOUSANDS } else { FEW };
        runtime().block_on(world::simulate(seed, random, faults, without.steps, nodes))
    })
}

/// The same with given faults.
pub fn run_with(seed: u64, faults: Faults) -> Result<Report, Failure> {
    on_own_thread(seed, move || {
        let mut random = Random::new(seed);
        Faults::drawn(&mut random);
        runtime().block_on(world::simulate(seed, random, faults, BTreeSet::new(), FEW))
    })
}

fn on_own_thread<T: Send + 'static>(seed: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
    let body = move || {
        crate::entropy::seed(seed);
        work()
    };
    let thread = std::thread::Builder::new().name(format!("seed {seed}")).stack_size(16 << 20).spawn(body);
    thread.expect("a thread").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime needs nothing but memory")
}
