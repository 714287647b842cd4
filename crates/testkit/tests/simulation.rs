//! Runs the simulator over some seeds: `KYBERN_SIM_SEEDS` says how many from `KYBERN_SIM_FIRST` on, `KYBERN_SIM_MINUTES` for
//! how long at most, `KYBERN_SIM_SEED` names one, and `KYBERN_SIM_WITHOUT` leaves out kinds of faults and steps of it.
//!
//! Each seed has a process of its own, this program started again, because a process counts a few things for all of its
//! threads, such as tokio's runtimes, and a simulation must not depend on what ran before it.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kybern_testkit::sim;
use kybern_testkit::sim::Without;
use kybern_testkit::sim::faults::Faults;

/// As the program's: a quarter of a seed's time is memory that is taken and given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What takes half a minute of one core unoptimized: `cargo xtask sim` runs many.
const SEEDS: u64 = 4;
const ONE: &str = "KYBERN_SIM_SEED";
const MANY: &str = "KYBERN_SIM_SEEDS";
const FIRST: &str = "KYBERN_SIM_FIRST";
const MINUTES: &str = "KYBERN_SIM_MINUTES";
const WITHOUT: &str = "KYBERN_SIM_WITHOUT";
/// What runs a seed again, as many did.
const COMMAND: &str = "cargo xtask sim";
/// Seeds that fail, of which a smaller scenario is looked for.
const SHRUNK: usize = 2;
/// After so many seeds one line says that they are done.
const TOLD: u64 = 100;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// What a process of its own says of a seed: its report, or the rule that was broken.
fn simulate(seed: u64, without: &Without) -> Result<String, String> {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["seeds", "--exact", "--nocapture"]).env(ONE, seed.to_string()).env("RUST_BACKTRACE", "0");
    command.env(WITHOUT, without.to_string());
    let output = command.output().expect("this program starts again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    }
    let report = text.lines().find_map(|line| line.split_once("Report").map(|(_, report)| report.to_owned()));
    report.ok_or_else(|| format!("seed {seed} says nothing: {text}"))
}

#[test]
fn seeds() {
    if let Some(seed) = number(ONE) {
        let without = std::env::var(WITHOUT).unwrap_or_default();
        let without = Without::parse(&without).unwrap_or_else(|error| panic!("{WITHOUT}={without}: {error}"));
        let report = sim::run(seed, without).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{report:?}");
        return;
    }
    let first = number(FIRST).unwrap_or(1);
    let (next, end) = (AtomicU64::new(first), first + number(MANY).unwrap_or(SEEDS));
    let start = Instant::now();
    let until = number(MINUTES).map(|minutes| start + Duration::from_mins(minutes));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let broken: Vec<u64> = std::thread::scope(|scope| {
        let work = || {
            let mut broken = Vec::new();
            loop {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return broken;
                }
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return broken;
                }
                match simulate(seed, &Without::default()) {
                    Ok(report) if seed.is_multiple_of(TOLD) || end - first < TOLD => println!("seed {seed}:{report}"),
                    Ok(_) => {}
                    Err(text) => {
                        println!("seed {seed} fails: {text}");
                        broken.push(seed);
                    }
                }
            }
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let (took, ran) = (start.elapsed(), next.into_inner().min(end) - first);
    broken.iter().take(SHRUNK).for_each(|seed| shrink(*seed));
    assert!(
        broken.is_empty(),
        "of {ran} seeds {broken:?} broke a rule, see above; {ONE}=<seed> {COMMAND} runs one again"
    );
    let each = took.as_secs_f64() * cores as f64 / ran.max(1) as f64;
    println!(
        "{ran} seeds from {first} on broke no rule, in {:.0} s on {cores} cores, {each:.2} s each",
        took.as_secs_f64()
    );
}

/// Finds a smaller scenario that fails, too: without kinds of faults, and then without steps of the user, halves of them
/// first.
fn shrink(seed: u64) {
    let mut smallest = Without::default();
    let mut failure = String::new();
    let mut fails = |tried: Without, smallest: &mut Without| {
        if let Err(text) = simulate(seed, &tried) {
            (*smallest, failure) = (tried, text);
        }
    };
    for kind in Faults::KINDS {
        let mut tried = smallest.clone();
        tried.kinds.push(kind.to_owned());
        fails(tried, &mut smallest);
    }
    let mut size = sim::STEPS / 2;
    while size > 0 {
        for from in (0..sim::STEPS).step_by(size) {
            let mut tried = smallest.clone();
            tried.steps.extend(from..(from + size).min(sim::STEPS));
            if tried.steps.len() > smallest.steps.len() {
                fails(tried, &mut smallest);
            }
        }
        size /= 2;
    }
    println!("{failure}\nthe smallest that fails: {ONE}={seed} {WITHOUT}={smallest} {COMMAND}");
}

#[test]
fn a_seed_decides_everything() {
    if number(ONE).is_some() {
        return;
    }
    let [first, again, other] = std::thread::scope(|scope| {
        let started = [7, 7, 8].map(|seed| scope.spawn(move || simulate(seed, &Without::default())));
        started.map(|one| one.join().expect("no panic").unwrap_or_else(|text| panic!("{text}")))
    });
    assert_eq!(first, again);
    assert_ne!(first, other);
}

/// The simulator finds what it is for.
#[test]
fn a_disk_that_loses_acknowledged_writes_is_caught() {
    if number(ONE).is_some() {
        return;
    }
    let delay = Duration::from_millis(5);
    let faults = Faults { crashes: true, forgets_on_crash: 3, disk_delay: delay, ..Faults::default() };
    let failure = (1..10).find_map(|seed| sim::run_with(seed, faults.clone()).err()).expect("a seed finds it");
    assert!(failure.rule.contains("the store has lost an acknowledged write"), "{failure}");
}
