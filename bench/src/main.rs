//! Measures Kybern against its budgets and prints a table. Run through `cargo xtask bench`, which builds what is measured and
//! makes the network namespace for it.
//!
//! `kybern-bench apiserver KYBERN FOLDER` measures `kybern kube-apiserver` alone, `custom` its custom resources, `large` the
//! same with 150,000 pods, `watches` with many who watch, `peers` beside nginx and upstream's server, `admission` what policies
//! add to a write; `scheduler` the scheduler on fake nodes, `controllers` it and the controllers at their largest; `cluster` a whole one-node cluster.

mod admission;
mod apiserver;
mod cluster;
mod connection;
mod controllers;
mod custom;
mod large;
mod load;
mod memory;
mod peers;
mod report;
mod scheduler;
mod server;
mod watches;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// What every measurement is given.
pub(crate) struct Site {
    /// The release binary.
    pub(crate) kybern: PathBuf,
    /// For data; made anew for each measurement.
    pub(crate) folder: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next =
        |what: &str| arguments.next().with_context(|| format!("usage: kybern-bench PART KYBERN FOLDER: no {what}"));
    let part = next("PART")?;
    let site = Site { kybern: next("KYBERN")?.into(), folder: next("FOLDER")?.into() };
    let _ = std::fs::remove_dir_all(&site.folder);
    std::fs::create_dir_all(&site.folder)?;
    let report = match part.as_str() {
        "apiserver" => apiserver::measure(&site).await?,
        "custom" => custom::measure(&site).await?,
        "large" => large::measure(&site).await?,
        "watches" => watches::measure(&site).await?,
        "peers" => peers::measure(&site).await?,
        "admission" => admission::measure(&site).await?,
        "scheduler" => scheduler::measure(&site).await?,
        "controllers" => controllers::measure(&site).await?,
        "cluster" => cluster::measure(&site).await?,
        other => bail!(
            "no part {other:?}: apiserver, custom, large, watches, peers, admission, scheduler, controllers or cluster"
        ),
    };
    print!("{report}");
    Ok(())
}
