//! `cargo xtask ci`: all checks that need no root.

use anyhow::{Result, bail};

use crate::process::{self, step};
use crate::tidy;

fn run_all() -> Result<()> {
    step("format", || process::run(&["cargo", "fmt", "--all", "--check"]))?;
    step("tidy", tidy::run)?;
    step("clippy", || {
        process::run(&["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })?;
    step("test", || process::run(&["cargo", "test", "--workspace", "--exclude", "kybern-e2e", "--quiet"]))
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => run_all(),
        [first, ..] => bail!("cargo xtask ci takes no argument, found {first:?}"),
    }
}
