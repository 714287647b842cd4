//! Project automation: `cargo xtask <task>`.

mod bench;
mod ci;
mod deny;
mod e2e;
mod fuzz;
mod network;
mod packages;
mod process;
mod schema;
mod sim;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask <task>

  test    everything this machine can run: ci, sim, e2e, vm; says what it could not run and why
  ci      format, clippy, tidy, unit and property tests, codec fixtures, a few seeds of the simulator (needs no root)
  schema  writes crates/schema's table from published API facts: --facts DIR --go DIR
  e2e     [NAME…]: the tutorial and the fault loop on a real cluster (needs root)
  sim     [--seeds N] [--first N] [--minutes M]: the simulator over many seeds
  vm      Kybern on a distribution's kernel in an emulator: missing features, cgroup v2
  bench   [PART…]: figures against the budgets (needs root)
  fuzz    [TARGET] [--seconds N]: libFuzzer on one parser, or on each in turn (needs cargo-fuzz)
  deny    licences, sources, duplicates and advisories of dependencies
  tidy    layering, file sizes, banned words
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // The chain of causes, without the backtrace that `RUST_BACKTRACE` adds to the debug form.
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("tidy") => tidy::run(),
        Some("deny") => {
            deny::run_all()?.iter().for_each(|note| println!("    {note}"));
            Ok(())
        }
        Some("ci") => ci::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("sim") => sim::run(rest),
        Some("bench") => bench::run_parts(rest),
        Some("e2e") => e2e::run_all(rest),
        Some("vm") => match vm::run_all()? {
            None => Ok(()),
            Some(lacking) => bail!("cannot run the emulator: {lacking}"),
        },
        Some("test") => ci::run_everything(),
        Some("schema") => schema::run(rest),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("no task {other:?}\n{USAGE}"),
        None => bail!("which task?\n{USAGE}"),
    }
}
