//! `cargo xtask fuzz`: libFuzzer on the parsers of what others send. What it learns is kept in `fuzz/grown`, what it finds in
//! `fuzz/artifacts`; the corpus that is committed stays small.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::process::{command, root, run_command};

/// For each target, where nothing else is asked for.
const SECONDS: &str = "60";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (mut seconds, mut wanted) = (SECONDS, Vec::new());
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument {
            "--seconds" => seconds = arguments.next().context("--seconds needs a number")?,
            name => wanted.push(name.to_owned()),
        }
    }
    let fuzz = root().join("fuzz");
    let mut targets: Vec<String> = fs::read_dir(fuzz.join("corpus"))
        .context("cannot list the corpora")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    targets.sort();
    if let Some(unknown) = wanted.iter().find(|name| !targets.contains(name)) {
        bail!("no target is called {unknown}; there are {}", targets.join(", "));
    }
    if !command(&["cargo", "fuzz", "--version"]).output().is_ok_and(|output| output.status.success()) {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz");
    }
    for target in targets.iter().filter(|name| wanted.is_empty() || wanted.contains(name)) {
        let grown = fuzz.join("grown").join(target);
        fs::create_dir_all(&grown).with_context(|| format!("cannot make {}", grown.display()))?;
        let (grown, corpus) = (grown.to_string_lossy().into_owned(), format!("fuzz/corpus/{target}"));
        let limits = [&format!("-max_total_time={seconds}"), "-timeout=25", "-rss_limit_mb=2048", "-max_len=65536"];
        let mut fuzz = command(&["cargo", "fuzz", "run", target, &grown, &corpus, "--"]);
        // The sanitizers' flags are not stable yet; the compiler that the project uses has them nevertheless.
        run_command(fuzz.args(limits).env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(())
}
