//! Where log lines go: standard error, one line each, with the level that `KYBERN_LOG` names (default `info`).

use tracing::Level;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::cli::Command;

/// Commands for people speak through their own output and log warnings only.
pub(crate) fn init(command: &Command, asked: Option<Level>) {
    let default = if command.is_for_people() { Level::WARN } else { Level::INFO };
    let said = std::env::var("KYBERN_LOG").ok().and_then(|text| text.parse().ok());
    let level = said.or(asked).unwrap_or(default);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        // What cannot be logged, because the log's disk is full, is lost: to complain on standard error would panic.
        .log_internal_errors(false)
        .init();
}
