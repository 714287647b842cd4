//! `cargo xtask bench [PART…]`: figures against the budgets, as tables. Never a test: machines differ.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::network::Network;
use crate::packages;
use crate::process::{release_binary, run, run_command};

const PARTS: &[&str] =
    &["apiserver", "custom", "large", "watches", "peers", "admission", "scheduler", "controllers", "cluster"];

pub(crate) fn run_parts(parts: &[String]) -> Result<()> {
    if let Some(unknown) = parts.iter().find(|p| !PARTS.contains(&p.as_str())) {
        bail!("no part {unknown:?}; the parts are {PARTS:?}");
    }
    packages::for_bench()?;
    run(&["cargo", "build", "--release", "--package", "kybern", "--package", "kybern-bench"])?;
    let (kybern, bench) = (release_binary("kybern")?, release_binary("kybern-bench")?);
    let network = Network::new();
    network.create()?;
    let wanted = PARTS.iter().filter(|part| parts.is_empty() || parts.iter().any(|p| p == *part));
    let outcome = wanted.into_iter().try_for_each(|part| {
        println!("==> {part}");
        let folder = PathBuf::from("/tmp/kybern-bench").join(part);
        run_command(network.on_node(&bench).arg(part).arg(&kybern).arg(folder))
    });
    network.remove();
    outcome
}
