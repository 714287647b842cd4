//! `kybern down`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::paths::Paths;
use crate::wiring::removal;

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The cluster's data directory.
    #[arg(long, default_value = "/var/lib/kybern")]
    data_dir: PathBuf,
    /// The cluster's run-time directory.
    #[arg(long, default_value = "/run/kybern")]
    run_dir: PathBuf,
    /// Keeps the data: `kybern up` brings the same cluster back.
    #[arg(long)]
    keep_data: bool,
}

pub(crate) fn run(options: Down) -> Result<()> {
    let paths = Paths::new(&std::path::absolute(&options.data_dir)?, &std::path::absolute(&options.run_dir)?);
    removal::remove(&paths, options.keep_data)
}
