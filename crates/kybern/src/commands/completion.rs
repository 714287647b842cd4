//! `kybern completion SHELL`.

use anyhow::Result;
use clap::{Args, CommandFactory};

#[derive(Debug, Args)]
pub(crate) struct Completion {
    shell: clap_complete::Shell,
}

pub(crate) fn run(options: &Completion) -> Result<()> {
    clap_complete::generate(options.shell, &mut crate::cli::Cli::command(), "kybern", &mut std::io::stdout());
    Ok(())
}
