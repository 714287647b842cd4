//! `testapp exit`, `signals`, `memory` and `count`: a process's life and death.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct Exit {
    /// The exit code.
    code: u8,
    /// Seconds to wait first.
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// Printed before the end, to standard error.
    #[arg(long)]
    message: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Signals {
    /// Seconds between SIGTERM and the end.
    #[arg(long, default_value_t = 0)]
    linger: u64,
    /// Do not end on SIGTERM at all.
    #[arg(long)]
    ignore_term: bool,
}

#[derive(Debug, Args)]
pub(super) struct Memory {
    /// MiB to take.
    mebibytes: usize,
}

#[derive(Debug, Args)]
pub(super) struct Count {
    /// How many lines; 0 goes on.
    #[arg(long, default_value_t = 0)]
    lines: u64,
    /// Milliseconds between lines.
    #[arg(long, default_value_t = 1000)]
    interval: u64,
}

pub(super) async fn exit(options: Exit) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(options.after)).await;
    if let Some(message) = options.message {
        eprintln!("{message}");
    }
    std::process::exit(options.code.into())
}

pub(super) async fn signals(options: Signals) -> Result<()> {
    let listen = |kind| -> Result<Signal> { Ok(signal(kind)?) };
    let (mut term, mut hup) = (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let (mut usr1, mut int) = (listen(SignalKind::user_defined1())?, listen(SignalKind::interrupt())?);
    println!("waiting for signals");
    loop {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = hup.recv() => "SIGHUP",
            _ = usr1.recv() => "SIGUSR1",
            _ = int.recv() => "SIGINT",
        };
        println!("got {name}");
        if name == "SIGTERM" && !options.ignore_term {
            tokio::time::sleep(Duration::from_secs(options.linger)).await;
            println!("ending");
            return Ok(());
        }
    }
}

pub(super) async fn memory(options: Memory) -> Result<()> {
    let mut held = Vec::new();
    for taken in 1..=options.mebibytes {
        // Written to, so that the kernel has to provide it.
        held.push(vec![taken as u8; 1 << 20]);
    }
    println!("holding {} MiB", held.len());
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

pub(super) async fn count(options: Count) -> Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut line = 0;
    while options.lines == 0 || line < options.lines {
        line += 1;
        println!("line {line}");
        tokio::select! {
            _ = term.recv() => break,
            () = tokio::time::sleep(Duration::from_millis(options.interval)) => {}
        }
    }
    Ok(())
}
