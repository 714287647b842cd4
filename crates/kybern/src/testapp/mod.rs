//! `kybern testapp`: a small application for demos and tests, so that a cluster can be tried with no registry in reach.
//! It is what `agnhost` is to upstream's tests.

mod dns;
mod net;
mod process;
mod serve;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Sample and test application: HTTP echo, DNS lookups, connection checks, exit codes, signals.
#[derive(Debug, Args)]
pub(crate) struct TestApp {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers HTTP (and optionally UDP) with what it knows of itself and the request.
    Serve(serve::Serve),
    /// Looks a name up as the pod's resolver would and prints the records.
    Dns(dns::Lookup),
    /// Opens a TCP connection and says whether that worked.
    Connect(net::Connect),
    /// Fetches an http:// URL and prints the body.
    Fetch(net::Fetch),
    /// Exits with a code, after a time.
    Exit(process::Exit),
    /// Prints each signal it gets; ends on SIGTERM after a time.
    Signals(process::Signals),
    /// Takes memory and keeps it, to meet a memory limit.
    Memory(process::Memory),
    /// Prints numbered lines.
    Count(process::Count),
}

pub(crate) async fn run(app: TestApp) -> Result<()> {
    match app.command {
        Command::Serve(serve) => serve::run(serve).await,
        Command::Dns(lookup) => dns::run(lookup).await,
        Command::Connect(connect) => net::connect(connect).await,
        Command::Fetch(fetch) => net::fetch_and_print(fetch).await,
        Command::Exit(exit) => process::exit(exit).await,
        Command::Signals(signals) => process::signals(signals).await,
        Command::Memory(memory) => process::memory(memory).await,
        Command::Count(count) => process::count(count).await,
    }
}

pub(crate) use dns::lookup_address;
pub(crate) use net::http_get;
