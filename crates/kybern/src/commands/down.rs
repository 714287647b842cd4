//! `kybern down`.

use anyhow::Result;
use clap::Args;

use crate::paths::Directories;
use crate::wiring::removal;

#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    directories: Directories,
    /// Keeps the data: `kybern up` brings the same cluster back.
    #[arg(long)]
    keep_data: bool,
}

pub(crate) fn run(options: Down) -> Result<()> {
    removal::remove(&options.directories.paths()?, options.keep_data)
}
