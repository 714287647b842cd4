//! Running other programs, with what was run in every error.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    // As cargo says now: a program from a target folder that checkouts share may have been built in another one.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).parent().expect("xtask lies in the workspace").to_owned()
}

/// A command in the workspace's root; `words` is the program and its arguments.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(root()).stdin(Stdio::null());
    // What cargo tells this program about itself. Build scripts of dependencies look at it: with it, each change between
    // `cargo build` and `cargo xtask` compiled half the workspace anew.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs to the end with its output shown; a failure names the command.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    run_command(&mut command(words))
}

/// Like [`run`], for a command that was built up.
pub(crate) fn run_command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Runs to the end and answers what it printed to standard output.
pub(crate) fn output(words: &[&str]) -> Result<String> {
    let output = command(words).stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {words:?}"))?;
    if !output.status.success() {
        bail!("{words:?} failed: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(output(&["id", "-u"])?.trim() == "0")
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A release binary that a build has made.
pub(crate) fn release_binary(name: &str) -> Result<PathBuf> {
    let target = target_folder();
    let host = output(&["rustc", "-vV"])?;
    let host = host.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc names no host")?.to_owned();
    let path = target.join(host).join("release").join(name);
    if !path.exists() {
        bail!("the build left no {}", path.display());
    }
    Ok(path)
}

/// Runs a named step and prints how long it took.
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("==> {name}");
    let start = Instant::now();
    work().with_context(|| format!("step {name:?} failed"))?;
    println!("    {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Like [`step`], for work that makes something.
pub(crate) fn step_value<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut value = None;
    step(name, || {
        value = Some(work()?);
        Ok(())
    })?;
    value.context("the step made nothing")
}
