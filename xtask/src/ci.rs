//! `cargo xtask ci`: all checks that need no root. `cargo xtask test`: those, and as root all that a real kernel is for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{self, step};
use crate::{deny, e2e, packages, sim, tidy, vm};

/// Where tests leave why they did not run (`kybern_testbed::not_run`).
const NOT_RUN_FILE: &str = "KYBERN_NOT_RUN_FILE";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let [first, ..] = arguments {
        bail!("cargo xtask ci takes no argument, found {first:?}");
    }
    report(&checks()?);
    Ok(())
}

/// Everything this machine can run. What it could not run is said at the end; as root there is no excuse but a program that
/// no package brings, and in CI none at all.
pub(crate) fn run_everything() -> Result<()> {
    let root = process::is_root()?;
    if root {
        // Before the first test: some of the crates' own tests use them, too.
        step("packages", packages::for_tests)?;
    }
    let mut not_run = checks()?;
    // The end-to-end tests' build compiles nearly all of what this needs, too.
    step("simulator", || sim::run(&[]))?;
    if !root {
        not_run.push("end-to-end tests: they make namespaces, cgroups and mounts: run this as root".to_owned());
    } else if let Some(lacking) = e2e::lacking()? {
        not_run.push(format!("end-to-end tests: {lacking}"));
    } else {
        e2e::run_all(&[])?;
        not_run.extend(vm::run_all()?.map(|lacking| format!("the emulator: {lacking}")));
    }
    report(&not_run);
    if !not_run.is_empty() && std::env::var_os("CI").is_some() {
        bail!("this is CI's machine (CI is set), which has to run them");
    }
    Ok(())
}

/// Answers what did not run, and why.
fn checks() -> Result<Vec<String>> {
    step("format", || process::run(&["cargo", "fmt", "--all", "--check"]))?;
    step("tidy", tidy::run)?;
    step("deny", || {
        // Nothing that this machine could be blamed for.
        deny::run_all()?.iter().for_each(|note| println!("    {note}"));
        Ok(())
    })?;
    step("clippy", || {
        process::run(&["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })?;
    let file = std::env::temp_dir().join(format!("kybern-not-run-{}", std::process::id()));
    let tested = step("test", || {
        let mut test = process::command(&["cargo", "test", "--workspace", "--exclude", "kybern-e2e", "--quiet"]);
        process::run_command(test.env(NOT_RUN_FILE, &file))
    });
    let not_run = read_and_remove(&file)?;
    tested.map(|()| not_run)
}

fn read_and_remove(file: &Path) -> Result<Vec<String>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    fs::remove_file(file)?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn report(not_run: &[String]) {
    if !not_run.is_empty() {
        println!("\nNot run on this machine:\n  {}", not_run.join("\n  "));
    }
}
