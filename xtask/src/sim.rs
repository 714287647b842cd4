//! `cargo xtask sim`: the simulator over many seeds. A seed that fails is printed with the line that runs it again and with
//! the smallest scenario of it that still fails.

use anyhow::{Context, Result, bail};

use crate::process::{command, run_command};

/// Where nothing else is asked for.
const SEEDS: &str = "300";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    // Unoptimized a seed takes eight times as long. With the program's package, for its features: then both share a build.
    let mut test = command(&["cargo", "test", "--quiet", "--release", "-p", "kybern", "-p", "kybern-testkit"]);
    test.args(["--test", "simulation", "seeds", "--", "--exact", "--nocapture"]).env("KYBERN_SIM_SEEDS", SEEDS);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let variable = match argument.as_str() {
            "--seeds" => "KYBERN_SIM_SEEDS",
            "--first" => "KYBERN_SIM_FIRST",
            "--minutes" => "KYBERN_SIM_MINUTES",
            other => bail!("sim takes --seeds, --first and --minutes, each with a number; found {other:?}"),
        };
        let number = arguments.next().with_context(|| format!("{argument} needs a number"))?;
        number.parse::<u64>().with_context(|| format!("{argument} needs a number, not {number:?}"))?;
        test.env(variable, number);
    }
    run_command(&mut test)
}
